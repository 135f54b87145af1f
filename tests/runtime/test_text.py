"""Texts and their files through the binding, and waveforms as Wav2Vec2's feature extractor makes them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizer_files import Pair, piece_tokenizer
from tokenizers import pre_tokenizers
from transformers import Wav2Vec2FeatureExtractor

from mmedge.runtime import Audio
from mmedge.runtime.errors import DataError, InvalidArgument
from mmedge.runtime.preprocessor import Preprocessor

TEXT = {"type": "text", "tokenizer": "tokenizer.json", "max_length": 6}
WAVEFORM = {"type": "waveform", "sample_rate": 8000, "samples": 4000, "normalize": "clip"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Pair.of(piece_tokenizer(pre_tokenizer=pre_tokenizers.WhitespaceSplit()), tmp_path)
    return tmp_path


def test_a_text_becomes_int32_of_the_declared_length(folder: Path) -> None:
    preprocessor = Preprocessor(TEXT, folder)
    assert (preprocessor.modality, preprocessor.shape, preprocessor.dtype) == ("text", (6,), np.int32)
    np.testing.assert_array_equal(preprocessor("three small words"), np.array([0, 0, 0, 1, 1, 1], np.int32))
    np.testing.assert_array_equal(preprocessor("more words than there is any room for"), np.zeros(6, np.int32))


def test_a_pickled_preprocessor_finds_its_files_again(folder: Path) -> None:
    copy = pickle.loads(pickle.dumps(Preprocessor(TEXT, folder)))
    np.testing.assert_array_equal(copy("one two"), [0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": "other.json"}, '"other.json" is missing'),
        ({"tokenizer": "../tokenizer.json"}, "leads outside the directory"),
        ({"tokenizer": "/etc/passwd"}, "leads outside the directory"),
        ({"tokenizer": "link.json"}, "leads outside the directory"),
        ({"tokenizer": ""}, "leads outside the directory"),
        ({"tokenizer": "."}, "not a regular file"),
        ({"tokenizer": 1}, '"tokenizer" is 1; expected a string'),
        ({"max_length": 0}, '"max_length" is 0'),
        ({"max_length": 1 << 17}, '"max_length" is 131072'),
        ({"lowercase": True}, 'unknown key "lowercase"'),
    ],
)
def test_a_wrong_key_or_file_is_named(folder: Path, change: dict[str, Any], message: str) -> None:
    (folder / "inside").mkdir()
    (folder / "tokenizer.json").rename(folder / "inside/tokenizer.json")
    (folder / "outside.json").write_text("{}")
    (folder / "inside/link.json").symlink_to("../outside.json")
    with pytest.raises(InvalidArgument, match=message):
        Preprocessor(TEXT | change, folder / "inside")


def test_a_text_without_a_directory_says_how_to_give_one() -> None:
    with pytest.raises(InvalidArgument, match=r'"tokenizer.json"; use mme_preprocessor_create_in'):
        Preprocessor(TEXT)


def test_an_input_of_another_kind_is_refused(folder: Path) -> None:
    text, waveform = Preprocessor(TEXT, folder), Preprocessor(WAVEFORM)
    with pytest.raises(InvalidArgument, match="takes text, not an image"):
        text(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InvalidArgument, match="takes text, not audio"):
        text(Audio(np.zeros(100, np.float32), 8000))
    with pytest.raises(InvalidArgument, match="takes audio, not text"):
        waveform("words")


def noise(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0.1, 0.2, count).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 1500, 4000])
def test_a_waveform_equals_wav2vec2s_feature_extractor(count: int) -> None:
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=True, return_attention_mask=True)
    samples = noise(count)
    expected = extractor(samples, sampling_rate=8000, padding="max_length", max_length=4000, return_tensors="np")
    preprocessor = Preprocessor(WAVEFORM)
    assert (preprocessor.modality, preprocessor.shape, preprocessor.dtype) == ("audio", (4000,), np.float32)
    np.testing.assert_allclose(preprocessor(Audio(samples, 8000)), expected["input_values"][0], atol=2e-5)


def test_a_waveform_left_as_it_is_holds_the_samples() -> None:
    samples = noise(3000)
    plain = Preprocessor(WAVEFORM | {"normalize": "none"})
    np.testing.assert_array_equal(plain(Audio(samples, 8000)), np.pad(samples, (0, 1000)))
    free = Preprocessor(WAVEFORM | {"normalize": "none", "samples": 0})
    assert free.shape == (-1,)
    np.testing.assert_array_equal(free(Audio(samples, 8000)), samples)
    stereo = np.stack([samples, -samples], axis=1)
    np.testing.assert_array_equal(free(Audio(stereo, 8000)), np.zeros(3000))
    whole = (samples * 32767).clip(-32768, 32767).astype(np.int16)
    np.testing.assert_array_equal(free(Audio(whole, 8000)), whole.astype(np.float32) / 32768)


def test_a_longer_waveform_is_cut_to_its_loudest_part() -> None:
    samples = noise(9000) * 0.01
    samples[5000:9000] *= 50
    plain = Preprocessor(WAVEFORM | {"normalize": "none"})
    np.testing.assert_array_equal(plain(Audio(samples, 8000)), samples[5000:])


def test_a_waveform_of_another_rate_is_resampled_as_soxr_does() -> None:
    soxr = pytest.importorskip("soxr")
    samples = noise(5000)
    free = Preprocessor(WAVEFORM | {"normalize": "none", "samples": 0})
    expected = soxr.resample(samples, 16000, 8000, quality="HQ")
    np.testing.assert_allclose(free(Audio(samples, 16000)), expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 11025])
def test_a_stream_of_a_waveform_equals_the_whole_clip_to_the_bit(rate: int) -> None:
    samples = noise(7001)
    free = Preprocessor(WAVEFORM | {"normalize": "none", "samples": 0})
    whole = free(Audio(samples, rate))
    for piece in (7001, 1000, 160, 1):
        parts = [free.push(Audio(samples[i : i + piece], rate)) for i in range(0, 7001, piece)]
        np.testing.assert_array_equal(np.concatenate([*parts, free.end()]), whole)


def test_silence_stays_silence_and_bad_samples_are_refused() -> None:
    preprocessor = Preprocessor(WAVEFORM)
    np.testing.assert_array_equal(preprocessor(Audio(np.full(4000, 0.5, np.float32), 8000)), np.zeros(4000))
    with pytest.raises(DataError, match="empty"):
        preprocessor(Audio(np.zeros(0, np.float32), 8000))
    with pytest.raises(DataError, match="sample 3 is nan"):
        preprocessor(Audio(np.array([0, 1, 0, np.nan], np.float32), 8000))
    with pytest.raises(InvalidArgument, match='"normalize" needs the whole clip'):
        preprocessor.push(Audio(noise(100), 8000))
    with pytest.raises(DataError, match="the stream was too short"):
        Preprocessor(WAVEFORM | {"normalize": "none"}).end()
    with pytest.raises(InvalidArgument, match='unknown key "n_fft"'):
        Preprocessor(WAVEFORM | {"n_fft": 400})
