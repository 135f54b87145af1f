"""The fused operator in integers: mmedge::QGatedFusion, and its body for runtimes that have no kernel for it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from mmedge.calibration.graph import GraphIndex

DOMAIN = "mmedge"
INPUTS = 7  # of mmedge::GatedFusion for each modality: x, weight, bias, norm_weight, norm_bias, gate_weight, gate_bias
_MOST_FEATURES = 65536  # sums of more could pass 32 bits


@dataclass(frozen=True)
class Fusion:
    """A GatedFusion whose parameters are constants. name: of its node; sources: the features of each modality;
    parameters: of each modality, the initializers: weight [D, F], then the five others.
    """

    name: str
    sources: tuple[str, ...]
    parameters: tuple[tuple[str, ...], ...]


def find_fusions(model: onnx.ModelProto) -> list[Fusion]:
    """Those of a graph that can be in integers."""
    index = GraphIndex(model.graph)
    found = []
    for node in model.graph.node:
        if node.domain != DOMAIN or node.op_type != "GatedFusion":
            continue
        groups = [tuple(node.input[at : at + INPUTS]) for at in range(1, len(node.input), INPUTS)]
        parameters = tuple(group[1:] for group in groups)
        if all(
            name in index.initializers and index.initializers[group[0]].dims[1] <= _MOST_FEATURES
            for group in parameters
            for name in group
        ):
            found.append(Fusion(node.name, tuple(group[0] for group in groups), parameters))
    return found


def add_body(model: onnx.ModelProto) -> None:
    """Give a graph with QGatedFusion nodes their body, made of GatedFusion's, and take that away if nothing uses it."""
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    (plain,) = [function for function in model.functions if (function.domain, function.name) == (DOMAIN, "GatedFusion")]
    inputs, nodes = [plain.input[0]], []
    for at in range(1, len(plain.input), INPUTS):
        x, weight, *others = plain.input[at : at + INPUTS]
        features, stored = [f"{x}_uint8", f"{x}_scale", f"{x}_zero_point"], [f"{weight}_int8", f"{weight}_scale"]
        inputs += [*features, *stored, *others]
        nodes += [
            helper.make_node("DequantizeLinear", features, [x], f"QGatedFusion/{x}"),
            helper.make_node("DequantizeLinear", stored, [weight], f"QGatedFusion/{weight}", axis=0),
        ]
    body = helper.make_function(
        DOMAIN,
        "QGatedFusion",
        inputs,
        list(plain.output),
        [*nodes, *plain.node],
        list(plain.opset_import),
        attributes=list(plain.attribute),
    )
    if "GatedFusion" not in used:
        model.functions.remove(plain)
    model.functions.append(body)
