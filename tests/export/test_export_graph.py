from __future__ import annotations

import itertools
from functools import partial

import make_bundles
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from mmedge.export.errors import ExportError
from mmedge.export.functions import append_functions, gated_fusion
from mmedge.export.graph import export_graph, to_bytes
from mmedge.export.targets import TARGETS, check_versions, find_target
from mmedge.models import FusedModel, MmedgeConfig
from mmedge.models.fusion import GatedFusion
from mmedge.runtime.errors import InvalidArgument

ORT = find_target("onnxruntime")


class Scale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_onnx_runtime_computes_what_torch_does_for_every_presence_subset(
    fused_model: FusedModel, fused_graph: onnx.ModelProto
) -> None:
    session = onnxruntime.InferenceSession(to_bytes(fused_graph))
    x = {"image": torch.randn(3, 1, 16, 16), "audio": torch.randn(3, 8, 26), "second": torch.randn(3, 8, 26)}
    for flags in itertools.product((False, True), repeat=3):
        x["presence"] = torch.tensor([flags] * 3)
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in x.items()})
        with torch.no_grad():
            expected = fused_model(**x).logits.numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_function_body_matches_torch_in_float64_for_every_presence_subset() -> None:
    torch.manual_seed(0)
    fusion = GatedFusion([5, 3, 4], 6).double()
    xs = [torch.randn(2, n, dtype=torch.float64) for n in (5, 3, 4)]
    tensors = fusion.operands(xs, torch.ones(2, 3, dtype=torch.bool))[1:]
    names = [f"t{i}" for i in range(len(tensors))]
    double = onnx.TensorProto.DOUBLE
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("GatedFusion", ["presence", *names], ["y"], domain="mmedge", epsilon=1e-5)],
        "fusion",
        [
            onnx.helper.make_tensor_value_info("presence", onnx.TensorProto.BOOL, [2, 3]),
            *(onnx.helper.make_tensor_value_info(n, double, t.shape) for n, t in zip(names, tensors, strict=True)),
        ],
        [onnx.helper.make_tensor_value_info("y", double, [2, 6])],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("mmedge", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, functions=[gated_fusion(3, 18)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for flags in itertools.product((False, True), repeat=3):
        presence = torch.tensor([flags, (True, False, True)])
        feeds = {n: t.detach().numpy() for n, t in zip(names, tensors, strict=True)}
        (found,) = session.run(None, feeds | {"presence": presence.numpy()})
        # 1e-5 is not exact in the attribute, which is a float32.
        np.testing.assert_allclose(found, fusion(xs, presence).vector.detach().numpy(), rtol=0, atol=1e-9)


def test_the_fusion_is_one_node_and_its_body_comes_with_the_graph(fused_graph: onnx.ModelProto) -> None:
    fused = [node for node in fused_graph.graph.node if node.domain == "mmedge"]
    assert [node.op_type for node in fused] == ["GatedFusion"]
    assert [(f.domain, f.name) for f in fused_graph.functions] == [("mmedge", "GatedFusion")]
    reread = onnx.load_from_string(to_bytes(fused_graph))
    assert reread.functions[-1] == gated_fusion(3, 18, alpha=True)


def test_a_node_without_weights_beside_one_with_them_shares_their_body() -> None:
    info, single = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    shapes: dict[str, list[int | str]] = {"x": ["batch", 3], "weight": [4, 3], "gate_weight": [1, 4], "gate_bias": [1]}
    shapes |= {name: [4] for name in ("bias", "norm_weight", "norm_bias")}
    names = ["presence", "x", "weight", "bias", "norm_weight", "norm_bias", "gate_weight", "gate_bias"]
    node = partial(onnx.helper.make_node, "GatedFusion", names, domain="mmedge", epsilon=1e-5)
    graph = onnx.helper.make_graph(
        [node(["first"], name="plain"), node(["second", "alpha"], name="weighed")],
        "twice",
        [info("presence", onnx.TensorProto.BOOL, ["batch", 1]), *(info(n, single, shapes[n]) for n in names[1:])],
        [
            info("first", single, ["batch", 4]),
            info("second", single, ["batch", 4]),
            info("alpha", single, ["batch", 1]),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    append_functions(model)
    onnx.checker.check_model(model, full_check=True)
    assert [list(function.output) for function in model.functions] == [["y", "alpha"]]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    random = np.random.default_rng(0)
    feeds = {n: random.normal(size=[2 if d == "batch" else d for d in s]).astype("f") for n, s in shapes.items()}
    first, second, alpha = session.run(None, feeds | {"presence": np.array([[True], [False]])})
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(alpha, [[1], [0]])


def test_a_sum_fusion_of_one_modality_is_plain_operators() -> None:
    preprocess = {**make_bundles.IMAGE, "width": 8, "height": 8}
    modalities = {"image": {"encoder": "cnn", "width": 2, "preprocess": preprocess}}
    fused = FusedModel(MmedgeConfig(modalities=modalities, fusion="sum", fusion_dim=4)).eval()
    x = {"image": torch.randn(2, 1, 8, 8), "presence": torch.tensor([[True], [False]])}
    model = export_graph(fused, x, target=ORT, output_names=["logits"])
    assert {entry.domain for entry in model.opset_import} == {""}
    assert not model.functions
    session = onnxruntime.InferenceSession(to_bytes(model))
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in x.items()})
    np.testing.assert_allclose(found, fused(**x).logits.detach().numpy(), rtol=0, atol=1e-5)


def test_a_body_holds_no_floating_constant_so_that_it_serves_every_type() -> None:
    for node in gated_fusion(2, 18).node:
        for attribute in node.attribute:
            assert attribute.ref_attr_name or attribute.type in (
                onnx.AttributeProto.INT,
                onnx.AttributeProto.INTS,
            )


@pytest.mark.parametrize("name", TARGETS)
def test_opset_and_ir_stay_within_the_limit_of_the_target(name: str) -> None:
    target = find_target(name)
    model = export_graph(Scale(), {"x": torch.rand(1, 3)}, target=target, output_names=["y"])
    assert model.ir_version <= target.max_ir
    assert [entry.version for entry in model.opset_import if entry.domain == ""] <= [target.max_opset]


def test_a_graph_newer_than_its_target_is_refused_with_found_and_supported_versions() -> None:
    model = export_graph(Scale(), {"x": torch.rand(1, 3)}, target=ORT, output_names=["y"])
    model.ir_version = 9
    with pytest.raises(ExportError, match=r"IR version 9 and opset 18; onnxruntime-1\.14 .* IR version 8"):
        check_versions(model, find_target("onnxruntime-1.14"))


def test_an_unknown_target_suggests_the_nearest() -> None:
    with pytest.raises(InvalidArgument, match="did you mean 'tensorrt-rtx'"):
        find_target("tensort-rtx")


def test_the_graph_says_who_made_it_and_nothing_about_this_machine(fused_graph: onnx.ModelProto) -> None:
    assert fused_graph.producer_name == "mmedge"
    assert fused_graph.producer_version
    assert {p.key: p.value for p in fused_graph.metadata_props} == {"task": "classification"}
    data = to_bytes(fused_graph)
    assert b".py" not in data
    assert b"/site-packages" not in data
    assert not any(node.metadata_props or node.doc_string for node in fused_graph.graph.node)


def test_inputs_and_outputs_keep_their_names_and_only_the_batch_is_dynamic(
    fused_graph: onnx.ModelProto,
) -> None:
    def shape(value: onnx.ValueInfoProto) -> list[int | str]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    assert {value.name: shape(value) for value in fused_graph.graph.input} == {
        "image": ["batch", 1, 16, 16],
        "audio": ["batch", 8, 26],
        "second": ["batch", 8, 26],
        "presence": ["batch", 3],
    }
    assert {value.name: shape(value) for value in fused_graph.graph.output} == {"logits": ["batch", 5]}
    assert all(not tensor.external_data for tensor in fused_graph.graph.initializer)


def test_the_same_weights_give_the_same_bytes(
    fused_model: FusedModel, fused_inputs: dict[str, Tensor], fused_graph: onnx.ModelProto
) -> None:
    again = export_graph(
        fused_model,
        fused_inputs,
        target=ORT,
        output_names=["logits"],
        metadata={"task": "classification"},
    )
    assert to_bytes(again) == to_bytes(fused_graph)


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svd(x)[1]


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class TwoRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


class Foreign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic("elsewhere::Thing", [x], dtype=x.dtype, shape=x.shape, version=1)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Spectrum(), r"node %_linalg_svd .*No ONNX function found"),
        (Branch(), "data-dependent"),
        (TwoRows(), "batch"),
        (Foreign(), "is elsewhere::Thing, an operator no runtime defines"),
    ],
)
def test_a_module_that_cannot_be_exported_is_refused_with_the_reason(module: nn.Module, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        export_graph(module, {"x": torch.rand(1, 4)}, target=ORT, output_names=["y"])


def test_more_weights_than_an_onnx_file_holds_are_refused_before_the_export_begins() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(20_000, 15_000, bias=False, device="meta")  # 1.2 GB, of which none is allocated
            self.again = self.layer
            self.register_buffer("table", torch.empty(15_000, 20_000, device="meta"), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("the export has begun")

    with pytest.raises(ExportError, match=r"weights are 2\.40 GB, .* holds 2 GB .*smaller encoder"):
        export_graph(Large(), {"x": torch.rand(1, 20_000)}, target=ORT, output_names=["y"])


def test_an_output_may_have_a_name_that_the_graph_uses_inside() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(5, 3)

        def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"embedding": self.table(ids).mean(dim=1)}

    module, ids = Model().eval(), torch.tensor([[0, 1], [4, 2]])
    graph = export_graph(module, {"ids": ids}, target=ORT, output_names=["embedding"])
    (found,) = onnxruntime.InferenceSession(to_bytes(graph)).run(["embedding"], {"ids": ids.numpy()})
    np.testing.assert_allclose(found, module(ids)["embedding"].detach().numpy(), rtol=0, atol=1e-6)
