"""What a preprocessor says of itself, gives, and lives through, and which parameters it refuses."""

from __future__ import annotations

import gc
import json
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from parameters import LOG_MEL, levels_of_image

from mmedge.runtime import Audio, Preprocessor
from mmedge.runtime.errors import DataError, InvalidArgument
from mmedge.runtime.native import check, lib, struct

RANDOM = np.random.default_rng(0)
FRAME: npt.NDArray[np.uint8] = RANDOM.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_the_preprocessor_tells_its_type_and_shape() -> None:
    info = struct("mme_input_info")
    preprocessor = Preprocessor(levels_of_image(6, 4, layout="interleaved", dtype="uint8"))
    check(lib.mme_preprocessor_get_info(preprocessor._handle, info))
    assert info.data_type == lib.MME_UINT8
    assert preprocessor.shape == (4, 6, 3)
    assert Preprocessor(levels_of_image(6, 4)).shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, 'unknown key "colour"'),
        ({"fit": "squeeze"}, '"fit" is "squeeze"; expected "stretch" or "letterbox" or "crop"'),
        ({"crop_fraction": 0.875}, '"crop_fraction" is only for "fit" "crop"'),
        ({"fit": "crop", "crop_fraction": 1.5}, '"crop_fraction" is 1.5; expected a number from 0.01 to 1'),
        ({"pad_value": 3}, '"pad_value" is only for "fit" "letterbox"'),
        ({"fit": "letterbox", "pad_value": 256}, '"pad_value" is 256'),
        ({"interpolation": "nearest"}, '"antialias" is true; expected false with "interpolation" "nearest"'),
        ({"interpolation": "cubic"}, '"interpolation" is "cubic"'),
        ({"dtype": "int8", "zero_point": 0}, 'key "scale" is missing'),
        ({"dtype": "int8", "scale": 0.1}, 'key "zero_point" is missing'),
        ({"dtype": "int8", "scale": 0, "zero_point": 0}, '"scale" is 0'),
        ({"dtype": "int8", "scale": 0.1, "zero_point": 128}, '"zero_point" is 128'),
        ({"scale": 0.1}, '"scale" is only for "dtype" "int8"'),
        ({"dtype": "uint8", "mean": [0, 0.5, 0]}, r'"mean" is .*; expected zeros: "dtype" "uint8" holds the levels'),
        ({"dtype": "uint8", "std": [1, 1, 1]}, r'"std" is .*; expected 1/255 each: "dtype" "uint8" holds the levels'),
        ({"layout": "tiled"}, '"layout" is "tiled"'),
        ({"mean": [0]}, '"mean" is'),
        ({"mean": [0, 0, 10**40]}, r'"mean" is .*; expected 3 number\(s\), each from -1e\+06 to 1e\+06'),
        ({"std": [1, 1, 10**40]}, r'"std" is .*; expected 3 number\(s\), each from 1e-06 to 1e\+06'),
        ({"dtype": "float16", "std": [1, 1, 1e-6]}, '"std" is .*; expected values within .*65504 .*; these reach 1e'),
    ],
)
def test_a_wrong_parameter_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Preprocessor(levels_of_image(4, 4, **change))


def test_a_view_of_the_tensor_is_read_only_and_outlives_the_preprocessor() -> None:
    made = Preprocessor(levels_of_image(8, 6))
    copied, view = made(FRAME), made(FRAME, copy=False)
    np.testing.assert_array_equal(view, copied)
    assert not view.flags.writeable
    made(255 - FRAME)
    np.testing.assert_allclose(copied, 255 - view, atol=0.05)  # the view is of the newest
    del made
    gc.collect()
    _garbage = [np.zeros(view.nbytes, np.uint8) for _ in range(100)]
    np.testing.assert_allclose(copied, 255 - view, atol=0.05)


def test_a_tensor_goes_on_to_torch_without_a_copy() -> None:
    tensor = Preprocessor(levels_of_image(8, 6))(FRAME)
    shared = torch.from_dlpack(tensor)
    tensor[0, 0, 0] = 1234.0
    assert shared[0, 0, 0] == 1234.0


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        ("float32", {}),
        ("float16", {}),
        ("uint8", {}),
        ("int8", {"scale": 1 / 127, "zero_point": 0, "mean": [0.0] * 3, "std": [1.0] * 3}),
    ],
)
def test_a_preprocessor_says_and_makes_its_dtype(dtype: str, changes: dict[str, Any]) -> None:
    made = Preprocessor(levels_of_image(8, 6, **{"dtype": dtype, **changes}))
    assert made.dtype == dtype
    for tensor in (made(FRAME), made(FRAME, copy=False)):
        assert tensor.dtype == dtype
        scaled = tensor.astype(float) * (255 / 127 if dtype == "int8" else 1.0)
        np.testing.assert_allclose(scaled.transpose(1, 2, 0), FRAME, atol=1.01 if dtype == "int8" else 0.1)


def test_a_pushed_stream_gives_the_clips_frames() -> None:
    log_mel = Preprocessor(LOG_MEL)
    samples = RANDOM.normal(0, 0.1, 5000).astype(np.float32)
    expected = log_mel(Audio(samples, 16000))
    for step in (160, 777):
        pieces = [log_mel.push(Audio(samples[at : at + step], 16000)) for at in range(0, len(samples), step)]
        assert pieces[0].shape[1] == 0 or step > 160
        pieces.append(log_mel.end())
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), expected)
    assert log_mel.push(Audio(samples[:0], 16000)).shape == (64, 0)
    assert log_mel.push(Audio(np.zeros((0, 1), np.float32), 16000)).shape == (64, 0)
    with pytest.raises(InvalidArgument):
        log_mel.push(Audio(samples, 8000))
    with pytest.raises(InvalidArgument):
        Preprocessor({**LOG_MEL, "normalize": "clip"}).push(Audio(samples, 16000))
    broken = samples.copy()
    broken[7] = np.nan
    with pytest.raises(DataError, match="7"):
        log_mel.push(Audio(broken, 16000))


def test_a_preprocessor_works_in_a_forked_worker_as_before_it() -> None:
    made = {"image": Preprocessor(levels_of_image(8, 6)), "audio": Preprocessor(LOG_MEL)}
    data = {"image": FRAME, "audio": Audio(np.sin(np.arange(4000, dtype=np.float32)), 16000)}
    before = {name: made[name](data[name]) for name in made}
    dataset: Any = [(made[name], data[name]) for name in made]
    loader: Any = torch.utils.data.DataLoader(dataset, 1, num_workers=2, collate_fn=use, multiprocessing_context="fork")
    for name, tensor in zip(made, loader, strict=True):
        np.testing.assert_array_equal(tensor, before[name])
        np.testing.assert_array_equal(made[name](data[name]), before[name])


def use(items: Any) -> Any:
    ((made, data),) = items
    return torch.from_numpy(made(data))


def test_a_preprocessor_survives_pickling() -> None:
    first = Preprocessor(levels_of_image(8, 6))
    second = pickle.loads(pickle.dumps(first))
    pixels = np.random.default_rng(3).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    assert first.shape == second.shape == (3, 6, 8)
    assert json.dumps(first.parameters) == json.dumps(second.parameters)
    np.testing.assert_array_equal(first(pixels), second(pixels))
