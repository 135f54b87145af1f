"""The layers of a graph that have integer kernels on every target: products with constant weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from mmedge.calibration.fusion import find_fusions
from mmedge.calibration.graph import GraphIndex, attributes, block_of, is_move, module_of
from mmedge.calibration.ranges import LEVELS

LEAST_SCALE = 2.0**-40
"""Of a tensor that is zero throughout: far below any value, and far above where products of two would vanish."""


@dataclass(frozen=True)
class Place:
    """Of a node that can be in integers. block: of `block_of`; kind: what its cost depends on, the operator, the shape
    of its weights, and its settings.
    """

    block: str
    kind: tuple[str, tuple[int, ...], str]


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product with what follows it into one kernel.

    name: of its node. source: the tensor it takes; weight: the initializer, int8 along `axis` of channels; bias: an
    initializer, or None; bias_node, relu_node: the nodes that add it and cut off below zero, such as a ReLU6, or None;
    output: the tensor that comes out at the end.
    """

    name: str
    source: str
    weight: str
    axis: int
    bias: str | None
    bias_node: str | None
    relu_node: str | None
    output: str


@dataclass(frozen=True)
class Sum:
    """An addition of two tensors that both can be integers, such as a residual one. name: of its node; inputs: the two;
    relu_node: what cuts it off below zero, or None; output: the tensor that comes out at the end.
    """

    name: str
    inputs: tuple[str, str]
    relu_node: str | None
    output: str


def find_tables(model: onnx.ModelProto) -> dict[str, str]:
    """The embedding tables of a graph, float32 [rows, features]: name of the node that looks up -> initializer."""
    index = GraphIndex(model.graph)
    found = {}
    for node in model.graph.node:
        if (
            node.op_type == "Gather"
            and attributes(node).get("axis", 0) == 0
            and node.input[1] not in index.initializers
        ):
            table = index.constant(node.input[0])
            if table is not None and table.dtype == np.float32 and table.ndim == 2:
                found[node.name] = node.input[0]
    return found


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """The layers at the top level of a graph, in its order."""
    index = GraphIndex(model.graph)
    found = (_layer(index, node) for node in model.graph.node)
    return [layer for layer in found if layer is not None]


def quantizable(model: onnx.ModelProto) -> dict[str, Place]:
    """What can be in integers, by the name of its node: tables first, fusions last."""
    index = GraphIndex(model.graph)
    weights = find_tables(model) | {layer.name: layer.weight for layer in find_layers(model)}
    weights |= {fusion.name: fusion.parameters[0][0] for fusion in find_fusions(model)}
    nodes = {node.name: node for node in model.graph.node}
    return {
        name: Place(
            block_of(module_of(index, nodes[name])),
            (nodes[name].op_type, tuple(index.initializers[weight].dims), repr(attributes(nodes[name]))),
        )
        for name, weight in weights.items()
    }


def _layer(index: GraphIndex, node: onnx.NodeProto) -> Layer | None:
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.domain:
        return None
    weight = index.constant(node.input[1])
    if weight is None or node.input[0] in index.initializers or weight.dtype != np.float32:
        return None
    options = attributes(node)
    if node.op_type == "Gemm" and (options.get("transA") or {options.get(k, 1.0) for k in ("alpha", "beta")} != {1.0}):
        return None
    if node.op_type == "MatMul" and weight.ndim != 2:
        return None
    axis = 0 if node.op_type == "Conv" or options.get("transB") else 1
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    values = index.constant(bias)
    if bias is not None and (values is None or values.ndim != 1):
        return None
    output, bias_node, relu_node = node.output[0], None, None
    after = index.only_consumer(output)
    if node.op_type == "MatMul" and after is not None and after.op_type == "Add":
        (other,) = [name for name in after.input if name != output] or [""]
        values = index.constant(other)
        if values is not None and values.shape == (weight.shape[1],):
            bias, bias_node, output = other, after.name, after.output[0]
            after = index.only_consumer(output)
    if after is not None and starts_at_zero(index, after):
        relu_node, output = after.name, after.output[0]
    return Layer(node.name, node.input[0], node.input[1], axis, bias, bias_node, relu_node, output)


