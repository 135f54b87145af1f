"""Arrays on a GPU for tests: PyCUDA's where it is installed (on a Jetson it builds against JetPack), or cuda-core's."""

from typing import Any

import numpy as np

from mmedge.runtime.device import DeviceArray


def to_gpu(array: np.ndarray[Any, Any]) -> Any:
    """A copy of a contiguous array in the memory of GPU 0, in the context that libmmedge uses too."""
    try:
        from pycuda import driver, gpuarray
    except ImportError:
        return _with_cuda_core(array)
    driver.init()
    driver.Device(0).retain_primary_context().push()
    return gpuarray.to_gpu(array)


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
