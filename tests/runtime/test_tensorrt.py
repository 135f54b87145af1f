"""The TensorRT engine from Python: without a driver, and on a host that plays the GPU."""

import ctypes
import dataclasses
import gc
import subprocess
import sys
import textwrap
import weakref
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from host_gpu import needs_host_gpu, run_on_host_gpu, write_engine

import mmedge
from mmedge.runtime import device
from mmedge.runtime.device import DeviceArray, to_device_tensor
from mmedge.runtime.errors import EngineError, InvalidArgument


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
def test_a_real_tensorrt_without_a_driver_gives_its_version_and_says_what_is_missing(digits_bundle: Path) -> None:
    spec = find_spec("tensorrt_dispatch_libs")
    assert spec is not None
    assert spec.origin is not None
    library = next(Path(spec.origin).parent.glob("libnvinfer_dispatch.so.*"))
    with pytest.raises(EngineError, match=r"found TensorRT 11\.\d+\.\d+\.\d+ .* but there is no NVIDIA driver"):
        mmedge.Session(digits_bundle, engine="tensorrt", tensorrt=str(library))


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
def test_the_plug_in_of_tensorrt_rtx_is_found_and_says_that_there_is_no_driver(digits_bundle: Path) -> None:
    spec = find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    assert spec is not None
    with pytest.raises(EngineError, match=r"TensorRT-RTX is not usable: .*libcuda\.so\.1: cannot open"):
        mmedge.Session(digits_bundle, provider="tensorrt-rtx")


def test_what_is_no_tensorrt_is_refused(digits_bundle: Path) -> None:
    # In a process of its own: the first library that loads is the only one.
    program = "import mmedge, sys; mmedge.Session(sys.argv[1], engine='tensorrt', tensorrt='/nowhere/libnvinfer.so')"
    done = subprocess.run(
        [sys.executable, "-c", program, str(digits_bundle)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "EngineUnavailable: TensorRT was not found: /nowhere/libnvinfer.so: cannot open" in done.stderr


def test_options_of_the_other_engine_are_refused_by_their_names(digits_bundle: Path) -> None:
    with pytest.raises(InvalidArgument, match=r'^tensorrt and engines are of engine "tensorrt"'):
        mmedge.Session(digits_bundle, engines="/tmp")
    with pytest.raises(InvalidArgument, match=r'^provider and cache: of engine "onnxruntime"'):
        mmedge.Session(digits_bundle, engine="tensorrt", provider="cpu", cache="/tmp")


# ---- Arrays on a GPU, whose addresses nobody follows here ------------------------------------------------------------


class WithoutDlpack:
    def __init__(self, array: DeviceArray, **changes: object) -> None:
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changes}


ARRAY = DeviceArray(0x1000, (2, 3), np.dtype(np.float32), 1, None)


def test_dlpack_and_the_array_interface_lend_the_same_memory() -> None:
    for array in (ARRAY, WithoutDlpack(ARRAY)):
        lent = to_device_tensor(array, "float32")
        assert lent is not None
        tensor = lent.tensor
        assert int(device.ffi.cast("uintptr_t", tensor.data)) == 0x1000
        assert (tensor.size, tensor.rank, list(tensor.shape[0:2])) == (24, 2, [2, 3])
        assert tensor.memory == device.lib.MME_MEMORY_CUDA


def test_the_stream_that_fills_an_array_is_waited_for() -> None:
    streams = [to_device_tensor(WithoutDlpack(ARRAY, stream=stream), "float32") for stream in (None, 1, 0x7F00)]
    # Numba and PyCUDA write None of arrays that the default stream fills.
    assert [lent.stream for lent in streams if lent] == [1, 1, 0x7F00]


def test_host_arrays_are_none_of_these() -> None:
    assert to_device_tensor(np.zeros(3, np.float32), "float32") is None


def test_another_type_or_gaps_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"found a tensor of float32 .* expected contiguous int32"):
        to_device_tensor(ARRAY, "int32")
    with pytest.raises(InvalidArgument, match=r"strides \(4, 8\)"):
        to_device_tensor(WithoutDlpack(ARRAY, strides=(4, 8)), "float32")


