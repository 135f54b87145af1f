"""Export a checkpoint: hands the exporter a module, real samples and a scoring function."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import transformers

from mmedge.data.folder import Sample, read_split, spread
from mmedge.evaluation import evaluate, modality_subsets
from mmedge.export.bundle import ExportedBundle, Task, assemble, export_bundle
from mmedge.export.targets import Target, find_target
from mmedge.export.writing import write_bundle
from mmedge.models import FusedModel, MmedgeConfig, load_checkpoint, modality_of, tensor_shape
from mmedge.predicting import bundle_predictor
from mmedge.runtime.errors import CheckpointError, InvalidArgument
from mmedge.runtime.manifest import Input
from mmedge.training.recipe import RECIPE_FILE


def bundle_inputs(config: MmedgeConfig) -> list[Input]:
    """A configuration's modalities as a manifest's inputs."""
    return [
        Input.model_validate(
            {
                "name": name,
                "modality": modality_of(part["preprocess"]),
                "dtype": "int32" if part["preprocess"]["type"] == "text" else "float32",
                "shape": tensor_shape(part["preprocess"]),
                "preprocess": part["preprocess"],
            }
        )
        for name, part in config.modalities.items()
    ]


def bundle_task(model: FusedModel) -> Task:
    """What a model is for, as a manifest says it."""
    config = model.config
    if config.head == "embedding":
        return Task("embedding", model.output_names, settings={"metric": config.metric})
    settings = {"multi_label": True} if config.multi_label else {}
    return Task(cast(Any, config.head), model.output_names, tuple(config.labels), settings)


def training_data(checkpoint: Path) -> Path:
    """The folder the checkpoint was trained on, as its run recorded it.

    Raises:
        CheckpointError: there is no checkpoint, or its run recorded none.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint}: no such folder; expected a checkpoint, a folder written by mmedge train")
    if not (checkpoint / "config.json").is_file():
        raise CheckpointError(
            f"{checkpoint} is no checkpoint: it has no config.json; expected a folder written by mmedge train"
        )
    record = checkpoint / RECIPE_FILE
    try:
        return Path(json.loads(record.read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{record} does not say what data the model was trained on ({error}); give it with --data"
        ) from error


def export_checkpoint(
    checkpoint: Path,
    destination: Path,
    *,
    data: Path,
    split: str,
    target: Target,
    parity_samples: int,
    tolerance: float,
    overwrite: bool,
    progress: Callable[[str, int, int], None],
) -> ExportedBundle:
    """Export the model in `checkpoint` to the bundle `destination`.

    The parity gate compares `parity_samples` samples spread over the split of `data`, and one more for each subset of
    the modalities that none of them has; the bundle's accuracy on the whole split is kept as evidence.

    Raises:
        InvalidArgument: no sample is asked for, or no row of the split has some subset of the modalities.
        MmedgeError: as `export_bundle`, `load_checkpoint` and `read_split`.
    """
    if parity_samples < 1:
        raise InvalidArgument(f"found {parity_samples} samples for the parity gate; expected at least 1")
    model = load_checkpoint(checkpoint)
    inputs, task = bundle_inputs(model.config), bundle_task(model)
    modalities = [entry.name for entry in inputs]
    labels = model.config.labels
    # An embedding knows no classes: it is asked about others than those it was trained on.
    samples = read_split(data, split, modalities, None if model.config.head == "embedding" else labels)
    chosen = _parity_rows(samples, parity_samples, modalities, data / split)

    def score(bundle: Path) -> dict[str, Any]:
        predict, _, options = bundle_predictor(bundle)
        scores = evaluate(
            predict,
            samples,
            modalities,
            labels,
            **options,
            progress=lambda done, total: progress("accuracy", done, total),
        )
        return scores.to_evidence(f"{data.name}/{split}")

    return export_bundle(
        model,
        destination,
        inputs=inputs,
        task=task,
        target=target,
        samples=[(f"{split}/metadata.jsonl, line {sample.line}", sample.load()) for sample in chosen],
        score=score,
        provenance={"checkpoint": checkpoint.name, "transformers": transformers.__version__},
        directory=checkpoint,
        tolerance=tolerance,
        overwrite=overwrite,
        progress=progress,
    )


def _parity_rows(samples: Sequence[Sample], count: int, modalities: Sequence[str], split: Path) -> list[Sample]:
    chosen = spread(samples, count)
    for subset in modality_subsets(modalities):
        row = next((sample for sample in (*chosen, *samples) if set(subset) <= set(sample.modalities)), None)
        if row is None:
            raise InvalidArgument(
                f"no row of {split} has {' + '.join(subset)}: the parity gate needs one for every subset of the "
                "modalities; take another split or other data"
            )
        if row not in chosen:
            chosen.append(row)
    return chosen


def write_draft(checkpoint: Path, folder: Path) -> None:
    """Write what `export_checkpoint` would into `folder`, an empty one, but compare nothing: to take ranges from.

    Raises:
        CheckpointError, ExportError: as `load_checkpoint` and `export_bundle`.
    """
    model = load_checkpoint(checkpoint)
    manifest, files = assemble(
        model,
        folder.name,
        inputs=bundle_inputs(model.config),
        task=bundle_task(model),
        target=find_target("onnxruntime"),
        provenance={},
        directory=checkpoint,
    )
    write_bundle(folder, manifest, files)
