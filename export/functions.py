"""The fused operators of the `mmedge` domain, as ONNX model-local functions.

A graph holds one node per fused operator and, once, the operator's body. A runtime with a kernel of its own
runs the kernel; every other one inlines the body. Bodies are generic in the floating type: constants are
integers, turned into the type of a tensor by CastLike.
"""

from __future__ import annotations

import onnx
from onnx import helper

from mmedge.export.errors import ExportError

DOMAIN = "mmedge"
VERSION = 1

# The lowest value of float16, so that one integer masks in every floating type.
ABSENT_SCORE = -65504


def gated_fusion(modalities: int, opset: int, *, alpha: bool = False) -> onnx.FunctionProto:
    """The body of `mmedge::GatedFusion` for a number M of modalities.

    Inputs: `presence` bool [B, M], then for each modality m: `x` [B, F_m], `weight` [D, F_m], `bias` [D],
    `norm_weight` [D], `norm_bias` [D], `gate_weight` [1, D], `gate_bias` [1]. Attribute: `epsilon` (float) of
    the layer norms. Outputs: `y` [B, D] and, if asked for, `alpha` [B, M].

    A node must have as many outputs as the body; one that leaves `alpha` out in a graph where another does not gives it
    an empty name. (ONNX's shape inference refuses a node of fewer, and ONNX Runtime 1.23 aborts on one.)

        h_m = ReLU(LayerNorm_m(x_m weight_m' + bias_m))
        s_m = h_m gate_weight_m' + gate_bias_m
        alpha = softmax of s over the modalities that are present
        y = sum over those of alpha_m h_m          (zero where none is present)
    """
    each = range(modalities)
    inputs = ["presence"]
    nodes = []
    for m in each:
        parameters = ("x", "weight", "bias", "norm_weight", "norm_bias", "gate_weight", "gate_bias")
        x, weight, bias, norm_weight, norm_bias, gate_weight, gate_bias = names = [f"{p}_{m}" for p in parameters]
        inputs += names
        norm = helper.make_node("LayerNormalization", [f"z_{m}", norm_weight, norm_bias], [f"n_{m}"], axis=-1)
        norm.attribute.add(name="epsilon", ref_attr_name="epsilon", type=onnx.AttributeProto.FLOAT)
        nodes += [
            helper.make_node("Gemm", [x, weight, bias], [f"z_{m}"], transB=1),
            norm,
            helper.make_node("Relu", [f"n_{m}"], [f"h_{m}"]),
            helper.make_node("Gemm", [f"h_{m}", gate_weight, gate_bias], [f"s_{m}"], transB=1),
        ]
    nodes += [
        helper.make_node("Concat", [f"s_{m}" for m in each], ["s"], axis=1),
        helper.make_node("Constant", [], ["lowest"], value_int=ABSENT_SCORE),
        helper.make_node("CastLike", ["lowest", "s"], ["absent"]),
        helper.make_node("Where", ["presence", "s", "absent"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"], axis=1),
        helper.make_node("CastLike", ["presence", "s"], ["present"]),
        helper.make_node("Mul", ["weights", "present"], ["alpha"]),
        helper.make_node("Split", ["alpha"], [f"alpha_{m}" for m in each], axis=1, num_outputs=modalities),
        *(helper.make_node("Mul", [f"alpha_{m}", f"h_{m}"], [f"y_{m}"]) for m in each),
        helper.make_node("Sum", [f"y_{m}" for m in each], ["y"]),
    ]
    for node in nodes:
        node.name = f"GatedFusion/{node.output[0]}"
    return helper.make_function(
        DOMAIN,
        "GatedFusion",
        inputs,
        ["y", "alpha"][: 1 + alpha],
        nodes,
        [helper.make_opsetid("", opset)],
        attributes=["epsilon"],
    )


def append_functions(model: onnx.ModelProto) -> None:
    """Append the body of every `mmedge` operator that `model` uses; must be the last change made to a graph,
    because optimisers and converters inline bodies or drop them.

    Raises:
        ExportError: a node of the domain has no body here, or two nodes of one operator need two bodies.
    """
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    bodies: dict[str, onnx.FunctionProto] = {}
    fused = [node for node in model.graph.node if node.domain == DOMAIN]
    outputs = max((len(node.output) for node in fused), default=1)
    for node in fused:
        modalities, rest = divmod(len(node.input) - 1, 7)
        if node.op_type != "GatedFusion" or modalities < 1 or rest:
            raise ExportError(f"node {node.name!r}: no body for {DOMAIN}::{node.op_type} with {len(node.input)} inputs")
        body = gated_fusion(modalities, opset, alpha=outputs > 1)
        node.output.extend([""] * (outputs - len(node.output)))
        if len(bodies.setdefault(node.op_type, body).input) != len(body.input):
            raise ExportError(
                f"node {node.name!r} fuses {modalities} modalities, an earlier {node.op_type} another number:"
                " a graph holds one body per operator"
            )
    model.functions.extend(bodies.values())
    kept = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    if bodies:
        model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
