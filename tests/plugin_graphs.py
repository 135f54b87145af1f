"""Graphs of one gated fusion for the TensorRT plugin, and what NVIDIA's parser makes of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmedge.export.functions import append_functions
from mmedge.export.graph import to_bytes

PLUGIN = Path(__file__).parents[1] / "build/tensorrt/tests/runtime/cuda/libmmedge_tensorrt_plugin_emulated.so"
PARAMETERS = ("weight", "bias", "norm_weight", "norm_bias", "gate_weight", "gate_bias")


def make_model(
    features: list[int], dim: int, dtype: type = np.float32, outputs: tuple[str, ...] = ("y", "alpha")
) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names, initializers = ["presence"], []
    for m, count in enumerate(features):
        names += [f"x_{m}", *(f"{name}_{m}" for name in PARAMETERS)]
        shapes = [(dim, count), (dim,), (dim,), (dim,), (1, dim), (1,)]
        for name, shape in zip(PARAMETERS, shapes, strict=True):
            initializers.append(numpy_helper.from_array(random.normal(size=shape).astype(dtype), f"{name}_{m}"))
    info = helper.make_tensor_value_info
    ports = {"y": info("y", kind, ["batch", dim]), "alpha": info("alpha", kind, ["batch", len(features)])}
    graph = helper.make_graph(
        [helper.make_node("GatedFusion", names, outputs, "fusion", domain="mmedge", epsilon=0.25)],
        "fusion",
        [
            info("presence", TensorProto.BOOL, ["batch", len(features)]),
            *(info(f"x_{m}", kind, ["batch", count]) for m, count in enumerate(features)),
        ],
        [ports[name] for name in outputs if name],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    append_functions(model)
    return model


def arrays(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


# Prints all that is logged. TensorRT-RTX has no layer for a plugin: where one was created its parser ends the process.
PARSE = """
import ctypes, sys
from importlib.util import find_spec
from pathlib import Path

folder = Path(find_spec("onnxruntime_ep_nv_tensorrt_rtx").origin).parent
for stem in ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so"):
    ctypes.CDLL(str(next(folder.glob(f"{stem}.*"))), mode=ctypes.RTLD_GLOBAL)
import tensorrt_rtx_bindings as tensorrt

class Logger(tensorrt.ILogger):
    def log(self, severity, message):
        print(message, flush=True)

logger = Logger()
registry = tensorrt.get_plugin_registry()
for library in sys.argv[2:]:
    registry.load_library(library)
    for creator in registry.all_creators:
        print("creator", creator.plugin_namespace, creator.name, creator.plugin_version, flush=True)
network = tensorrt.Builder(logger).create_network(0)
tensorrt.OnnxParser(network, logger).parse(Path(sys.argv[1]).read_bytes())
"""


def parse(model: onnx.ModelProto, path: Path, *libraries: Path) -> str:
    path.write_bytes(to_bytes(model))
    done = subprocess.run([sys.executable, "-c", PARSE, path, *libraries], capture_output=True, text=True)
    return done.stdout + done.stderr
