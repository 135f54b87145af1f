"""Resize nodes: an exported graph is refused where one does not compute what PyTorch does.

Exporters have written coordinate modes, cubic coefficients and scales that differ from PyTorch's for some
sizes, and the result still looks like a resized image. Sizes are fixed in a graph: one run settles each node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from mmedge.export.errors import ExportError
from mmedge.export.functions import append_functions

TOLERANCE = 1e-5  # absolute, on values between 0 and 1

_FX_NODE = "pkg.torch.onnx.fx_node"


def verify_resizes(model: onnx.ModelProto, program: torch.export.ExportedProgram, inputs: Mapping[str, Tensor]) -> None:
    """Run every Resize node of `model` in ONNX Runtime on random values between 0 and 1, and compare it with
    the PyTorch operator that it was exported from.

    Args:
        model: as the exporter wrote it, its nodes still carrying the exporter's metadata.
        program: what it was exported from. inputs: the graph's inputs by name.

    Raises:
        ExportError: a node does not run, or differs by more than 1e-5 (in images longer than 42 pixels: by
            more than twice the float32 rounding of a coordinate), or its origin is unknown; the message names
            the node.
    """
    nodes = [node for node in model.graph.node if node.op_type == "Resize"]
    if not nodes:
        return
    recorder = _Recorder(program.module())
    recorder.run(*inputs.values())
    for node in nodes:
        origin = next((entry.value for entry in node.metadata_props if entry.key == _FX_NODE), "")
        call = recorder.calls.get(origin.split(" ")[0].lstrip("%"))
        if call is None:
            raise ExportError(f"Resize node {node.name!r} comes from no resize of the module: it cannot be verified")
        function, (image, *args), kwargs = call
        probe = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
        expected = function(probe, *args, **kwargs).numpy()
        try:
            found = _run_node(model, node, probe.numpy(), inputs)
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ExportError(f"Resize node {node.name!r} does not run in ONNX Runtime: {error}") from error
        difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
        longest = max(*probe.shape[2:], *expected.shape[2:])
        tolerance = max(TOLERANCE, 2 * longest * 2.0**-23)
        if not difference <= tolerance:
            raise ExportError(
                f"Resize node {node.name!r} does not compute what the module does"
                f" ({function}, {tuple(probe.shape)} -> {tuple(expected.shape)}): its values differ by up to"
                f" {difference:.3g}, more than {tolerance:.2g}; give a size, not a scale, or change the mode"
            )


class _Recorder(torch.fx.Interpreter):
    """Runs a module and keeps the call of every upsampling operator, by the name of its node."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.calls: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.op == "call_function" and "upsample" in str(n.target):
            self.calls[n.name] = (n.target, *self.fetch_args_kwargs_from_env(n))
        return super().run_node(n)


def _run_node(
    model: onnx.ModelProto, node: onnx.NodeProto, probe: np.ndarray[Any, Any], inputs: Mapping[str, Tensor]
) -> np.ndarray[Any, Any]:
    """The output of `node` for the image `probe`; the rest of the graph computes the sizes it is given."""
    import onnxruntime

    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    twin = next(other for other in cut.graph.node if other.output[0] == node.output[0])
    twin.input[0] = "mmedge_probe"
    cut.graph.input.append(onnx.helper.make_tensor_value_info("mmedge_probe", onnx.TensorProto.FLOAT, probe.shape))
    if all(value.name != node.output[0] for value in cut.graph.output):
        cut.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.output[0]))
    append_functions(cut)
    session = onnxruntime.InferenceSession(cut.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    output: np.ndarray[Any, Any] = session.run([node.output[0]], feeds | {"mmedge_probe": probe})[0]
    return output
