"""Quantisation-aware fine-tuning: a finished checkpoint goes on training with the roundings of its INT8 graph."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from mmedge.calibrating import GRAPH_FILE, Settings, take_ranges
from mmedge.calibration.errors import CalibrationError
from mmedge.calibration.graph import structure_hash, weights_hash
from mmedge.calibration.layers import quantizable
from mmedge.calibration.table import CALIBRATION_FILE, read_calibration
from mmedge.exporting import write_draft
from mmedge.models import FusedModel, load_checkpoint
from mmedge.runtime.errors import CheckpointError, RecipeError
from mmedge.training.build import set_up
from mmedge.training.callbacks import Progress
from mmedge.training.fake_quant import fake_quantize
from mmedge.training.recipe import RECIPE_FILE, Recipe
from mmedge.training.tokenizer import TOKENIZER_FILE
from mmedge.training.train import differences

DRAFT = "draft"  # in a run's folder of checkpoints: the graph that the ranges are of, as a bundle


def qat_recipe(checkpoint: Path, recipe: Recipe | None = None) -> Recipe:
    """How to fine-tune a checkpoint: by `recipe`, or by its own in a tenth of the steps, with a tenth of the learning
    rate, and with every subset of the modalities in each step where modalities were dropped by chance. The output is
    the checkpoint's folder with -qat appended.

    Raises:
        CheckpointError: it has no recipe. RecipeError: `recipe` is of another model (how its inputs are augmented
            aside), or is not in fp32, as the roundings are.
    """
    path, output = checkpoint / RECIPE_FILE, Path(f"{checkpoint}-qat")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        # The file that the run began with may be gone; its copy lies beside the weights.
        if _text_preprocess(values).get("tokenizer") is not None:
            _text_preprocess(values)["tokenizer"] = str((checkpoint / TOKENIZER_FILE).resolve())
        own = Recipe.model_validate_json(json.dumps(values))
    except (OSError, ValueError) as error:  # includes those of pydantic
        raise CheckpointError(
            f"{path} does not say how the model was trained ({error}); expected a folder written by `mmedge train`"
        ) from error
    if recipe is None:
        values = own.model_dump(mode="json") | {"output": str(output)}
        training = own.training
        values["training"] |= {
            "steps": max(training.steps // 10, 1),
            "warmup_steps": training.warmup_steps // 10,
            "checkpoint_every": max(training.checkpoint_every // 10, 1),
            "learning_rate": training.learning_rate / 10,
            "precision": "fp32",
            "modality_dropout": 0.0,
            "every_subset": training.every_subset or training.modality_dropout > 0,
        }
        return Recipe.model_validate(values)
    changed = differences(_model(own), _model(recipe), "model")
    if changed:
        raise RecipeError(
            f"the recipe is of another model than {checkpoint}: {', '.join(changed)} differ; put the values of its "
            f"{RECIPE_FILE} back"
        )
    if recipe.training.precision != "fp32":
        raise RecipeError(
            f"training.precision: found {recipe.training.precision}; expected fp32, whose digits hold 127 steps"
        )
    return recipe.model_copy(update={"output": output})


def _model(recipe: Recipe) -> dict[str, Any]:
    """What makes the model; of a tokenizer its content, wherever it lies."""
    values = recipe.model_dump(mode="json")
    model: dict[str, Any] = values["model"]
    for name in recipe.model.modalities.names:
        del model["modalities"][name]["augment"]
    text = _text_preprocess(values)
    if text.get("tokenizer") is not None:
        text["tokenizer"] = sha256(Path(text["tokenizer"]).read_bytes()).hexdigest()
    return model


def _text_preprocess(values: Any) -> dict[str, Any]:
    """Of the text in a recipe's values; empty without."""
    for key in ("model", "modalities", "text", "preprocess"):
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


@dataclass(frozen=True)
class QuantizationAware:
    """A run that starts from a finished checkpoint and rounds as the INT8 graph of it. What it needs beside the weights
    lies in the run's folder of checkpoints, so that a run that was broken off goes on in the same ranges.
    """

    checkpoint: Path

    def prepare(self, recipe: Recipe, folder: Path, progress: Progress) -> None:
        """Leave in `folder` the checkpoint's graph, that graph's ranges on the recipe's data, and the tokenizer."""
        (folder / DRAFT).mkdir()
        write_draft(self.checkpoint, folder / DRAFT)
        ranges = take_ranges(folder / DRAFT, recipe.data, Settings(), progress)
        (folder / CALIBRATION_FILE).write_text(ranges.to_json(), encoding="utf-8")
        if (self.checkpoint / TOKENIZER_FILE).exists():
            shutil.copyfile(self.checkpoint / TOKENIZER_FILE, folder / TOKENIZER_FILE)

    def model(self, recipe: Recipe, labels: Sequence[str], folder: Path) -> tuple[FusedModel, tuple[str, ...]]:
        """The checkpoint's model with the roundings, and the layers left without, as `fake_quantize` says; `folder` is
        as `prepare` left it.

        Raises:
            RecipeError: the labels are others than the checkpoint's.
        """
        model = load_checkpoint(self.checkpoint)
        known = model.config.labels
        if model.config.head != "embedding" and known != list(labels):
            raise RecipeError(
                f"labels: found {', '.join(labels)}; expected those of {self.checkpoint}: {', '.join(known)}"
            )
        set_up(model, recipe)
        graph = onnx.load(folder / DRAFT / GRAPH_FILE)
        ranges = read_calibration(folder / CALIBRATION_FILE).ranges
        return model, tuple(fake_quantize(model, graph, ranges, quantizable(graph)))

    def finish(self, output: Path, folder: Path) -> None:
        """Write calibration.json beside the trained model: the ranges it learned with, as those of its own weights.

        Raises:
            CalibrationError: its graph has other tensors.
        """
        made = read_calibration(folder / CALIBRATION_FILE)
        with TemporaryDirectory(prefix="mmedge-") as draft:
            write_draft(output, Path(draft))
            graph = onnx.load(Path(draft, GRAPH_FILE))
        if structure_hash(graph) != made.origin.graph:
            raise CalibrationError(
                f"{output} exports to another graph than {self.checkpoint}, so its ranges cannot be kept; what mmedge "
                "export makes of it has new ones"
            )
        made = replace(made, origin=replace(made.origin, weights=weights_hash(graph)))
        (output / CALIBRATION_FILE).write_text(made.to_json(), encoding="utf-8")
