"""What a caller hands in: frames and clips, checked and lent to C without a copy."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mmedge.runtime.arrays import as_array, row_stride
from mmedge.runtime.device import address_array
from mmedge.runtime.errors import DataError, InvalidArgument
from mmedge.runtime.native import ffi, holding, lib, struct

LEAST_RATE, MOST_RATE = 1000, 768000
"""Hz, of audio that the runtime takes."""

_MOST_CHANNELS = 8
_AUDIO_FORMATS = {np.dtype(np.int16): lib.MME_AUDIO_INT16, np.dtype(np.float32): lib.MME_AUDIO_FLOAT32}

ImageFormat = Literal["rgb", "bgr", "grey", "rgba", "bgra", "nv12", "i420", "yuyv", "uyvy"]


class _Plane(NamedTuple):
    """How a plane lies in memory: the bytes of one group of pixels, and the group's size in pixels."""

    group_bytes: int
    group_width: int = 1
    group_height: int = 1

    def rows(self, height: int) -> int:
        return -(-height // self.group_height)

    def row_bytes(self, width: int) -> int:
        return -(-width // self.group_width) * self.group_bytes


_FORMATS: dict[str, tuple[int, tuple[_Plane, ...]]] = {
    "rgb": (lib.MME_IMAGE_RGB8, (_Plane(3),)),
    "bgr": (lib.MME_IMAGE_BGR8, (_Plane(3),)),
    "grey": (lib.MME_IMAGE_GREY8, (_Plane(1),)),
    "rgba": (lib.MME_IMAGE_RGBA8, (_Plane(4),)),
    "bgra": (lib.MME_IMAGE_BGRA8, (_Plane(4),)),
    "nv12": (lib.MME_IMAGE_NV12, (_Plane(1), _Plane(2, 2, 2))),
    "i420": (lib.MME_IMAGE_I420, (_Plane(1), _Plane(1, 2, 2), _Plane(1, 2, 2))),
    "yuyv": (lib.MME_IMAGE_YUYV, (_Plane(4, 2),)),
    "uyvy": (lib.MME_IMAGE_UYVY, (_Plane(4, 2),)),
}
# The last axis of a frame in one array [height, width, n]; grey has none.
_CHANNELS = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "yuyv": 2, "uyvy": 2}
_PILLOW_FORMATS = {"L": "grey", "RGB": "rgb", "RGBA": "rgba"}
_COLOR_MATRICES = {"bt601": lib.MME_COLOR_BT601, "bt709": lib.MME_COLOR_BT709}
_COLOR_RANGES = {"limited": lib.MME_COLOR_LIMITED, "full": lib.MME_COLOR_FULL}


class Image:
    """A frame, lent to C: it holds on to the memory it was given and reads it anew at every use.

    `pixels` is uint8 in host memory, as a NumPy (so also an OpenCV) array, a DLPack object such as a torch tensor, or
    an object with the buffer protocol. None of these is copied; a Pillow image (L, RGB or RGBA) hands out a copy of
    itself. For sessions of engine "tensorrt" it may also be on the GPU, by DLPack or `__cuda_array_interface__`: then
    what is still to fill it when the Image is made is waited for. Rows may be strided, the pixels of a row are packed.
    By format:

    | format                   | pixels                                                                      |
    |--------------------------|-----------------------------------------------------------------------------|
    | grey                     | [height, width]                                                             |
    | rgb, bgr                 | [height, width, 3]                                                          |
    | rgba, bgra               | [height, width, 4], alpha is ignored                                        |
    | yuyv, uyvy               | [height, width, 2], width even                                              |
    | nv12                     | [height * 3 / 2, width], both even, or a list of planes: Y [height, width], |
    |                          | UV [ceil(height / 2), ceil(width / 2), 2]                                   |
    | i420                     | [height * 3 / 2, width], both even and contiguous, or a list of planes:     |
    |                          | Y [height, width], U and V [ceil(height / 2), ceil(width / 2)]              |

    Without a format, [height, width] is grey, three channels are rgb and four rgba. For flat bytes see `from_buffer`.

    Args:
        rotation: degrees clockwise (0, 90, 180, 270) that bring the frame upright.
        mirror: then swap left and right.
        color_matrix, color_range: what the numbers of nv12, i420, yuyv and uyvy mean; webcams and standard definition
            are BT.601, high definition is BT.709, JPEG has the full range. Other formats ignore both.
        region: x, y, width and height of the part of the upright frame to use, in its pixels; None: all of it.

    Raises:
        InvalidArgument: another dtype, shape or layout; the message says what to do.
    """

    __slots__ = ("c_struct", "format", "height", "streams", "width")

    def __init__(
        self,
        pixels: Any,
        format: ImageFormat | None = None,
        rotation: int = 0,
        mirror: bool = False,
        *,
        color_matrix: Literal["bt601", "bt709"] = "bt601",
        color_range: Literal["limited", "full"] = "limited",
        region: tuple[int, int, int, int] | None = None,
    ) -> None:
        pixels, self.streams = _addresses(pixels)
        chosen, arrays = _planes(pixels, format)
        height, width = _check_shapes(arrays, chosen)
        planes = []
        for array in arrays:
            stride = row_stride(array, "an image")
            planes.append((array, 0, stride, (len(array) - 1) * stride + array.nbytes // len(array)))
        self._lend(
            planes,
            chosen,
            (width, height),
            (rotation, mirror, color_matrix, color_range, region),
        )

    @classmethod
    def from_buffer(
        cls,
        buffer: Any,
        format: ImageFormat,
        width: int,
        height: int,
        *,
        strides: Sequence[int] | None = None,
        offsets: Sequence[int] | None = None,
        rotation: int = 0,
        mirror: bool = False,
        color_matrix: Literal["bt601", "bt709"] = "bt601",
        color_range: Literal["limited", "full"] = "limited",
        region: tuple[int, int, int, int] | None = None,
    ) -> Image:
        """A frame in flat bytes, such as a mapped GStreamer buffer, without a copy.

        `buffer` is bytes, a memoryview or any contiguous buffer or array of bytes; it must stay mapped as long as the
        frame is used. `strides` (bytes from one row to the next) and `offsets` (bytes before the first row) have one
        entry per plane, as in GstVideoMeta; without them rows are packed and planes follow each other. Any width and
        height will do: chroma has the rounded-up half.

        Raises:
            InvalidArgument: a buffer, size, stride or offset that cannot be.
            DataError: the buffer is too short.
        """
        _check_format(format)
        memory = as_array(np.frombuffer(buffer, np.uint8) if isinstance(buffer, bytes | bytearray) else buffer)
        if not memory.flags.c_contiguous or memory.dtype.itemsize != 1:
            raise InvalidArgument(
                f"found a buffer of {memory.dtype} with strides {memory.strides}; expected contiguous bytes"
            )
        if width < 1 or height < 1:
            raise InvalidArgument(f"found an image of {width}x{height} pixels; expected at least 1x1")
        layout = _FORMATS[format][1]
        for name, given in (("strides", strides), ("offsets", offsets)):
            if given is not None and len(given) != len(layout):
                raise InvalidArgument(f"found {len(given)} {name}; expected {len(layout)}, one per plane of {format!r}")
        planes = []
        end = 0
        for index, plane in enumerate(layout):
            row, rows = plane.row_bytes(width), plane.rows(height)
            stride = strides[index] if strides is not None else row
            offset = offsets[index] if offsets is not None else end
            if stride < row or offset < 0:
                raise InvalidArgument(
                    f"plane {index}: found stride {stride} and offset {offset}; expected a stride of at least {row} "
                    f"bytes for {width} pixels of {format!r}, and an offset from 0 on"
                )
            size = (rows - 1) * stride + row
            if offset + size > memory.nbytes:
                raise DataError(
                    f"plane {index}: the buffer holds {memory.nbytes} bytes; {width}x{height} {format!r} with stride "
                    f"{stride} from byte {offset} on needs {offset + size}"
                )
            planes.append((memory, offset, stride, size))
            end = offset + rows * stride
        image = cls.__new__(cls)
        image.streams = None
        image._lend(planes, format, (width, height), (rotation, mirror, color_matrix, color_range, region))
        return image

    def _lend(
        self,
        planes: list[tuple[npt.NDArray[Any], int, int, int]],
        format: str,
        size: tuple[int, int],
        view: tuple[int, bool, str, str, tuple[int, int, int, int] | None],
    ) -> None:
        """Fill the C struct; `planes` holds memory, offset, stride and size in bytes of each."""
        rotation, mirror, color_matrix, color_range, region = view
        for name, value, known in (
            ("color_matrix", color_matrix, _COLOR_MATRICES),
            ("color_range", color_range, _COLOR_RANGES),
        ):
            if value not in known:
                raise InvalidArgument(f"{name} is {value!r}; expected {' or '.join(map(repr, known))}")
        if region is not None and len(region) != 4:
            raise InvalidArgument(f"region is {region!r}; expected (x, y, width, height)")
        self.format, (self.width, self.height) = format, size
        x, y, region_width, region_height = region or (0, 0, 0, 0)
        image = struct(
            "mme_image",
            format=_FORMATS[format][0],
            width=self.width,
            height=self.height,
            rotation=rotation,
            mirror=bool(mirror),
            planes=[ffi.cast("void *", memory.ctypes.data + offset) for memory, offset, _, _ in planes],
            strides=[stride for _, _, stride, _ in planes],
            sizes=[size for _, _, _, size in planes],
            color_matrix=_COLOR_MATRICES[color_matrix],
            color_range=_COLOR_RANGES[color_range],
            region_x=x,
            region_y=y,
            region_width=region_width,
            region_height=region_height,
            memory=lib.MME_MEMORY_HOST if self.streams is None else lib.MME_MEMORY_CUDA,
        )
        self.c_struct = holding(image, *(memory for memory, _, _, _ in planes))

    def __repr__(self) -> str:
        return f"Image({self.width}x{self.height} {self.format})"


def _addresses(pixels: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Planes on a GPU as arrays of their addresses, with the streams to wait for; others as they are, with None."""
    planes = pixels if isinstance(pixels, list | tuple) else [pixels]
    found = [address_array(plane) for plane in planes]
    there = [entry for entry in found if entry is not None]
    if not there:
        return pixels, None
    if len(there) < len(found):
        raise InvalidArgument("found planes on the GPU and others that are not; expected all in one place")
    arrays = [array for array, _ in there]
    streams = tuple(stream for _, stream in there if stream is not None)
    return arrays if isinstance(pixels, list | tuple) else arrays[0], streams


def _pillow_format(pixels: Any) -> str | None:
    """The format of a Pillow image, None for anything else. Modes such as P or CMYK only look like one of ours."""
    pillow = sys.modules.get("PIL.Image")
    if pillow is None or not isinstance(pixels, pillow.Image):
        return None
    if pixels.mode not in _PILLOW_FORMATS:
        raise InvalidArgument(
            f"found a Pillow image of mode {pixels.mode!r}; expected {', '.join(_PILLOW_FORMATS)}: "
            "use image.convert('RGB')"
        )
    return _PILLOW_FORMATS[pixels.mode]


def _planes(pixels: Any, format: str | None) -> tuple[str, list[npt.NDArray[Any]]]:
    """The format and one array per plane, of shapes yet to be checked."""
    if isinstance(pixels, list | tuple):
        arrays = [as_array(plane) for plane in pixels]
        if format is None:
            raise InvalidArgument(f"found {len(arrays)} planes without a format; say 'nv12' or 'i420'")
        _check_format(format)
        return format, arrays
    pillow = _pillow_format(pixels)
    if pillow is not None and format not in (None, pillow):
        raise InvalidArgument(f"found a Pillow image in {pillow!r}; expected {format!r}: leave the format out")
    array = as_array(pixels)
    format = format or pillow or _guess_format(array)
    _check_format(format)
    _check_dtype(array)
    return format, _split(array, format) if format in ("nv12", "i420") else [array]


def _guess_format(array: npt.NDArray[Any]) -> str:
    return "grey" if array.ndim == 2 else "rgba" if array.ndim == 3 and array.shape[2] == 4 else "rgb"


def _check_format(format: str) -> None:
    if format not in _FORMATS:
        raise InvalidArgument(f"image format {format!r}; expected one of {', '.join(_FORMATS)}")


def _check_dtype(array: npt.NDArray[Any]) -> None:
    if array.dtype != np.uint8:
        raise InvalidArgument(f"found an image of {array.dtype} {list(array.shape)}; expected uint8, 0 to 255")


def _split(array: npt.NDArray[Any], format: str) -> list[npt.NDArray[Any]]:
    """The planes of an NV12 or I420 frame in one array, as OpenCV has it."""
    rows, width = array.shape if array.ndim == 2 else (0, 0)
    if rows == 0 or rows % 3 or width % 2:
        raise InvalidArgument(
            f"found an image of uint8 {list(array.shape)}; expected [height * 3 / 2, width] for {format!r}, both even, "
            "or a list of planes; use Image.from_buffer for flat bytes"
        )
    height = rows // 3 * 2
    if format == "nv12":
        return [array[:height], array[height:]]
    if not array.flags.c_contiguous:
        raise InvalidArgument(
            f"found an image with strides {array.strides}; expected a contiguous array for 'i420', whose chroma rows "
            "are half as long: use np.ascontiguousarray, a list of planes or Image.from_buffer"
        )
    chroma = array[height:].reshape(2, height // 2, width // 2)
    return [array[:height], chroma[0], chroma[1]]


def _check_shapes(arrays: list[npt.NDArray[Any]], format: str) -> tuple[int, int]:
    """Height and width in pixels."""
    layout = _FORMATS[format][1]
    if len(arrays) != len(layout):
        raise InvalidArgument(f"found {len(arrays)} planes; expected {len(layout)} for {format!r}")
    for array in arrays:
        _check_dtype(array)
    first = arrays[0]
    channels = _CHANNELS.get(format)
    if first.ndim != (2 if channels is None else 3) or first.size == 0 or first.shape[2:] not in ((), (channels,)):
        expected = "[height, width]" if channels is None else f"[height, width, {channels}]"
        raise InvalidArgument(
            f"found an image of uint8 {list(first.shape)}; expected {expected} for {format!r}"
            + ("; use Image.from_buffer for flat bytes" if first.ndim == 1 else "")
            + ("; move the channels last, and make it contiguous" if first.shape[:1] == (channels,) else "")
        )
    height, width = first.shape[:2]
    if layout[0].group_width > 1 and width % 2:
        raise InvalidArgument(
            f"found an image {width} pixels wide; expected an even width for {format!r}: use Image.from_buffer"
        )
    for index, (array, plane) in enumerate(zip(arrays, layout, strict=True)):
        rows, row = plane.rows(height), plane.row_bytes(width)
        if array.shape[:1] != (rows,) or array.size != rows * row:
            raise InvalidArgument(
                f"plane {index}: found uint8 {list(array.shape)}; expected {rows} rows of {row} bytes for "
                f"{width}x{height} {format!r}"
            )
    return height, width


class Audio(NamedTuple):
    """A clip, or a piece of a stream: `samples` int16 (full scale 32768) or float32 (full scale 1.0), [n] or
    [n, channels], at `sample_rate` Hz; up to 8 channels, averaged. A NumPy array, a DLPack object or a typed buffer,
    contiguous and not copied.
    """

    samples: Any
    sample_rate: int


def to_c_audio(audio: Audio, *, piece: bool = False) -> Any:
    """An mme_audio that lends the memory of a clip, or of a `piece` of a stream, which may be of few samples."""
    samples = as_array(audio.samples)
    if samples.dtype not in _AUDIO_FORMATS or samples.ndim not in (1, 2):
        raise InvalidArgument(
            f"found audio of {samples.dtype} {list(samples.shape)}; expected int16 or float32, [n] or [n, channels]"
        )
    channels = samples.shape[1] if samples.ndim == 2 else 1
    if channels > _MOST_CHANNELS or (samples.ndim == 2 and not piece and 0 < samples.shape[0] <= _MOST_CHANNELS):
        more = "" if piece else f"more than {_MOST_CHANNELS} samples and "
        raise InvalidArgument(
            f"found audio of shape {list(samples.shape)}, which may be channels first; expected [n, channels] with "
            f"{more}at most {_MOST_CHANNELS} channels: transpose it"
        )
    if not samples.flags.c_contiguous:
        raise InvalidArgument("found audio that is not contiguous; use np.ascontiguousarray")
    clip = struct(
        "mme_audio",
        format=_AUDIO_FORMATS[samples.dtype],
        channels=channels,
        sample_rate=_rate(audio.sample_rate),
        samples=ffi.cast("void *", samples.ctypes.data),
        frames=samples.shape[0],
    )
    return holding(clip, samples)


def _rate(rate: Any) -> int:
    try:
        whole = operator.index(rate)
    except TypeError:
        whole = 0
    if not LEAST_RATE <= whole <= MOST_RATE:
        raise InvalidArgument(
            f"found a sample rate of {rate!r}; expected a whole number of Hz from {LEAST_RATE} to {MOST_RATE}"
        )
    return whole
