"""float16 written into a graph: typed, with casts where it meets float32."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmedge.calibration.errors import CalibrationError
from mmedge.calibration.graph import GraphIndex, seen_inside, with_float_weights

FP16_MAX = float(np.finfo(np.float16).max)
FP16_LEAST = float(np.finfo(np.float16).smallest_normal)  # below, it has fewer digits
_OPSET = 19  # the first in which scales of Q/DQ may be float16
_LEAST_OPSET = 18  # from here on all operators are the same up to it

# Sums of many terms, exponentials and squares: they stay in float32.
_IN_FLOAT32 = frozenset(
    {"LayerNormalization", "Softmax", "ReduceMean", "ReduceSum", "ReduceL2", "GlobalAveragePool", "Pow"}
)
# What these take of two others' sum, such as a residual one or masked scores, is not rounded once more on the way.
_TAKE_SUMS = frozenset({"LayerNormalization", "Softmax"})
# What comes out of these is small whatever goes in.
_BOUNDED = frozenset({"Softmax", "Sigmoid", "Tanh", "Erf", "LayerNormalization", "Cast", "Shape"})
# Float inputs that are no data: by operator, which.
_SETTINGS = {"Resize": (1, 2)}


def to_half(model: onnx.ModelProto, in_float32: Collection[str] = ()) -> onnx.ModelProto:
    """The graph computing in float16, its inputs and outputs as they were.

    in_float32: names of nodes that stay in float32; what of theirs is INT8 stays so, read into float32.

    Norms, softmax, the sums of two tensors that these take, squares, means and sums over dimensions, and functions stay
    in float32, as do nodes with graphs inside and what these take. So does all that a constant which float16 cannot
    hold can reach before something bounds it: the masks of attention, the least length that a vector is divided by.
    Layers with a scale too small for float16 keep their scales, and what is between them, in float32.

    Raises:
        CalibrationError: the graph has an operator of an opset that is too old.
    """
    _check_opset(model)
    return _Half(model, in_float32).convert()


def _check_opset(model: onnx.ModelProto) -> None:
    version = min((entry.version for entry in model.opset_import if entry.domain == ""), default=_LEAST_OPSET)
    if version >= _LEAST_OPSET:
        return
    for node in model.graph.node:
        if node.domain == "":
            written, read = (onnx.defs.get_schema(node.op_type, most).since_version for most in (version, _LEAST_OPSET))
            if written != read:
                raise CalibrationError(
                    f"node {node.name!r}: {node.op_type} of opset {version} is another than that of {_LEAST_OPSET}, "
                    f"the least that can be written in float16; export again with opset {_LEAST_OPSET}"
                )


def nodes_in_half(model: onnx.ModelProto) -> list[str]:
    """The names of the nodes that make something in float16, in the graph's order."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.output)
    halves = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    return [node.name for node in model.graph.node if halves.intersection(node.output)]


