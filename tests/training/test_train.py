from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmedge.data.folder import read_split
from mmedge.evaluation import evaluate
from mmedge.models import load_checkpoint
from mmedge.runtime.errors import CheckpointError, DataError, InvalidArgument, NotFinite
from mmedge.training.build import build_model
from mmedge.training.inference import predictor
from mmedge.training.recipe import Recipe
from mmedge.training.train import train
from mmedge.training.trainer import last_checkpoint


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


def test_a_model_that_answers_no_numbers_says_so(recipe: Recipe) -> None:
    values = recipe.model_dump(mode="json")
    values["training"] |= {"steps": 2}
    model = load_checkpoint(train(Recipe.model_validate(values)).output)
    for parameter in model.head.parameters():
        parameter.data.fill_(3e38)
    (sample, *_) = read_split(recipe.data, "validation", ["image", "audio"], recipe.labels)
    with pytest.raises(NotFinite, match="the model answers NaN or infinities"):
        predictor(model)(sample.load())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


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


def test_a_run_starts_with_the_weights_of_its_seed(recipe_values: dict[str, Any], tmp_path: Path) -> None:
    recipe_values["training"]["steps"] = 1  # the first of a warm-up, in which no weight moves
    recipe = Recipe.model_validate(recipe_values | {"seed": 3})
    torch.manual_seed(3)
    expected = dict(build_model(recipe, ("high", "low"), tmp_path).named_parameters())
    found = load_checkpoint(train(recipe).output)
    assert all(torch.equal(weights, expected[name]) for name, weights in found.named_parameters())


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


