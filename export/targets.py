"""What each target runtime accepts: the table that bounds the opset and IR version of an exported graph."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import onnx

from mmedge.export.errors import ExportError
from mmedge.runtime.errors import InvalidArgument


@dataclass(frozen=True)
class Target:
    """A runtime that graphs are written for, and the newest file it reads.

    `max_opset` bounds the version of the default ONNX operator set, `max_ir` that of the file format;
    `source` says where both limits come from.
    """

    name: str
    max_opset: int
    max_ir: int
    source: str


TARGETS = {
    target.name: target
    for target in (
        Target("onnxruntime", 23, 11, "the oldest ONNX Runtime that mmedge runs on, 1.23: measured on 1.23.2"),
        Target("onnxruntime-1.16", 19, 9, "measured on ONNX Runtime 1.16.3"),
        Target("onnxruntime-1.14", 18, 8, "ONNX Runtime's compatibility table: 1.14 implements ONNX 1.13"),
        Target("tensorrt", 20, 10, "TensorRT 10.3, the oldest mmedge builds with: onnx-tensorrt 10.x's operators.md"),
        Target("tensorrt-rtx", 20, 10, "as TensorRT 10.3: the parser of TensorRT-RTX 1.7 checks neither number"),
    )
}


def find_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        InvalidArgument: there is none; the message names the nearest and lists them all.
    """
    if name in TARGETS:
        return TARGETS[name]
    near = difflib.get_close_matches(name, TARGETS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InvalidArgument(f"unknown target {name!r}: {hint}the targets are {', '.join(TARGETS)}")


def check_versions(model: onnx.ModelProto, target: Target) -> None:
    """Check that `model` is no newer than `target` reads.

    Raises:
        ExportError: the message gives the versions found and the newest supported.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if model.ir_version > target.max_ir or opset > target.max_opset:
        raise ExportError(
            f"the graph has IR version {model.ir_version} and opset {opset}; {target.name} reads at most"
            f" IR version {target.max_ir} and opset {target.max_opset} ({target.source}): export for another"
            " target"
        )
