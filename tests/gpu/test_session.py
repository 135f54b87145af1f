"""Sessions on TensorRT, on a GPU: an engine that mmedge build compiles here, judged by ONNX Runtime."""

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu.test_kernels import device_count

import mmedge
from mmedge.building import build_bundle
from mmedge.export.builders import EngineOptions
from mmedge.runtime.device import DeviceArray, device_copier
from mmedge.runtime.errors import EngineUnavailable, InvalidArgument

pytestmark = [
    pytest.mark.skipif(device_count() == 0, reason="needs a CUDA device, and the driver finds none"),
    pytest.mark.skipif(find_spec("tensorrt") is None, reason="needs TensorRT's Python package, to build an engine"),
]


@pytest.fixture(scope="module")
def engine(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_bundle(digits_bundle, EngineOptions("tensorrt"), cache=tmp_path_factory.mktemp("engines")).engine


@pytest.fixture
def session(digits_bundle: Path, engine: str) -> mmedge.Session:
    try:
        return mmedge.Session(digits_bundle, engine="tensorrt", engines=engine)
    except EngineUnavailable as error:
        pytest.skip(f"needs libmmedge's backend for TensorRT: {error}")


def inputs(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (48, 64, 3), np.uint8)
    audio = mmedge.Audio(random.uniform(-0.5, 0.5, 16000).astype(np.float32), 16000)
    return {"image": image, "audio": audio}


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


def test_every_subset_gives_what_onnx_runtime_gives_launch_after_launch(
    digits_bundle: Path, session: mmedge.Session
) -> None:
    judge = mmedge.Session(digits_bundle)
    for seed in range(5):
        for names in (("image", "audio"), ("image",), ("audio",)):
            given = {name: value for name, value in inputs(seed).items() if name in names}
            expected, found = judge.run(**given).outputs, session.run(**given).outputs
            np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-3)


def test_arrays_of_the_gpu_go_in_and_out(session: mmedge.Session) -> None:
    image = np.random.default_rng(0).standard_normal((1, 32, 32), np.float32)
    expected = session.run(tensors={"image": image}).outputs["logits"]
    to_gpu = device_copier()
    if to_gpu is None:
        pytest.skip("needs PyCUDA or cuda-core")
    there = to_gpu(image)
    for _ in range(3):
        np.testing.assert_array_equal(session.run(tensors={"image": there}).outputs["logits"], expected)
    np.testing.assert_array_equal(to_host(session.device_output("logits")), expected)


def test_tensors_of_pytorch_go_in_and_out(session: mmedge.Session) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a PyTorch with CUDA")
    image = np.random.default_rng(0).standard_normal((1, 32, 32), np.float32)
    expected = session.run(tensors={"image": image}).outputs["logits"]
    there = torch.from_numpy(image).cuda()
    np.testing.assert_array_equal(session.run(tensors={"image": there}).outputs["logits"], expected)
    np.testing.assert_array_equal(torch.from_dlpack(session.device_output("logits")).cpu().numpy(), expected)


def test_host_memory_is_not_taken_for_the_gpus(session: mmedge.Session) -> None:
    array = np.zeros((1, 32, 32), np.float32)

    lie = DeviceArray(array.ctypes.data, array.shape, array.dtype, 0, array)
    with pytest.raises(InvalidArgument, match="not memory of GPU 0"):
        session.run(tensors={"image": lie})


def test_layers_are_timed(digits_bundle: Path, engine: str) -> None:
    session = mmedge.Session(digits_bundle, engine="tensorrt", engines=engine, profile_layers=True)
    layers = {name: us for name, us in session.run(**inputs(0)).timings.items() if name.startswith("layer.")}
    assert layers
    assert all(us > 0 for us in layers.values())
