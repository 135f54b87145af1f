from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.calibration.collect import session_on_one_thread
from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.errors import CalibrationError
from mmedge.calibration.graph import with_outputs
from mmedge.calibration.half import as_an_engine_computes, to_half
from mmedge.calibration.layers import find_layers
from mmedge.export.engines import build_engine

RANGES = dict.fromkeys(["x", "r0", "c1", "r1", "r2", "l1", "v", "logits"], 8.0)


def run(model: onnx.ModelProto, feeds: dict[str, npt.NDArray[Any]], names: list[str] | None = None) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Optimised, it would compute in float32 what it has no kernel for.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = with_outputs(model, names or [])
    return list(onnxruntime.InferenceSession(graph.SerializeToString(), options).run(names, feeds))


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}


def pictures() -> dict[str, npt.NDArray[Any]]:
    return {"x": np.random.default_rng(1).standard_normal((16, 3, 6, 6)).astype(np.float32)}


def test_products_are_in_half_and_norms_and_outputs_in_single_precision(small_graph: onnx.ModelProto) -> None:
    half = to_half(small_graph)
    onnx.checker.check_model(half, full_check=True)
    types = types_of(half)
    assert {types[name] for name in ("c0", "r0", "c1", "s", "r1", "p0", "l0", "r2", "p1", "l1")} == {
        TensorProto.FLOAT16
    }
    assert {types[name] for name in ("n", "v", "logits")} == {TensorProto.FLOAT}
    (expected,), (found,) = run(small_graph, pictures()), run(half, pictures())
    assert found.dtype == np.float32
    assert 0 < np.abs(expected - found).max() < 0.01 * np.abs(expected).max()
    assert half.ByteSize() < 0.7 * small_graph.ByteSize()


