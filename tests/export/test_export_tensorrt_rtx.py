from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mmedge.export import tensorrt_rtx
from mmedge.export.errors import ExportError
from mmedge.export.graph import to_bytes
from mmedge.export.tensorrt_rtx import build_engine, check_parse
from mmedge.runtime.errors import EngineError, InvalidArgument


def test_the_parser_accepts_the_fused_graph_and_inlines_the_fusion(fused_graph: onnx.ModelProto) -> None:
    report = check_parse(to_bytes(fused_graph))
    assert report
    assert not report.errors
    assert report.layers > len(fused_graph.graph.node)
    report.raise_if_failed()


def test_an_engine_is_built_for_gpus_that_are_not_here(fused_graph: onnx.ModelProto) -> None:
    engine = build_engine(to_bytes(fused_graph), compute_capabilities=["8.6", "12.0"], max_batch=4)
    assert len(engine.plan) > 10_000
    assert engine.compute_capabilities == ("8.6", "12.0")
    assert not engine.warnings
    listed = {node: layer for layer in engine.layers for node in layer.nodes}
    convolutions = [node.name for node in fused_graph.graph.node if node.op_type == "Conv"]
    assert convolutions
    for name in (*convolutions, "GatedFusion/z_0"):
        assert set(listed[name].inputs + listed[name].outputs) == {"Float"}


def test_a_graph_in_half_precision_becomes_half_precision_kernels() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT16, [64, 64], np.ones((64, 64), np.float16).tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"], "product"), helper.make_node("Relu", ["m"], ["y"], "relu")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", 64])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (layer,) = [layer for layer in build_engine(to_bytes(model)).layers if "product" in layer.nodes]
    assert {*layer.inputs, *layer.outputs} == {"Half"}


@pytest.mark.parametrize("wrong", [{"compute_capabilities": ["8.7"]}, {"compute_capabilities": []}, {"max_batch": 0}])
def test_an_engine_for_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="compute capabilit"):
        build_engine(b"", **wrong)


def test_no_engine_is_built_of_what_is_no_graph() -> None:
    with pytest.raises(ExportError, match="refuses the graph"):
        build_engine(b"not a graph")


def test_an_unsupported_node_is_named() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["r"], "first"),
            helper.make_node("Unique", ["r"], ["y"], "the_odd_one", sorted=1),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    report = check_parse(model.SerializeToString())
    assert not report
    assert "node 'the_odd_one' (Unique)" in report.errors[0]
    with pytest.raises(ExportError, match="the_odd_one"):
        report.raise_if_failed()


@pytest.mark.parametrize("data", [b"", b"not a graph"])
def test_what_is_no_graph_is_refused(data: bytes) -> None:
    assert not check_parse(data)


def test_without_tensorrt_rtx_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_rtx, "_BINDINGS", "no_such_bindings")
    with pytest.raises(EngineError, match="tensorrt-rtx-cu13-bindings"):
        check_parse(b"")
