from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.version_converter import convert_version

from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.graph import with_float_weights, with_names, with_outputs
from mmedge.calibration.half import as_an_engine_computes, to_half
from mmedge.calibration.layers import (
    activation_scale,
    find_layers,
    quantizable,
    quantize,
    tensors_to_range,
    weight_scales,
)
from mmedge.calibration.ranges import LEVELS
from mmedge.export.engines import build_engine

Emit = Callable[[onnx.ModelProto, Mapping[str, float], list[str]], onnx.ModelProto]
EMITTERS: list[Emit] = [emit_cpu, emit_tensorrt]
ALL = ["conv0", "conv1", "product0", "product1", "gemm"]


def session(model: onnx.ModelProto, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def pictures(count: int = 64) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, 3, 6, 6)).astype(np.float32)


def ranges_of(model: onnx.ModelProto, x: npt.NDArray[np.float32]) -> dict[str, float]:
    names = tensors_to_range(model)
    found = session(with_outputs(model, names)).run(names, {"x": x})
    return {name: float(np.abs(values).max()) for name, values in zip(names, found, strict=True)}


# ---- Layers and their weights ----------------------------------------------------------------------------------------


def test_layers_go_through_their_sum_and_their_relu(small_graph: onnx.ModelProto) -> None:
    found = {layer.name: layer for layer in find_layers(small_graph)}
    assert list(found) == ALL
    assert (found["conv0"].source, found["conv0"].output, found["conv0"].axis) == ("x", "r0", 0)
    # Two take what the first convolution gives before its sum: no ReLU of its own.
    assert (found["conv1"].output, found["conv1"].relu_node) == ("c1", None)
    assert (found["product0"].bias, found["product0"].output, found["product0"].axis) == ("b2", "r2", 1)
    assert (found["product1"].bias, found["product1"].output) == ("b3", "l1")
    assert (found["gemm"].bias, found["gemm"].output, found["gemm"].axis) == ("b5", "logits", 0)


def test_moved_tensors_have_the_range_of_what_they_are_made_of(small_graph: onnx.ModelProto) -> None:
    assert set(tensors_to_range(small_graph)) == {"x", "r0", "c1", "r1", "r2", "l1", "v", "logits"}


WEIGHTS = arrays(np.float32, (3, 5), elements=st.floats(-(2.0**60), 2.0**60, width=32))
BIASES = arrays(np.float32, 3, elements=st.floats(-1000, 1000, width=32))


@given(WEIGHTS, BIASES, st.floats(2.0**-40, 2.0**20))
def test_weights_are_kept_to_half_a_step_and_biases_to_half_a_product(
    weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], input_scale: float
) -> None:
    scales = weight_scales(weight, 0, bias, input_scale)
    assert scales.dtype == np.float32
    assert (np.isfinite(scales) & (scales > 0)).all()
    stored = quantize(weight, scales, 0)
    assert np.abs(stored.astype(int)).max() <= LEVELS
    steps = scales.astype(np.float64)[:, None]
    assert (np.abs(stored * steps - weight) <= 0.5001 * steps).all()
    assert (np.abs(bias / (input_scale * scales.astype(np.float64))) < 2.0**30 * 1.001).all()


@pytest.mark.parametrize("faint", [0.0, 1e-30])
@pytest.mark.parametrize("emit", EMITTERS)
def test_a_channel_without_weights_gives_its_bias(emit: Emit, faint: float) -> None:
    weight = np.full((2, 3, 1, 1), 0.5, np.float32)
    weight[1] = faint
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")],
        "faint",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, 6, 6])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32([0.1, 0.75]), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    x = pictures()
    ranges = ranges_of(model, x)
    (found,) = session(emit(model, ranges, ["conv"])).run(None, {"x": x})
    step = ranges["y"] / LEVELS
    np.testing.assert_allclose(found[:, 1], 0.75, rtol=0, atol=0.5001 * step)


# ---- Graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emit", EMITTERS)
@pytest.mark.parametrize("chosen", [ALL, ["conv0"], ["conv1", "gemm"], ["product0"], ["product1"], []])
def test_any_choice_of_layers_computes_nearly_the_same(
    small_graph: onnx.ModelProto, emit: Emit, chosen: list[str]
) -> None:
    x = pictures()
    emitted = emit(small_graph, ranges_of(small_graph, x), chosen)
    onnx.checker.check_model(emitted, full_check=True)
    (expected,), (found,) = session(small_graph).run(None, {"x": x}), session(emitted).run(None, {"x": x})
    noise = np.square(expected - found).mean() / np.square(expected).mean()
    if chosen:
        assert 0 < noise < 0.01
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("emit", EMITTERS)
def test_a_table_is_looked_up_in_integers(emit: Emit) -> None:
    random = np.random.default_rng(0)
    table = (random.standard_normal((50, 8)) * np.geomspace(1e-3, 10, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["found"], "look_up"), helper.make_node("Neg", ["found"], ["y"])],
        "words",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5, 8])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    emitted = emit(model, {}, ["look_up"])
    onnx.checker.check_model(emitted, full_check=True)
    assert [entry.data_type for entry in emitted.graph.initializer if entry.dims == [50, 8]] == [TensorProto.INT8]
    ids = random.integers(0, 50, (3, 5)).astype(np.int32)
    (found,) = session(emitted).run(None, {"ids": ids})
    steps = np.abs(table).max(axis=0) / LEVELS
    assert (np.abs(-found - table[ids]) <= 0.501 * steps).all()


