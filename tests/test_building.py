"""Engines beside ONNX Runtime, on a host that plays the GPU; and what an engine with the plugin is built of."""

from pathlib import Path

import onnx
import pytest
from host_gpu import needs_host_gpu, run_on_host_gpu, write_engine
from onnx import numpy_helper

from mmedge.building import CHECKED_SAMPLES, graph_for_plugin
from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.errors import CalibrationError
from mmedge.calibration.fusion import find_fusions
from mmedge.calibration.half import to_half
from mmedge.calibration.layers import find_layers, tensors_to_range
from mmedge.calibration.table import CALIBRATION_FILE, Calibration, Origin, TensorRange
from mmedge.export.plugins import for_plugin
from mmedge.export.writing import write_bundle
from mmedge.runtime import read_manifest

CHECK = """
    import sys
    from pathlib import Path
    from mmedge import Session
    from mmedge.building import check_engine

    bundle, engine, precision = sys.argv[1:]
    session = Session(bundle, engine="tensorrt", engines=engine)
    print(check_engine(Path(bundle), session, precision).max_abs)
"""

# PyCUDA's calls that are used, on the stand-in of the driver.
PYCUDA = """
    import ctypes, sys, types
    import numpy as np
    from mmedge.runtime.device import DeviceArray

    cuda, copies = ctypes.CDLL("libcuda.so.1"), []
    pycuda, driver, gpuarray = (types.ModuleType(name) for name in ("pycuda", "pycuda.driver", "pycuda.gpuarray"))
    pycuda.driver, pycuda.gpuarray = driver, gpuarray
    sys.modules |= {"pycuda": pycuda, "pycuda.driver": driver, "pycuda.gpuarray": gpuarray}

    class Context:
        depth = 0
        def __init__(self):
            self.handle = ctypes.c_void_p()
            assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(self.handle), 0) == 0
        def push(self):
            assert cuda.cuCtxPushCurrent_v2(self.handle) == 0
            Context.depth += 1
        @staticmethod
        def pop():
            assert cuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p())) == 0
            Context.depth -= 1

    class Device:
        def __init__(self, number):
            assert number == 0
        def retain_primary_context(self):
            return Context()

    def to_gpu(array):
        staging, memory, size = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_size_t(array.nbytes)
        assert cuda.cuMemHostAlloc(ctypes.byref(staging), size, 0) == 0
        assert cuda.cuMemAlloc_v2(ctypes.byref(memory), size) == 0
        ctypes.memmove(staging, array.ctypes.data, array.nbytes)
        assert cuda.cuMemcpyHtoDAsync_v2(memory, staging, size, None) == cuda.cuStreamSynchronize(None) == 0
        copies.append(array)
        return DeviceArray(memory.value, array.shape, array.dtype, 0, None)

    driver.Context, driver.Device, driver.init, gpuarray.to_gpu = Context, Device, lambda: cuda.cuInit(0), to_gpu
"""


def changed(bundle: Path, factor: float) -> bytes:
    """The bundle's graph, the largest weights of which are not what they should be."""
    model = onnx.load(bundle / "model.onnx")
    largest = max(model.graph.initializer, key=lambda entry: numpy_helper.to_array(entry).size)
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * factor, largest.name))
    return model.SerializeToString()


@needs_host_gpu
def test_the_gpu_is_told_apart_as_libmmedge_tells_it() -> None:
    # What `write_engine` puts into records, of which sessions take these.
    done = run_on_host_gpu("from mmedge.export.builders import first_gpu\nprint(*first_gpu())")
    assert done.stdout == "8.7 Host GPU (4 multiprocessors)\n", done.stderr


@needs_host_gpu
def test_an_engine_that_computes_the_same_passes(digits_bundle: Path, tmp_path: Path) -> None:
    engine = write_engine(tmp_path, digits_bundle, (digits_bundle / "model.onnx").read_bytes())
    done = run_on_host_gpu(CHECK, digits_bundle, engine, "fp32")
    assert done.stdout == "0.0\n", done.stderr


@needs_host_gpu
def test_it_reads_the_memory_of_the_gpu_where_pycuda_is_installed(digits_bundle: Path, tmp_path: Path) -> None:
    engine = write_engine(tmp_path, digits_bundle, (digits_bundle / "model.onnx").read_bytes())
    done = run_on_host_gpu(PYCUDA + CHECK + "    print(len(copies), Context.depth)\n", digits_bundle, engine, "fp32")
    subsets_of_image_and_sound = ("image", "audio"), ("image",), ("audio",)
    tensors = CHECKED_SAMPLES * sum(map(len, subsets_of_image_and_sound))
    assert done.stdout == f"0.0\n{tensors} 0\n", done.stderr


@needs_host_gpu
def test_an_engine_that_computes_something_else_is_refused(digits_bundle: Path, tmp_path: Path) -> None:
    engine = write_engine(tmp_path, digits_bundle, changed(digits_bundle, 1.01))
    done = run_on_host_gpu(CHECK, digits_bundle, engine, "fp32")
    assert "ParityError: sample 'random sample" in done.stderr
    # In few bits so much is rounding, but not this.
    assert run_on_host_gpu(CHECK, digits_bundle, engine, "int8").returncode == 0
    engine = write_engine(tmp_path, digits_bundle, changed(digits_bundle, -1.0))
    done = run_on_host_gpu(CHECK, digits_bundle, engine, "int8")
    assert "expected at least .99" in done.stderr