def starts_at_zero(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Whether the node is a ReLU, or one with an end, such as ReLU6. The range of what comes out ends there at the
    latest, so that a rounding in this range cuts off as the node does.
    """
    if node.op_type == "Clip" and len(node.input) > 1:
        least = index.constant(node.input[1])
        return least is not None and bool(least == 0)
    return node.op_type == "Relu"


def find_sums(model: onnx.ModelProto, layers: Sequence[Layer]) -> list[Sum]:
    """The sums of what the convolutions among `layers` give, of what layers take, and of other such sums."""
    index = GraphIndex(model.graph)
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    integers = {layer.source for layer in layers} | {layer.output for layer in layers if layer.name in convolutions}
    found = []
    for node in model.graph.node:
        if node.op_type != "Add" or not integers.issuperset(node.input):
            continue
        output, after = node.output[0], index.only_consumer(node.output[0])
        relu_node = after.name if after is not None and after.op_type == "Relu" else None
        if after is not None and relu_node:
            output = after.output[0]
        found.append(Sum(node.name, (node.input[0], node.input[1]), relu_node, output))
        integers.add(output)
    return found


@dataclass(frozen=True)
class Integers:
    """What a graph has in integers. taken: the tensors that layers and sums take, and those that these are moved from;
    made: what convolutions and sums give, the products and moves of which any is taken; sums: by name; joined: by sum,
    the output of the layer whose kernel does the sum as well, if any: all else is rounded before the sum.
    """

    taken: frozenset[str]
    made: frozenset[str]
    sums: Mapping[str, Sum]
    joined: Mapping[str, str]

    def read_by(self, node: onnx.NodeProto) -> list[str]:
        """Which inputs of a node, that is none of the layers, are rounded before it. What layers take is so after it
        was moved.
        """
        if is_move(node) and node.output[0] in self.taken:
            return []
        rounded = node.input if node.name in self.sums else self.made.intersection(node.input)
        return [name for name in node.input if name in rounded and name != self.joined.get(node.name)]


def find_integers(model: onnx.ModelProto, layers: Sequence[Layer], others: Collection[str] = ()) -> Integers:
    """What the graph has in integers where `layers` are, and `others` are taken as well: the same on every target."""
    index, sums = GraphIndex(model.graph), find_sums(model, layers)
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    takes = [layer.source for layer in layers] + [name for entry in sums for name in entry.inputs] + list(others)
    taken = {name for tensor in takes for name in index.way(tensor)}
    made = {layer.output for layer in layers if layer.name in convolutions or layer.output in taken}
    made |= {entry.output for entry in sums}
    made |= {node.output[0] for node in model.graph.node if is_move(node) and node.output[0] in taken}
    alone = {layer.output for layer in layers if index.only_consumer(layer.output) is not None}
    joined = {entry.name: name for entry in sums for name in reversed(entry.inputs) if name in alone}
    return Integers(frozenset(taken), frozenset(made), {entry.name: entry for entry in sums}, joined)


def tensors_to_range(model: onnx.ModelProto) -> list[str]:
    """The tensors whose range an integer graph needs: what layers, sums and fusions take, and most of their outputs."""
    index, layers = GraphIndex(model.graph), find_layers(model)
    names = [name for layer in layers for name in (index.root(layer.source), layer.output)]
    names += [name for entry in find_sums(model, layers) for name in (*map(index.root, entry.inputs), entry.output)]
    names += [index.root(name) for fusion in find_fusions(model) for name in fusion.sources]
    return list(dict.fromkeys(names))


def activation_scale(amax: float) -> float:
    """Of a tensor whose magnitudes go up to `amax`: its step in 8 bits, above 0 whatever it holds; of 11 binary digits,
    so that it is the same in float16.
    """
    digits, exponent = np.frexp(max(amax / LEVELS, LEAST_SCALE))
    return float(np.ldexp(np.rint(digits * 2**11) / 2**11, exponent))


def weight_scales(
    weight: npt.NDArray[np.float32], axis: int, bias: npt.NDArray[np.float32] | None, input_scale: float
) -> npt.NDArray[np.float32]:
    """A step per channel, float32 [channels]: the largest magnitude is 127 steps. A channel of nothing, or one too
    faint beside its bias for 32 bits of their common step, or of half of it, gets as large a step as keeps the bias.
    """
    others = tuple(dimension for dimension in range(weight.ndim) if dimension != axis)
    scales = np.maximum(np.abs(weight).max(axis=others) / LEVELS, LEAST_SCALE)
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias) / (input_scale * 2.0**29))
    return np.asarray(scales, np.float32)


def quantize(values: npt.NDArray[np.float32], scales: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.int8]:
    """int8 of the same shape: to the nearest step, to the even one between two."""
    shape = [-1 if dimension == axis else 1 for dimension in range(values.ndim)]
    return np.asarray(np.clip(np.rint(values / scales.reshape(shape)), -LEVELS, LEVELS), np.int8)
