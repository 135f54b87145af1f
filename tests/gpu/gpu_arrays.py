"""Arrays on a GPU for tests: PyCUDA's where it is installed (on a Jetson it builds against JetPack), or else mmedge's
own over memory of cuda-core.
"""

import atexit
import ctypes
from typing import Any

import numpy as np

from mmedge.runtime.device import DeviceArray


def to_gpu(array: np.ndarray[Any, Any]) -> Any:
    """A copy of a contiguous array in the memory of GPU 0, in the context that libmmedge uses too."""
    try:
        from pycuda import driver, gpuarray
    except ImportError:
        return _with_cuda_core(array)
    if driver.Context.get_current() is None:
        driver.init()
        driver.Device(0).retain_primary_context().push()
        atexit.register(driver.Context.pop)  # PyCUDA ends a process that leaves one
    return gpuarray.to_gpu(array)


def to_host(array: DeviceArray) -> np.ndarray[Any, Any]:
    """A copy of what the GPU has, by the driver alone."""
    copied = np.empty(array.shape, array.dtype)
    cuda = ctypes.CDLL("libcuda.so.1")
    context = ctypes.c_void_p()
    calls = (
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0),
        cuda.cuCtxPushCurrent_v2(context),
        cuda.cuMemcpyDtoH_v2(
            copied.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(array.pointer), ctypes.c_size_t(copied.nbytes)
        ),
        cuda.cuCtxPopCurrent_v2(ctypes.byref(context)),
        cuda.cuDevicePrimaryCtxRelease_v2(0),
    )
    assert not any(calls), calls
    return copied


def _with_cuda_core(array: np.ndarray[Any, Any]) -> Any:
    from cuda.core import Device, LegacyPinnedMemoryResource

    gpu = Device(0)
    gpu.set_current()
    stream = gpu.default_stream
    there = gpu.allocate(array.nbytes, stream=stream)
    pinned = LegacyPinnedMemoryResource().allocate(array.nbytes)
    np.from_dlpack(pinned).view(np.uint8)[: array.nbytes] = array.reshape(-1).view(np.uint8)
    there.copy_from(pinned, stream=stream)
    stream.sync()
    return DeviceArray(int(there.handle), array.shape, array.dtype, 0, there)
