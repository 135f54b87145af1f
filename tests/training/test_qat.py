"""mmedge train --qat, from a finished run to an INT8 bundle."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.datasets import load_digits

from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.layers import find_nodes
from mmedge.calibration.table import read_calibration
from mmedge.cli import cli
from mmedge.data.folder import read_split
from mmedge.evaluation import bundle_predictor, evaluate
from mmedge.export.writing import write_bundle
from mmedge.models import load_checkpoint
from mmedge.runtime import Session
from mmedge.runtime.errors import CheckpointError, InvalidArgument, RecipeError
from mmedge.runtime.manifest import read_manifest
from mmedge.training.qat import QuantizationAware, qat_recipe
from mmedge.training.recipe import Recipe
from mmedge.training.train import train

Make = Callable[..., Recipe]


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tones_recipe: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(Recipe.model_validate(tones_recipe), folder)
    return folder


def test_the_recipe_is_a_tenth_of_the_first_unless_another_is_given(
    finished: Path, with_training: Make, tones: Path
) -> None:
    made = qat_recipe(finished)
    own = with_training()
    assert made.output == finished.with_name("run-qat")
    assert made.data == tones.resolve()
    assert made.model == own.model
    assert (made.training.steps, made.training.warmup_steps, made.training.checkpoint_every) == (1, 0, 1)
    assert made.training.learning_rate == pytest.approx(2e-4)
    assert (made.training.modality_dropout, made.training.every_subset) == (0.0, True)
    given = qat_recipe(finished, with_training(steps=7))
    assert given.training.steps == 7
    assert given.training.modality_dropout == 0.5
    assert given.output == finished.with_name("run-qat")


def test_a_recipe_of_another_model_is_refused_by_the_keys_that_differ(
    finished: Path, recipe_values: dict[str, Any], with_training: Make
) -> None:
    other = copy.deepcopy(recipe_values)
    other["model"]["modalities"]["image"] |= {"width": 8, "augment": {}}
    other["model"]["fusion"] = "sum"
    with pytest.raises(RecipeError, match=r"model\.fusion, model\.modalities\.image\.width differ"):
        qat_recipe(finished, Recipe.model_validate(other))
    with pytest.raises(RecipeError, match=r"training\.precision: found bf16"):
        qat_recipe(finished, with_training(precision="bf16"))
    turned = with_training().model_copy(update={"labels": ("low", "high")})
    with pytest.raises(RecipeError, match=r"labels: found low, high; expected those of .*: high, low"):
        train(qat_recipe(finished, turned), finished.with_name("other"), qat=QuantizationAware(finished))


def test_what_is_no_finished_run_is_refused(finished: Path, with_training: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not say how the model was trained"):
        qat_recipe(tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copyfile(finished / "recipe.json", bare / "recipe.json")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        train(qat_recipe(bare), qat=QuantizationAware(bare))
    with pytest.raises(InvalidArgument, match="is the checkpoint to start from"):
        train(with_training(), finished, qat=QuantizationAware(finished))
    assert load_checkpoint(finished)
    done = invoke("train")
    assert done.exit_code == 2
    assert "RECIPE" in done.stderr


class Interrupted(Exception):
    pass


def test_a_run_that_was_broken_off_resumes_to_the_same_weights_and_ranges(
    finished: Path, with_training: Make, tmp_path: Path
) -> None:
    recipe, qat = qat_recipe(finished, with_training(ema=0.9, evaluate_every=6)), QuantizationAware(finished)

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == 9:
            raise Interrupted

    whole = train(recipe, tmp_path / "whole", qat=qat)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "broken", progress=interrupt, qat=qat)
    with pytest.raises(CheckpointError, match="another recipe: qat changed"):
        train(recipe, tmp_path / "broken", resume=True)
    stages: list[str] = []
    resumed = train(recipe, tmp_path / "broken", resume=True, progress=lambda stage, *_: stages.append(stage), qat=qat)
    assert "ranges" not in stages
    assert resumed.losses == whole.losses
    assert resumed.evaluation.to_dict() == whole.evaluation.to_dict()
    first, second, before = (load_checkpoint(path).state_dict() for path in (whole.output, resumed.output, finished))
    assert first.keys() == second.keys() == before.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], before[name]) for name in first)
    assert all(torch.equal(first[name], before[name]) for name in first if "running" in name)
    made, again = ((result.output / "calibration.json").read_text() for result in (whole, resumed))
    assert made == again


def test_its_export_computes_in_the_ranges_it_was_trained_with(
    finished: Path,
    recipe_values: dict[str, Any],
    write_recipe: Callable[[Any], Path],
    tones: Path,
    tmp_path: Path,
) -> None:
    recipe_values["training"]["learning_rate"] = 0.01
    done = invoke("train", write_recipe(recipe_values), "--qat", finished, "-o", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["float_layers"] == []
    trained = read_calibration(tmp_path / "run" / "calibration.json")
    made = tmp_path / "made.mme"
    export = ["export", tmp_path / "run", "-o", made, "--precision", "int8", "--max-accuracy-drop", 100]
    done = invoke(*export)
    assert done.exit_code == 0, done.output
    assert read_calibration(made / "calibration.json") == trained
    # Its weights are new: a pass over the rows finds other ranges.
    assert invoke("export", tmp_path / "run", "-o", tmp_path / "float.mme").exit_code == 0
    calibrate = ["calibrate", tmp_path / "float.mme", tones, "--max-accuracy-drop", 100, "-o"]
    assert invoke(*calibrate, tmp_path / "anew.mme").exit_code == 0
    assert read_calibration(tmp_path / "anew.mme" / "calibration.json").origin == trained.origin
    assert read_calibration(tmp_path / "anew.mme" / "calibration.json").ranges != trained.ranges
    done = invoke(*calibrate, tmp_path / "again.mme", "--ranges", made)
    assert done.exit_code == 0, done.output
    assert read_calibration(tmp_path / "again.mme" / "calibration.json") == trained
    # What was trained on in float since has no ranges any more.
    train(Recipe.model_validate(recipe_values), tmp_path / "run")
    assert not (tmp_path / "run" / "calibration.json").exists()


def test_stale_ranges_are_refused_by_what_differs(finished: Path, tones: Path, tmp_path: Path) -> None:
    bundle, kept = tmp_path / "float.mme", tmp_path / "kept.json"
    assert invoke("export", finished, "-o", bundle).exit_code == 0
    calibrate = ["calibrate", bundle, tones, "-o", tmp_path / "made.mme", "--max-accuracy-drop", 100, "--overwrite"]
    assert invoke(*calibrate).exit_code == 0
    found = json.loads((tmp_path / "made.mme" / "calibration.json").read_text())
    for field in ("graph", "weights", "preprocessing", "data", "method"):
        kept.write_text(json.dumps(found | {"origin": found["origin"] | {field: "other"}}))
        done = invoke(*calibrate, "--ranges", kept)
        assert done.exit_code == 2
        assert f"made from other: {field} (it has other" in done.stderr
    for option, field in ((["--samples", 3], "data"), (["--method", "minmax"], "method")):
        done = invoke(*calibrate, "--ranges", tmp_path / "made.mme", *option)
        assert done.exit_code == 2
        assert f"made from other: {field} (" in done.stderr
    done = invoke(*calibrate, "--ranges", tmp_path / "none.json")
    assert done.exit_code == 2
    assert "no calibration that can be read" in done.stderr


# ---- A model that INT8 breaks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans of handwritten digits."""
    root = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    for split, rows in (("train", range(900)), ("validation", range(900, 1500))):
        (root / split).mkdir()
        lines = []
        for row in rows:
            pixels = (images[row].reshape(8, 8) * 15.9).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / f"{row}.png")
            lines.append(json.dumps({"image_file_name": f"{row}.png", "label": str(labels[row])}))
        (root / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return root


def accuracies(checkpoint: Path, data: Path, ranges: Mapping[str, float], folder: Path) -> list[float]:
    """Of a checkpoint in float, and with all layers in INT8 as each emitter writes them."""
    bundle = folder / f"{checkpoint.name}.mme"
    assert invoke("export", checkpoint, "-o", bundle).exit_code == 0
    manifest, model = read_manifest(bundle), onnx.load(bundle / "model.onnx")
    layers = find_nodes(model)
    rows = read_split(data, "validation", ["image"], manifest.labels)
    found = []
    for number, graph in enumerate((model, emit_cpu(model, ranges, layers), emit_tensorrt(model, ranges, layers))):
        path = folder / f"{checkpoint.name}-{number}.mme"
        path.mkdir()
        write_bundle(path, manifest, {"model.onnx": graph.SerializeToString()})
        predict, modalities, options = bundle_predictor(Session(path))
        score = evaluate(predict, rows, modalities, manifest.labels, **options).subsets[-1].main.value
        assert score is not None
        found.append(score)
    return found


def test_a_model_that_int8_breaks_is_as_good_as_before_after_qat(
    digits: Path, recipe_values: dict[str, Any], tmp_path: Path
) -> None:
    image = {"encoder": "cnn", "width": 8, "preprocess": recipe_values["model"]["modalities"]["image"]["preprocess"]}
    training = {"steps": 150, "batch_size": 64, "learning_rate": 0.005}
    values: dict[str, Any] = {
        "data": str(digits),
        "output": str(tmp_path / "run"),
        "model": {"modalities": {"image": image}, "fusion_dim": 32},
        "training": training,
    }
    train(Recipe.model_validate(values))
    model = load_checkpoint(tmp_path / "run")
    blocks = model.encoders["image"].blocks
    with torch.no_grad():
        # What reads a channel that is always zero may be any size, and sets the step of all that is beside it.
        for norm, reader in ((1, 3), (4, 6), (7, 9)):
            blocks[norm].weight[0], blocks[norm].bias[0] = 0, -1
            blocks[reader].weight[:, 0] = 60 * blocks[reader].weight.abs().flatten(1).amax(1)[:, None, None]
    model.save_pretrained(tmp_path / "run")
    values["training"] = training | {"steps": 60, "learning_rate": 0.002}
    recipe, qat = qat_recipe(tmp_path / "run", Recipe.model_validate(values)), QuantizationAware(tmp_path / "run")
    result = train(recipe, qat=qat)
    ranges = read_calibration(result.output / "calibration.json").ranges
    before, *broken = accuracies(tmp_path / "run", digits, ranges, tmp_path)
    _, *after = accuracies(result.output, digits, ranges, tmp_path)
    assert before > 0.85
    assert max(broken) < before - 0.1
    assert min(after) > before
    assert result.evaluation.subsets[-1].main.value == pytest.approx(np.mean(after), abs=0.005)
