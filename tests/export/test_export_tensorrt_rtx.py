from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from mmedge.export import tensorrt_rtx
from mmedge.export.errors import ExportError
from mmedge.export.graph import to_bytes
from mmedge.export.tensorrt_rtx import check_parse
from mmedge.runtime.errors import EngineError


def test_the_parser_accepts_the_fused_graph_and_inlines_the_fusion(fused_graph: onnx.ModelProto) -> None:
    report = check_parse(to_bytes(fused_graph))
    assert report
    assert not report.errors
    assert report.layers > len(fused_graph.graph.node)
    report.raise_if_failed()


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