@pytest.mark.parametrize(
    ("start", "resume"),
    [([], []), (["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"], ["--resume"])],
)
def test_a_folder_that_a_run_trains_in_is_refused_and_the_run_goes_on(
    recipe_values: dict[str, Any],
    write_recipe: Callable[[Any], Path],
    tmp_path: Path,
    start: list[str],
    resume: list[str],
) -> None:
    recipe_values["training"]["evaluate_every"] = 4
    recipe = Recipe.model_validate(recipe_values)
    alone = train(recipe, tmp_path / "alone")
    second: list[subprocess.CompletedProcess[str]] = []

    def start_another(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == 6:
            command = [sys.executable, *start, "-m", "mmedge", "train", str(write_recipe(recipe_values)), *resume]
            second.append(subprocess.run(command, capture_output=True, text=True, timeout=100))

    result = train(recipe, progress=start_another)
    assert second[0].returncode != 0
    refusal = f"mmedge: another run trains in {recipe.output}; wait for its end, or choose another output"
    assert refusal in second[0].stderr.splitlines()
    assert result.losses == alone.losses
    assert same(*(load_checkpoint(run.output).state_dict() for run in (result, alone)))


def test_a_run_that_was_killed_resumes_at_once(
    recipe_values: dict[str, Any], write_recipe: Callable[[Any], Path], tmp_path: Path
) -> None:
    recipe_values["training"]["steps"] = 10_000
    recipe = Recipe.model_validate(recipe_values)
    with subprocess.Popen([sys.executable, "-m", "mmedge", "train", str(write_recipe(recipe_values))]) as process:
        try:
            deadline = time.monotonic() + 100
            while last_checkpoint(recipe.output / "checkpoints") is None and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            process.kill()

    def stop(stage: str, done: int, total: int) -> None:
        assert done > 4
        raise Interrupted

    # The workers that loaded its data are still there.
    with pytest.raises(Interrupted):
        train(recipe, progress=stop, resume=True)


def test_resuming_without_a_checkpoint_is_an_error(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        train(recipe, tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()


def test_a_finished_run_is_not_resumed_but_said_to_be_finished(recipe: Recipe) -> None:
    train(recipe)
    with pytest.raises(CheckpointError, match="is finished, and nothing is left to resume"):
        train(recipe, resume=True)

    def stop(stage: str, done: int, total: int) -> None:
        raise Interrupted

    # Begun anew, it is not.
    with pytest.raises(Interrupted):
        train(recipe, progress=stop)
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        train(recipe, resume=True)


@pytest.mark.parametrize(("largest", "reason"), [(20_000, "os error 27"), (50_000, "inline_container")])
def test_a_checkpoint_that_the_disk_has_no_room_for_ends_the_run_in_one_line_and_the_run_resumes(
    recipe: Recipe,
    recipe_values: dict[str, Any],
    write_recipe: Callable[[Any], Path],
    tmp_path: Path,
    largest: int,
    reason: str,
) -> None:
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(recipe, progress=interrupt)
    done = subprocess.run(
        [sys.executable, "-m", "mmedge", "train", str(write_recipe(recipe_values)), "--resume"],
        capture_output=True,
        text=True,
        timeout=100,
        # The weights are larger than the first, the optimiser's state than the second.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest)),
    )
    assert done.returncode == 2
    _, said = done.stderr.splitlines()  # below the bar
    folder = recipe.output / "checkpoints" / "checkpoint-12"
    pattern = rf"mmedge: the checkpoint in {folder} cannot be written: .*{reason}.*; make room and go on with --resume"
    assert re.fullmatch(pattern, said)
    assert train(recipe, resume=True).losses == whole.losses


@pytest.mark.parametrize(
    ("step", "where", "go_on"),
    [
        (3, "checkpoints/checkpoint-4/trainer_state.json", "start the run again"),
        (7, "checkpoints/checkpoint-8/trainer_state.json", "go on with --resume"),
        (11, "model.safetensors", "go on with --resume"),
    ],
)
def test_a_file_that_cannot_be_written_names_its_checkpoint_and_what_to_do(
    recipe: Recipe, tmp_path: Path, step: int, where: str, go_on: str
) -> None:
    whole, blocked = train(recipe, tmp_path / "whole"), recipe.output / where

    def block(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == step:
            blocked.mkdir(parents=True)

    with pytest.raises(CheckpointError) as caught:
        train(recipe, progress=block)
    pattern = rf"the checkpoint in {blocked.parent} cannot be written: .*[Ii]s a directory.*; make room and {go_on}"
    assert re.fullmatch(pattern, str(caught.value))
    if blocked.exists():
        blocked.rmdir()
    assert train(recipe, resume="--resume" in go_on).losses == whole.losses


@pytest.mark.parametrize("name", ["checkpoints/precious.pt", "tensorboard/notes.txt"])
def test_folders_of_something_else_are_not_removed(recipe: Recipe, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(InvalidArgument, match="is of no training of mmedge, which would remove it"):
        train(recipe, tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name.split("/")[0]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("manifest.json", "is a bundle, and a bundle is never changed"),
        ("metadata.jsonl", "is a folder of data"),
        ("train/metadata.jsonl", "is a folder of data"),
    ],
)
def test_no_run_is_written_into_a_bundle_or_into_data(recipe: Recipe, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InvalidArgument, match=f"{message}; choose another output"):
        train(recipe, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name.split("/")[0]]


def test_a_label_with_no_training_sample_is_named(recipe: Recipe) -> None:
    with pytest.raises(DataError, match="no sample of mid"):
        train(recipe.model_copy(update={"labels": ("high", "low", "mid")}))


def test_one_modality_alone_can_be_trained(recipe_values: dict[str, Any]) -> None:
    del recipe_values["model"]["modalities"]["image"]
    recipe_values["training"]["steps"] = 2
    result = train(Recipe.model_validate(recipe_values))
    assert [subset.modalities for subset in result.evaluation.subsets] == [("audio",)]


def test_training_prints_nothing(with_training: Any, capfd: pytest.CaptureFixture[str]) -> None:
    train(with_training(evaluate_every=3))
    assert "".join(capfd.readouterr()) == ""
