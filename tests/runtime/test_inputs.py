"""What a caller may hand in: every format of frame from every kind of memory, in place, and what is refused."""

from __future__ import annotations

import gc
import io
import mmap
import tempfile
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import LOG_MEL, levels_of_image
from PIL import Image as Pillow

from mmedge.runtime import Audio, Image, Preprocessor
from mmedge.runtime.errors import DataError, InvalidArgument

Pixels = npt.NDArray[np.uint8]

RANDOM = np.random.default_rng(0)
FRAME: Pixels = RANDOM.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def levels(frame: Any, width: int = 8, height: int = 6) -> Pixels:
    """uint8 [height, width, 3]: what C sees of a frame."""
    return np.rint(Preprocessor(levels_of_image(width, height))(frame)).astype(np.uint8).transpose(1, 2, 0)


# ---- Kinds of memory ------------------------------------------------------------------------------------------------


def mapped(pixels: Pixels) -> mmap.mmap:
    with tempfile.TemporaryFile() as file:
        file.write(pixels.tobytes())
        file.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def in_wider_rows(pixels: Pixels) -> Pixels:
    wide = np.zeros((8, 11, 3), np.uint8)
    wide[1:7, 2:10] = pixels
    return wide[1:7, 2:10]


SOURCES: dict[str, Any] = {
    "an array": lambda: FRAME,
    "a read-only array": lambda: np.frombuffer(FRAME.tobytes(), np.uint8).reshape(FRAME.shape),
    "part of an array": lambda: in_wider_rows(FRAME),
    "a memoryview": lambda: memoryview(FRAME),
    "a tensor": lambda: torch.from_numpy(FRAME.copy()),
    "part of a tensor": lambda: torch.from_numpy(in_wider_rows(FRAME)),
    "a Pillow image": lambda: Pillow.fromarray(FRAME),
    "a Pillow image with alpha": lambda: Pillow.fromarray(FRAME).convert("RGBA"),
    "an Image": lambda: Image(FRAME, "rgb"),
    "four channels": lambda: np.concatenate([FRAME, FRAME[..., :1]], axis=2),
    "BGR": lambda: Image(np.ascontiguousarray(FRAME[..., ::-1]), "bgr"),
    "BGRA": lambda: Image(np.concatenate([FRAME[..., ::-1], FRAME[..., :1]], axis=2), "bgra"),
    "bytes": lambda: Image.from_buffer(FRAME.tobytes(), "rgb", 8, 6),
    "a bytearray": lambda: Image.from_buffer(bytearray(FRAME.tobytes()), "rgb", 8, 6),
    "a flat tensor": lambda: Image.from_buffer(torch.from_numpy(FRAME.copy()).flatten(), "rgb", 8, 6),
    "a mapped file": lambda: Image.from_buffer(mapped(FRAME), "rgb", 8, 6),
    "a buffer of padded rows": lambda: Image.from_buffer(
        b"head" + in_wider_rows(FRAME).base.tobytes()[33 + 6 :],  # type: ignore[union-attr]
        "rgb",
        8,
        6,
        strides=[33],
        offsets=[4],
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_pixels_are_seen_in_any_memory(source: str) -> None:
    np.testing.assert_array_equal(levels(SOURCES[source]()), FRAME)


def test_a_grey_frame_needs_no_format() -> None:
    grey = FRAME[..., 0].copy()
    expected = np.broadcast_to(grey[..., None], FRAME.shape)
    for source in (
        grey,
        FRAME.copy()[:, :, 0].copy(),
        torch.from_numpy(grey),
        Pillow.fromarray(grey),
        memoryview(grey),
    ):
        np.testing.assert_array_equal(levels(source), expected)


def test_a_row_of_one_pixel_is_packed_whatever_its_strides() -> None:
    for narrow in (FRAME[:, :1], FRAME[:1], FRAME[:1, :1], np.broadcast_to(FRAME[:1], (1, 8, 3))):
        found = levels(narrow, narrow.shape[1], narrow.shape[0])
        np.testing.assert_array_equal(found, narrow)


def test_strided_rows_are_read_in_place_and_other_layouts_refused() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    preprocessor = Preprocessor(levels_of_image(8, 8))
    crop = frame[3:17, 5:30]
    np.testing.assert_array_equal(preprocessor(crop), preprocessor(np.ascontiguousarray(crop)))
    np.testing.assert_array_equal(
        preprocessor(Image(frame, "bgr")), preprocessor(np.ascontiguousarray(frame[..., ::-1]))
    )
    for unusable in (frame[..., ::-1], frame[:, ::2], frame[::-1]):
        with pytest.raises(InvalidArgument, match=r"np\.ascontiguousarray"):
            preprocessor(unusable)
    with pytest.raises(InvalidArgument, match="found an image of float64"):
        preprocessor(frame.astype(float))


def test_an_image_reads_the_callers_memory_anew_at_every_use() -> None:
    array = FRAME.copy()
    buffer = bytearray(FRAME.tobytes())
    tensor = torch.from_numpy(FRAME.copy())
    images = [Image(array), Image.from_buffer(buffer, "rgb", 8, 6), Image(tensor), Image(memoryview(array))]
    for image in images:
        np.testing.assert_array_equal(levels(image), FRAME)
    array[:] = 255 - FRAME
    buffer[:] = (255 - FRAME).tobytes()
    tensor.copy_(torch.from_numpy(255 - FRAME))
    for image in images:
        np.testing.assert_array_equal(levels(image), 255 - FRAME)


LENDERS: dict[str, Any] = {
    "array": lambda memory: Image(memory),
    "tensor": lambda memory: Image(torch.from_numpy(memory)),
    "planes": lambda memory: Image([memory, np.full((3, 4, 2), 128, np.uint8)], "nv12", color_range="full"),
    "buffer": lambda memory: Image.from_buffer(memory, "grey", 8, 6),
}


@pytest.mark.parametrize("kind", LENDERS)
def test_an_image_holds_on_to_its_memory_and_lets_go_of_it(kind: str) -> None:
    memory = np.full((6, 8), 77, np.uint8)
    gone = weakref.ref(memory)
    image = LENDERS[kind](memory)
    del memory
    gc.collect()
    _garbage = [np.zeros((6, 8), np.uint8) for _ in range(100)]
    assert gone() is not None
    np.testing.assert_array_equal(levels(image), np.full((6, 8, 3), 77))
    del image
    gc.collect()
    assert gone() is None


# ---- Camera formats -------------------------------------------------------------------------------------------------

YUV = ("nv12", "i420", "yuyv", "uyvy")
# Kr and Kb of the standards; everything else follows from them.
LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


def to_yuv(rgb: tuple[int, int, int], matrix: str, range: str) -> list[int]:
    red, green, blue = (level / 255 for level in rgb)
    kr, kb = LUMA[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    if range == "full":
        values = [255 * luma, 128 + 255 * chroma[0], 128 + 255 * chroma[1]]
    else:
        values = [16 + 219 * luma, 128 + 224 * chroma[0], 128 + 224 * chroma[1]]
    return [min(max(round(value), 0), 255) for value in values]


def solid(yuv: list[int], format: str, width: int, height: int) -> bytes:
    """A frame of one colour with packed rows, written from the formats' definitions."""
    y, u, v = yuv
    halves = (width + 1) // 2
    quarter = halves * ((height + 1) // 2)
    return {
        "nv12": bytes([y]) * (width * height) + bytes([u, v]) * quarter,
        "i420": bytes([y]) * (width * height) + bytes([u]) * quarter + bytes([v]) * quarter,
        "yuyv": bytes([y, u, y, v]) * (halves * height),
        "uyvy": bytes([u, y, v, y]) * (halves * height),
    }[format]


@pytest.mark.parametrize("range", ["limited", "full"])
@pytest.mark.parametrize("matrix", LUMA)
@pytest.mark.parametrize("format", YUV)
@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 1)])
def test_a_colour_is_that_colour_in_any_format(format: Any, matrix: Any, range: Any, size: tuple[int, int]) -> None:
    for rgb in ((200, 40, 90), (20, 180, 60), (255, 255, 255), (0, 0, 0)):
        buffer = solid(to_yuv(rgb, matrix, range), format, *size)
        frame = Image.from_buffer(buffer, format, *size, color_matrix=matrix, color_range=range)
        difference = levels(frame, *size).astype(int) - rgb
        assert np.abs(difference).max() <= 2  # the rounding of Y, U and V


@settings(max_examples=60, deadline=None)
@given(
    format=st.sampled_from(YUV),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)),
    gaps=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    seed=st.integers(0, 99),
)
def test_strides_and_offsets_change_nothing(
    format: Any, size: tuple[int, int], padding: tuple[int, ...], gaps: tuple[int, ...], seed: int
) -> None:
    width, height = size
    halves = (height + 1) // 2, (width + 1) // 2
    shapes = {
        "nv12": [(height, width), (halves[0], 2 * halves[1])],
        "i420": [(height, width), halves, halves],
    }.get(format, [(height, 4 * halves[1])])
    random = np.random.default_rng(seed)
    planes = [random.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    expected = levels(Image.from_buffer(b"".join(map(bytes, planes)), format, width, height), width, height)

    buffer, offsets, strides = b"", [], []
    for plane, pad, gap in zip(planes, padding, gaps, strict=False):
        buffer += bytes([0xA5]) * gap
        offsets.append(len(buffer))
        strides.append(plane.shape[1] + pad)
        buffer += bytes(np.pad(plane, ((0, 0), (0, pad))))[: plane.size + pad * (len(plane) - 1)]
    given_both = Image.from_buffer(buffer, format, width, height, strides=strides, offsets=offsets)
    np.testing.assert_array_equal(levels(given_both, width, height), expected)
    with pytest.raises(DataError, match=f"the buffer holds {len(buffer) - 1} bytes; .* needs {len(buffer)}"):
        Image.from_buffer(buffer[:-1], format, width, height, strides=strides, offsets=offsets)


def padded(plane: Pixels, by: int) -> Pixels:
    wide = np.zeros((plane.shape[0], plane.shape[1] + by, *plane.shape[2:]), np.uint8)
    wide[:, : plane.shape[1]] = plane
    return wide[:, : plane.shape[1]]


def test_a_frame_in_one_array_equals_its_planes_and_its_bytes() -> None:
    frame = RANDOM.integers(0, 256, (9, 8), dtype=np.uint8)  # 8 x 6
    luma = frame[:6]
    for format, chroma in (
        ("nv12", [frame[6:].reshape(3, 4, 2)]),
        ("i420", list(frame[6:].reshape(2, 3, 4))),
    ):
        kind: Any = format
        expected = levels(Image.from_buffer(frame.tobytes(), kind, 8, 6))
        np.testing.assert_array_equal(levels(Image(frame, kind)), expected)
        np.testing.assert_array_equal(levels(Image(torch.from_numpy(frame), kind)), expected)
        np.testing.assert_array_equal(levels(Image([luma, *chroma], kind)), expected)
        apart = [padded(plane, 3) for plane in [luma, *chroma]]
        np.testing.assert_array_equal(levels(Image(apart, kind)), expected)
    np.testing.assert_array_equal(levels(Image(padded(frame, 8), "nv12")), levels(Image(frame, "nv12")))
    np.testing.assert_array_equal(levels(Image([luma, frame[6:]], "nv12")), levels(Image(frame, "nv12")))
    packed = RANDOM.integers(0, 256, (6, 8, 2), dtype=np.uint8)
    for kind in ("yuyv", "uyvy"):
        expected = levels(Image.from_buffer(packed.tobytes(), kind, 8, 6))
        np.testing.assert_array_equal(levels(Image(packed, kind)), expected)
        np.testing.assert_array_equal(levels(Image(padded(packed, 5), kind)), expected)


@settings(max_examples=60, deadline=None)
@given(
    rotation=st.sampled_from([0, 90, 180, 270]),
    mirror=st.booleans(),
    corner=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_a_view_equals_the_turned_mirrored_and_cut_array(
    rotation: int, mirror: bool, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    upright = np.rot90(FRAME, -rotation // 90)
    if mirror:
        upright = upright[:, ::-1]
    x, y = corner
    width, height = min(size[0], upright.shape[1] - x), min(size[1], upright.shape[0] - y)
    frame = Image(FRAME, "rgb", rotation, mirror, region=(x, y, width, height))
    np.testing.assert_array_equal(levels(frame, width, height), upright[y : y + height, x : x + width])
    whole = Image.from_buffer(FRAME.tobytes(), "rgb", 8, 6, rotation=rotation, mirror=mirror)
    np.testing.assert_array_equal(levels(whole, upright.shape[1], upright.shape[0]), upright)


# ---- What is refused ------------------------------------------------------------------------------------------------


class OnDevice:
    """As a tensor on a device shows itself, by default one of ROCm; its memory must not be asked for."""

    def __init__(self, kind: int = 10) -> None:
        self.kind = kind

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("exported")


PLANES = [np.zeros((6, 8), np.uint8), np.zeros((3, 4, 2), np.uint8)]
REFUSED: dict[str, tuple[Any, str]] = {
    "another dtype": (lambda: Image(FRAME.astype(float)), "found an image of float64 .*; expected uint8"),
    "signed bytes": (lambda: Image(FRAME.view(np.int8)), "found an image of int8"),
    "two channels": (lambda: Image(FRAME[..., :2].copy()), r"\[6, 8, 2\]; expected \[height, width, 3\] for 'rgb'"),
    "channels first": (lambda: Image(torch.zeros(3, 6, 8, dtype=torch.uint8)), "move the channels last"),
    "a batch": (lambda: Image(FRAME[None]), r"\[1, 6, 8, 3\]; expected \[height, width, 3\]"),
    "no pixels": (lambda: Image(FRAME[:0]), r"\[0, 8, 3\]"),
    "grey with channels": (lambda: Image(FRAME, "grey"), r"expected \[height, width\] for 'grey'"),
    "rows upside down": (lambda: Image(FRAME[::-1]), r"strides \(-24, 3, 1\).*np\.ascontiguousarray"),
    "columns mirrored": (lambda: Image(FRAME[:, ::-1]), r"np\.ascontiguousarray"),
    "columns left out": (lambda: Image(FRAME[:, ::2]), r"np\.ascontiguousarray"),
    "channels swapped": (lambda: Image(FRAME[..., ::-1]), r"np\.ascontiguousarray"),
    "one row repeated": (lambda: Image(np.broadcast_to(FRAME[:1], FRAME.shape)), r"np\.ascontiguousarray"),
    "flat bytes": (lambda: Image(FRAME.tobytes()), r"Image\.from_buffer"),
    "flat NV12": (lambda: Image(bytes(72), "nv12"), r"Image\.from_buffer"),
    "no array": (lambda: Image("frame.png"), "found a str"),
    "None": (lambda: Image(None), "found a NoneType"),
    "another device": (lambda: Image(OnDevice()), r"found a OnDevice on a device \(DLPack device type 10\).*host"),
    "memory of no device": (lambda: Image(torch.empty(6, 8, 3, dtype=torch.uint8, device="meta")), "found a Tensor"),
    "a palette": (lambda: Image(Pillow.fromarray(FRAME).convert("P")), r"mode 'P'.*convert\('RGB'\)"),
    "CMYK": (lambda: Image(Pillow.fromarray(FRAME).convert("CMYK")), "mode 'CMYK'"),
    "YCbCr": (lambda: Image(Pillow.fromarray(FRAME).convert("YCbCr")), "mode 'YCbCr'"),
    "one bit": (lambda: Image(Pillow.fromarray(FRAME).convert("1")), "mode '1'"),
    "Pillow as BGR": (lambda: Image(Pillow.fromarray(FRAME), "bgr"), "found a Pillow image in 'rgb'"),
    "an unknown format": (lambda: Image(FRAME, "rgb565"), "image format 'rgb565'; expected one of rgb, bgr"),
    "planes of no format": (lambda: Image(PLANES), "2 planes without a format"),
    "too few planes": (lambda: Image(PLANES, "i420"), "found 2 planes; expected 3 for 'i420'"),
    "planes for RGB": (lambda: Image(PLANES, "rgb"), "found 2 planes; expected 1"),
    "chroma too small": (lambda: Image([PLANES[0], PLANES[1][:2]], "nv12"), "plane 1: .* expected 3 rows of 8 bytes"),
    "chroma of floats": (lambda: Image([PLANES[0], PLANES[1].astype(float)], "nv12"), "float64"),
    "an odd NV12 array": (lambda: Image(np.zeros((9, 7), np.uint8), "nv12"), "both even"),
    "an NV12 array of 10 rows": (lambda: Image(np.zeros((10, 8), np.uint8), "nv12"), "both even"),
    "an I420 array with gaps": (lambda: Image(padded(np.zeros((9, 8), np.uint8), 2), "i420"), "expected a contiguous"),
    "an odd YUYV array": (lambda: Image(np.zeros((6, 7, 2), np.uint8), "yuyv"), "even width"),
    "an unknown matrix": (lambda: Image(FRAME, color_matrix="bt2020"), "color_matrix is 'bt2020'; expected 'bt601' or"),
    "an unknown range": (lambda: Image(FRAME, color_range="tv"), "color_range is 'tv'"),
    "half a region": (lambda: Image(FRAME, region=(1, 2, 3)), r"region is \(1, 2, 3\)"),
    "no region": (lambda: levels(Image(FRAME, region=(1, 1, 0, 0))), "region"),
    "an odd rotation": (lambda: levels(Image(FRAME, rotation=45)), "rotation is 45"),
    "a short stride": (lambda: Image.from_buffer(FRAME, "rgb", 8, 6, strides=[23]), "stride of at least 24"),
    "a negative offset": (lambda: Image.from_buffer(FRAME, "rgb", 8, 6, offsets=[-1]), "offset from 0 on"),
    "too many strides": (
        lambda: Image.from_buffer(FRAME, "rgb", 8, 6, strides=[24, 24]),
        "found 2 strides; expected 1",
    ),
    "no width": (lambda: Image.from_buffer(FRAME, "rgb", 0, 6), "0x6 pixels"),
    "a buffer of floats": (lambda: Image.from_buffer(FRAME.astype(float), "rgb", 8, 6), "expected contiguous bytes"),
    "a buffer with gaps": (lambda: Image.from_buffer(FRAME[:, ::2], "rgb", 4, 6), "expected contiguous bytes"),
    "from_buffer's format": (lambda: Image.from_buffer(FRAME, "png", 8, 6), "image format 'png'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_frame_that_cannot_be_lent_is_refused_by_name(what: str) -> None:
    use, message = REFUSED[what]
    with pytest.raises(InvalidArgument, match=message):
        use()


def test_a_region_outside_the_frame_is_bad_input() -> None:
    with pytest.raises(DataError, match="leaves the upright frame of 6x8"):
        levels(Image(FRAME, rotation=90, region=(0, 0, 8, 6)))


# ---- Clips and files ------------------------------------------------------------------------------------------------


def test_a_clip_may_lie_in_any_memory() -> None:
    log_mel = Preprocessor(LOG_MEL)
    samples = RANDOM.normal(0, 0.1, 4000).astype(np.float32)
    expected = log_mel(Audio(samples, 16000))
    for source in (torch.from_numpy(samples), memoryview(samples), memoryview(samples.tobytes()).cast("f")):
        np.testing.assert_array_equal(log_mel(Audio(source, 16000)), expected)
    for unusable in (
        samples[::2],
        torch.from_numpy(samples)[::2],
        samples.tobytes(),
        samples.astype(">f4"),
        OnDevice(2),
    ):
        with pytest.raises(InvalidArgument):
            log_mel(Audio(unusable, 16000))


def test_decoded_files_are_taken_as_they_come() -> None:
    file = io.BytesIO()
    Pillow.fromarray(FRAME).save(file, "PNG")
    with Pillow.open(io.BytesIO(file.getvalue())) as picture:  # not loaded yet
        np.testing.assert_array_equal(levels(picture), FRAME)
