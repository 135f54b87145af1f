"""Writes a graph anew, node by node, with tensors quantised on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from mmedge.calibration.fusion import Fusion
from mmedge.calibration.graph import GraphIndex
from mmedge.calibration.layers import Layer, activation_scale, quantize, weight_scales


class GraphEditor:
    """A copy of `model` in the making: nodes are added in their order, initializers under names of their own.

    `index` is of the graph as it was.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self.index = GraphIndex(model.graph)
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._pairs = 0

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """An initializer; one of the same name is the same."""
        self._constants.setdefault(name, numpy_helper.from_array(values, name))
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any) -> str:
        """A node with one output, which is given back."""
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name or output, **attributes))
        return output

    def scale_and_zero(self, name: str, scale: float, zero: np.generic[Any]) -> tuple[str, str]:
        """A tensor's step and the integer that stands for 0."""
        return (
            self.constant(f"{name}/scale", np.array(scale, np.float32)),
            self.constant(f"{zero.dtype}/{zero}", np.array(zero)),
        )

    def dequantize(self, *quantized: str, **attributes: Any) -> str:
        """Another float reading of an integer tensor, its scale and, if not 0, its zero point: engines fuse one that a
        single node takes.
        """
        self._pairs += 1
        return self.add("DequantizeLinear", quantized, f"{quantized[0]}/{self._pairs}", **attributes)

    def weight(self, layer: Layer, amax: float) -> tuple[str, npt.NDArray[np.float32]]:
        """A float reading of the int8 weight of a layer that takes magnitudes up to `amax`, and its channels' steps."""
        weight = self.index.constant(layer.weight)
        assert weight is not None
        scales = weight_scales(weight, layer.axis, self.index.constant(layer.bias), activation_scale(amax))
        return self.dequantize(*self._store(layer.name, weight, scales, layer.axis), axis=layer.axis), scales

    def fuse(self, fusion: Fusion, node: onnx.NodeProto, features: Sequence[tuple[str, str, str]]) -> None:
        """The fusion of `node` as QGatedFusion: of each modality's integers, their scale and zero point, and weights in
        int8.
        """
        inputs = [node.input[0]]
        for number, (weight, *others) in enumerate(fusion.parameters):
            values = self.index.constant(weight)
            assert values is not None
            scales = weight_scales(values, 0, None, 1.0)
            stored, scale, _ = self._store(f"{fusion.name}/{number}", values, scales, axis=0)
            inputs += [*features[number], stored, scale, *others]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.op_type = "QGatedFusion"
        copy.input[:] = inputs
        self.nodes.append(copy)

    def stored_table(self, name: str, table: str) -> tuple[str, str, str]:
        """A table in int8, with a step and a zero point per feature."""
        values = self.index.constant(table)
        assert values is not None
        return self._store(name, values, weight_scales(values, 1, None, 1.0), axis=1)

    def look_up(self, node: onnx.NodeProto, table: str) -> None:
        """Look up in a table in int8 and read what was found."""
        stored, scale, zero = self.stored_table(node.name, table)
        found = self.add("Gather", [stored, node.input[1]], f"{node.output[0]}/int8", node.name)
        self.add("DequantizeLinear", [found, scale, zero], node.output[0], axis=-1)

    def _store(
        self, name: str, values: npt.NDArray[np.float32], scales: npt.NDArray[np.float32], axis: int
    ) -> tuple[str, str, str]:
        """Values in int8, their scales and their zero points, without which ONNX Runtime fuses no Gemm, and which must
        be each layer's own where it turns int8 into uint8.
        """
        return (
            self.constant(f"{name}/weight", quantize(values, scales, axis)),
            self.constant(f"{name}/weight_scale", scales),
            self.constant(f"{name}/zero", np.zeros(len(scales), np.int8)),
        )

    def finish(self) -> onnx.ModelProto:
        """The graph, without the initializers that no node takes any more."""
        graph = self._model.graph
        used = {name for node in self.nodes for name in node.input} | self.index.outputs
        # A graph that was edited before has scales of the same names, and values.
        others = used.difference(self._constants)
        kept = [entry for entry in graph.initializer if entry.name in others]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend([*kept, *(entry for name, entry in self._constants.items() if name in used)])
        return self._model
