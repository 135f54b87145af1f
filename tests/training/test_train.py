from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmedge.data.folder import read_split
from mmedge.evaluation import evaluate
from mmedge.models import FusedModel, load_checkpoint
from mmedge.runtime.errors import CheckpointError, DataError
from mmedge.training.dataset import TrainingStream, collate
from mmedge.training.inference import predictor
from mmedge.training.recipe import Recipe
from mmedge.training.train import _config, train


@pytest.fixture
def recipe(recipe_values: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(recipe_values)


def stream(recipe: Recipe, draws: int = 96, **changes: Any) -> TrainingStream:
    samples = read_split(recipe.data, "train", recipe.model.modalities.names, recipe.labels)
    options = {"seed": 0, "modality_dropout": 0.5} | changes
    return TrainingStream(samples, recipe.labels or (), recipe.model.modalities, draws=draws, **options)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key] for key in a
    )


def test_a_draw_depends_on_the_seed_and_its_number_alone(recipe: Recipe) -> None:
    one, other = stream(recipe), stream(recipe)
    assert all(same(one[draw], other[draw]) for draw in (50, 3, 50, 95))
    again = stream(recipe, seed=1)
    assert not all(same(one[draw], again[draw]) for draw in range(8))


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
    batch = collate([source[draw] for draw in range(24)], source.shapes)
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
    source = stream(recipe, draws=16)

    def batches(workers: int) -> list[dict[str, Any]]:
        def join(items: list[dict[str, Any]]) -> dict[str, Any]:
            return collate(items, source.shapes)

        return list(DataLoader(source, 4, num_workers=workers, collate_fn=join))

    assert all(same(a, b) for a, b in zip(batches(0), batches(2), strict=True))


def test_the_loss_over_every_subset_is_the_mean_of_the_losses_of_each(recipe: Recipe) -> None:
    model = FusedModel(_config(recipe, ("high", "low"))).eval()
    source = stream(recipe, modality_dropout=0.0)
    batch = collate([source[draw] for draw in range(24)], source.shapes)
    losses = []
    for item in range(24):
        for subset in ((True, False), (False, True), (True, True)):
            shown = batch["presence"][item] & torch.tensor(subset)
            if shown.any():
                one = {name: tensor[item : item + 1] for name, tensor in batch.items()} | {"presence": shown[None]}
                losses.append(model(**one).loss)
    assert len(losses) == 20 * 3 + 4 * 2
    torch.testing.assert_close(model(**batch, every_subset=True).loss, torch.stack(losses).mean())


@pytest.mark.parametrize("every_subset", [False, True])
def test_training_learns_and_leaves_a_model_that_scores_the_same_when_loaded(
    recipe: Recipe, every_subset: bool
) -> None:
    values = recipe.model_dump(mode="json")
    values["training"] |= {"steps": 40, "learning_rate": 0.01, "every_subset": every_subset}
    recipe = Recipe.model_validate(values)
    seen: list[tuple[str, int, int]] = []
    result = train(recipe, progress=lambda *step: seen.append(step))
    assert len(result.losses) == 40
    assert np.mean(result.losses[-5:]) < result.losses[0] / 2
    assert ("train", 40, 40) in seen
    assert ("validation", 8, 8) in seen
    for subset in result.evaluation.subsets:
        assert subset.report.accuracy == 1.0

    model = load_checkpoint(result.output)
    assert model.config.labels == ["high", "low"]
    assert model.config.modalities["audio"]["preprocess"] == values["model"]["modalities"]["audio"]["preprocess"]
    assert "augment" not in model.config.modalities["audio"]
    samples = read_split(recipe.data, "validation", ["image", "audio"], recipe.labels)
    loaded = evaluate(predictor(model), samples, ["image", "audio"], model.config.labels)
    assert loaded.to_dict() == result.evaluation.to_dict()
    metrics = json.loads((result.output / "metrics.json").read_text())
    assert metrics["losses"] == list(result.losses)
    assert metrics["validation"]["image+audio"]["accuracy"] == 1.0
    assert not (result.output / "checkpoints").exists()


class Interrupted(Exception):
    pass


def interrupt(stage: str, done: int, total: int) -> None:
    if stage == "train" and done == 9:
        raise Interrupted


def test_a_run_that_was_broken_off_resumes_to_the_same_losses_and_weights(recipe: Recipe, tmp_path: Path) -> None:
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "broken", progress=interrupt)
    resumed = train(recipe, tmp_path / "broken", resume=True)
    assert resumed.losses == whole.losses
    weights = [load_checkpoint(result.output).state_dict() for result in (whole, resumed)]
    assert same(*weights)


def test_the_same_seed_trains_the_same_model_and_another_seed_another(recipe: Recipe, tmp_path: Path) -> None:
    first, second = (train(recipe, tmp_path / name).losses for name in ("a", "b"))
    assert first == second
    other = train(recipe.model_copy(update={"seed": 1}), tmp_path / "c")
    assert other.losses != first


def test_resuming_refuses_another_recipe_and_names_what_changed(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", progress=interrupt)
    values = recipe.model_dump(mode="json")
    values["training"]["learning_rate"] = 0.5
    with pytest.raises(CheckpointError, match=r"another recipe: training\.learning_rate changed"):
        train(Recipe.model_validate(values), tmp_path / "run", resume=True)


def test_resuming_without_a_checkpoint_is_an_error(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        train(recipe, tmp_path / "nothing", resume=True)


def test_a_label_with_no_training_sample_is_named(recipe: Recipe) -> None:
    with pytest.raises(DataError, match="no sample of mid"):
        train(recipe.model_copy(update={"labels": ("high", "low", "mid")}))


def test_one_modality_alone_can_be_trained(recipe_values: dict[str, Any]) -> None:
    del recipe_values["model"]["modalities"]["image"]
    recipe_values["training"]["steps"] = 2
    result = train(Recipe.model_validate(recipe_values))
    assert [subset.modalities for subset in result.evaluation.subsets] == [("audio",)]


def test_training_prints_nothing(recipe: Recipe, capfd: pytest.CaptureFixture[str]) -> None:
    train(recipe)
    assert "".join(capfd.readouterr()) == ""
