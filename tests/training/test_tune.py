from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner

from mmedge.cli import cli
from mmedge.runtime.errors import CheckpointError, RecipeError
from mmedge.training.recipe import Recipe, read_recipe
from mmedge.training.train import train
from mmedge.training.tune import database, tune

Write = Callable[[Any], Path]


@pytest.fixture
def values(recipe_values: dict[str, Any]) -> dict[str, Any]:
    recipe_values["training"] |= {"steps": 2, "evaluate_every": 1}
    del recipe_values["model"]["modalities"]["image"]
    recipe_values["tune"] = {
        "training.learning_rate": {"low": 1e-6, "high": 0.03, "log": True},
        "model.fusion": ["gated", "sum"],
        "model.modalities.audio.width": [4, 8],
        "training.batch_size": {"low": 4, "high": 12},
    }
    return recipe_values


def test_a_search_finds_the_best_values_and_goes_on_where_it_was(values: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe.model_validate(values)
    first = tune(recipe, trials=4)
    assert len(first.trials) == 4
    assert first.metric == "accuracy"
    for trial in first.trials:
        assert trial.state in ("complete", "pruned")
        assert 1e-6 <= trial.values["training.learning_rate"] <= 0.03
        assert trial.values["model.fusion"] in ("gated", "sum")
        assert trial.values["model.modalities.audio.width"] in (4, 8)
        assert trial.values["training.batch_size"] in range(4, 13)
    more = tune(recipe, trials=2)
    assert more.trials[:4] == first.trials
    assert len(more.trials) == 6
    assert len({str(trial.values) for trial in more.trials}) == 6
    assert more.best is not None
    assert more.best.score == max(trial.score for trial in more.trials if trial.state == "complete")

    # The recipe of the best trial trains as it is, to the score of that trial.
    assert more.recipe is not None
    best = read_recipe(more.recipe)
    assert best.training.learning_rate == more.best.values["training.learning_rate"]
    assert best.model.modalities.audio.model_extra == {"width": more.best.values["model.modalities.audio.width"]}
    assert not best.tune
    result = train(best)
    assert result.output == recipe.output
    assert result.evaluation.subsets[-1].main.value == more.best.score


def test_a_search_with_the_largest_seed_goes_on(values: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(values | {"seed": 2**32 - 1})
    for trials in (1, 2):
        assert len(tune(recipe, trials=1).trials) == trials


def test_a_worse_trial_is_pruned_and_one_that_cannot_be_trained_fails(values: dict[str, Any], tmp_path: Path) -> None:
    values["training"] |= {"steps": 16, "warmup_steps": 0, "evaluate_every": 8}
    values["tune"] = {"training.learning_rate": [0.01, 1e-9, 3e38]}
    rates = [0.01, 0.01, 0.01, 1e-9, 3e38]
    study = optuna.create_study(study_name="run", storage=database(tmp_path / "study.db"), direction="maximize")
    for rate in rates:
        study.enqueue_trial({"training.learning_rate": rate})
    result = tune(Recipe.model_validate(values), trials=5, storage=tmp_path / "study.db")
    assert [trial.values["training.learning_rate"] for trial in result.trials] == rates
    assert [trial.state for trial in result.trials] == ["complete", "complete", "complete", "pruned", "fail"]
    assert "has a loss of nan" in (result.trials[-1].problem or "")
    assert result.best is not None
    assert result.best.values == {"training.learning_rate": 0.01}
    assert not (Path(values["output"]) / "tune" / "trial").exists()


def test_a_trial_that_the_data_has_too_few_labels_for_fails_and_the_search_goes_on(
    values: dict[str, Any], tmp_path: Path
) -> None:
    del values["labels"]
    values["model"]["head"] = "embedding"
    values["training"]["batch_size"] = 8
    values["tune"] = {"training.samples_per_label": [4, 2]}
    study = optuna.create_study(study_name="run", storage=database(tmp_path / "study.db"), direction="maximize")
    for samples in (2, 4):
        study.enqueue_trial({"training.samples_per_label": samples})
    result = tune(Recipe.model_validate(values), trials=2, storage=tmp_path / "study.db")
    assert [trial.state for trial in result.trials] == ["fail", "complete"]
    assert "found 2 labels" in (result.trials[0].problem or "")


def test_a_study_of_another_recipe_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    storage = tmp_path / "study.db"
    tune(Recipe.model_validate(values), trials=1, storage=storage)
    values["training"]["steps"] = 5
    with pytest.raises(CheckpointError, match=r"another recipe: training\.steps changed"):
        tune(Recipe.model_validate(values), trials=1, storage=storage)


def test_a_study_that_cannot_be_opened_is_refused_in_one_line(
    values: dict[str, Any], write_recipe: Write, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no database, but longer than the header of one: " * 9)
    for storage, reason in ((Path("/proc/study.db"), "unable to open"), (tmp_path / "notes.txt", "not a database")):
        done = CliRunner().invoke(cli, ["tune", str(write_recipe(values)), "--storage", str(storage)])
        assert done.exit_code == 2
        assert re.fullmatch(rf"mmedge: the study in {storage} cannot be opened: .*{reason}.*", done.stderr.strip())


def test_a_recipe_without_a_search_space_is_refused(values: dict[str, Any]) -> None:
    del values["tune"]
    with pytest.raises(RecipeError, match="no search space"):
        tune(Recipe.model_validate(values), trials=1)


@pytest.mark.parametrize(
    ("key", "space", "message"),
    [
        ("training.lerning_rate", [1], "training.lerning_rate: unknown key; did you mean training.learning_rate?"),
        ("model.fusion", ["gated", "gates"], "model.fusion: found 'gates'"),
        ("model.modalities.audio.widht", [4], "model.modalities.audio.widht: unknown key; did you mean width?"),
        ("training.batch_size", {"low": 0, "high": 8}, "training.batch_size: found 0"),
        ("training.dropout", {"low": 0.5, "high": 0.1}, "found 0.5 to 0.1"),
        ("output", ["a"], "not a key to search"),
    ],
)
def test_the_search_space_is_checked_against_the_recipes_keys(
    values: dict[str, Any], write_recipe: Write, key: str, space: Any, message: str
) -> None:
    values["tune"] = {"training.steps": [4, 5], key: space}
    path = write_recipe(values)
    line = 1 + next(index for index, text in enumerate(path.read_text().splitlines()) if text.startswith(f"  {key}:"))
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert message in str(caught.value)
    assert f"line {line}" in str(caught.value)


def test_the_command_prints_the_trials_and_what_to_type_next(values: dict[str, Any], write_recipe: Write) -> None:
    done = CliRunner().invoke(cli, ["tune", str(write_recipe(values)), "--trials", "1"])
    assert done.exit_code == 0, done.output
    assert "accuracy" in done.stdout
    assert "tune/best.yaml" in done.stdout.replace("\n", "")
    more = CliRunner().invoke(cli, ["tune", str(write_recipe(values)), "--trials", "1", "--json"])
    assert [trial["number"] for trial in json.loads(more.stdout)["trials"]] == [0, 1]


def test_an_interrupt_keeps_the_finished_trials(values: dict[str, Any], write_recipe: Write) -> None:
    path = write_recipe(values)
    command = [sys.executable, "-m", "mmedge", "tune", str(path), "--trials", "100", "--json"]
    storage = Path(values["output"]) / "tune" / "study.db"
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore it, and so would the command when the tests are one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and _begun(storage) < 2:
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGINT)
            printed, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, said
    found = json.loads(printed)
    assert 2 <= len(found["trials"]) < 100
    assert found["trials"][-1]["state"] == "fail"
    assert found["trials"][0]["state"] == "complete"
    assert found["best"] is not None
    assert len(tune(Recipe.model_validate(values), trials=1).trials) == len(found["trials"]) + 1


def test_a_second_search_in_one_folder_is_refused_and_the_first_goes_on(
    values: dict[str, Any], write_recipe: Write, tmp_path: Path
) -> None:
    folder = Path(values["output"]) / "tune"
    second: list[Any] = []

    def search_again(stage: str, done: int, total: int) -> None:
        if stage == "trial 1, train" and not second:
            for storage in ([], ["--storage", str(tmp_path / "other.db")]):
                second.append(CliRunner().invoke(cli, ["tune", str(write_recipe(values)), "--trials", "1", *storage]))

    result = tune(Recipe.model_validate(values), trials=2, progress=search_again)
    refusal = f"mmedge: another search runs in {folder}; wait for its end, or give the recipe another output"
    assert [(done.exit_code, done.stderr.strip()) for done in second] == [(2, refusal), (2, refusal)]
    assert [trial.state for trial in result.trials] == ["complete", "complete"]
    assert not (tmp_path / "other.db").exists()


def test_a_search_that_is_refused_its_study_ends_no_trial_of_it(values: dict[str, Any], tmp_path: Path) -> None:
    storage = tmp_path / "studies" / "study.db"
    refused: list[CheckpointError] = []

    def search_for_another_recipe(stage: str, done: int, total: int) -> None:
        if stage == "trial 0, train" and not refused:
            other = Recipe.model_validate(values | {"output": str(tmp_path / "other" / "run")})
            with pytest.raises(CheckpointError, match="another recipe: output changed") as caught:
                tune(other, trials=1, storage=storage)
            refused.append(caught.value)

    result = tune(Recipe.model_validate(values), trials=2, storage=storage, progress=search_for_another_recipe)
    assert len(refused) == 1
    assert [trial.state for trial in result.trials] == ["complete", "complete"]


def _begun(storage: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{storage}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM trials").fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0
