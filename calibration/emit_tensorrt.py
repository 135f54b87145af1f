"""Integers for TensorRT: int8 with zero point 0 on what layers take, and everything else as it was."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx

from mmedge.calibration.editor import GraphEditor
from mmedge.calibration.errors import CalibrationError
from mmedge.calibration.fusion import add_body, find_fusions
from mmedge.calibration.graph import MOVES, with_names
from mmedge.calibration.layers import activation_scale, find_integers, find_layers, find_tables

# Between a tensor that has a range and a fusion, in a graph that `emit_tensorrt` and `to_half` have written.
_ON_THE_WAY = MOVES | {"Cast", "QuantizeLinear", "DequantizeLinear"}


_FUSIONS = "mmedge.int8_fusions"


def emit_tensorrt(model: onnx.ModelProto, ranges: Mapping[str, float], chosen: Collection[str]) -> onnx.ModelProto:
    """The graph with the layers and tables named in `chosen` in INT8, for strongly typed networks of TensorRT 10, 11
    and RTX.

    A layer's input and weights are quantised and read back before it; its bias stays float, its ReLU where it is. Of a
    sum that takes a chosen layer's output, the other branch is quantised, so that the sum becomes part of the layer.
    What a CPU has in integers is quantised for what computes in float, too: both graphs round the same tensors. A table
    is read before the lookup, since engines take steps per channel of constants only. Gated fusions among `chosen` stay
    as they are, but the graph's metadata names them, for `quantize_fusions`.

    ranges: the largest magnitude by tensor, of all that `tensors_to_range` names.
    """
    model = with_names(model)
    editor = GraphEditor(model)
    index = editor.index
    layers = {layer.name: layer for layer in find_layers(model) if layer.name in chosen}
    tables = {name: table for name, table in find_tables(model).items() if name in chosen}
    integers = find_integers(model, list(layers.values()))
    read: dict[str, str] = {}

    def pair(name: str) -> str:
        if name not in read:
            root = index.root(name)
            scale, zero = editor.scale_and_zero(root, activation_scale(ranges[root]), np.int8(0))
            quantized = editor.add("QuantizeLinear", [name, scale, zero], f"{name}/int8")
            read[name] = editor.dequantize(quantized, scale, zero)
        return read[name]

    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        layer = layers.get(node.name)
        if layer is not None:
            copy.input[0] = pair(layer.source)
            copy.input[1], _ = editor.weight(layer, ranges[index.root(layer.source)])
        elif node.name in tables:
            stored, scale, _ = editor.stored_table(node.name, tables[node.name])
            copy.input[0] = editor.dequantize(stored, scale, axis=1)
        else:
            rounded = integers.read_by(node)
            copy.input[:] = [pair(name) if name in rounded else name for name in node.input]
        editor.nodes.append(copy)
    made = editor.finish()
    fusions = [fusion.name for fusion in find_fusions(model) if fusion.name in chosen]
    if fusions:
        made.metadata_props.add(key=_FUSIONS, value="\n".join(fusions))
    return made


def chosen_fusions(model: onnx.ModelProto) -> list[str]:
    """The gated fusions chosen for INT8 in a graph of `emit_tensorrt`."""
    return next((entry.value.split("\n") for entry in model.metadata_props if entry.key == _FUSIONS), [])


def quantize_fusions(model: onnx.ModelProto, ranges: Mapping[str, float], chosen: Collection[str]) -> onnx.ModelProto:
    """A graph of `emit_tensorrt`, or of `to_half` of one, with the gated fusions named in `chosen` as QGatedFusion.

    Their features are rounded to int8 with zero point 0, on the steps that layers take the same tensor in; their
    weights are those of the CPU's graph. The operator has its body. TensorRT has no other form of it in INT8 than a
    plugin, for which `for_plugin` of export/ writes it.

    ranges: the largest magnitude by tensor, as `emit_tensorrt` takes it.

    Raises:
        CalibrationError: there is no range for what a fusion takes.
    """
    editor = GraphEditor(model)
    fusions = {fusion.name: fusion for fusion in find_fusions(model) if fusion.name in chosen}
    for node in model.graph.node:
        if node.name not in fusions:
            editor.nodes.append(node)
            continue
        fusion, features = fusions[node.name], []
        for number, source in enumerate(fusion.sources):
            root = next((name for name in editor.index.way(source, _ON_THE_WAY) if name in ranges), None)
            if root is None:
                raise CalibrationError(f"node {node.name!r}: no range is known for {source!r}; calibrate again")
            scale, zero = editor.scale_and_zero(root, activation_scale(ranges[root]), np.int8(0))
            quantized = editor.add("QuantizeLinear", [source, scale, zero], f"{fusion.name}/{number}/int8")
            features.append((quantized, scale, zero))
        editor.fuse(fusion, node, features)
    made = editor.finish()
    if fusions:
        add_body(made)
    return made
