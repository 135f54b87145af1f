from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from parameters import LOG_MEL
from torch.utils.data import DataLoader

from mmedge.data.folder import read_split
from mmedge.runtime import Preprocessor
from mmedge.training.build import build_model
from mmedge.training.dataset import TrainingStream, collate
from mmedge.training.recipe import Recipe

# By kind: a window of a second, and an encoder.
WINDOWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "waveform": (
        {"type": "waveform", "sample_rate": 16000, "samples": 16000, "normalize": "clip"},
        {"encoder": "wav2vec2", "config": {}},
    ),
    "log_mel": ({**LOG_MEL, "samples": 16000, "normalize": "clip"}, {"encoder": "temporal_cnn", "width": 8}),
}


def stream(recipe: Recipe, **training: Any) -> TrainingStream:
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})
    samples = read_split(recipe.data, "train", recipe.model.modalities.names, recipe.labels)
    parts = recipe.model.modalities
    preprocess = {name: getattr(parts, name).preprocess for name in parts.names}
    return TrainingStream(samples, recipe.labels or (), recipe, preprocess)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("seconds", [0.1, 0.6, 1.0, 1.7])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
@pytest.mark.parametrize("kind", ["waveform", "log_mel"])
def test_without_augmentation_a_clip_is_learnt_as_a_device_hears_it(
    kind: str, rate: int, seconds: float, tmp_path: Path
) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.random.default_rng(0).normal(0, 0.1, round(rate * seconds)), rate)
    rows = [{"audio_file_name": "a.wav", "label": label} for label in ("a", "b")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    preprocess, part = WINDOWS[kind]
    values = {
        "data": str(tmp_path),
        "output": str(tmp_path / "run"),
        "labels": ["a", "b"],
        "model": {"fusion": "sum", "modalities": {"audio": {**part, "preprocess": preprocess}}},
        "training": {"steps": 1, "batch_size": 2},
    }
    source = stream(Recipe.model_validate(values))
    expected = Preprocessor(preprocess)(source.sample(0).load()["audio"])
    np.testing.assert_array_equal(source[0]["audio"], expected)


def test_a_draw_depends_on_the_seed_and_its_number_alone(recipe: Recipe) -> None:
    one, other = stream(recipe), stream(recipe)
    assert all(same(one[draw], other[draw]) for draw in (50, 3, 50, 95))
    again = stream(recipe.model_copy(update={"seed": 1}))
    assert not all(same(one[draw], again[draw]) for draw in range(8))


@pytest.mark.parametrize(
    "augment",
    [{"speed": [0.7, 0.7]}, {"shift": 0.05}, {"snr_db": [0, 0]}, {"mask_bands": 8}, {"mask_frames": 8}],
    ids=lambda augment: next(iter(augment)),
)
def test_a_clip_is_drawn_with_the_change_that_is_asked_for(
    recipe_values: dict[str, Any], augment: dict[str, Any]
) -> None:
    drawn = []
    for changes in ({}, augment):
        recipe_values["model"]["modalities"]["audio"]["augment"] = changes
        source = stream(Recipe.model_validate(recipe_values))
        drawn.append(np.stack([source[draw]["audio"] for draw in range(8)]))
    assert not np.array_equal(*drawn)


def test_an_epoch_holds_every_sample_once_in_an_order_of_its_own(recipe: Recipe) -> None:
    plain = stream(recipe)
    labels = [[plain[draw]["label"] for draw in range(epoch * 24, epoch * 24 + 24)] for epoch in range(2)]
    assert [sum(epoch) for epoch in labels] == [12, 12]
    assert labels[0] != labels[1]


def test_modality_dropout_never_drops_all(recipe: Recipe) -> None:
    dropping = stream(recipe, modality_dropout=1.0)
    items = [dropping[draw] for draw in range(96)]
    assert {item["shown"] for item in items} == {("image",), ("audio",)}
    whole = stream(recipe, modality_dropout=0.0)
    assert {whole[draw]["shown"] for draw in range(24)} == {("audio",), ("image", "audio")}


def test_a_batch_has_zeros_only_where_a_sample_lacks_the_modality(recipe: Recipe) -> None:
    source = stream(recipe)
    batch = collate([source[draw] for draw in range(24)], source.zeros)
    assert batch["image"].shape == (24, 1, 16, 16)
    assert batch["audio"].shape == (24, 16, 21)
    assert batch["presence"].dtype == torch.bool
    assert batch["presence"].any(dim=1).all()
    absent = ~batch["image"].flatten(1).any(dim=1)
    assert absent.sum() == 4
    assert not batch["presence"][absent, 0].any()
    dropped = ~batch["presence"] & ~absent.unsqueeze(1)
    assert dropped.any(dim=0).all()


def test_the_batches_are_the_same_for_any_number_of_workers(recipe: Recipe) -> None:
    source = stream(recipe, steps=2)

    def batches(workers: int) -> list[dict[str, Any]]:
        def join(items: list[dict[str, Any]]) -> dict[str, Any]:
            return collate(items, source.zeros)

        return list(DataLoader(source, 4, num_workers=workers, collate_fn=join))

    assert all(same(a, b) for a, b in zip(batches(0), batches(2), strict=True))


def test_the_loss_over_every_subset_is_the_mean_of_the_losses_of_each(recipe: Recipe, tmp_path: Path) -> None:
    model = build_model(recipe, ("high", "low"), tmp_path).eval()
    source = stream(recipe, modality_dropout=0.0)
    batch = collate([source[draw] for draw in range(24)], source.zeros)
    losses = []
    for item in range(24):
        for subset in ((True, False), (False, True), (True, True)):
            shown = torch.tensor(subset)
            if not (shown & ~batch["presence"][item]).any():
                one = {name: tensor[item : item + 1] for name, tensor in batch.items()} | {"presence": shown[None]}
                losses.append(model(**one).loss)
    assert len(losses) == 20 * 3 + 4
    torch.testing.assert_close(model(**batch, every_subset=True).loss, torch.stack(losses).mean())
