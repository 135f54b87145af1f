"""Every encoder in INT8 and FP16 computes nearly what it does in FP32, with every subset of the modalities."""

from __future__ import annotations

import itertools

import families
import numpy as np
import onnx
import pytest
import torch

from mmedge.calibration.collect import session_on_one_thread
from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.fusion import find_fusions
from mmedge.calibration.graph import with_outputs
from mmedge.calibration.half import to_half
from mmedge.calibration.layers import find_layers, find_tables, tensors_to_range
from mmedge.export.graph import export_graph
from mmedge.export.targets import find_target
from mmedge.models import FusedModel, MmedgeConfig

CASES = [
    ("classification", "gated", ["resnet", "temporal_cnn"]),
    ("classification", "concat", ["mobilenet_v2", "ast"]),
    ("vqa", "cross_attention", ["vit", "transformer"]),
    ("vqa", "product", ["resnet", "xlm-roberta"]),
    ("embedding", "gated", ["cnn", "wav2vec2", "bert"]),
]


@pytest.mark.parametrize(("head", "fusion", "encoders"), CASES, ids=["-".join(case[2]) for case in CASES])
def test_fewer_bits_compute_nearly_the_same(head: str, fusion: str, encoders: list[str]) -> None:
    torch.manual_seed(0)
    modalities = {name: part for encoder in encoders for name, part in families.modality(encoder).items()}
    labels = {} if head == "embedding" else {"id2label": dict(enumerate("abcd"))}
    model = FusedModel(MmedgeConfig(modalities=modalities, fusion=fusion, fusion_dim=16, head=head, **labels)).eval()
    presence = np.array(list(itertools.product([False, True], repeat=len(modalities)))[1:])
    batch = families.random_batch(modalities, len(presence))
    example = {name: tensor[:1] for name, tensor in batch.items()}
    example["presence"] = torch.ones(1, len(modalities), dtype=torch.bool)
    graph = export_graph(model, example, target=find_target("onnxruntime"), output_names=model.output_names)
    feeds = {"presence": presence}
    for index, (name, tensor) in enumerate(batch.items()):
        shown = presence[:, index].reshape(-1, *[1] * (tensor.ndim - 1))
        feeds[name] = np.where(shown, tensor.numpy(), 0).astype(tensor.numpy().dtype)

    names = tensors_to_range(graph)
    values = session_on_one_thread(with_outputs(graph, names)).run(names, feeds)
    ranges = {name: float(np.abs(found).max()) for name, found in zip(names, values, strict=True)}
    chosen = [entry.name for entry in (*find_layers(graph), *find_fusions(graph))] + list(find_tables(graph))
    assert len(chosen) > len(encoders)
    expected = session_on_one_thread(graph).run(None, feeds)
    integers = emit_tensorrt(graph, ranges, chosen)
    for emitted in (emit_cpu(graph, ranges, chosen), integers, to_half(graph), to_half(integers)):
        onnx.checker.check_model(emitted, full_check=True)
        for wanted, found in zip(expected, session_on_one_thread(emitted).run(None, feeds), strict=True):
            assert np.isfinite(found).all()
            assert np.square(found - wanted).sum() < 0.005 * np.square(wanted).sum()
