"""Graphs for the TensorRT plugin: what its header describes, and nothing else changed; and what NVIDIA's parser, that
of TensorRT-RTX, makes of them with the plugin's library.
"""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from plugin_graphs import PARAMETERS, PLUGIN, arrays, attributes, make_model, parse

from mmedge.export.errors import ExportError
from mmedge.export.graph import to_bytes
from mmedge.export.plugins import for_plugin


def test_the_parser_finds_a_plugin_and_no_body(fused_graph: onnx.ModelProto) -> None:
    before = to_bytes(fused_graph)
    made = for_plugin(fused_graph)
    assert to_bytes(fused_graph) == before
    assert not made.functions
    (node,) = [node for node in made.graph.node if node.domain]
    (given,) = [node for node in fused_graph.graph.node if node.domain]
    expected = {"plugin_version": b"1", "plugin_namespace": b"mmedge"}
    assert (node.op_type, attributes(node)) == ("GatedFusion", attributes(given) | expected)
    others = [node for node in made.graph.node if node.domain or node.name.endswith("/int32/cast")]
    assert len(others) == 2
    assert [n for n in made.graph.node if n not in others] == [n for n in fused_graph.graph.node if not n.domain]
    assert (made.graph.input, made.graph.output) == (fused_graph.graph.input, fused_graph.graph.output)
    onnx.checker.check_model(made)  # no shapes: it knows no plugin


def test_the_inputs_are_those_of_the_plugin() -> None:
    made = for_plugin(make_model([5, 9], 3))
    cast, node = made.graph.node
    assert (cast.op_type, cast.input[0], attributes(cast)) == ("Cast", "presence", {"to": TensorProto.INT32})
    expected = [cast.output[0]]
    for m in range(2):
        expected += [f"x_{m}", f"weight_{m}/packed", *(f"{name}_{m}" for name in PARAMETERS[1:])]
    assert list(node.input) == expected
    assert set(arrays(made)) == {name for name in expected if name[0] not in "px"} - {""}


@pytest.mark.parametrize(("features", "dim"), [(1, 1), (4, 64), (5, 65), (130, 70)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_weight_lies_in_the_order_of_the_kernel(features: int, dim: int, dtype: type) -> None:
    model = make_model([features], dim, dtype)
    weight, packed = arrays(model)["weight_0"], arrays(for_plugin(model))["weight_0/packed"]
    assert packed.dtype == dtype
    assert packed.shape == ((features + 3) // 4, (dim + 63) // 64 * 64, 4)
    for c, f in itertools.product(range(dim), range(features)):
        assert packed[f // 4, c, f % 4] == weight[c, f]
    assert np.count_nonzero(packed) == np.count_nonzero(weight)


def test_in_half_precision_the_vectors_and_alpha_are_float32_to_the_plugin() -> None:
    model = make_model([5, 9], 3, np.float16)
    made = for_plugin(model)
    found = arrays(made)
    for m, name in itertools.product(range(2), PARAMETERS[1:]):
        np.testing.assert_array_equal(found[f"{name}_{m}/float32"], arrays(model)[f"{name}_{m}"].astype(np.float32))
        assert f"{name}_{m}" not in found
    *_, node, cast = made.graph.node
    assert list(node.output) == ["y", "y/alpha"]
    assert (cast.op_type, list(cast.input), list(cast.output)) == ("Cast", ["y/alpha"], ["alpha"])
    assert attributes(cast) == {"to": TensorProto.FLOAT16}


@pytest.mark.parametrize("outputs", [("y",), ("y", "")])
def test_an_output_that_is_left_out_gets_a_name(outputs: tuple[str, ...]) -> None:
    made = for_plugin(make_model([5], 3, outputs=outputs))
    assert list(made.graph.node[-1].output) == ["y", "y/alpha"]


def test_a_weight_that_another_node_reads_stays() -> None:
    model = make_model([5], 3)
    model.graph.node.append(helper.make_node("Identity", ["weight_0"], ["copy"]))
    model.graph.output.append(helper.make_tensor_value_info("copy", TensorProto.FLOAT, [3, 5]))
    assert {"weight_0", "weight_0/packed"} <= set(arrays(for_plugin(model)))


def test_a_graph_without_the_operator_is_only_copied() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "unused")],
    )
    model = helper.make_model(graph)
    assert for_plugin(model) == model
    assert for_plugin(model) is not model


def test_what_the_plugin_cannot_take_is_refused() -> None:
    with pytest.raises(ExportError, match=r"no TensorRT plugin for mmedge::GatedFusion with 64 inputs; expected .* 8"):
        for_plugin(make_model([2] * 9, 3))
    with pytest.raises(ExportError, match=r"'weight_0' is float64; expected float32 or float16"):
        for_plugin(make_model([2], 3, np.float64))
    with pytest.raises(ExportError, match=r"'weight_0' is \[1, 65537\]; expected \[D, F\] of up to 65536"):
        for_plugin(make_model([65537], 1))
    model = make_model([2], 3)
    model.graph.node[0].op_type = "QGatedFusion"
    with pytest.raises(ExportError, match=r"no TensorRT plugin for mmedge::QGatedFusion"):
        for_plugin(model)
    model = make_model([2], 3)
    model.graph.node[0].input[3] = "x_0"
    with pytest.raises(ExportError, match=r"'x_0' is computed; the TensorRT plugin takes constants only"):
        for_plugin(model)


def test_onnx_runtime_has_no_body_to_fall_back_on() -> None:
    with pytest.raises(Exception, match="GatedFusion"):
        onnxruntime.InferenceSession(to_bytes(for_plugin(make_model([5], 3))))


# ---- With TensorRT-RTX's registry and parser -------------------------------------------------------------------------


@pytest.fixture
def plugin() -> Path:
    if not PLUGIN.exists():
        pytest.skip("needs the emulated plugin, which `make check-tensorrt TENSORRT_HEADERS=...` builds")
    return PLUGIN


def test_nvidias_parser_creates_the_plugin_once_its_library_is_loaded(plugin: Path, tmp_path: Path) -> None:
    made = for_plugin(make_model([5, 9], 3))
    found = parse(made, tmp_path / "fused.onnx", plugin)
    assert "creator mmedge GatedFusion 1" in found
    assert "creator mmedge QGatedFusion 1" in found
    assert "Successfully created plugin: GatedFusion" in found, found[-2000:]
    assert "Plugin not found" in parse(made, tmp_path / "fused.onnx")


def test_nvidias_parser_hands_the_plugin_its_epsilon(plugin: Path, tmp_path: Path) -> None:
    made = for_plugin(make_model([5, 9], 3))
    (epsilon,) = [attribute for attribute in made.graph.node[-1].attribute if attribute.name == "epsilon"]
    epsilon.f = -1.0
    found = parse(made, tmp_path / "fused.onnx", plugin)
    assert "Could not create" in found, found[-2000:]


def test_the_library_exports_what_a_registry_looks_for_and_nothing_else(plugin: Path) -> None:
    symbols = subprocess.run(["nm", "-D", "--defined-only", plugin], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in symbols.splitlines()] == ["getCreators", "setLoggerFinder"]