@needs_host_gpu
def test_an_engine_is_judged_by_the_graph_it_was_built_of(digits_bundle: Path, tmp_path: Path) -> None:
    graph = to_half(onnx.load(digits_bundle / "model.onnx")).SerializeToString()
    manifest = read_manifest(digits_bundle)
    half = {"path": "model.tensorrt.onnx", "precision": "fp16", "target": "tensorrt"}
    graphs = [*manifest.graphs, manifest.graphs[0].model_copy(update=half)]
    bundle = tmp_path / "both.mme"
    bundle.mkdir()
    files = {"model.onnx": changed(digits_bundle, 1.01), "model.tensorrt.onnx": graph}
    write_bundle(bundle, manifest.model_copy(update={"graphs": graphs}), files)
    done = run_on_host_gpu(CHECK, bundle, write_engine(tmp_path, bundle, graph, "model.tensorrt.onnx"), "fp32")
    assert not done.returncode, done.stderr
    assert float(done.stdout) < 1e-5


@needs_host_gpu
def test_the_tokens_it_is_tried_with_are_in_a_small_vocabulary(bundles: Path, tmp_path: Path) -> None:
    words = bundles / "words.mme"
    done = run_on_host_gpu(CHECK, words, write_engine(tmp_path, words, (words / "model.onnx").read_bytes()), "fp32")
    assert done.stdout == "0.0\n", done.stderr


# ---- Graphs for the plugin -------------------------------------------------------------------------------------------


def calibrated(folder: Path, like: Path, *, integers: bool, fusion: bool, calibration: str | None = None) -> Path:
    """A bundle with a graph for TensorRT, in INT8 or float16 and its fusion chosen for INT8 or not, beside one for the
    CPU. calibration: of another text.
    """
    model, manifest = onnx.load(like / "model.onnx"), read_manifest(like)
    layers, fusions = ([entry.name for entry in found] for found in (find_layers(model), find_fusions(model)))
    ranges = dict.fromkeys(tensors_to_range(model), 4.0)
    origin = Origin("", "", "", "", "minmax")
    table = Calibration(origin, 1, 1, {name: TensorRange(4.0, -4.0, 4.0, 0) for name in ranges})
    (cpu,) = manifest.graphs
    precision = "int8" if integers else "fp16"
    changes = {"path": "model.tensorrt.onnx", "precision": precision, "target": "tensorrt", "opset": 19}
    files = {
        cpu.path: emit_cpu(model, ranges, layers + fusions * fusion).SerializeToString(),
        "model.tensorrt.onnx": to_half(
            emit_tensorrt(model, ranges, layers * integers + fusions * fusion)
        ).SerializeToString(),
        CALIBRATION_FILE: (table.to_json() if calibration is None else calibration).encode(),
    }
    graphs = [cpu.model_copy(update={"precision": "int8"}), cpu.model_copy(update=changes)]
    folder.mkdir()
    write_bundle(folder, manifest.model_copy(update={"graphs": graphs}), files)
    return folder


def test_the_plugins_fusion_is_in_integers_where_it_was_chosen(digits_bundle: Path, tmp_path: Path) -> None:
    bundle = calibrated(tmp_path / "made.mme", digits_bundle, integers=True, fusion=True)
    made = onnx.load_from_string(graph_for_plugin(bundle))
    (node,) = [node for node in made.graph.node if node.domain]
    (fusion,) = find_fusions(onnx.load(digits_bundle / "model.onnx"))
    assert (node.op_type, node.name, len(node.input)) == ("QGatedFusion", fusion.name, 1 + 9 * 2)
    # Engines are kept by TensorRT's graph, so the choice must show in it.
    other = calibrated(tmp_path / "other.mme", digits_bundle, integers=True, fusion=False)
    one, another = ((of / "model.tensorrt.onnx").read_bytes() for of in (bundle, other))
    assert one != another


@pytest.mark.parametrize(("integers", "fusion"), [(True, False), (False, True)])
def test_a_fusion_that_has_no_integers_is_written_as_before(
    digits_bundle: Path, tmp_path: Path, integers: bool, fusion: bool
) -> None:
    bundle = calibrated(tmp_path / "made.mme", digits_bundle, integers=integers, fusion=fusion)
    expected = for_plugin(onnx.load(bundle / "model.tensorrt.onnx")).SerializeToString()
    assert graph_for_plugin(bundle) == expected
    plain = for_plugin(onnx.load(digits_bundle / "model.onnx")).SerializeToString()
    assert graph_for_plugin(digits_bundle) == plain


def test_ranges_that_cannot_be_read_are_said(digits_bundle: Path, tmp_path: Path) -> None:
    bundle = calibrated(tmp_path / "made.mme", digits_bundle, integers=True, fusion=True, calibration="{}")
    with pytest.raises(CalibrationError, match=r"calibration.json is no calibration that can be read"):
        graph_for_plugin(bundle)
