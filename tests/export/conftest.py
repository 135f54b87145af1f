from __future__ import annotations

import make_bundles
import onnx
import pytest
import torch

from mmedge.export.graph import export_graph
from mmedge.export.targets import find_target
from mmedge.models import FusedModel, MmedgeConfig

IMAGE = {**make_bundles.IMAGE, "width": 16, "height": 16}
AUDIO = {**make_bundles.LOG_MEL, "samples": 2000, "n_fft": 128, "win_length": 128, "n_mels": 8}


@pytest.fixture(scope="session")
def fused_model() -> FusedModel:
    """A small fused model of three modalities, its weights away from their start."""
    torch.manual_seed(0)
    modalities = {
        "image": {"encoder": "cnn", "width": 4, "preprocess": IMAGE},
        "audio": {"encoder": "temporal_cnn", "width": 8, "preprocess": AUDIO},
        "second": {"encoder": "temporal_cnn", "width": 4, "preprocess": AUDIO},
    }
    model = FusedModel(MmedgeConfig(modalities=modalities, fusion_dim=8, num_labels=5)).eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor += 0.1 * torch.rand_like(tensor)
    return model


@pytest.fixture(scope="session")
def fused_inputs() -> dict[str, torch.Tensor]:
    """One sample, by the names of the graph's inputs."""
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(1, 1, 16, 16, generator=generator),
        "audio": torch.randn(1, 8, 26, generator=generator),
        "second": torch.randn(1, 8, 26, generator=generator),
        "presence": torch.ones(1, 3, dtype=torch.bool),
    }


@pytest.fixture(scope="session")
def fused_graph(fused_model: FusedModel, fused_inputs: dict[str, torch.Tensor]) -> onnx.ModelProto:
    return export_graph(
        fused_model,
        fused_inputs,
        target=find_target("onnxruntime"),
        output_names=["logits"],
        metadata={"task": "classification"},
    )
