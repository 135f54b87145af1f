"""What a caller hands in: frames and clips, checked and lent to C without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.native import ffi, lib, struct

_MOST_CHANNELS = 8


class Image(NamedTuple):
    """A frame: `pixels` uint8 [height, width, 3], or [height, width] if grey; rows may be strided.

    `rotation` is in degrees clockwise (0, 90, 180, 270) and brings the frame upright; `mirror` then swaps left and
    right.
    """

    pixels: npt.NDArray[np.uint8]
    format: Literal["rgb", "bgr", "grey"] = "rgb"
    rotation: int = 0
    mirror: bool = False


class Audio(NamedTuple):
    """A whole clip: `samples` int16 or float32 (full scale 1.0), [n] or [n, channels], at `sample_rate` Hz."""

    samples: npt.NDArray[np.int16] | npt.NDArray[np.float32]
    sample_rate: int


def to_c_image(image: Image | npt.NDArray[Any]) -> Any:
    """An mme_image that lends the frame's memory; it must not outlive `image`.

    A plain array is RGB if [height, width, 3] and grey if [height, width].
    """
    if not isinstance(image, Image):
        pixels = np.asarray(image)
        image = Image(pixels, "grey" if pixels.ndim == 2 else "rgb")
    pixels = image.pixels
    channels = {"rgb": 3, "bgr": 3, "grey": 1}.get(image.format)
    if channels is None:
        raise InvalidArgument(f"image format {image.format!r}; expected 'rgb', 'bgr' or 'grey'")
    expected = "[height, width]" if channels == 1 else "[height, width, 3]"
    shape_fits = pixels.ndim == 2 if channels == 1 else pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not shape_fits:
        raise InvalidArgument(
            f"found an image of {pixels.dtype} {list(pixels.shape)}; expected uint8 {expected} for {image.format!r}"
        )
    row_is_packed = pixels.strides[1] == channels and (channels == 1 or pixels.strides[2] == 1)
    if pixels.size and (not row_is_packed or pixels.strides[0] < 0):
        raise InvalidArgument(
            f"found an image with strides {pixels.strides}; expected packed rows: use np.ascontiguousarray"
        )
    height, width = pixels.shape[:2]
    stride = pixels.strides[0] if height > 1 else channels * width
    return struct(
        "mme_image",
        format=getattr(lib, f"MME_IMAGE_{image.format.upper()}8"),
        width=width,
        height=height,
        rotation=image.rotation,
        mirror=image.mirror,
        planes=[ffi.cast("const void *", pixels.ctypes.data)],
        strides=[stride],
        sizes=[(height - 1) * stride + channels * width if height else 0],
    )


def to_c_audio(audio: Audio) -> Any:
    """An mme_audio that lends the clip's memory; it must not outlive `audio`."""
    samples, sample_rate = audio
    formats = {"int16": lib.MME_AUDIO_INT16, "float32": lib.MME_AUDIO_FLOAT32}
    if str(samples.dtype) not in formats or samples.ndim not in (1, 2):
        raise InvalidArgument(
            f"found audio of {samples.dtype} {list(samples.shape)}; expected int16 or float32, [n] or [n, channels]"
        )
    channels = samples.shape[1] if samples.ndim == 2 else 1
    if samples.ndim == 2 and (channels > _MOST_CHANNELS or samples.shape[0] <= _MOST_CHANNELS):
        raise InvalidArgument(
            f"found audio of shape {list(samples.shape)}, which may be channels first; expected [n, channels] with "
            f"more than {_MOST_CHANNELS} samples and at most {_MOST_CHANNELS} channels: transpose it"
        )
    if not samples.flags.c_contiguous:
        raise InvalidArgument("found audio that is not contiguous; use np.ascontiguousarray")
    return struct(
        "mme_audio",
        format=formats[str(samples.dtype)],
        channels=channels,
        sample_rate=int(sample_rate),
        samples=ffi.cast("const void *", samples.ctypes.data),
        frames=samples.shape[0],
    )


def to_c_tensor(array: npt.NDArray[np.float32]) -> tuple[Any, Any]:
    """An mme_tensor that lends the array's memory, and the shape it points to; neither may outlive `array`."""
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise InvalidArgument(
            f"found a tensor of {array.dtype} with strides {array.strides}; expected contiguous float32: "
            "use np.ascontiguousarray(x, np.float32)"
        )
    shape = ffi.new("int64_t[]", list(array.shape))
    tensor = struct(
        "mme_tensor",
        data_type=lib.MME_FLOAT32,
        data=ffi.cast("const void *", array.ctypes.data),
        size=array.nbytes,
        rank=array.ndim,
        shape=shape,
    )
    return tensor, shape


def from_c_tensor(tensor: Any) -> npt.NDArray[np.float32]:
    """A copy of a tensor the library owns."""
    shape = [tensor.shape[i] for i in range(tensor.rank)]
    values: npt.NDArray[np.float32] = np.frombuffer(ffi.buffer(tensor.data, tensor.size), np.float32)
    return np.array(values.reshape(shape))


def input_shape(info: Any) -> tuple[int, ...]:
    """The shape in an mme_input_info; -1 marks a dimension that varies."""
    return tuple(info.shape[i] for i in range(info.rank))


def present(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that are not None."""
    return {name: value for name, value in inputs.items() if value is not None}
