"""What a pass over an ONNX graph asks of it: who makes a tensor, who takes it, and which are constant."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.utils import Extractor

# These move values and compute none: a tensor has the range of what it is made of.
MOVES = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool"})


def is_move(node: onnx.NodeProto, moves: Collection[str] = MOVES) -> bool:
    """Whether a node moves values and does no more: a MaxPool may say where it found them as well."""
    return node.op_type in moves and not any(node.output[1:])


def seen_inside(graph: onnx.GraphProto) -> set[str]:
    """What the graphs inside its nodes, such as the branches of an If, take by name, their own tensors among it."""
    found = set()
    for attribute in (entry for node in graph.node for entry in node.attribute):
        for inner in (attribute.g, *attribute.graphs):
            found |= {name for node in inner.node for name in node.input} | {value.name for value in inner.output}
            found |= seen_inside(inner)
    return found


class GraphIndex:
    """The tensors of a graph's top level. outputs: those that are seen from elsewhere, the graphs inside its nodes
    included.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.initializers = {entry.name: entry for entry in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output} | seen_inside(graph)

    def constant(self, name: str | None) -> npt.NDArray[Any] | None:
        """The values of an initializer; None where `name` is none."""
        entry = self.initializers.get(name or "")
        return None if entry is None else numpy_helper.to_array(entry)

    def only_consumer(self, name: str) -> onnx.NodeProto | None:
        """The one node that takes the tensor, where nothing else sees it."""
        takers = self.consumers.get(name, [])
        return takers[0] if len(takers) == 1 and name not in self.outputs else None

    def way(self, name: str, moves: Collection[str] = MOVES) -> list[str]:
        """The tensor, and those it is moved from: of the same values, in another shape or order."""
        way, node = [name], self.producers.get(name)
        while node is not None and is_move(node, moves):
            way.append(node.input[0])
            node = self.producers.get(way[-1])
        return way

    def root(self, name: str) -> str:
        """The last of the way: what computes the values."""
        return self.way(name)[-1]


def with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph, or a copy where nodes without a name are called by what they make: the layers of a graph are found,
    and left out, by name. (ONNX Runtime loads no graph in which two have one name.)
    """
    if all(node.name for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.name = node.name or f"{node.op_type} of {next(filter(None, node.output))}"
    return copy


def module_of(index: GraphIndex, node: onnx.NodeProto) -> str:
    """The module whose weights a node uses, or the nearest before it that uses any; "" if none does."""
    waiting, seen = [node], set()
    while waiting:
        current = waiting.pop(0)
        for name in current.input:
            if name in index.initializers and name.startswith("module."):
                return str(name.removeprefix("module.").rpartition(".")[0])
        for name in current.input:
            producer = index.producers.get(name)
            if producer is not None and producer.output[0] not in seen:
                seen.add(producer.output[0])
                waiting.append(producer)
    return ""


def block_of(module: str) -> str:
    """Which encoder a module belongs to, or that it is of the fusion or the head."""
    parts = module.split(".")
    return f"encoder {parts[1]}" if parts[0] == "encoders" and len(parts) > 1 else parts[0]


def blocks_of(model: onnx.ModelProto) -> dict[str, str]:
    """By node: its block. One before all modules is of the block that first takes what it makes; "" if none does."""
    index = GraphIndex(model.graph)
    found = {node.name: block_of(module_of(index, node)) for node in model.graph.node}
    for node in model.graph.node[::-1]:
        takers = [found[taker.name] for name in node.output for taker in index.consumers.get(name, ())]
        found[node.name] = found[node.name] or next(filter(None, takers), "")
    return found


def structure_hash(model: onnx.ModelProto) -> str:
    """SHA-256 of what a graph computes, its weights aside."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for entry in bare.graph.initializer:
        if len(entry.dims):  # a scalar is a setting rather than a weight
            entry.CopyFrom(onnx.TensorProto(name=entry.name, dims=entry.dims, data_type=entry.data_type))
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def weights_hash(model: onnx.ModelProto) -> str:
    """SHA-256 of a graph's weights, by name."""
    digest = hashlib.sha256()
    for entry in sorted(model.graph.initializer, key=lambda entry: entry.name):
        digest.update(entry.name.encode() + b"\0")
        digest.update(np.ascontiguousarray(numpy_helper.to_array(entry)).tobytes())
    return digest.hexdigest()


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


def nodes_in_int8(model: onnx.ModelProto) -> list[str]:
    """The names of the nodes whose weights are stored in int8, in the graph's order."""
    index = GraphIndex(model.graph)
    stored = {name for name, entry in index.initializers.items() if entry.data_type == onnx.TensorProto.INT8}
    readings = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored]
    stored.update(node.output[0] for node in readings)
    pairs = ("QuantizeLinear", "DequantizeLinear")
    return [node.name for node in model.graph.node if node.op_type not in pairs and stored.intersection(node.input)]


def with_float_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose integer weights are read into floats beforehand, so that a CPU computes with them as an engine of
    another kind would, and not with kernels of its own for them.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    index, graph = GraphIndex(model.graph), copy.graph
    del graph.node[:]
    for node in model.graph.node:
        values, scale = (index.constant(name) for name in (*node.input, "", "")[:2])
        if node.op_type != "DequantizeLinear" or values is None or scale is None:
            graph.node.append(node)
            continue
        shape = [1] * values.ndim
        if scale.ndim:
            shape[attributes(node)["axis"]] = -1
        floats = values * scale.astype(np.float32).reshape(shape)
        graph.initializer.append(numpy_helper.from_array(floats.astype(scale.dtype), node.output[0]))
    used = {name for node in graph.node for name in node.input} | index.outputs
    kept = [entry for entry in graph.initializer if entry.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return copy


def with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy of the graph that gives `tensors` beside its own outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    there = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in there)
    return copy


def part_of(model: onnx.ModelProto, output: str, cuts: Collection[str]) -> onnx.ModelProto:
    """The part of a graph that makes `output` from the nearest of `cuts` before it and the graph's inputs."""
    index = GraphIndex(model.graph)
    waiting, inputs = [output], list[str]()
    while waiting:
        name = waiting.pop()
        producer = index.producers.get(name)
        if (producer is None or (name in cuts and name != output)) and name not in index.initializers:
            if name and name not in inputs:
                inputs.append(name)
        elif producer is not None:
            waiting += [entry for entry in producer.input if entry]
    return Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(inputs, [output])