def test_frames_on_the_gpu_are_lent_by_plane() -> None:
    y = DeviceArray(0x1000, (30, 64), np.dtype(np.uint8), 0, None)
    uv = DeviceArray(0x9000, (15, 32, 2), np.dtype(np.uint8), 0, None)
    frame = mmedge.Image([y, WithoutDlpack(uv, stream=7)], "nv12")
    lent = frame.c_struct
    assert (frame.width, frame.height, lent.memory) == (64, 30, device.lib.MME_MEMORY_CUDA)
    assert [int(device.ffi.cast("uintptr_t", plane)) for plane in lent.planes[0:2]] == [0x1000, 0x9000]
    assert (lent.strides[1], lent.sizes[1], frame.streams) == (64, 15 * 64, (1, 7))
    with pytest.raises(InvalidArgument, match="expected all in one place"):
        mmedge.Image([y, np.zeros((15, 32, 2), np.uint8)], "nv12")


def test_a_session_on_the_cpu_refuses_frames_on_the_gpu(digits_bundle: Path) -> None:
    frame = DeviceArray(0x1000, (30, 40, 3), np.dtype(np.uint8), 0, None)
    with pytest.raises(InvalidArgument, match="takes nothing from a GPU, only engine"):
        mmedge.Session(digits_bundle).run(image=frame)


def test_what_dlpack_hands_out_keeps_its_owner_until_the_capsule_goes() -> None:
    class Owner:
        pass

    owner = Owner()
    gone = weakref.ref(owner)
    capsule = dataclasses.replace(ARRAY, owner=owner).__dlpack__()
    del owner
    gc.collect()
    assert gone() is not None
    del capsule
    gc.collect()
    assert gone() is None
    with pytest.raises(TypeError, match="PyCapsule"):  # one that dies meanwhile is no hindrance
        int(ARRAY.__dlpack__())  # type: ignore[call-overload]


AT_EXIT = """
    import numpy as np
    from mmedge.runtime import device

    device._DLPACK_CUDA = 1  # so that NumPy takes it; the memory is the host's
    memory = np.arange(6, dtype=np.float32)
    class Kept: pass
    kept = Kept()
    kept.itself = kept
    kept.view = np.from_dlpack(device.DeviceArray(memory.ctypes.data, (2, 3), memory.dtype, 0, memory))
    Kept.view = kept.view
    np.kept = kept
    assert kept.view.tolist() == [[0, 1, 2], [3, 4, 5]]
"""