def test_a_cpu_rounds_to_half_precision_after_every_node_as_an_engine_does() -> None:
    factors = np.float32([3.3, 1000, 0.001, 300])
    names = ["x", "a", "b", "c", "y"]
    nodes = [
        helper.make_node("Mul", [source, f"k{number}"], [made], f"mul{number}")
        for number, (source, made) in enumerate(itertools.pairwise(names))
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(factor, f"k{number}") for number, factor in enumerate(factors)],
    )
    half = to_half(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    x = np.random.default_rng(0).uniform(0, 40, 1000).astype(np.float32)
    expected = x.astype(np.float16)
    with np.errstate(over="ignore"):
        for factor in factors.astype(np.float16):
            expected = expected * factor
    assert 0 < np.isinf(expected).mean() < 1
    (found,) = session_on_one_thread(as_an_engine_computes(half)).run(None, {"x": x})
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_the_fused_operator_stays_in_single_precision(digits_bundle: Path) -> None:
    half = to_half(onnx.load(digits_bundle / "model.onnx"))
    onnx.checker.check_model(half, full_check=True)
    (fusion,) = [node for node in half.graph.node if node.op_type == "GatedFusion"]
    makers = {name: node for node in half.graph.node for name in node.output}
    sources = [makers[name] for name in fusion.input if name in makers]
    assert [node.op_type for node in sources] == ["Cast", "Cast"]
    assert {entry.data_type for entry in half.graph.initializer if entry.name in fusion.input} == {TensorProto.FLOAT}
    assert build_engine(half.SerializeToString()).plan


def test_what_a_mask_reaches_stays_in_single_precision() -> None:
    """A row in which everything is masked by the lowest float32 has no softmax once that is an infinity."""
    graph = helper.make_graph(
        [
            helper.make_node("Where", ["there", "zero", "lowest"], ["mask"], "where"),
            helper.make_node("Unsqueeze", ["mask", "axis"], ["masks"], "unsqueeze"),
            helper.make_node("MatMul", ["x", "w"], ["scores"], "product"),
            helper.make_node("Add", ["scores", "masks"], ["masked"], "add"),
            helper.make_node("Softmax", ["masked"], ["shares"], "softmax"),
            helper.make_node("MatMul", ["shares", "w"], ["y"], "values"),
        ],
        "masked",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 4]),
            helper.make_tensor_value_info("there", TensorProto.BOOL, ["batch", 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, 4])],
        [
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(np.finfo(np.float32).min), "lowest"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
            numpy_helper.from_array(np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32), "w"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    half = to_half(model)
    types = types_of(half)
    assert types["mask"] == types["masks"] == types["masked"] == TensorProto.FLOAT
    assert types["scores"] == TensorProto.FLOAT16
    feeds = {"x": np.ones((2, 2, 4), np.float32), "there": np.array([[1, 0, 1, 1], [0, 0, 0, 0]], bool)}
    (expected,), (found,) = run(model, feeds), run(half, feeds)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_sum_that_a_norm_or_a_softmax_takes_is_not_rounded_on_its_way() -> None:
    random = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["made"], "product"),
            helper.make_node("Add", ["made", "bias"], ["biased"], "bias"),
            helper.make_node("Add", ["biased", "x"], ["residual"], "residual"),
            helper.make_node("LayerNormalization", ["residual", "gain"], ["normed"], "norm"),
            helper.make_node("MatMul", ["normed", "w"], ["scores"], "scores"),
            helper.make_node("Add", ["scores", "far"], ["masked"], "mask"),
            helper.make_node("Softmax", ["masked"], ["shares"], "softmax"),
            helper.make_node("Add", ["shares", "x"], ["y"], "last"),
        ],
        "sums",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8]),
            helper.make_tensor_value_info("far", TensorProto.FLOAT, ["batch", 8]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [
            numpy_helper.from_array(random.standard_normal((8, 8)).astype(np.float32), "w"),
            numpy_helper.from_array(random.standard_normal(8).astype(np.float32), "bias"),
            numpy_helper.from_array(np.ones(8, np.float32), "gain"),
        ],
    )
    half = to_half(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    onnx.checker.check_model(half, full_check=True)
    types = types_of(half)
    exact = {name for name, kind in types.items() if kind == TensorProto.FLOAT and "/" not in name}
    assert exact == {"residual", "normed", "masked", "shares", "y"}


def test_a_vector_of_nothing_is_not_divided_by_nothing() -> None:
    """The least length, 1e-12, is 0 in float16."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["v"], "product"),
            helper.make_node("ReduceL2", ["v", "axis"], ["length"], "length"),
            helper.make_node("Max", ["length", "least"], ["divisor"], "clamp"),
            helper.make_node("Div", ["v", "divisor"], ["y"], "divide"),
        ],
        "unit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
            numpy_helper.from_array(np.float32(1e-12), "least"),
            numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (found,) = run(to_half(model), {"x": np.array([[0, 0, 0, 0], [3, 0, 4, 0]], np.float32)})
    np.testing.assert_allclose(found, [[0, 0, 0, 0], [0.6, 0, 0.8, 0]], atol=1e-3)


@pytest.mark.parametrize("small", [False, True])
def test_scales_too_small_for_half_precision_stay_as_they_are(small_graph: onnx.ModelProto, small: bool) -> None:
    # conv1 alone has a weight whose scale float16 would write with fewer digits.
    graph = onnx.ModelProto()
    graph.CopyFrom(small_graph)
    weight = next(entry for entry in graph.graph.initializer if entry.name == "w1")
    if small:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e-3), "w1"))
    names = [layer.name for layer in find_layers(graph)]
    half = to_half(emit_tensorrt(graph, RANGES, names))
    onnx.checker.check_model(half, full_check=True)
    scales = {entry.name: entry for entry in half.graph.initializer if "scale" in entry.name}
    exact = {name for name, entry in scales.items() if entry.data_type == TensorProto.FLOAT}
    assert exact == ({"conv1/weight_scale", "r0/scale"} if small else set())
    assert all(numpy_helper.to_array(entry).min() > 0 for entry in scales.values())
    engine = build_engine(half.SerializeToString())
    for name in names:
        assert [layer for layer in engine.layers if name in layer.nodes and "Int8" in layer.inputs], name
    (expected,), (found,) = run(graph, pictures()), run(half, pictures())
    assert np.square(expected - found).mean() < 0.02 * np.square(expected).mean()


def test_what_is_left_in_single_precision_has_casts_at_its_borders_alone(three_blocks: onnx.ModelProto) -> None:
    half = to_half(three_blocks, {"second", "second relu"})
    onnx.checker.check_model(half, full_check=True)
    operators = [node.op_type for node in half.graph.node]
    assert operators == ["Cast", "Gemm", "Relu", "Cast", "Gemm", "Relu", "Cast", "Gemm", "Relu", "Cast"]
    types = types_of(half)
    single = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
    assert single == {"a/float", "b0", "b", "y"}
    everything = [node.name for node in three_blocks.graph.node]
    assert list(to_half(three_blocks, everything).graph.node) == list(three_blocks.graph.node)


@pytest.mark.parametrize("left", ["first", "second", "third"])
def test_what_is_left_in_single_precision_keeps_its_integers(three_blocks: onnx.ModelProto, left: str) -> None:
    ranges = dict.fromkeys(["x", "a", "b", "y"], 8.0)
    layers = {"first": "x", "second": "a", "third": "b"}
    integers = emit_tensorrt(three_blocks, ranges, list(layers))
    half = to_half(integers, {left, f"{left} relu"})
    onnx.checker.check_model(half, full_check=True)
    types, makers = types_of(half), {name: node for node in half.graph.node for name in node.output}
    for node in half.graph.node:
        if node.name in layers:
            kind = TensorProto.FLOAT if node.name == left else TensorProto.FLOAT16
            assert {types[name] for name in (*node.input, *node.output)} == {kind}, node.name
            assert {makers[name].op_type for name in node.input} == {"DequantizeLinear"}
    # What is rounded is rounded as it was made, and no cast comes between the integers and a layer.
    rounded = {node.input[0]: types.get(node.input[0]) for node in half.graph.node if node.op_type == "QuantizeLinear"}
    source = {"first": {"x": None}}.get(left, {"x/half": TensorProto.FLOAT16})
    made = {
        name: TensorProto.FLOAT if maker == left else TensorProto.FLOAT16
        for name, maker in {"a": "first", "b": "second"}.items()
    }
    assert rounded == source | made
    engine = build_engine(half.SerializeToString())
    for name in layers:
        assert [layer for layer in engine.layers if name in layer.nodes and "Int8" in layer.inputs], name
    everything = [node.name for node in three_blocks.graph.node]
    assert list(to_half(integers, everything).graph.node) == list(integers.graph.node)


def test_an_operator_that_later_opsets_write_in_another_way_is_refused(small_graph: onnx.ModelProto) -> None:
    old = onnx.ModelProto()
    old.CopyFrom(small_graph)
    old.opset_import[0].version = 17
    (mean,) = [node for node in old.graph.node if node.op_type == "ReduceMean"]
    del mean.input[1]
    mean.attribute.append(helper.make_attribute("axes", [1]))
    onnx.checker.check_model(old, full_check=True)
    with pytest.raises(
        CalibrationError, match=r"'mean': ReduceMean of opset 17 is another.*; export again with opset 18"
    ):
        to_half(old)
    # The others of that opset are the same.
    mean.CopyFrom(helper.make_node("Flatten", ["n"], ["v"], "flat"))
    del old.graph.node[-1:]
    old.graph.output[0].CopyFrom(helper.make_tensor_value_info("v", TensorProto.FLOAT, ["batch", None]))
    (expected,), (found,) = run(old, pictures()), run(to_half(old), pictures())
    assert 0 < np.abs(expected - found).max() < 0.01 * np.abs(expected).max()
