"""Memory as NumPy arrays, in both directions, without a copy where none is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.native import ffi, holding, lib, struct

DTYPES: dict[int, np.dtype[Any]] = {
    lib.MME_FLOAT32: np.dtype(np.float32),
    lib.MME_FLOAT16: np.dtype(np.float16),
    lib.MME_UINT8: np.dtype(np.uint8),
    lib.MME_INT8: np.dtype(np.int8),
    lib.MME_INT32: np.dtype(np.int32),
}
_DATA_TYPES = {dtype: data_type for data_type, dtype in DTYPES.items()}

# DLPack's device types whose memory the processor reads: CPU, pinned by CUDA or ROCm, managed by CUDA.
_HOST_DEVICES = (1, 3, 11, 13)


def as_array(value: Any) -> npt.NDArray[Any]:
    """The memory of an array, a DLPack object or an object with the buffer protocol or the array interface.

    Raises:
        InvalidArgument: it is none of these, or its memory is not the host's.
    """
    if isinstance(value, np.ndarray):
        return value
    kind = type(value).__name__
    try:
        if hasattr(value, "__dlpack_device__"):
            device = int(value.__dlpack_device__()[0])
            if device not in _HOST_DEVICES:
                raise InvalidArgument(
                    f"found a {kind} on a device (DLPack device type {device}); expected host memory: copy it to the "
                    "host first, such as with x.cpu()"
                )
            return np.from_dlpack(value)
        if hasattr(value, "__array_interface__"):
            return np.asarray(value)
        return np.asarray(memoryview(value))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidArgument(
            f"found a {kind} ({error}); expected a NumPy array, a DLPack object on the host or a buffer"
        ) from error


def row_stride(array: npt.NDArray[Any], what: str) -> int:
    """Bytes from one row to the next of an array [rows, ...] whose rows are packed.

    Raises:
        InvalidArgument: they are not, or do not follow each other.
    """
    packed = array.itemsize
    fits = True
    for size, stride in zip(array.shape[:0:-1], array.strides[:0:-1], strict=True):
        fits = fits and (size == 1 or stride == packed)
        packed *= size
    stride = array.strides[0] if array.shape[0] > 1 else packed
    if not fits or stride < packed:
        raise InvalidArgument(
            f"found {what} with strides {array.strides}; expected packed rows, one after the other: "
            "use np.ascontiguousarray"
        )
    return stride


def to_c_tensor(value: Any, dtype: str) -> Any:
    """An mme_tensor of `dtype` that lends the value's memory."""
    return lend_tensor(as_array(value), dtype, lib.MME_MEMORY_HOST)


def lend_tensor(array: npt.NDArray[Any], dtype: str, memory: int) -> Any:
    """An mme_tensor of `dtype` that lends the memory at the array's addresses, which lie in `memory`.

    Raises:
        InvalidArgument: another dtype, or not contiguous.
    """
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise InvalidArgument(
            f"found a tensor of {array.dtype} {list(array.shape)} with strides {array.strides}; expected contiguous "
            f"{dtype}, as np.ascontiguousarray(x, np.{dtype}) makes it"
        )
    shape = ffi.new("int64_t[]", array.shape)
    tensor = struct(
        "mme_tensor",
        data_type=_DATA_TYPES[array.dtype],
        data=ffi.cast("void *", array.ctypes.data),
        size=array.nbytes,
        rank=array.ndim,
        shape=shape,
        memory=memory,
    )
    return holding(tensor, array, shape)


def from_c_tensor(tensor: Any, owner: Any = None) -> npt.NDArray[Any]:
    """A copy of a tensor the library owns; given what owns it, a read-only view that keeps the owner alive."""
    shape = ffi.unpack(tensor.shape, tensor.rank) if tensor.rank else []
    return from_c_memory(tensor.data, shape, DTYPES[tensor.data_type], owner)


def from_c_memory(pointer: Any, shape: Sequence[int], dtype: npt.DTypeLike, owner: Any = None) -> npt.NDArray[Any]:
    """The same of packed values of this shape."""
    values = np.empty(shape, dtype)
    if owner is None or values.size == 0:
        ffi.memmove(values, pointer, values.nbytes)
        return values
    # The array holds the buffer, which holds the pointer.
    data = ffi.cast("void *", pointer)
    view = np.frombuffer(ffi.buffer(holding(data, owner), values.nbytes), values.dtype).reshape(shape)
    view.flags.writeable = False
    return view


def shape_of(info: Any) -> tuple[int, ...]:
    """The shape in an mme_input_info; -1 marks a dimension that varies."""
    return tuple(ffi.unpack(info.shape, info.rank)) if info.rank else ()
