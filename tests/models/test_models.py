from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import make_bundles
import pytest
import torch
from transformers import AutoModel

from mmedge.models import FusedModel, MmedgeConfig, load_checkpoint, tensor_shape
from mmedge.models.fusion import FUSIONS
from mmedge.runtime.errors import CheckpointError, InvalidArgument

IMAGE = {**make_bundles.IMAGE, "width": 16, "height": 24, "channels": "rgb", "mean": [0.5] * 3, "std": [0.25] * 3}
AUDIO = {**make_bundles.LOG_MEL, "samples": 2000, "n_fft": 128, "win_length": 128, "n_mels": 8}


def config(**changes: Any) -> MmedgeConfig:
    modalities = {
        "image": {"encoder": "cnn", "width": 4, "preprocess": IMAGE},
        "audio": {"encoder": "temporal_cnn", "width": 8, "preprocess": AUDIO},
    }
    values = {
        "modalities": modalities,
        "fusion_dim": 8,
        "id2label": {0: "no", 1: "yes", 2: "maybe"},
    } | changes
    return MmedgeConfig(**values)


def inputs(batch: int = 4) -> dict[str, torch.Tensor]:
    return {"image": torch.randn(batch, 3, 24, 16), "audio": torch.randn(batch, 8, 26)}


def presence(*flags: int, batch: int = 4) -> torch.Tensor:
    return torch.tensor([flags] * batch, dtype=torch.bool)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_a_saved_model_comes_back_with_the_same_outputs_labels_and_order_of_modalities(
    tmp_path: Path,
) -> None:
    model = FusedModel(config()).eval()
    model.save_pretrained(tmp_path)
    for loaded in (load_checkpoint(tmp_path), AutoModel.from_pretrained(tmp_path)):
        x = inputs()
        assert torch.equal(loaded(presence(1, 1), **x).logits, model(presence(1, 1), **x).logits)
        assert list(loaded.config.modalities) == ["image", "audio"]
        assert loaded.config.modalities == config().modalities
        assert loaded.config.labels == ["no", "yes", "maybe"]
        assert loaded.config.label2id == {"no": 0, "yes": 1, "maybe": 2}
        assert not loaded.training
    assert (tmp_path / "model.safetensors").is_file()


def test_a_missing_foreign_or_damaged_checkpoint_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere is no checkpoint"):
        load_checkpoint(tmp_path / "nowhere")

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="'bert'"):
        load_checkpoint(foreign)
    (foreign / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load_checkpoint(foreign)

    cut = tmp_path / "cut"
    FusedModel(config()).save_pretrained(cut)
    weights = cut / "model.safetensors"
    os.truncate(weights, weights.stat().st_size * 6 // 10)
    with pytest.raises(CheckpointError, match="cut cannot be loaded"):
        load_checkpoint(cut)
    weights.unlink()
    with pytest.raises(CheckpointError, match="cut cannot be loaded"):
        load_checkpoint(cut)


def test_weights_of_another_shape_are_a_checkpoint_error(tmp_path: Path) -> None:
    FusedModel(config()).save_pretrained(tmp_path)
    config(fusion_dim=16).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_an_absent_modality_holds_does_not_change_the_answer(fusion: str) -> None:
    model = FusedModel(config(fusion=fusion)).eval()
    x = inputs()
    noise = inputs()
    only_image = model(presence(1, 0), image=x["image"], audio=x["audio"]).logits
    assert torch.equal(model(presence(1, 0), image=x["image"], audio=noise["audio"]).logits, only_image)
    assert not torch.allclose(model(presence(1, 1), **x).logits, only_image)


def test_the_gated_fusion_is_the_formula_of_its_docstring() -> None:
    fusion = FusedModel(config()).fusion.double()
    xs = [torch.randn(4, linear.in_features, dtype=torch.float64) for linear in fusion.projections]
    for flags in itertools.product((False, True), repeat=2):
        expected = torch.zeros(4, 8, dtype=torch.float64)
        rows = []
        for m in range(2):
            z = xs[m] @ fusion.projections[m].weight.T + fusion.projections[m].bias
            h = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            h = h.clamp(min=0)
            rows.append((torch.exp((h @ fusion.gates[m].weight.T + fusion.gates[m].bias) / 8**0.5), h))
        total = sum((score for (score, _), there in zip(rows, flags, strict=True) if there), torch.zeros(4, 1))
        for (score, h), there in zip(rows, flags, strict=True):
            if there:
                expected = expected + score / total * h
        torch.testing.assert_close(fusion(xs, presence(*flags)).vector, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fusion", ["gated", "cross_attention"])
def test_a_row_that_samples_share_is_encoded_once_and_counts_for_each_of_them(fusion: str) -> None:
    model = FusedModel(config(fusion=fusion)).eval()
    x, labels = inputs(), torch.tensor([0, 1, 2, 0])
    for there in (presence(1, 1), presence(0, 1)):
        whole = {"image": x["image"][:2].repeat_interleave(2, dim=0), "audio": x["audio"]}
        shared = {"image": x["image"][:2], "audio": x["audio"], "samples_per_row": {"image": 2}}
        torch.testing.assert_close(model(there, **shared).logits, model(there, **whole).logits)
        every = {"labels": labels, "every_subset": True}
        torch.testing.assert_close(model(there, **every, **shared).loss, model(there, **every, **whole).loss)


def test_a_subset_that_a_row_lacks_makes_no_second_copy_of_it() -> None:
    model = FusedModel(config(head="embedding", embedding_dim=8)).eval()
    x, alone, labels = inputs(), presence(1, 0), torch.arange(4)
    # Every row has a label of its own: there is no pair to draw together, and nothing to learn.
    assert model(alone, labels=labels, **x).loss == 0
    assert model(alone, labels=labels, every_subset=True, **x).loss == 0
    whole = model(presence(1, 1), labels=labels, every_subset=True, **x)
    assert whole.embedding.shape == (4 * 3, 8)
    assert whole.loss > 0


def test_a_model_of_one_modality_trains_and_answers() -> None:
    only = {"audio": config().modalities["audio"]}
    model = FusedModel(config(modalities=only))
    output = model(presence(1), labels=torch.tensor([0, 1, 2, 0]), audio=inputs()["audio"])
    assert output.logits.shape == (4, 3)
    output.loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_forgotten_or_unknown_tensor_is_named() -> None:
    model = FusedModel(config())
    with pytest.raises(InvalidArgument, match=r"\['image'\]: expected exactly \['image', 'audio'\]"):
        model(presence(1, 1), image=inputs()["image"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "gatd"}, "unknown fusion 'gatd': did you mean 'gated'"),
        ({"head": "regression"}, "unknown head 'regression'"),
        (
            {"modalities": {"image": {"encoder": "cnnn", "width": 4, "preprocess": IMAGE}}},
            "did you mean 'cnn'",
        ),
        ({"modalities": {}}, "names no modality"),
        ({"fusion": "cross_attention", "fusion_heads": 3}, "found 8 features with 3 heads"),
        ({"fusion": "cross_attention", "fusion_heads": 0}, "found 8 features with 0 heads"),
    ],
)
def test_an_impossible_configuration_says_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        FusedModel(config(**changes))


def test_audio_of_any_length_has_no_shape() -> None:
    with pytest.raises(InvalidArgument, match="give a window length"):
        tensor_shape(AUDIO | {"samples": 0})
