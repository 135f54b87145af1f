"""Graphs for TensorRT that take the fused operator from its plugin, not from the function body.

A builder of such a graph, and a runtime that reads its engine, must have loaded `libmmedge_tensorrt_plugin.so` into
their plugin registry before: `registry.load_library(path)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmedge.export.errors import ExportError
from mmedge.export.functions import DOMAIN

MOST_MODALITIES, MOST_FEATURES = 8, 65536  # of the kernel
# Of each modality: x, weight, bias, norm_weight, norm_bias, gate_weight, gate_bias; of integers x with its scale and
# zero point, weight with its scale, and the same from bias on.
_INPUTS = {"GatedFusion": 7, "QGatedFusion": 10}
_VECTOR, _BYTES, _TILE = 4, 16, 64  # features, those in int8, and columns that the kernel reads together
_FLOATS = (np.float32, np.float16)


def for_plugin(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with its gated fusions as runtime/plugins/tensorrt_plugin.h describes them; the argument stays.

    - No body: the parsers before TensorRT 10.7 prefer it to a plugin, and so do those from 10.15 on unless told.
    - `plugin_version` and `plugin_namespace`: the parsers before 10.10 do not look at a node's domain.
    - Presence as int32: plugins take no bool.
    - Weights [D, F] in the kernel's order, [ceil(F / 4), D rounded up to 64, 4]; the other parameters in float32.
    - QGatedFusion's in words of four, [ceil(F / 16), D rounded up to 64, 4]. Its x is int8; the scales of x and of the
      weight become one, and the zero point the offset of each sum of products.
    - Two outputs, because a plugin's number of outputs is fixed; alpha is float32, and turned into the type it had.

    A graph without such a node is only copied. What this returns is for TensorRT with the plugin and nothing else.

    Raises:
        ExportError: another operator of the domain; a parameter that is computed, or of a type other than float32 and
            float16, or int8 where that is expected; more than 8 modalities or 65536 features.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = _Graph(made.graph)
    for node in model.graph.node:
        if node.domain == DOMAIN:
            graph.add_fusion(node)
        else:
            graph.nodes.append(node)
    graph.write()
    kept = [function for function in made.functions if function.domain != DOMAIN]
    del made.functions[:]
    made.functions.extend(kept)
    return made


class _Graph:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._given = set(self._initializers)
        self._replaced: set[str] = set()
        self._cast: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []

    def add_fusion(self, node: onnx.NodeProto) -> None:
        count = _INPUTS.get(node.op_type)
        modalities, rest = divmod(len(node.input) - 1, count) if count else (0, 0)
        if not count or rest or not 1 <= modalities <= MOST_MODALITIES:
            raise ExportError(
                f"node {node.name!r}: no TensorRT plugin for {DOMAIN}::{node.op_type} with {len(node.input)} inputs;"
                f" expected a GatedFusion with 1 + {_INPUTS['GatedFusion']}, or a QGatedFusion with"
                f" 1 + {_INPUTS['QGatedFusion']}, for each of 1 to {MOST_MODALITIES} modalities"
            )
        inputs, kind = [self._presence(node.input[0])], np.dtype(np.float32)
        for at in range(1, len(node.input), count):
            x, *parameters = node.input[at : at + count]
            if node.op_type == "QGatedFusion":
                inputs += [x, *self._integers(node, f"{node.output[0]}/{at // count}", parameters[:4])]
                others = parameters[4:]
            else:
                weight, *others = parameters
                kind = self._constant(node, weight).dtype
                inputs += [x, self._packed(node, weight)]
            inputs += [self._in_float32(node, name) for name in others]
        y, alpha = node.output[0], node.output[1] if len(node.output) > 1 else ""
        computed = alpha if alpha and kind == np.float32 else f"{y}/alpha"
        self.nodes.append(
            helper.make_node(node.op_type, inputs, [y, computed], node.name, domain=DOMAIN, plugin_version="1")
        )
        self.nodes[-1].attribute.extend([*node.attribute, helper.make_attribute("plugin_namespace", DOMAIN)])
        if alpha and alpha != computed:
            self.nodes.append(helper.make_node("Cast", [computed], [alpha], f"{alpha}/cast", to=TensorProto.FLOAT16))

    def write(self) -> None:
        del self._graph.node[:]
        self._graph.node.extend(self.nodes)
        used = set(_names(self._graph)) | {port.name for port in self._graph.output}
        kept = [tensor for name, tensor in self._initializers.items() if name in used or name not in self._replaced]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _presence(self, name: str) -> str:
        cast = f"{name}/int32"
        if name not in self._cast:
            self.nodes.append(helper.make_node("Cast", [name], [cast], f"{cast}/cast", to=TensorProto.INT32))
            self._cast.add(name)
        return cast

    def _constant(self, node: onnx.NodeProto, name: str, types: Sequence[type] = _FLOATS) -> npt.NDArray[Any]:
        if name not in self._given:
            raise ExportError(f"node {node.name!r}: {name!r} is computed; the TensorRT plugin takes constants only")
        array = numpy_helper.to_array(self._initializers[name])
        if array.dtype not in types:
            expected = " or ".join(entry.__name__ for entry in types)
            raise ExportError(f"node {node.name!r}: {name!r} is {array.dtype}; expected {expected}")
        return array

    def _packed(self, node: onnx.NodeProto, name: str, types: Sequence[type] = _FLOATS) -> str:
        weight = self._constant(node, name, types)
        if weight.ndim != 2 or weight.shape[1] > MOST_FEATURES:
            raise ExportError(
                f"node {node.name!r}: {name!r} is {list(weight.shape)};"
                f" expected [D, F] of up to {MOST_FEATURES} features"
            )
        vector = _BYTES if weight.dtype == np.int8 else _VECTOR
        dim, features = weight.shape
        columns, vectors = -(-dim // _TILE) * _TILE, -(-features // vector)
        padded = np.zeros((columns, vectors * vector), weight.dtype)
        padded[:dim, :features] = weight
        packed = np.ascontiguousarray(padded.reshape(columns, vectors, vector).transpose(1, 0, 2))
        return self._replace(name, f"{name}/packed", packed.view("<i4") if weight.dtype == np.int8 else packed)

    def _integers(self, node: onnx.NodeProto, name: str, parameters: Sequence[str]) -> list[str]:
        """The plugin's weight, scale and offset, of the scale and zero point of x, the weight and its scale."""
        x_scale, x_zero, weight, weight_scale = parameters
        packed = self._packed(node, weight, [np.int8])
        scale = self._constant(node, x_scale, [np.float32]) * self._constant(node, weight_scale, [np.float32])
        sums = self._constant(node, weight, [np.int8]).sum(axis=1, dtype=np.int32)
        self._replaced.update((x_scale, x_zero))
        return [
            packed,
            self._replace(weight_scale, f"{name}/scale", scale),
            self._replace(x_zero, f"{name}/offset", sums * self._constant(node, x_zero, [np.int8]).astype(np.int32)),
        ]

    def _in_float32(self, node: onnx.NodeProto, name: str) -> str:
        array = self._constant(node, name)
        return name if array.dtype == np.float32 else self._replace(name, f"{name}/float32", array.astype(np.float32))

    def _replace(self, name: str, by: str, array: npt.NDArray[np.generic]) -> str:
        self._replaced.add(name)
        self._initializers[by] = numpy_helper.from_array(np.ascontiguousarray(array), by)
        return by


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """What the nodes of a graph read, those of graphs inside it included."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _names(inner)
