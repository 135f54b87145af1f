"""TensorRT-RTX's own parser and compiler as judges of exported graphs; neither needs a GPU.

Both are native code, so they run in a process of their own: whatever they do, the caller gets an answer.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmedge.export.errors import ExportError
from mmedge.runtime.errors import EngineError, InvalidArgument

COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""Those that TensorRT-RTX builds for without a GPU; it lists 7.5 too, but refuses its convolutions over time."""

_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
_BINDINGS = "tensorrt_rtx_bindings"
_PARSE_TIMEOUT_S, _BUILD_TIMEOUT_S = 300, 3600


@dataclass(frozen=True)
class ParseReport:
    """Whether TensorRT-RTX can read a graph: true or false, with what it said.

    version: of TensorRT-RTX. layers: of the network it made. errors, warnings: one line each; an error names
    the node it is about.
    """

    version: str
    layers: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.errors

    def raise_if_failed(self) -> None:
        """Raise ExportError with every error where the graph was refused."""
        if self.errors:
            raise ExportError(f"TensorRT-RTX {self.version} refuses the graph: {'; '.join(self.errors)}")


@dataclass(frozen=True)
class EngineLayer:
    """A kernel of an engine. kind: what the compiler calls it, such as "correlation" (a convolution), "gemm" or "kgen"
    (a generated kernel); nodes: names of the graph's nodes it came of; inputs, constants, outputs: their types, such as
    "Float", "Half" or "Int8".
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """A compiled graph. plan: its file, native code for the compute capabilities it was built for; version: of
    TensorRT-RTX; layers: its kernels in their order; warnings: one line each.
    """

    plan: bytes
    version: str
    compute_capabilities: tuple[str, ...]
    layers: tuple[EngineLayer, ...]
    warnings: tuple[str, ...]


def check_parse(model: bytes) -> ParseReport:
    """Parse the ONNX file `model` with TensorRT-RTX.

    Raises:
        EngineError: TensorRT-RTX is not installed, or its parser crashed or hung.
    """
    return _parse_report(_ask({}, model, _PARSE_TIMEOUT_S))


def build_engine(model: bytes, *, compute_capabilities: Sequence[str] = ("8.6", "12.0"), max_batch: int = 1) -> Engine:
    """Compile the ONNX file `model` ahead of time, for GPUs that need not be here.

    Args:
        model: its first dimension of every input is the batch, the others are fixed.
        compute_capabilities: of `COMPUTE_CAPABILITIES`; the engine runs on each of them.
        max_batch: the largest batch it takes; it is tuned for one sample.

    Raises:
        ExportError: the parser refuses the graph, or no engine can be built of it.
        EngineError: TensorRT-RTX is not installed, or crashed or hung.
        InvalidArgument: an unknown compute capability, or no batch.
    """
    for capability in compute_capabilities:
        if capability not in COMPUTE_CAPABILITIES:
            raise InvalidArgument(
                f"compute capability {capability!r}: TensorRT-RTX builds for {', '.join(COMPUTE_CAPABILITIES)} without"
                " a GPU"
            )
    if not compute_capabilities or max_batch < 1:
        raise InvalidArgument(
            f"found compute capabilities {list(compute_capabilities)} and max_batch {max_batch}; expected at least one"
        )
    with tempfile.TemporaryDirectory(prefix="mmedge-engine-") as folder:
        plan = Path(folder, "plan")
        request = {"plan": str(plan), "capabilities": list(compute_capabilities), "max_batch": max_batch}
        answer = _ask(request, model, _BUILD_TIMEOUT_S)
        _parse_report(answer).raise_if_failed()
        if answer["refused"]:
            raise ExportError(f"TensorRT-RTX {answer['version']} builds no engine: {'; '.join(answer['refused'])}")
        return Engine(
            plan.read_bytes(),
            answer["version"],
            tuple(compute_capabilities),
            _layers(answer["listing"]),
            tuple(answer["warnings"]),
        )


def installed_version() -> str:
    """Of TensorRT-RTX.

    Raises:
        EngineError: it is not installed.
    """
    if find_spec(_LIBRARIES) is None or find_spec(_BINDINGS) is None:
        raise EngineError(
            "TensorRT-RTX is not installed: expected the packages onnxruntime-ep-nv-tensorrt-rtx-cu13 and"
            " tensorrt-rtx-cu13-bindings; install both with pip install 'mmedge[tensorrt]'"
        )
    return version("tensorrt-rtx-cu13-bindings")


def _ask(request: Mapping[str, Any], model: bytes, timeout_s: int) -> dict[str, Any]:
    installed_version()
    command = [sys.executable, "-m", "mmedge.export.tensorrt_rtx", json.dumps(request)]
    try:
        done = subprocess.run(command, input=model, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"TensorRT-RTX gave no answer within {timeout_s} s") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise EngineError(f"TensorRT-RTX stopped with exit code {done.returncode}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _parse_report(answer: Mapping[str, Any]) -> ParseReport:
    return ParseReport(answer["version"], answer["layers"], tuple(answer["errors"]), tuple(answer["warnings"]))


_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\S*), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*Metadata: (?P<nodes>.*)$"
)


def _layers(listing: Sequence[str]) -> tuple[EngineLayer, ...]:
    layers = []
    for line in listing:
        # A tensor's numbers are lists inside a list.
        found = _LAYER.match(re.sub(r"(Dimensions|Strides|StrideOrder): \[[^\]]*\]", "", line))
        if found is None:
            raise EngineError(f"TensorRT-RTX lists a layer in a form that is not known: {line[:200]}")
        types = {key: tuple(re.findall(r"Datatype: (\w+)", found[key])) for key in ("inputs", "constants", "outputs")}
        # A node of a function's body is followed by the node that calls the function.
        nodes = tuple(re.findall(r"\[ONNX Layer: ([^\]|]*?)(?: \| [^\]]*)?\]", found["nodes"]))
        layers.append(EngineLayer(found["name"], found["kind"], nodes, **types))
    return tuple(layers)


# ---- In the process of its own ---------------------------------------------------------------------------------------


def _answer(request: Mapping[str, Any], model: bytes) -> dict[str, Any]:
    tensorrt = _load()
    logger = _logger(tensorrt)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    accepted = parser.parse(model)
    errors = [_describe(parser.get_error(i)) for i in range(parser.num_errors)]
    if not errors and not (accepted and network.num_outputs):
        errors = ["the file holds no graph with an output"]
    built = request and not errors and _build(tensorrt, builder, network, request)
    return {
        "version": tensorrt.__version__,
        "layers": network.num_layers,
        "errors": errors,
        "warnings": logger.lines["WARNING"],
        "refused": [] if built else logger.lines["ERROR"] or ["it does not say why"],
        "listing": logger.listing,
    }


def _load() -> Any:
    # The bindings ask the loader for these names, which the wheel keeps outside its search path.
    folder = Path(str(find_spec(_LIBRARIES).origin)).parent  # type: ignore[union-attr]
    for stem in ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so"):
        ctypes.CDLL(str(next(folder.glob(f"{stem}.*"))), mode=ctypes.RTLD_GLOBAL)
    return import_module(_BINDINGS)


def _logger(tensorrt: Any) -> Any:
    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: dict[str, list[str]] = {"ERROR": [], "WARNING": []}
            self.listing: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                self.lines["ERROR"].append(message)
            elif severity == tensorrt.ILogger.WARNING:
                self.lines["WARNING"].append(message)
            elif message.startswith("Layers:\n"):
                lines = message.partition("I/O Tensors:")[0].splitlines()[1:]
                self.listing += filter(str.strip, lines)

    return Logger()


def _build(tensorrt: Any, builder: Any, network: Any, request: Mapping[str, Any]) -> bool:
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = list(tensor.shape)[1:]
        profile.set_shape(tensor.name, [1, *shape], [1, *shape], [request["max_batch"], *shape])
    config.add_optimization_profile(profile)
    names = ["SM" + capability.replace(".", "") for capability in request["capabilities"]]
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(tensorrt.ComputeCapability, name), index)
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return False
    Path(request["plan"]).write_bytes(plan)
    return True


def _describe(error: Any) -> str:
    reason = f"{error.code().name} in {error.func()}: {error.desc()}"
    return f"node {error.node_name()!r} ({error.node_operator()}): {reason}" if error.node_operator() else reason


if __name__ == "__main__":
    # The compiler writes remarks to the standard output: they go where errors go.
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)
        json.dump(_answer(json.loads(sys.argv[1]), sys.stdin.buffer.read()), output)
