"""A fake-quantised model against the INT8 graph that the emitter makes of its export."""

from __future__ import annotations

from typing import Any

import families
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn

from mmedge.calibration.collect import session_on_one_thread
from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.fusion import find_fusions
from mmedge.calibration.graph import with_outputs
from mmedge.calibration.layers import find_layers, find_tables, tensors_to_range
from mmedge.export.graph import export_graph
from mmedge.export.targets import find_target
from mmedge.models import FusedModel, MmedgeConfig
from mmedge.training.fake_quant import fake_quantize

Feeds = dict[str, npt.NDArray[Any]]


def settle(model: nn.Module) -> None:
    """Give each norm and bias values of its own, as training would; those of a new model are all alike."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def exported(encoder: str, fusion: str, batch: int = 16) -> tuple[FusedModel, onnx.ModelProto, Feeds, dict[str, float]]:
    """A model, its graph, inputs of noise, and the ranges of the tensors, of which a hundredth is cut off."""
    torch.manual_seed(0)
    modalities = families.modality(encoder)
    model = FusedModel(
        MmedgeConfig(modalities=modalities, fusion=fusion, fusion_dim=16, id2label=dict(enumerate("abcd")))
    )
    settle(model)
    model.train(False)
    example = {**families.random_batch(modalities, 1), "presence": torch.ones(1, 1, dtype=torch.bool)}
    graph = export_graph(model, example, target=find_target("onnxruntime"), output_names=model.output_names)
    feeds = {name: tensor.numpy() for name, tensor in families.random_batch(modalities, batch).items()}
    feeds["presence"] = np.ones((batch, 1), np.bool_)
    names = tensors_to_range(graph)
    values = session_on_one_thread(with_outputs(graph, names)).run(names, feeds)
    ranges = {name: float(np.quantile(np.abs(found), 0.99)) for name, found in zip(names, values, strict=True)}
    return model, graph, feeds, ranges


def logits(model: FusedModel, feeds: Feeds) -> npt.NDArray[Any]:
    model.train(False)
    with torch.no_grad():
        return model(**{name: torch.from_numpy(values) for name, values in feeds.items()}).logits.numpy()


def power(values: npt.NDArray[Any]) -> float:
    return float(np.square(values).sum())


@pytest.mark.parametrize("encoder", families.ENCODERS)
def test_every_family_computes_as_its_int8_graph_to_float_rounding(encoder: str) -> None:
    model, graph, feeds, ranges = exported(encoder, "sum")
    layers = [layer.name for layer in find_layers(graph)]
    assert len(layers) > 2
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = logits(model, feeds)
    assert fake_quantize(model, graph, ranges, layers) == []
    found = logits(model, feeds)
    expected = session_on_one_thread(emit_tensorrt(graph, ranges, layers)).run(["logits"], feeds)[0]
    # Float rounding now and then puts a value on the other side of a half, and its sample is a step off.
    exact = np.abs(found - expected).max(axis=1) < 1e-3 * np.abs(expected - plain).max(axis=1)
    assert exact.mean() > 0.5
    assert power(found - expected) < 0.05 * power(expected - plain)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_tables_and_the_gated_fusion_compute_as_on_a_cpu() -> None:
    model, graph, feeds, ranges = exported("transformer", "gated")
    chosen = [*find_tables(graph), *(fusion.name for fusion in find_fusions(graph))]
    assert len(chosen) == 2
    plain = logits(model, feeds)
    assert fake_quantize(model, graph, ranges, chosen) == []
    expected = session_on_one_thread(emit_cpu(graph, ranges, chosen)).run(["logits"], feeds)[0]
    assert power(logits(model, feeds) - expected) < 1e-6 * power(expected - plain)


class Pair(nn.Module):
    """One layer called twice, one that is no module's own, and one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once = nn.Linear(6, 6), nn.Linear(6, 3)
        self.matrix = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.once(torch.tanh(self.twice(torch.tanh(self.twice(x)))) @ self.matrix)
        return logits


def test_a_layer_that_is_no_module_of_one_place_stays_in_float_and_is_named() -> None:
    torch.manual_seed(0)
    model, x = Pair().eval(), torch.randn(32, 6)
    graph = export_graph(model, {"x": x[:1]}, target=find_target("onnxruntime"), output_names=["logits"])
    names = [layer.name for layer in find_layers(graph)]
    assert len(names) == 4
    ranges = dict.fromkeys(tensors_to_range(graph), 2.0)
    left = fake_quantize(model, graph, ranges, names)
    assert left == names[:3]
    emitted = emit_tensorrt(graph, ranges, names[3:])
    with torch.no_grad():
        found = model(x).numpy()
    expected = session_on_one_thread(emitted).run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - session_on_one_thread(graph).run(None, {"x": x.numpy()})[0]).max() > 1e-4


def test_gradients_pass_the_rounding_and_stop_at_the_range() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.BatchNorm1d(2))
    example = {"input": torch.zeros(1, 4)}
    graph = export_graph(model, example, target=find_target("onnxruntime"), output_names=["y"])
    (layer,) = find_layers(graph)
    scale = 1.0 / 128  # of few binary digits, so that 127 such steps are all that the range has
    assert fake_quantize(model, graph, dict.fromkeys([layer.source, layer.output], 127 * scale), [layer.name]) == []
    x = torch.tensor([[0.3, -0.9, 1.5, -7.0]], requires_grad=True)
    weight = model[0].weight
    model.train()
    kept = model[1].running_mean.clone()
    model(x.expand(8, 4)).sum().backward()
    step = weight.detach().abs().amax(dim=1, keepdim=True) / 127
    rounded = torch.round(weight.detach() / step) * step
    through = rounded.sum(dim=0) / torch.sqrt(torch.tensor(1 + 1e-5))
    assert x.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close(x.grad[0], 8 * through * torch.tensor([1.0, 1.0, 0.0, 0.0]))
    seen = torch.round(x.detach()[0] / scale).clamp(-128, 127) * scale
    torch.testing.assert_close(weight.grad, 8 * seen.expand(2, 4) / torch.sqrt(torch.tensor(1 + 1e-5)))
    assert torch.equal(model[1].running_mean, kept)
