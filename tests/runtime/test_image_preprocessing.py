"""image_to_tensor against independent judges: Pillow, and colour conversion then resize in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import levels_of_image
from PIL import Image as Pillow

from mmedge.runtime import Preprocessor
from mmedge.runtime.errors import DataError, InvalidArgument
from mmedge.runtime.native import check, ffi, lib, struct, text

Bytes = npt.NDArray[np.uint8]
Exact = npt.NDArray[np.float64]

FORMATS = ("RGB8", "BGR8", "GREY8", "RGBA8", "BGRA8", "NV12", "I420", "YUYV", "UYVY")
YUV_FORMATS = FORMATS[5:]
DTYPES = {lib.MME_FLOAT32: np.float32, lib.MME_FLOAT16: np.float16, lib.MME_UINT8: np.uint8, lib.MME_INT8: np.int8}
SIDES = st.tuples(st.integers(1, 90), st.integers(1, 90))
TARGETS = st.tuples(st.integers(1, 64), st.integers(1, 64))
# BT.601 and BT.709 as usually printed, for Y in 16..235 and for full range: V to red, U and V to green, U to blue.
MATRICES = {
    (lib.MME_COLOR_BT601, lib.MME_COLOR_LIMITED): (1.596027, -0.391762, -0.812968, 2.017232),
    (lib.MME_COLOR_BT709, lib.MME_COLOR_LIMITED): (1.792741, -0.213249, -0.532909, 2.112402),
    (lib.MME_COLOR_BT601, lib.MME_COLOR_FULL): (1.402, -0.344136, -0.714136, 1.772),
    (lib.MME_COLOR_BT709, lib.MME_COLOR_FULL): (1.5748, -0.187324, -0.468124, 1.8556),
}


class Frame(NamedTuple):
    """A frame for the C ABI: planes as 2-D bytes, each row `pad` bytes longer in memory, but for the last."""

    format: str
    width: int
    height: int
    planes: list[Bytes]
    fields: dict[str, int] = {}  # noqa: RUF012
    pad: int = 0

    def to_c(self) -> tuple[Any, list[Bytes]]:
        buffers = []
        for plane in self.planes:
            padded = np.full((plane.shape[0], plane.shape[1] + self.pad), 0xAA, np.uint8)
            padded[:, : plane.shape[1]] = plane
            buffers.append(padded.reshape(-1)[: padded.size - self.pad].copy())
        image = struct(
            "mme_image",
            format=getattr(lib, f"MME_IMAGE_{self.format}"),
            width=self.width,
            height=self.height,
            planes=[ffi.cast("const void *", buffer.ctypes.data) for buffer in buffers],
            strides=[plane.shape[1] + self.pad for plane in self.planes],
            sizes=[buffer.size for buffer in buffers],
            **self.fields,
        )
        return image, buffers


def random_frame(format: str, height: int, width: int, seed: int = 0, pad: int = 0, **fields: int) -> Frame:
    random = np.random.default_rng(seed)
    halves = (height + 1) // 2, (width + 1) // 2
    packed = {"GREY8": width, "RGB8": 3 * width, "BGR8": 3 * width, "RGBA8": 4 * width, "BGRA8": 4 * width}
    shapes = {
        "NV12": [(height, width), (halves[0], 2 * halves[1])],
        "I420": [(height, width), halves, halves],
    }.get(format, [(height, packed.get(format, 4 * halves[1]))])
    planes = [random.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    return Frame(format, width, height, planes, fields, pad)


def run(preprocess: dict[str, Any], *frames: Frame) -> list[npt.NDArray[Any]]:
    """The tensors of the frames, from one preprocessor."""
    handle = Preprocessor(preprocess)._handle
    tensors = []
    for frame in frames:
        tensor = struct("mme_tensor")
        image, _buffers = frame.to_c()
        check(lib.mme_preprocessor_image(handle, image, tensor))
        values = np.frombuffer(ffi.buffer(tensor.data, tensor.size), DTYPES[tensor.data_type])
        tensors.append(values.reshape([tensor.shape[i] for i in range(tensor.rank)]).copy())
    return tensors


def triangle(source: int, target: int, antialias: bool) -> Exact:
    """The matrix [target, source] of a bilinear resize, from its definition."""
    scale = source / target
    reach = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(target) + 0.5) * scale
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(source) + 0.5 - centres[:, None]) / reach)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def resize(picture: Exact, target: tuple[int, int], antialias: bool = True) -> Exact:
    rows, columns = (triangle(picture.shape[i], target[i], antialias) for i in (0, 1))
    return np.asarray(np.einsum("ty,yxc,ux->tuc", rows, picture, columns, optimize=True))


def to_rgb(frame: Frame) -> Exact:
    """The stored frame as RGB [height, width, 3], unclipped; every chroma sample covers its pixels."""
    height, width = frame.height, frame.width
    if frame.format in ("RGB8", "BGR8", "RGBA8", "BGRA8"):
        pixels = frame.planes[0].reshape(height, width, -1)[..., :3]
        return (pixels[..., ::-1] if frame.format.startswith("BGR") else pixels).astype(float)
    if frame.format == "GREY8":
        return np.repeat(frame.planes[0][..., None], 3, axis=2).astype(float)
    if frame.format in ("YUYV", "UYVY"):
        groups = frame.planes[0].reshape(height, -1, 2)
        luma, chroma = (groups[..., i if frame.format == "YUYV" else 1 - i] for i in (0, 1))
        u, v = (np.repeat(chroma[:, i::2], 2, axis=1) for i in (0, 1))
    else:
        luma = frame.planes[0]
        halves = frame.planes[1:] if frame.format == "I420" else [frame.planes[1][:, i::2] for i in (0, 1)]
        u, v = (half.repeat(2, axis=0).repeat(2, axis=1)[:height, :width] for half in halves)
    range_ = frame.fields.get("color_range", lib.MME_COLOR_LIMITED)
    full = range_ == lib.MME_COLOR_FULL
    v_red, u_green, v_green, u_blue = MATRICES[frame.fields.get("color_matrix", lib.MME_COLOR_BT601), range_]
    y = luma[:, :width].astype(float) if full else (luma[:, :width].astype(float) - 16) * (255 / 219)
    u, v = (half[:, :width].astype(float) - 128 for half in (u, v))
    return np.stack([y + v_red * v, y + u_green * u + v_green * v, y + u_blue * u], axis=2)


def upright(picture: npt.NDArray[Any], rotation: int, mirror: bool) -> npt.NDArray[Any]:
    turned = np.rot90(picture, -rotation // 90)
    return turned[:, ::-1] if mirror else turned


@settings(max_examples=80, deadline=None)
@given(
    SIDES,
    TARGETS,
    st.sampled_from(["RGB8", "BGR8", "GREY8", "RGBA8"]),
    st.sampled_from(["rgb", "grey"]),
    st.integers(0, 999),
)
def test_any_resize_is_within_one_level_of_pillow(
    source: tuple[int, int], target: tuple[int, int], format: str, channels: str, seed: int
) -> None:
    frame = random_frame(format, *source, seed=seed)
    picture = Pillow.fromarray(to_rgb(frame).astype(np.uint8))
    if channels == "grey":
        picture = picture.convert("L")
    expected = np.asarray(picture.resize(target[::-1], Pillow.Resampling.BILINEAR), np.float32)
    (found,) = run(levels_of_image(target[1], target[0], channels), frame)
    found = found[0] if channels == "grey" else found.transpose(1, 2, 0)
    assert np.abs(np.rint(found) - expected).max() <= 1


@settings(max_examples=60, deadline=None)
@given(SIDES, TARGETS, st.booleans(), st.sampled_from(["RGB8", "BGRA8"]), st.integers(0, 999))
def test_a_resize_is_within_a_twentieth_level_of_exact_arithmetic(
    source: tuple[int, int], target: tuple[int, int], antialias: bool, format: str, seed: int
) -> None:
    frame = random_frame(format, *source, seed=seed)
    (found,) = run(levels_of_image(target[1], target[0], antialias=antialias), frame)
    assert np.abs(found.transpose(1, 2, 0) - resize(to_rgb(frame), target, antialias)).max() <= 0.05


@settings(max_examples=100, deadline=None)
@given(
    SIDES,
    TARGETS,
    st.booleans(),
    st.sampled_from(YUV_FORMATS),
    st.sampled_from(sorted(MATRICES)),
    st.sampled_from(["rgb", "bgr", "grey"]),
    st.integers(0, 999),
)
def test_yuv_is_within_a_tenth_level_of_converting_before_resizing_unclipped(
    source: tuple[int, int],
    target: tuple[int, int],
    antialias: bool,
    format: str,
    colors: tuple[int, int],
    channels: str,
    seed: int,
) -> None:
    frame = random_frame(format, *source, seed=seed, color_matrix=colors[0], color_range=colors[1])
    expected = resize(to_rgb(frame), target, antialias).transpose(2, 0, 1)
    if channels == "grey":
        expected = np.tensordot([[0.299, 0.587, 0.114]], expected, 1)
    elif channels == "bgr":
        expected = expected[::-1]
    (found,) = run(levels_of_image(target[1], target[0], channels, antialias=antialias), frame)
    assert np.abs(found - np.clip(expected, 0, 255)).max() <= 0.1


def test_a_full_hd_frame_is_as_exact_as_a_small_one() -> None:
    for format, bound in (("NV12", 0.1), ("BGR8", 0.05)):
        frame = random_frame(format, 1080, 1920)
        (found,) = run(levels_of_image(224, 224), frame)
        expected = np.clip(resize(to_rgb(frame), (224, 224)), 0, 255)
        assert np.abs(found.transpose(1, 2, 0) - expected).max() <= bound, format


def test_nv12_differs_from_pillow_by_its_rounding_and_its_clipping_only() -> None:
    y, x = np.mgrid[0:480, 0:640] / 480
    rgb = np.stack([120 + 100 * np.sin(5 * x), 128 + 90 * np.cos(4 * y), 128 + 80 * np.sin(3 * (x + y))], axis=2)
    stored = np.asarray(Pillow.fromarray(rgb.astype(np.uint8)).convert("YCbCr"))
    planes = [stored[..., 0].copy(), np.ascontiguousarray(stored[::2, ::2, 1:]).reshape(240, 640)]
    halves = [planes[1][:, i::2].repeat(2, axis=0).repeat(2, axis=1) for i in (0, 1)]
    picture = Pillow.merge("YCbCr", [Pillow.fromarray(plane) for plane in (planes[0], *halves)]).convert("RGB")
    expected = np.asarray(picture.resize((224, 224), Pillow.Resampling.BILINEAR), float)
    (found,) = run(levels_of_image(224, 224), Frame("NV12", 640, 480, planes, {"color_range": lib.MME_COLOR_FULL}))
    difference = np.abs(found.transpose(1, 2, 0) - expected)
    assert difference.mean() < 0.5
    assert np.percentile(difference, 99.9) <= 1.5


def test_a_flat_frame_stays_flat_whatever_the_sizes() -> None:
    for level in (1, 77, 254, 255):
        for source, target in (((97, 89), 32), ((720, 1280), 224), ((5, 3), 50), ((2000, 1500), 7)):
            frame = Frame("GREY8", source[1], source[0], [np.full(source, level, np.uint8)])
            (found,) = run(levels_of_image(target, target, "grey"), frame)
            np.testing.assert_allclose(found, level, rtol=1e-6)


@pytest.mark.parametrize("format", FORMATS)
def test_the_tensor_is_the_same_bytes_whatever_the_stride(format: str) -> None:
    wide = random_frame(format, 720, 1280) if format == "NV12" else random_frame(format, 53, 131)
    first, *others = run(
        levels_of_image(224, 224), *(wide._replace(pad=pad) for pad in (0, 1344 - 1280, 1536 - 1280, 7))
    )
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("format", FORMATS)
def test_a_turned_frame_gives_the_upright_picture(format: str, rotation: int, mirror: bool) -> None:
    frame = random_frame(format, 51, 77, rotation=rotation, mirror=int(mirror))
    picture = upright(to_rgb(frame), rotation, mirror)
    for target in ((19, 37), (48, 32), (90, 100)):
        expected = np.clip(resize(picture, target), 0, 255).transpose(2, 0, 1)
        (found,) = run(levels_of_image(target[1], target[0]), frame)
        assert np.abs(found - expected).max() <= 0.1


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(FORMATS), st.sampled_from([0, 90, 180, 270]), st.booleans())
def test_a_region_is_of_the_upright_frame(data: st.DataObject, format: str, rotation: int, mirror: bool) -> None:
    frame = random_frame(format, data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60)))
    picture = upright(to_rgb(frame), rotation, mirror)
    x, y = (data.draw(st.integers(0, picture.shape[i] - 1)) for i in (1, 0))
    width, height = (data.draw(st.integers(1, picture.shape[i] - at)) for i, at in ((1, x), (0, y)))
    region = {"region_x": x, "region_y": y, "region_width": width, "region_height": height}
    (found,) = run(
        levels_of_image(20, 24), frame._replace(fields={"rotation": rotation, "mirror": int(mirror), **region})
    )
    expected = resize(picture[y : y + height, x : x + width], (24, 20))
    assert np.abs(found - np.clip(expected, 0, 255).transpose(2, 0, 1)).max() <= 0.1


def test_a_region_outside_the_frame_or_half_given_is_refused_with_its_numbers() -> None:
    frame = random_frame("RGB8", 40, 30, rotation=90)
    for region, message in (
        ((31, 0, 10, 10), r"region of 10x10 at 31,0 leaves the upright frame of 40x30"),
        ((0, 21, 10, 10), r"region of 10x10 at 0,21 leaves the upright frame of 40x30"),
        ((-1, 0, 10, 10), r"at -1,0 leaves"),
        ((2**31 - 1, 0, 2**31 - 1, 10), r"leaves the upright frame of 40x30"),
        ((0, 0, 10, 0), r"the region is 10x0; expected both at least 1, or both 0"),
        ((0, 0, -5, 4), r"the region is -5x4"),
        ((3, 0, 0, 0), r"the region at 3,0 has no size"),
    ):
        fields = dict(zip(("region_x", "region_y", "region_width", "region_height"), region, strict=True))
        with pytest.raises((DataError, InvalidArgument), match=message):
            run(levels_of_image(8, 8), frame._replace(fields={"rotation": 90, **fields}))


@pytest.mark.parametrize(
    ("format", "plane", "name", "needed"),
    [
        ("NV12", 1, "UV", 40),
        ("I420", 2, "V", 20),
        ("I420", 0, "Y", 63),
        ("YUYV", 0, "pixels", 140),
        ("RGBA8", 0, "pixels", 252),
    ],
)
def test_a_short_plane_is_named_with_both_sizes(format: str, plane: int, name: str, needed: int) -> None:
    frame = random_frame(format, 7, 9)
    image, _buffers = frame.to_c()
    assert image.sizes[plane] == needed
    image.sizes[plane] -= 1
    handle = Preprocessor(levels_of_image(4, 4))._handle
    assert lib.mme_preprocessor_image(handle, image, struct("mme_tensor")) == lib.MME_BAD_INPUT
    message = text(lib.mme_last_error())
    assert f"plane {plane} ({name}) holds {needed - 1} bytes" in message
    assert f"needs {needed}" in message
    image.sizes[plane] = needed
    image.strides[plane] = 3
    assert lib.mme_preprocessor_image(handle, image, struct("mme_tensor")) == lib.MME_BAD_INPUT
    assert f"plane {plane} ({name}) has a stride of 3 bytes" in text(lib.mme_last_error())
    image.planes[plane] = ffi.NULL
    assert lib.mme_preprocessor_image(handle, image, struct("mme_tensor")) == lib.MME_INVALID_ARGUMENT
    assert f"plane {plane} ({name}) is NULL" in text(lib.mme_last_error())


@settings(max_examples=40, deadline=None)
@given(SIDES, TARGETS, st.sampled_from([0, 90, 180, 270]), st.booleans())
def test_nearest_takes_the_pixel_under_each_centre(
    source: tuple[int, int], target: tuple[int, int], rotation: int, mirror: bool
) -> None:
    for format in ("BGR8", "NV12"):
        frame = random_frame(format, *source, rotation=rotation, mirror=int(mirror))
        picture = upright(to_rgb(frame), rotation, mirror)
        rows, columns = ((2 * np.arange(target[i]) + 1) * picture.shape[i] // (2 * target[i]) for i in (0, 1))
        (found,) = run(levels_of_image(target[1], target[0], interpolation="nearest", antialias=False), frame)
        expected = np.clip(picture[rows][:, columns], 0, 255)
        np.testing.assert_allclose(found.transpose(1, 2, 0), expected, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(SIDES, TARGETS, st.sampled_from([0, 90]), st.integers(0, 255))
def test_letterbox_keeps_the_shape_and_fills_the_rest(
    source: tuple[int, int], target: tuple[int, int], rotation: int, pad: int
) -> None:
    frame = random_frame("RGB8", *source, rotation=rotation)
    picture = Pillow.fromarray(upright(to_rgb(frame), rotation, False).astype(np.uint8))
    grow = min(target[1] / picture.width, target[0] / picture.height)
    width, height = (max(1, int(side * grow + 0.5)) for side in picture.size)
    canvas = Pillow.new("RGB", target[::-1], (pad, pad, pad))
    resized = picture.resize((width, height), Pillow.Resampling.BILINEAR)
    canvas.paste(resized, ((target[1] - width) // 2, (target[0] - height) // 2))
    for layout in ("planar", "interleaved"):
        wanted = levels_of_image(target[1], target[0], fit="letterbox", pad_value=pad, layout=layout)
        (found,) = run(wanted, frame)
        found = found if layout == "interleaved" else found.transpose(1, 2, 0)
        assert np.abs(np.rint(found) - np.asarray(canvas, float)).max() <= 1


@settings(max_examples=40, deadline=None)
@given(SIDES, TARGETS, st.sampled_from([1.0, 0.875, 0.5]))
def test_crop_takes_the_centred_part_of_the_covering_picture(
    source: tuple[int, int], target: tuple[int, int], fraction: float
) -> None:
    frame = random_frame("BGR8", *source)
    scale = fraction * min(source[0] / target[0], source[1] / target[1])
    height, width = scale * target[0], scale * target[1]
    top, left = max(0.0, (source[0] - height) / 2), max(0.0, (source[1] - width) / 2)
    box = (left, top, min(left + width, source[1]), min(top + height, source[0]))
    picture = Pillow.fromarray(to_rgb(frame).astype(np.uint8))
    expected = np.asarray(picture.resize(target[::-1], Pillow.Resampling.BILINEAR, box=box), float)
    (found,) = run(levels_of_image(target[1], target[0], fit="crop", crop_fraction=fraction), frame)
    assert np.abs(np.rint(found.transpose(1, 2, 0)) - expected).max() <= 1


@pytest.mark.parametrize("layout", ["planar", "interleaved"])
@pytest.mark.parametrize("channels", ["grey", "rgb", "bgr"])
@pytest.mark.parametrize("size", [(48, 32), (37, 21)])
@pytest.mark.parametrize("rotation", [0, 270])
def test_every_type_and_layout_holds_the_same_numbers(
    layout: str, channels: str, size: tuple[int, int], rotation: int
) -> None:
    frame = random_frame("NV12", 60, 80, rotation=rotation)
    count = 1 if channels == "grey" else 3
    reference = run(levels_of_image(*size), frame)[0]
    if channels == "grey":
        reference = run(levels_of_image(*size, "grey"), frame)[0]
    elif channels == "bgr":
        reference = reference[::-1]
    if layout == "interleaved":
        reference = reference.transpose(1, 2, 0)
    (levels,) = run(levels_of_image(*size, channels, layout=layout), frame)
    np.testing.assert_array_equal(levels, reference)
    (bytes_,) = run(levels_of_image(*size, channels, layout=layout, dtype="uint8"), frame)
    assert bytes_.dtype == np.uint8
    np.testing.assert_array_equal(bytes_, np.rint(reference))
    normal: dict[str, Any] = {"mean": [0.4, 0.5, 0.6][:count], "std": [0.2, 0.3, 0.25][:count]}
    (exact,) = run(levels_of_image(*size, channels, layout=layout, **normal), frame)
    (half,) = run(levels_of_image(*size, channels, layout=layout, dtype="float16", **normal), frame)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, exact.astype(np.float16))
    quantised: dict[str, Any] = {"dtype": "int8", "scale": 0.004, "zero_point": -9, **normal}
    (found,) = run(levels_of_image(*size, channels, layout=layout, **quantised), frame)
    assert found.dtype == np.int8
    ideal = exact.astype(float) / 0.004
    expected = np.clip(np.rint(ideal) - 9, -128, 127)
    near_tie = np.abs(np.abs(ideal - np.floor(ideal)) - 0.5) < 1e-3
    assert expected.min() == -128
    assert expected.max() == 127
    np.testing.assert_array_equal(found[~near_tie], expected[~near_tie])
    assert np.abs(found - expected).max() <= 1


def test_int8_rounds_half_to_even_and_then_adds_the_zero_point() -> None:
    frame = Frame("GREY8", 4, 1, [np.array([[1, 3, 5, 255]], np.uint8)])
    quantised: dict[str, Any] = {"dtype": "int8", "std": [1.0], "scale": 2 / 255, "zero_point": 1}
    (found,) = run(levels_of_image(4, 1, "grey", **quantised), frame)
    assert found.reshape(-1).tolist() == [1, 3, 3, 127]


# What one instruction set makes of every format, for comparison with another's.
ALL_FORMATS = """
import sys
import numpy as np
sys.path[:0] = sys.argv[1:]
from parameters import levels_of_image
from test_image_preprocessing import FORMATS, random_frame, run
frames = [random_frame(f, 101, 203, rotation=r) for f in FORMATS for r in (0, 90)]
frames += [random_frame(f, 11, 13, mirror=1) for f in FORMATS]
tensors = [run(levels_of_image(48, 40, dtype=t), *frames) for t in ("uint8", "float32")]
sys.stdout.buffer.write(np.stack(tensors[0]).tobytes() + np.stack(tensors[1]).tobytes())
"""


def test_every_instruction_set_gives_the_same_tensor() -> None:
    found = {}
    for name in ("", "avx3", "avx2", "sse4", "ssse3"):
        environment = {**os.environ, "MMEDGE_MAX_ISA": name}
        command = [sys.executable, "-c", ALL_FORMATS, *map(str, Path(__file__).parents[:2])]
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
        count = len(output) // 5
        found[name] = np.frombuffer(output[:count], np.uint8), np.frombuffer(output[count:], np.float32)
    for name, (levels, exact) in found.items():
        # Fused multiply-adds round once: a value halfway between two levels may fall either way.
        assert np.count_nonzero(levels != found[""][0]) <= 2, name
        np.testing.assert_allclose(exact, found[""][1], rtol=1e-5, atol=1e-4, err_msg=name)


def test_a_grey_frame_fills_three_channels() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = Preprocessor(levels_of_image(4, 3))(pixels)
    np.testing.assert_allclose(found, np.broadcast_to(pixels, (3, 3, 4)), atol=1e-4)
