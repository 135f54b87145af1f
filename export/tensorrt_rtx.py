"""TensorRT-RTX's own parser as a judge of exported graphs; needs no GPU.

The parser is native code, so it runs in a process of its own: whatever it does, the caller gets an answer.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmedge.export.errors import ExportError
from mmedge.runtime.errors import EngineError

_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
_BINDINGS = "tensorrt_rtx_bindings"
_TIMEOUT_S = 300


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


def check_parse(model: bytes) -> ParseReport:
    """Parse the ONNX file `model` with TensorRT-RTX.

    Raises:
        EngineError: TensorRT-RTX is not installed, or its parser crashed or hung.
    """
    if find_spec(_LIBRARIES) is None or find_spec(_BINDINGS) is None:
        raise EngineError(
            "TensorRT-RTX is not installed: expected the packages onnxruntime-ep-nv-tensorrt-rtx-cu13 and"
            " tensorrt-rtx-cu13-bindings; install both with pip"
        )
    command = [sys.executable, "-m", "mmedge.export.tensorrt_rtx"]
    try:
        done = subprocess.run(command, input=model, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"TensorRT-RTX's parser gave no answer within {_TIMEOUT_S} s") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise EngineError(f"TensorRT-RTX's parser stopped with exit code {done.returncode}: {last}")
    answer = json.loads(done.stdout)
    return ParseReport(answer["version"], answer["layers"], tuple(answer["errors"]), tuple(answer["warnings"]))


def _parse(model: bytes) -> dict[str, Any]:
    # The bindings ask the loader for these names, which the wheel keeps outside its search path.
    folder = Path(str(find_spec(_LIBRARIES).origin)).parent  # type: ignore[union-attr]
    for stem in ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so"):
        ctypes.CDLL(str(next(folder.glob(f"{stem}.*"))), mode=ctypes.RTLD_GLOBAL)
    tensorrt: Any = import_module(_BINDINGS)

    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity == tensorrt.ILogger.WARNING:
                self.warnings.append(message)

    logger = Logger()
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    accepted = parser.parse(model)
    errors = [_describe(parser.get_error(i)) for i in range(parser.num_errors)]
    if not errors and not (accepted and network.num_outputs):
        errors = ["the file holds no graph with an output"]
    return {
        "version": tensorrt.__version__,
        "layers": network.num_layers,
        "errors": errors,
        "warnings": logger.warnings,
    }


def _describe(error: Any) -> str:
    reason = f"{error.code().name} in {error.func()}: {error.desc()}"
    return f"node {error.node_name()!r} ({error.node_operator()}): {reason}" if error.node_operator() else reason


if __name__ == "__main__":
    json.dump(_parse(sys.stdin.buffer.read()), sys.stdout)
