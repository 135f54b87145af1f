"""Graphs for the TensorRT plugin with the gated fusion in 8 bits: judged by the CPU's operator, and by the body of the
function, which ONNX Runtime inlines.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from plugin_graphs import PLUGIN, arrays, attributes, make_model, parse

from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.emit_tensorrt import emit_tensorrt, quantize_fusions
from mmedge.calibration.errors import CalibrationError
from mmedge.calibration.fusion import find_fusions
from mmedge.calibration.graph import with_outputs
from mmedge.calibration.half import to_half
from mmedge.calibration.layers import activation_scale, find_layers, tensors_to_range
from mmedge.export.errors import ExportError
from mmedge.export.graph import to_bytes
from mmedge.export.plugins import for_plugin
from mmedge.runtime.native import find_library

Arrays = dict[str, npt.NDArray[Any]]
# Features and D: whole vectors of 16 and tiles of 64, one less and one more of each, and the least.
SIZES = [([16, 48], 64), ([15, 47], 63), ([17, 49], 65), ([1], 1), ([130, 5, 33], 70)]


def make_feeds(features: list[int], batch: int = 9) -> Arrays:
    random = np.random.default_rng(1)
    presence = random.random((batch, len(features))) < 0.7
    presence[0] = False
    xs = {f"x_{m}": random.normal(size=(batch, count)).astype(np.float32) for m, count in enumerate(features)}
    return {"presence": presence, **xs}


def some_ranges(features: list[int]) -> dict[str, float]:
    """Some of what is normal lies past them."""
    return {f"x_{m}": 2.0 + 0.7 * m for m in range(len(features))}


def run(model: onnx.ModelProto, feeds: Mapping[str, Any], *, fused: bool = False) -> list[npt.NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    if fused:
        options.register_custom_ops_library(find_library("libmmedge_onnxruntime.so"))
    session = onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, dict(feeds))]


def stored(word: int, byte: int) -> int:
    """The signed byte of a word, the first being the lowest."""
    value = (word >> 8 * byte) & 0xFF
    return value - 256 if value > 127 else value


def plugin_computes(model: onnx.ModelProto, feeds: Arrays) -> list[npt.NDArray[np.float64]]:
    """What the header of the plugin says of its inputs, in float64: y and alpha."""
    constants = arrays(model)
    (node,) = [node for node in model.graph.node if node.domain]
    makers = {node.output[0]: node for node in model.graph.node}
    epsilon = attributes(node)["epsilon"]
    assert makers[node.input[0]].input[0] == "presence"
    hidden, scores = [], []
    for at in range(1, len(node.input), 9):
        name, *others = node.input[at : at + 9]
        packed, scale, offset, bias, norm_weight, norm_bias, gate_weight, gate_bias = (constants[n] for n in others)
        assert (packed.dtype, offset.dtype) == (np.int32, np.int32)
        assert {constants[n].dtype for n in (others[1], *others[3:])} == {np.dtype(np.float32)}
        maker = makers[name]
        assert maker.op_type == "QuantizeLinear"
        x, step, zero = feeds[maker.input[0]], constants[maker.input[1]], constants[maker.input[2]]
        assert zero.dtype == np.int8
        integers = np.clip(np.rint(x / step) + zero, -128, 127)
        weight = np.zeros((len(bias), packed.shape[0] * 16))
        for c, f in itertools.product(*map(range, weight.shape)):
            weight[c, f] = stored(int(packed[f // 16, c, f % 16 // 4]), f % 4)
        assert not weight[:, x.shape[1] :].any()
        z = scale.astype(np.float64) * (integers @ weight[:, : x.shape[1]].T - offset) + bias
        spread = np.sqrt(z.var(axis=1, keepdims=True) + epsilon)
        h = np.maximum((z - z.mean(axis=1, keepdims=True)) / spread * norm_weight + norm_bias, 0)
        hidden.append(h)
        scores.append(h @ gate_weight[0] + gate_bias[0])
    present = feeds["presence"].astype(bool)
    powers = np.where(present, np.exp(np.stack(scores, axis=1)), 0)
    alpha = powers / np.maximum(powers.sum(axis=1, keepdims=True), 1e-300)
    return [np.einsum("bm,mbd->bd", alpha, np.stack(hidden)), alpha]


def assert_close(found: list[npt.NDArray[Any]], expected: list[npt.NDArray[Any]]) -> None:
    for array, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("features", "dim"), SIZES)
def test_the_plugin_is_given_what_the_cpus_operator_computes(features: list[int], dim: int) -> None:
    model, ranges, feeds = make_model(features, dim), some_ranges(features), make_feeds(features)
    made = for_plugin(quantize_fusions(model, ranges, ["fusion"]))
    assert_close(plugin_computes(made, feeds), run(emit_cpu(model, ranges, ["fusion"]), feeds, fused=True))


@pytest.mark.parametrize(("features", "dim"), SIZES)
def test_a_weight_lies_in_words_of_four_and_all_else_is_zero(features: list[int], dim: int) -> None:
    integers = quantize_fusions(make_model(features, dim), some_ranges(features), ["fusion"])
    (before,), (after,) = (
        [node for node in model.graph.node if node.domain] for model in (integers, for_plugin(integers))
    )
    for m, count in enumerate(features):
        weight, packed = (
            arrays(integers)[before.input[4 + 10 * m]],
            arrays(for_plugin(integers))[after.input[2 + 9 * m]],
        )
        assert weight.dtype == np.int8
        assert weight.shape == (dim, count)
        assert packed.shape == ((count + 15) // 16, (dim + 63) // 64 * 64, 4)
        assert np.count_nonzero(packed.view(np.int8)) == np.count_nonzero(weight)
        for c, f in itertools.product(range(dim), range(count)):
            assert stored(int(packed[f // 16, c, f % 16 // 4]), f % 4) == weight[c, f]


def test_a_zero_point_goes_into_the_offset() -> None:
    features = [20, 7]
    model = quantize_fusions(make_model(features, 24), some_ranges(features), ["fusion"])
    (zero,) = [
        entry for entry in model.graph.initializer if numpy_helper.to_array(entry).dtype == np.int8 and not entry.dims
    ]
    zero.CopyFrom(numpy_helper.from_array(np.array(-37, np.int8), zero.name))
    made, feeds = for_plugin(model), make_feeds(features)
    (node,) = [node for node in made.graph.node if node.domain]
    assert arrays(made)[node.input[4]].any()
    assert_close(plugin_computes(made, feeds), run(model, feeds))


def test_nothing_that_only_the_other_form_reads_stays() -> None:
    made = for_plugin(quantize_fusions(make_model([20, 7], 24), some_ranges([20, 7]), ["fusion"]))
    read = {name for node in made.graph.node for name in node.input}
    assert set(arrays(made)) <= read
    (node,) = [node for node in made.graph.node if node.domain]
    assert (node.op_type, list(node.output)) == ("QGatedFusion", ["y", "alpha"])
    assert attributes(node) == {"epsilon": 0.25, "plugin_version": b"1", "plugin_namespace": b"mmedge"}
    assert not made.functions
    onnx.checker.check_model(made)


def test_what_is_not_in_8_bits_is_refused() -> None:
    model = quantize_fusions(make_model([5], 3), {"x_0": 2.0}, ["fusion"])
    unsigned = onnx.ModelProto()
    unsigned.CopyFrom(model)
    (node,) = [node for node in unsigned.graph.node if node.domain]
    zero = next(entry for entry in unsigned.graph.initializer if entry.name == node.input[3])
    zero.CopyFrom(numpy_helper.from_array(np.array(128, np.uint8), zero.name))
    with pytest.raises(ExportError, match=r"is uint8; expected int8"):
        for_plugin(unsigned)
    del node.input[-1]
    with pytest.raises(ExportError, match=r"no TensorRT plugin for mmedge::QGatedFusion with 10 inputs; .* 1 \+ 10"):
        for_plugin(unsigned)


# ---- In the graph of a calibrated model ------------------------------------------------------------------------------


@pytest.fixture
def ranges(fused_graph: onnx.ModelProto, fused_inputs: dict[str, torch.Tensor]) -> dict[str, float]:
    names = tensors_to_range(fused_graph)
    feeds = {name: tensor.numpy() for name, tensor in fused_inputs.items()}
    session = onnxruntime.InferenceSession(to_bytes(with_outputs(fused_graph, names)))
    found = session.run(names, feeds)
    return {name: float(np.abs(values).max()) for name, values in zip(names, found, strict=True)}


def chosen(graph: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """The names of its layers and of its fusions."""
    return [layer.name for layer in find_layers(graph)], [fusion.name for fusion in find_fusions(graph)]


@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
def test_features_are_rounded_once_on_the_steps_of_their_range(
    fused_graph: onnx.ModelProto, ranges: dict[str, float], fused_inputs: dict[str, torch.Tensor], half: bool
) -> None:
    layers, fusions = chosen(fused_graph)
    emitted = emit_tensorrt(fused_graph, ranges, layers)
    emitted = to_half(emitted) if half else emitted
    made = quantize_fusions(emitted, ranges, fusions)
    onnx.checker.check_model(made, full_check=True)
    assert len({entry.name for entry in made.graph.initializer}) == len(made.graph.initializer)
    (fusion,) = find_fusions(fused_graph)
    (node,) = [node for node in made.graph.node if node.domain]
    makers = {name: maker for maker in made.graph.node for name in maker.output}
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(made).graph.value_info
    }
    feeds = {name: tensor.numpy() for name, tensor in fused_inputs.items()}
    taken = run(with_outputs(fused_graph, fusion.sources), feeds)[-len(fusion.sources) :]
    for m, values in enumerate(taken):
        x, scale, zero = node.input[1 + 10 * m : 4 + 10 * m]
        assert (makers[x].op_type, list(makers[x].input[1:])) == ("QuantizeLinear", [scale, zero])
        assert types.get(makers[x].input[0], TensorProto.FLOAT) == TensorProto.FLOAT
        assert arrays(made)[scale] == np.float32(activation_scale(float(np.abs(values).max())))
        assert arrays(made)[zero] == np.int8(0)
    (expected,), (found,) = run(emitted, feeds), run(made, feeds)
    noise = np.square(expected - found).mean() / np.square(expected).mean()
    assert 0 < noise < 1e-3


def test_a_graph_of_which_no_fusion_is_chosen_stays(fused_graph: onnx.ModelProto, ranges: dict[str, float]) -> None:
    emitted = to_half(emit_tensorrt(fused_graph, ranges, chosen(fused_graph)[0]))
    assert to_bytes(quantize_fusions(emitted, ranges, ["another"])) == to_bytes(emitted)


def test_features_without_a_range_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"node 'fusion': no range is known for 'x_1'"):
        quantize_fusions(make_model([5, 9], 3), {"x_0": 2.0}, ["fusion"])


def test_features_are_found_behind_what_moves_and_casts_them() -> None:
    model = make_model([5], 3)
    before = [
        helper.make_node("Relu", ["given"], ["made"], "relu"),
        helper.make_node("Cast", ["made"], ["made/half"], "half", to=TensorProto.FLOAT16),
        helper.make_node("Flatten", ["made/half"], ["flat"], "flatten"),
        helper.make_node("Cast", ["flat"], ["x_0"], "float", to=TensorProto.FLOAT),
    ]
    nodes = [*before, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.input[1].name = "given"
    made = quantize_fusions(model, {"made": 2.0, "given": 9.0}, ["fusion"])
    (quantized,) = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert quantized.input[0] == "x_0"
    assert arrays(made)[quantized.input[1]] == np.float32(activation_scale(2.0))


@pytest.mark.skipif(not PLUGIN.exists(), reason="needs the emulated plugin, which `make check-tensorrt` builds")
def test_nvidias_parser_creates_the_plugin_of_integers(
    fused_graph: onnx.ModelProto, ranges: dict[str, float], tmp_path: Path
) -> None:
    layers, fusions = chosen(fused_graph)
    emitted = to_half(emit_tensorrt(fused_graph, ranges, layers))
    found = parse(for_plugin(quantize_fusions(emitted, ranges, fusions)), tmp_path / "fused.onnx", PLUGIN)
    assert "Successfully created plugin: QGatedFusion" in found, found[-2000:]