def as_an_engine_computes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph for TensorRT, written so that a CPU computes what an engine with kernels of its own would.

    Its integer weights are read beforehand. Each float16 tensor is a float32 one, rounded to float16 by casts, whereas
    ONNX Runtime has few such kernels on a CPU and leaves out the roundings between others. What is read out of integers
    is not rounded again: engines compute with the integers.
    """
    made = with_float_weights(model)
    inferred = onnx.shape_inference.infer_shapes(made).graph
    halves = {v.name for v in inferred.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = list(made.graph.node)
    del made.graph.node[:], made.graph.value_info[:]
    for entry in made.graph.initializer:
        if entry.data_type == TensorProto.FLOAT16:
            entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry).astype(np.float32), entry.name))
    for node in nodes:
        rounded = [name for name in node.output if name in halves and node.op_type != "DequantizeLinear"]
        node.output[:] = [f"{name}/exact" if name in rounded else name for name in node.output]
        if node.op_type == "Cast" and rounded:
            node.attribute[0].i = TensorProto.FLOAT
        made.graph.node.append(node)
        for name in rounded:
            half = f"{name}/rounded"
            made.graph.node.extend(
                [
                    helper.make_node("Cast", [f"{name}/exact"], [half], half, to=TensorProto.FLOAT16),
                    helper.make_node("Cast", [half], [name], f"{name}/read", to=TensorProto.FLOAT),
                ]
            )
    return made


class _Half:
    def __init__(self, model: onnx.ModelProto, in_float32: Collection[str]) -> None:
        self._in_float32 = frozenset(in_float32)
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        self._floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._index = GraphIndex(self._model.graph)
        self._floats |= {
            name for name, entry in self._index.initializers.items() if entry.data_type == TensorProto.FLOAT
        }
        self._inside = seen_inside(self._model.graph)
        self._wide = self._reached_by_what_has_no_half()
        self._fine = self._with_fine_scales()
        self._functions = {(function.domain, function.name) for function in model.functions}
        # Of each float tensor made so far: its type.
        self._types = {value.name: TensorProto.FLOAT for value in self._model.graph.input}
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def _reached_by_what_has_no_half(self) -> set[str]:
        wide = {
            name for name, entry in self._index.initializers.items() if name in self._floats and _has_no_half(entry)
        }
        for node in self._model.graph.node:
            if node.op_type not in _BOUNDED and wide.intersection(node.input):
                wide.update(node.output)
        return wide

    def convert(self) -> onnx.ModelProto:
        graph = self._model.graph
        for node in graph.node:
            self._convert(node)
        for output in graph.output:
            if self._types.get(output.name) == TensorProto.FLOAT16:
                self._rename(output.name)
        used = {name for node in self._nodes for name in node.input} | self._index.outputs
        kept = [entry for entry in graph.initializer if entry.name in used]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend([*kept, *self._constants.values()])
        for opset in (*self._model.opset_import, *(o for f in self._model.functions for o in f.opset_import)):
            if opset.domain == "":
                opset.version = max(opset.version, _OPSET)
        return self._model

    def _convert(self, node: onnx.NodeProto) -> None:
        wanted = TensorProto.FLOAT if self._stays(node) else TensorProto.FLOAT16
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        settings = _SETTINGS.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if name in self._floats and position not in settings:
                copy.input[position] = self._as(name, wanted)
        if node.op_type == "Cast" and node.output[0] in self._floats:
            del copy.attribute[:]
            copy.attribute.append(helper.make_attribute("to", wanted))
        makes_its_own = node.op_type in ("Constant", "ConstantOfShape", "Range")
        for name in node.output:
            if name in self._floats:
                self._types[name] = TensorProto.FLOAT if makes_its_own else wanted
        self._nodes.append(copy)

    def _stays(self, node: onnx.NodeProto) -> bool:
        return (
            node.op_type in _IN_FLOAT32
            or node.name in self._in_float32
            or (node.op_type == "Mul" and node.input[0] == node.input[1])
            or self._is_sum_to_norm(node)
            or node.name in self._fine
            or any(self._reading(name) in self._fine for name in node.input)
            or (node.domain, node.op_type) in self._functions
            or bool(self._wide.intersection((*node.input, *node.output)))
            or bool(self._inside.intersection(node.output))
            or any(entry.HasField("g") or entry.graphs for entry in node.attribute)
        )

    def _is_sum_to_norm(self, node: onnx.NodeProto) -> bool:
        """Not that of a product and its bias, which is the product's."""
        takers = self._index.consumers.get(node.output[0], ())
        return (
            node.op_type == "Add"
            and not any(name in self._index.initializers for name in node.input)
            and any(taker.op_type in _TAKE_SUMS for taker in takers)
        )

    def _reading(self, name: str) -> str | None:
        """The node that reads the tensor out of integers; None where none does."""
        producer = self._index.producers.get(name)
        return producer.name if producer is not None and producer.op_type == "DequantizeLinear" else None

    def _roundings_of(self, node: onnx.NodeProto) -> set[str]:
        """The Q/DQ nodes that belong to one which is neither: those that read its integers, those that round what it
        makes, and those that round the graph's inputs for it.
        """
        producers, found = self._index.producers, set[str]()
        for name in node.input:
            reading = self._reading(name)
            if reading is not None:
                found.add(reading)
                rounding = producers.get(producers[name].input[0])
                if rounding is not None and rounding.input[0] not in producers:
                    found.add(rounding.name)
        takers = (taker for name in node.output for taker in self._index.consumers.get(name, ()))
        return found | {taker.name for taker in takers if taker.op_type == "QuantizeLinear"}

    def _with_fine_scales(self) -> set[str]:
        """The Q/DQ nodes whose scales float16 would coarsen or that belong to a node left in float32, and those that a
        layer reads beside one of them.
        """
        fine = set()
        for node in self._model.graph.node:
            if node.name in self._in_float32:
                fine |= self._roundings_of(node)
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                scale = self._index.constant(node.input[1])
                if scale is None or scale.min() < FP16_LEAST:
                    fine.add(node.name)
        grown = True
        while grown:
            before = len(fine)
            for node in self._model.graph.node:
                readings = {found for name in node.input if (found := self._reading(name))}
                if readings & fine:
                    fine |= readings
            grown = len(fine) > before
        return fine

    def _as(self, name: str, wanted: int) -> str:
        """The tensor in another type: a constant of that type, or through a cast."""
        if name in self._index.initializers:
            if wanted == TensorProto.FLOAT:
                return name
            values = numpy_helper.to_array(self._index.initializers[name]).astype(np.float16)
            self._constants.setdefault(f"{name}/half", numpy_helper.from_array(values, f"{name}/half"))
            return f"{name}/half"
        if self._types.get(name, TensorProto.FLOAT) == wanted:
            return name
        if (name, wanted) not in self._casts:
            made = self._casts[name, wanted] = f"{name}/{'half' if wanted == TensorProto.FLOAT16 else 'float'}"
            self._nodes.append(helper.make_node("Cast", [name], [made], made, to=wanted))
        return self._casts[name, wanted]

    def _rename(self, output: str) -> None:
        """Give a graph's output, made in float16, as float32."""
        inner = f"{output}/inner"
        for node in self._nodes:
            for values in (node.input, node.output):
                values[:] = [inner if value == output else value for value in values]
        self._nodes.append(helper.make_node("Cast", [inner], [output], f"{output}/cast", to=TensorProto.FLOAT))


def _has_no_half(entry: onnx.TensorProto) -> bool:
    """Whether float16 would make an infinity of a constant, or of a setting another by more than a hundredth."""
    values = np.abs(numpy_helper.to_array(entry)).astype(np.float64)
    if values.max(initial=0) > FP16_MAX:
        return True
    value = float(values.max(initial=0))
    return values.size == 1 and abs(float(np.float16(value)) - value) > 0.01 * value
