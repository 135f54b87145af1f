from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from mmedge.export.errors import ExportError
from mmedge.export.graph import export_graph, to_bytes
from mmedge.export.targets import find_target
from mmedge.models.fusion import GatedFusion


class Resize(nn.Module):
    """Resizes its input in several ways; one output each."""

    def __init__(self, *ways: dict[str, Any]) -> None:
        super().__init__()
        self.ways = ways

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(nn.functional.interpolate(x, **way) for way in self.ways)


def export(x: Tensor, *ways: dict[str, Any]) -> onnx.ModelProto:
    names = [f"y{i}" for i in range(len(ways))]
    return export_graph(Resize(*ways), {"x": x}, target=find_target("onnxruntime"), output_names=names)


def run(model: onnx.ModelProto, x: Tensor) -> list[np.ndarray[Any, Any]]:
    outputs: list[np.ndarray[Any, Any]] = onnxruntime.InferenceSession(to_bytes(model)).run(None, {"x": x.numpy()})
    return outputs


def test_two_by_two_to_one_pixel_is_the_mean_of_all_four() -> None:
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    assert run(export(x, {"size": (1, 1), "mode": "bilinear"}), x)[0].item() == 1.5


def test_an_antialiased_resize_is_pytorchs_within_1e_5() -> None:
    x = torch.rand(2, 3, 17, 23, generator=torch.Generator().manual_seed(0))
    ways = [
        {"size": size, "mode": mode, "antialias": True}
        for size in ((7, 9), (1, 1), (40, 30), (3, 60))
        for mode in ("bilinear", "bicubic")
    ]
    for way, found in zip(ways, run(export(x, *ways), x), strict=True):
        expected = nn.functional.interpolate(x, **way).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=str(way))


def test_a_resize_goes_beside_a_fused_operator() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fusion = GatedFusion([4, 4], 8)

        def forward(self, x: Tensor, presence: Tensor) -> Tensor:
            small = nn.functional.interpolate(x, size=(2, 2), mode="bilinear").flatten(1)
            return self.fusion([small, small], presence).vector

    inputs = {"x": torch.rand(1, 1, 5, 5), "presence": torch.ones(1, 2, dtype=torch.bool)}
    model = export_graph(Both(), inputs, target=find_target("onnxruntime"), output_names=["y"])
    assert {"Resize", "GatedFusion"} <= {node.op_type for node in model.graph.node}


def test_a_resize_that_the_exporter_gets_wrong_stops_the_export_and_is_named() -> None:
    # PyTorch resamples by the scale given, the exported node by the ratio of the rounded sizes.
    with pytest.raises(ExportError, match="Resize node 'node__upsample_bilinear2d_aa' does not compute"):
        export(torch.rand(1, 3, 17, 23), {"scale_factor": 0.3, "mode": "bilinear", "antialias": True})


@pytest.mark.parametrize(
    ("attribute", "value", "how"),
    [
        ("coordinate_transformation_mode", "pytorch_half_pixel", {"size": (1, 1), "mode": "bilinear"}),
        ("cubic_coeff_a", -0.75, {"size": (7, 9), "mode": "bicubic", "antialias": True}),
        ("antialias", 0, {"size": (7, 9), "mode": "bilinear", "antialias": True}),
    ],
)
def test_a_resize_with_a_wrong_attribute_is_refused(
    attribute: str, value: Any, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_fault(*args: Any, **options: Any) -> Any:
        program = original(*args, **options)
        node = next(node for node in program.model.graph if node.op_type == "Resize")
        node.attributes[attribute] = type(node.attributes[attribute])(attribute, node.attributes[attribute].type, value)
        return program

    original = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", with_fault)
    with pytest.raises(ExportError, match=r"Resize node 'node_.*' does not"):
        export(torch.rand(1, 1, 16, 16), how)


def test_a_resize_of_unknown_origin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_origin(*args: Any, **options: Any) -> Any:
        program = original(*args, **options)
        for node in program.model.graph:
            node.metadata_props.clear()
        return program

    original = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", without_origin)
    with pytest.raises(ExportError, match="cannot be verified"):
        export(torch.rand(1, 1, 16, 16), {"size": (7, 9), "mode": "bilinear"})
