"""Integers for ONNX Runtime on a CPU: uint8 on both sides of what its fused kernels take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from mmedge.calibration.editor import GraphEditor
from mmedge.calibration.fusion import Fusion, add_body, find_fusions
from mmedge.calibration.graph import attributes, is_move, with_names
from mmedge.calibration.layers import (
    Layer,
    activation_scale,
    find_integers,
    find_layers,
    find_tables,
    starts_at_zero,
)

_NEVER_NEGATIVE = frozenset({"Sigmoid", "Softmax"})


@dataclass(frozen=True)
class Grid:
    """How a tensor is written in uint8: real = scale (stored - zero)."""

    scale: float
    zero: int

    @classmethod
    def of(cls, amax: float, never_negative: bool) -> Grid:
        """Zero in the middle, and the steps of TensorRT's int8; or at the low end, where nothing is below it, and half
        of them, so that both end at the same value.
        """
        step = activation_scale(amax)
        return cls(step / 2, 0) if never_negative else cls(step, 128)


def emit_cpu(model: onnx.ModelProto, ranges: Mapping[str, float], chosen: Collection[str]) -> onnx.ModelProto:
    """The graph with the layers and tables named in `chosen` in INT8, for ONNX Runtime's kernels of uint8 times int8.

    A convolution takes and gives uint8; a matrix product takes uint8, and gives float where what follows computes in
    float. A sum of two integer tensors is an integer sum, and what only it takes has at least its range. A ReLU before
    a rounding is part of the rounding. A product over the last of three dimensions is written over two, together with
    its sum, as the kernel takes it; one of more dimensions, or of some that are not fixed, stays in float. The gated
    fusion of integers is mmedge::QGatedFusion.

    ranges: the largest magnitude by tensor, of all that `tensors_to_range` names.
    """
    return _CpuEmitter(with_names(model), ranges, chosen).emit()


class _CpuEmitter:
    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, float], chosen: Collection[str]) -> None:
        self._model, self._ranges = model, ranges
        self._editor = GraphEditor(model)
        self._index = self._editor.index
        self._shapes = _shapes(model)
        self._by_name = {node.name: node for node in model.graph.node}
        layers = [layer for layer in find_layers(model) if layer.name in chosen and self._fits(layer)]
        self._layers = {layer.name: layer for layer in layers}
        self._tables = {name: table for name, table in find_tables(model).items() if name in chosen}
        self._fusions = {fusion.name: fusion for fusion in find_fusions(model) if fusion.name in chosen}
        sources = [name for fusion in self._fusions.values() for name in fusion.sources]
        integers = find_integers(model, layers, sources)
        self._sums, self._taken, self._made = integers.sums, integers.taken, integers.made
        # In a range below the sum's, what joins it would be cut off before the sum is; but by its Clip it is so anyway.
        self._joined = {name: self._sums[entry].output for entry, name in integers.joined.items()}
        self._folded = {node for layer in layers for node in (layer.bias_node, layer.relu_node)}
        self._folded |= {entry.relu_node for entry in self._sums.values()}
        self._integers: dict[str, tuple[str, str, str]] = {}

    def _fits(self, layer: Layer) -> bool:
        if self._by_name[layer.name].op_type != "MatMul":
            return True
        shape = self._shapes.get(layer.source, ())
        return len(shape) == 2 or (len(shape) == 3 and None not in shape[1:])

    def _moves_integers(self, node: onnx.NodeProto) -> bool:
        return is_move(node) and node.output[0] in self._taken

    # ---- Writing -----------------------------------------------------------------------------------------------------

    def emit(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            if node.name in self._layers:
                self._emit_layer(self._layers[node.name], node)
            elif node.name in self._fusions:
                self._emit_fusion(self._fusions[node.name], node)
            elif node.name in self._tables:
                self._editor.look_up(node, self._tables[node.name])
            elif node.name in self._sums:
                self._emit_made(node, self._sums[node.name].output)
            elif self._moves_integers(node):
                self._emit_made(node, node.output[0])
            elif node.name not in self._folded:
                copy = onnx.NodeProto()
                copy.CopyFrom(node)
                copy.input[:] = [self._read(name) if name in self._made else name for name in node.input]
                self._editor.nodes.append(copy)
        made = self._editor.finish()
        if self._fusions:
            add_body(made)
        return made

    def _grid(self, name: str) -> Grid:
        root = self._index.root(name)
        producer = self._index.producers.get(root)
        amax = self._ranges[root]
        if root in self._joined and (producer is None or producer.op_type != "Clip"):
            amax = max(amax, self._ranges[self._joined[root]])
        never_negative = producer is not None and (
            producer.op_type in _NEVER_NEGATIVE or starts_at_zero(self._index, producer)
        )
        return Grid.of(amax, never_negative)

    def _emit_fusion(self, fusion: Fusion, node: onnx.NodeProto) -> None:
        for source in fusion.sources:
            if source not in self._integers:
                self._write(source, source, source)
        self._editor.fuse(fusion, node, [self._integers[source] for source in fusion.sources])

    def _write(self, name: str, values: str, like: str) -> None:
        """Round the float tensor `values` to integers called `name`, on the grid of the tensor `like`."""
        grid = self._grid(like)
        scale, zero = self._editor.scale_and_zero(like, grid.scale, np.uint8(grid.zero))
        quantized = self._editor.add("QuantizeLinear", [values, scale, zero], f"{name}/uint8")
        self._integers[name] = quantized, scale, zero

    def _read(self, name: str) -> str:
        """A float reading of the integers of `name`, which are written first if they are not yet."""
        if name not in self._integers:
            self._write(name, name, name)
        return self._editor.dequantize(*self._integers[name])

    def _emit_made(self, node: onnx.NodeProto, output: str) -> None:
        """A node between integers: a sum, or a move."""
        inputs = [self._read(name) if name in self._taken | self._made else name for name in node.input]
        values = f"{output}/float"
        self._editor.add(node.op_type, inputs, values, node.name, **attributes(node))
        self._finish(output, values)

    def _finish(self, output: str, values: str) -> None:
        """Round what was made, and read it back where the graph gives it."""
        self._write(output, values, output)
        if output in self._index.outputs:
            self._editor.add("DequantizeLinear", self._integers[output], output)

    def _emit_layer(self, layer: Layer, node: onnx.NodeProto) -> None:
        shape = self._shapes.get(layer.source, ())
        by_rows = node.op_type == "MatMul" and len(shape) == 3
        source = self._rows(layer.source, shape) if by_rows else layer.source
        inputs = [self._read(source), *self._parameters(layer)]
        made, output = layer.output in self._made, layer.output
        relu = self._by_name[layer.relu_node] if layer.relu_node and not made else None
        # From the product through its shape and its ReLU, as far as each is there.
        values = f"{output}/product" if made or by_rows or relu else output
        if node.op_type == "Conv":
            self._editor.add("Conv", inputs, values, layer.name, **attributes(node))
        else:
            self._editor.add("Gemm", inputs, values, layer.name, transB=1 - layer.axis)
        if by_rows:
            if made:  # the change of shape is one of integers
                self._write(f"{output}/rows", values, output)
                values = self._read(f"{output}/rows")
            channels = self._index.initializers[layer.weight].dims[1]
            back = self._editor.constant(f"{output}/shape", np.array([-1, shape[1], channels], np.int64))
            values = self._editor.add("Reshape", [values, back], f"{output}/shaped" if made or relu else output)
        if relu:
            self._editor.add(relu.op_type, [values, *relu.input[1:]], output, relu.name)
        if made:
            self._finish(output, values)

    def _rows(self, name: str, shape: tuple[int | None, ...]) -> str:
        """The tensor with all but its last dimension as one."""
        rows = f"{name}/rows"
        if rows not in self._integers:
            flat = self._editor.constant(f"{rows}/shape", np.array([-1, shape[2]], np.int64))
            values = self._read(name) if name in self._made else name
            self._write(rows, self._editor.add("Reshape", [values, flat], rows), name)
        return rows

    def _parameters(self, layer: Layer) -> list[str]:
        """The layer's weight in int8, and its bias in the int32 of their products."""
        editor, name = self._editor, layer.name
        weight, scales = editor.weight(layer, self._ranges[self._index.root(layer.source)])
        bias = self._index.constant(layer.bias)
        if bias is None:
            return [weight]
        products = np.float32(self._grid(layer.source).scale) * scales
        stored = editor.constant(f"{name}/bias", np.rint(bias / products).astype(np.int32))
        scale = editor.constant(f"{name}/bias_scale", products)
        return [weight, editor.dequantize(stored, scale, axis=0)]


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """The dimensions of each tensor whose rank is known; None where one is not fixed."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
