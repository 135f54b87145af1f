"""The line, verb by verb: train, evaluate, export, evaluate the bundle, run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from mmedge.cli import cli


def mmedge(*arguments: Any, exit_code: int = 0) -> Any:
    done = CliRunner().invoke(cli, [*map(str, arguments), "--json"])
    assert done.exit_code == exit_code, done.output
    return json.loads(done.stdout) if exit_code == 0 else done.stderr


@pytest.fixture
def checkpoint(recipe_values: dict[str, Any], write_recipe: Callable[[Any], Path]) -> Path:
    mmedge("train", write_recipe(recipe_values))
    return Path(recipe_values["output"])


def test_a_checkpoint_becomes_a_bundle_that_scores_the_same(checkpoint: Path, tones: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "tones.mme"
    exported = mmedge("export", checkpoint, "-o", bundle)
    in_torch, in_c = mmedge("evaluate", checkpoint, tones), mmedge("evaluate", bundle, tones, "--group-by", "room")
    assert list(in_c) == ["image", "audio", "image+audio"]
    for subset, scores in in_c.items():
        assert scores["confusion"] == in_torch[subset]["confusion"]
        assert exported["evidence"]["accuracy"]["subsets"][subset]["accuracy"] == scores["accuracy"]
        assert set(scores["groups"]) == {"r0", "r1"}
    assert all(entry["max_abs"] <= 1e-4 for entry in exported["evidence"]["parity"]["outputs"])
    first = tones / "validation" / "1"
    answer = mmedge("run", bundle, "--image", f"{first}.png", "--audio", f"{first}.wav")
    assert answer["label"] in ("high", "low")


def test_over_the_tolerance_export_ends_with_1_and_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    message = mmedge("export", checkpoint, "-o", tmp_path / "no.mme", "--tolerance", "0", exit_code=1)
    assert "validation/metadata.jsonl, line" in message
    assert not list(tmp_path.glob("*.mme*"))
    assert not list(tmp_path.glob(".no*"))


def test_an_export_for_tensorrt_rtx_names_the_build_that_comes_next(checkpoint: Path, tmp_path: Path) -> None:
    exported = CliRunner().invoke(
        cli, ["export", str(checkpoint), "-o", str(tmp_path / "tones.mme"), "--target", "tensorrt-rtx"]
    )
    assert exported.exit_code == 0, exported.output
    _, command, *arguments = next(line for line in exported.stdout.splitlines() if "mmedge build" in line).split()
    assert arguments[1:] == ["--target", "tensorrt-rtx"]
    built = mmedge(command, *arguments, "--cache", tmp_path / "engines")
    assert (built["builder"], built["precision"], built["cached"]) == ("tensorrt-rtx", "fp32", False)


def test_a_target_that_does_not_exist_is_guessed(checkpoint: Path, tmp_path: Path) -> None:
    message = mmedge("export", checkpoint, "-o", tmp_path / "no.mme", "--target", "tensort-rtx", exit_code=2)
    assert "did you mean 'tensorrt-rtx'?" in message


def test_the_same_recipe_gives_the_same_metrics_on_any_number_of_threads(
    recipe_values: dict[str, Any], write_recipe: Callable[[Any], Path], tmp_path: Path
) -> None:
    recipe = write_recipe(recipe_values)
    runs = []
    for name, threads in (("first", 1), ("second", 2)):
        torch.set_num_threads(threads)
        mmedge("train", recipe, "-o", tmp_path / name)
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        runs.append({key: value for key, value in metrics.items() if key != "seconds"})
    assert runs[0] == runs[1]


def test_mistakes_in_a_recipe_are_shown_with_their_lines(
    recipe_values: dict[str, Any], write_recipe: Callable[[Any], Path]
) -> None:
    recipe_values["training"]["learning_rat"] = 0.1
    message = mmedge("train", write_recipe(recipe_values), exit_code=2)
    assert "did you mean training.learning_rate?" in message
    assert "line " in message
