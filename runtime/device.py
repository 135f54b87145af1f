"""Arrays in a GPU's memory, in both directions, without a copy: of PyTorch, CuPy, PyCUDA, Numba, JAX or cuda-core.

The one module that knows `__cuda_array_interface__` and DLPack of devices. It needs none of those packages but to make
arrays of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmedge.runtime.arrays import DTYPES, lend_tensor
from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.native import ffi, lib

_DEFAULT_STREAM = 1  # CUDA's legacy default stream, as both protocols write it
_DLPACK_CUDA = 2  # a type of device
_KINDS = {0: "i", 1: "u", 2: "f"}  # NumPy's, by DLPack's type codes


class _DLTensor(ctypes.Structure):  # as dlpack.h has it, in the version that is given to who asks for none
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_CAPSULE = b"dltensor"  # its name until a consumer takes it
_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _managed_tensor(capsule: Any) -> _DLManagedTensor:
    return _DLManagedTensor.from_address(_get_pointer(capsule, _CAPSULE))


@dataclass(frozen=True)
class DeviceArray:
    """An output in the memory of the GPU: a view of the session's, until its next run.

    torch.from_dlpack, cupy.asarray, numba.cuda.as_cuda_array and PyCUDA's kernels take it as it is. It is complete: no
    stream needs to be waited for.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    owner: Any = field(repr=False)
    """What the memory belongs to."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "data": (self.pointer, False),
            "typestr": self.dtype.str,
            "shape": self.shape,
            "strides": None,
            "stream": None,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CUDA, self.device

    def __dlpack__(self, *, copy: bool | None = None, dl_device: Any = None, **_: Any) -> Any:
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("a DeviceArray is handed out where it lies, and not as a copy")
        # NumPy's own capsule, which outlives this module, of an array of these addresses; then it says whose they are.
        capsule = np.asarray(_Addresses(self.__cuda_array_interface__, self)).__dlpack__()
        tensor = _managed_tensor(capsule).tensor
        tensor.device_type, tensor.device_id = self.__dlpack_device__()
        return capsule


def from_device_tensor(tensor: Any, device: int, owner: Any) -> DeviceArray:
    """An mme_tensor in the memory of GPU number `device`, which `owner` keeps alive."""
    shape = tuple(ffi.unpack(tensor.shape, tensor.rank)) if tensor.rank else ()
    return DeviceArray(int(ffi.cast("uintptr_t", tensor.data)), shape, DTYPES[tensor.data_type], device, owner)


@dataclass(frozen=True)
class LentTensor:
    """An mme_tensor that lends an array's memory; `stream` must be waited for."""

    tensor: Any
    stream: int


def to_device_tensor(value: Any, dtype: str) -> LentTensor | None:
    """The memory of an array on a GPU, with `dtype` and contiguous; None for what is on no GPU.

    Raises:
        InvalidArgument: another dtype, or not contiguous.
    """
    found = address_array(value)
    if found is None:
        return None
    array, stream = found
    return LentTensor(lend_tensor(array, dtype, lib.MME_MEMORY_CUDA), stream)


def address_array(value: Any) -> tuple[np.ndarray[Any, Any], int] | None:
    """An array on a GPU as NumPy's array of its addresses, none of which the processor may follow, and the stream that
    must be waited for; None for what is on no GPU.

    Raises:
        InvalidArgument: it lends no memory.
    """
    if _is_on_gpu(value):
        try:
            capsule = value.__dlpack__(stream=_DEFAULT_STREAM)  # which the producer has wait for its own
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidArgument(f"found a {type(value).__name__} that lends no memory: {error}") from error
        found = _managed_tensor(capsule).tensor
        size = found.bits // 8
        interface: Any = {
            "data": ((found.data or 0) + found.byte_offset, False),
            "typestr": np.dtype(f"{_KINDS.get(found.code, 'V')}{size * found.lanes}").str,
            "shape": tuple(found.shape[: found.ndim]),
            "strides": tuple(step * size for step in found.strides[: found.ndim]) if found.strides else None,
            "stream": _DEFAULT_STREAM,
        }
        value = capsule
    else:
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is None:
            return None
    # None ought to say that it is complete, but Numba and PyCUDA say so of what the default stream is filling.
    return np.asarray(_Addresses(interface, value)), interface.get("stream") or _DEFAULT_STREAM


class _Addresses:
    def __init__(self, interface: Mapping[str, Any], owner: Any) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (interface["data"][0], False),
            **{key: interface.get(key) for key in ("typestr", "shape", "strides")},
        }
        self.owner = owner


def _is_on_gpu(value: Any) -> bool:
    try:
        return hasattr(value, "__dlpack_device__") and int(value.__dlpack_device__()[0]) == _DLPACK_CUDA
    except (BufferError, RuntimeError, TypeError, ValueError):  # of no kind that DLPack knows
        return False


def device_copier() -> Callable[[np.ndarray[Any, Any]], Any] | None:
    """What copies a contiguous array into the memory of GPU 0, in the context that libmmedge uses too: PyCUDA where it
    is installed (on a Jetson it builds against JetPack), or else cuda-core; None where neither is.
    """
    try:
        from pycuda import driver, gpuarray
    except ImportError:
        return _copier_of_cuda_core()
    driver.init()
    context = driver.Device(0).retain_primary_context()

    def copy(array: np.ndarray[Any, Any]) -> Any:
        context.push()  # what is current may be pycuda.autoinit's own
        try:
            return gpuarray.to_gpu(array)
        finally:
            driver.Context.pop()

    return copy


def _copier_of_cuda_core() -> Callable[[np.ndarray[Any, Any]], Any] | None:
    try:
        from cuda.core import Device, LegacyPinnedMemoryResource
    except ImportError:
        return None
    gpu = Device(0)
    gpu.set_current()
    stream = gpu.default_stream

    def copy(array: np.ndarray[Any, Any]) -> DeviceArray:
        there = gpu.allocate(array.nbytes, stream=stream)
        pinned = LegacyPinnedMemoryResource().allocate(array.nbytes)
        np.from_dlpack(pinned).view(np.uint8)[: array.nbytes] = array.reshape(-1).view(np.uint8)
        there.copy_from(pinned, stream=stream)
        stream.sync()
        return DeviceArray(int(there.handle), array.shape, array.dtype, 0, there)

    return copy