@pytest.mark.parametrize("emit", EMITTERS)
def test_nodes_without_a_name_are_kept(small_graph: onnx.ModelProto, emit: Emit) -> None:
    unnamed = onnx.ModelProto()
    unnamed.CopyFrom(small_graph)
    for node in unnamed.graph.node:
        node.name = ""
    layers = list(quantizable(with_names(unnamed)))
    assert len(layers) == len(ALL)
    x = pictures()
    ranges = ranges_of(unnamed, x)
    (expected,) = session(unnamed).run(None, {"x": x})
    for chosen in (layers, layers[:1], [""]):
        (found,) = session(emit(unnamed, ranges, chosen)).run(None, {"x": x})
        assert np.square(expected - found).mean() < 0.01 * np.square(expected).mean()
    (plain,) = session(emit(small_graph, ranges, ALL)).run(None, {"x": x})
    np.testing.assert_array_equal(session(emit(unnamed, ranges, layers)).run(None, {"x": x})[0], plain)


@pytest.mark.parametrize("emit", EMITTERS)
@pytest.mark.parametrize("shape", [(1, 4), ()])
def test_a_bias_of_another_shape_than_its_channels_leaves_the_product_in_float(
    emit: Emit, shape: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], "odd"),
            helper.make_node("Gemm", ["h", "v"], ["y"], "even"),
        ],
        "bias",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [
            numpy_helper.from_array(np.asarray(random.standard_normal(size), np.float32), name)
            for name, size in {"w": (6, 4), "v": (4, 4), "b": shape}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    x = random.standard_normal((8, 6)).astype(np.float32)
    assert list(quantizable(model)) == ["even"]
    (expected,) = session(model).run(None, {"x": x})
    (found,) = session(emit(model, ranges_of(model, x), ["odd", "even"])).run(None, {"x": x})
    assert 0 < np.square(expected - found).mean() < 0.01 * np.square(expected).mean()


def two_convolutions(between: list[onnx.NodeProto], source: str, **outputs: int) -> onnx.ModelProto:
    """A convolution x -> c, nodes that make `source`, and a convolution of that -> y; `outputs` by type."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv0", pads=[1, 1, 1, 1]),
        *between,
        helper.make_node("Conv", [source, "v"], ["y"], "conv1", pads=[1, 1, 1, 1]),
    ]
    constants = {name: random.standard_normal((3, 3, 3, 3)).astype(np.float32) / 5 for name in ("w", "v", "inner")}
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, None, None]),
            *(helper.make_tensor_value_info(name, kind, ["batch", 3, None, None]) for name, kind in outputs.items()),
        ],
        [numpy_helper.from_array(value, name) for name, value in {**constants, "true": np.array(True)}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("emit", EMITTERS)
def test_a_pool_that_says_where_it_found_its_values_stays_as_it_is(emit: Emit) -> None:
    pool = helper.make_node("MaxPool", ["c"], ["p", "where"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    model, x = two_convolutions([pool], "p", where=TensorProto.INT64), pictures()
    emitted = emit(model, ranges_of(model, x), ["conv0", "conv1"])
    onnx.checker.check_model(emitted, full_check=True)
    expected, found = session(model).run(None, {"x": x}), session(emitted).run(None, {"x": x})
    assert 0 < np.square(expected[0] - found[0]).mean() < 0.01 * np.square(expected[0]).mean()
    assert (expected[1] == found[1]).mean() > 0.95  # but for values that come to one step


def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(nodes[-1].output[0], 1, None)])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("emit", EMITTERS)
def test_a_graph_inside_a_node_sees_the_tensors_and_weights_that_it_did(emit: Emit, half: bool) -> None:
    inside = [
        branch("then", helper.make_node("Conv", ["c", "inner"], ["n"], "n", pads=[1, 1, 1, 1])),
        branch("else", helper.make_node("Conv", ["r", "inner"], ["m"], "m", pads=[1, 1, 1, 1])),
    ]
    nodes = [
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("If", ["true"], ["z"], "if", then_branch=inside[0], else_branch=inside[1]),
        helper.make_node("Add", ["r", "z"], ["s"], "sum"),
    ]
    model, x = two_convolutions(nodes, "s"), pictures()
    emitted = emit(model, ranges_of(model, x), ["conv0", "conv1"])
    if half:
        emitted = as_an_engine_computes(to_half(emitted))
    onnx.checker.check_model(emitted, full_check=True)
    (expected,), (found,) = session(model).run(None, {"x": x}), session(emitted).run(None, {"x": x})
    assert 0 < np.square(expected - found).mean() < 0.01 * np.square(expected).mean()


def test_onnxruntime_runs_every_chosen_layer_on_integers(small_graph: onnx.ModelProto, tmp_path: Path) -> None:
    x = pictures()
    session(emit_cpu(small_graph, ranges_of(small_graph, x), ALL), tmp_path / "optimized.onnx")
    found = onnx.load(tmp_path / "optimized.onnx").graph
    kinds = Counter(node.op_type for node in found.node)
    assert kinds["QLinearConv"] == 2
    assert kinds["QLinearAdd"] == 1
    assert kinds["QGemm"] == 3
    # The picture and the mean are rounded, and nothing is read back that is rounded again.
    assert kinds["QuantizeLinear"] == 2
    assert not {"Conv", "Gemm", "MatMul", "DequantizeLinear"} & set(kinds)


def test_weights_can_be_uint8_for_processors_that_cut_sums_off_and_give_the_same(
    small_graph: onnx.ModelProto, tmp_path: Path
) -> None:
    x = pictures()
    emitted = emit_cpu(small_graph, ranges_of(small_graph, x), ALL)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.add_session_config_entry("session.x64quantprecision", "1")
    unsigned = onnxruntime.InferenceSession(emitted.SerializeToString(), options)
    np.testing.assert_array_equal(unsigned.run(None, {"x": x})[0], session(emitted).run(None, {"x": x})[0])
    if platform.machine() in ("x86_64", "AMD64"):
        weights = [entry for entry in onnx.load(tmp_path / "optimized.onnx").graph.initializer if len(entry.dims) > 1]
        assert {entry.data_type for entry in weights} == {TensorProto.UINT8}


def test_tensorrt_runs_every_chosen_layer_on_integers(small_graph: onnx.ModelProto) -> None:
    x = pictures()
    emitted = emit_tensorrt(small_graph, ranges_of(small_graph, x), ALL)
    assert {entry.data_type for entry in emitted.graph.initializer} == {
        TensorProto.FLOAT,
        TensorProto.INT8,
        TensorProto.INT64,
    }
    engine = build_engine(emitted.SerializeToString())
    assert not engine.warnings
    for name in ALL:
        assert [layer for layer in engine.layers if name in layer.nodes and "Int8" in layer.inputs], name


def test_both_targets_cut_off_at_the_same_value_and_store_the_same_weights(small_graph: onnx.ModelProto) -> None:
    x = pictures()
    # Much of what the first ReLU lets through is past its range.
    ranges = ranges_of(small_graph, x) | {"r0": 0.5}
    here, there = (emit(small_graph, ranges, ALL) for emit in EMITTERS)
    first, second = (read_back(model, "r0", x) for model in (here, there))
    step = activation_scale(0.5)
    assert (first.min(), first.max()) == (0, np.float32(127.5 * step))
    assert second.max() == np.float32(127 * step)
    assert (second == second.max()).mean() > 0.1
    # The CPU rounds to half a step.
    assert np.abs(first - second).max() <= 0.5001 * step
    weights = [
        {entry.name: entry.raw_data for entry in model.graph.initializer if "/weight" in entry.name}
        for model in (here, there)
    ]
    assert len(weights[0]) == 2 * len(ALL)
    assert weights[0] == weights[1]


@given(st.floats(0, 2.0**30))
def test_a_step_is_the_same_in_half_precision_and_never_zero(amax: float) -> None:
    step = activation_scale(amax)
    digits, _ = np.frexp(step)
    assert step > 0
    assert np.float16(digits) == digits
    assert abs(LEVELS * step - amax) <= max(2.0**-11 * amax, 2.0**-33)


def test_weights_that_are_read_beforehand_change_nothing(small_graph: onnx.ModelProto) -> None:
    x = pictures()
    emitted = emit_tensorrt(small_graph, ranges_of(small_graph, x), ALL)
    floats = with_float_weights(emitted)
    assert not {entry.data_type for entry in floats.graph.initializer if entry.dims} & {TensorProto.INT8}
    (expected,) = ReferenceEvaluator(convert_version(emitted, 21)).run(None, {"x": x})
    (found,) = session(floats).run(None, {"x": x})
    # Sums in another order round another way at times: by less than a step of 127.
    np.testing.assert_allclose(found, expected, rtol=0, atol=np.abs(expected).max() / LEVELS)
    assert (np.abs(found - expected) < 1e-5).mean() > 0.5


def read_back(model: onnx.ModelProto, name: str, x: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """The tensor after its rounding."""
    reading = next(
        node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0].startswith(f"{name}/")
    )
    (values,) = session(with_outputs(model, [reading.output[0]])).run([reading.output[0]], {"x": x})
    return np.asarray(values)