def test_a_view_may_be_alive_when_the_process_ends() -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(AT_EXIT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- The whole way, on stand-ins of the driver and of TensorRT -------------------------------------------------------

WHOLE_WAY = """
    import ctypes, sys
    import numpy as np
    import mmedge
    from mmedge.runtime.device import DeviceArray

    cuda = ctypes.CDLL("libcuda.so.1")
    cuda.cuInit(0)
    context, stream, staging, memory = (ctypes.c_void_p() for _ in range(4))
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    cuda.cuCtxPushCurrent_v2(context)
    cuda.cuStreamCreate(ctypes.byref(stream), 1)
    cuda.cuMemHostAlloc(ctypes.byref(staging), ctypes.c_size_t(4096), 1)
    cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(4096))
    image = (np.arange(1024, dtype=np.float32) % 19 / 19).reshape(1, 32, 32)
    ctypes.memmove(staging, image.ctypes.data, 4096)

    class Filling:
        def __init__(self):
            cuda.cuMemcpyHtoDAsync_v2(memory, staging, ctypes.c_size_t(4096), stream)  # not waited for
        __cuda_array_interface__ = {
            "version": 3, "data": (memory.value, False), "typestr": "<f4", "shape": (1, 32, 32), "stream": stream.value
        }

    class Frame:
        def __init__(self):
            ctypes.memmove(staging, pixels.ctypes.data, 3600)
            cuda.cuMemcpyHtoDAsync_v2(memory, staging, ctypes.c_size_t(3600), stream)
        __cuda_array_interface__ = {
            "version": 3, "data": (memory.value, False), "typestr": "|u1", "shape": (30, 40, 3), "stream": stream.value
        }

    bundle, engines = sys.argv[1:]
    expected = mmedge.Session(bundle).run(tensors={"image": image})
    session = mmedge.Session(bundle, engine="tensorrt", engines=engines)
    for _ in range(3):
        found = session.run(tensors={"image": Filling()})
        assert found.scores == expected.scores, (found.scores, expected.scores)
    class ByDlpack:  # as PyTorch and CuPy give it, whose stream waits for their own
        def __init__(self):
            cuda.cuMemcpyHtoDAsync_v2(memory, staging, ctypes.c_size_t(4096), ctypes.c_void_p(1))
            self.array = DeviceArray(memory.value, (1, 32, 32), np.dtype(np.float32), 0, None)
        def __dlpack_device__(self):
            return self.array.__dlpack_device__()
        def __dlpack__(self, **arguments):
            return self.array.__dlpack__(**arguments)

    assert session.run(tensors={"image": ByDlpack()}).scores == expected.scores
    pixels = (np.arange(3600) % 251).astype(np.uint8).reshape(30, 40, 3)
    for _ in range(3):
        assert session.run(image=Frame()).scores == mmedge.Session(bundle).run(image=pixels).scores
    session.run(tensors={"image": image})
    assert "layer.first" not in found.timings
    array = session.device_output("logits")
    assert array.__dlpack_device__() == (2, 0)
    cuda.cuMemcpyDtoHAsync_v2(staging, ctypes.c_void_p(array.pointer), ctypes.c_size_t(40), stream)
    cuda.cuStreamSynchronize(stream)
    read = np.ctypeslib.as_array(ctypes.cast(staging, ctypes.POINTER(ctypes.c_float)), (10,))
    assert np.array_equal(read, expected.outputs["logits"])
    profiled = mmedge.Session(bundle, engine="tensorrt", engines=engines, profile_layers=True, stream=stream.value)
    assert profiled.run(tensors={"image": image}).timings["layer.second"] == 2.0
    print("done")
"""


@needs_host_gpu
def test_arrays_on_the_gpu_go_in_and_out_without_a_copy(digits_bundle: Path, tmp_path: Path) -> None:
    write_engine(tmp_path, digits_bundle, (digits_bundle / "model.onnx").read_bytes())
    done = run_on_host_gpu(WHOLE_WAY, digits_bundle, tmp_path)
    assert done.stdout == "done\n", done.stderr


WHERE_BUILT = """
    import os
    import sys
    from pathlib import Path

    bundle, home, cache = sys.argv[1:]
    os.environ["HOME"] = home
    os.environ.pop("XDG_CACHE_HOME", None)
    if cache:
        os.environ["XDG_CACHE_HOME"] = cache
    os.chdir(home)  # where a relative path leads

    import mmedge
    from mmedge.building import default_cache

    mmedge.Session(bundle, engine="tensorrt")
    print(default_cache())
"""


@needs_host_gpu
@pytest.mark.parametrize("cache", ["", "caches", "absolute"])
def test_engines_are_looked_for_where_they_are_built(digits_bundle: Path, tmp_path: Path, cache: str) -> None:
    given = str(tmp_path / "mine") if cache == "absolute" else cache  # one that is relative does not count
    folder = (tmp_path / "mine" if cache == "absolute" else tmp_path / ".cache") / "mmedge" / "engines"
    folder.mkdir(parents=True)
    write_engine(folder, digits_bundle, (digits_bundle / "model.onnx").read_bytes())
    done = run_on_host_gpu(WHERE_BUILT, digits_bundle, tmp_path, given)
    assert done.stdout == f"{folder}\n", done.stderr


@needs_host_gpu
def test_a_tensorrt_without_a_backend_is_named_with_what_to_build(digits_bundle: Path, tmp_path: Path) -> None:
    engine = write_engine(tmp_path, digits_bundle, b"never loaded").with_suffix(".json")
    engine.write_text(engine.read_text().replace("10.3.0.30", "11.1.0.30"))
    program = (
        "import mmedge, sys; mmedge.Session(sys.argv[1], engine='tensorrt', engines=sys.argv[2], "
        "tensorrt='libnvinfer.so.11')"
    )
    found = run_on_host_gpu(program, digits_bundle, tmp_path).stderr
    assert "found TensorRT 11.1.0.30 (" in found
    assert "but this build of mmedge has no libmmedge_tensorrt11.so; build mmedge where NvInfer.h of" in found
