"""Train a fused model as a recipe says, on HF's Trainer."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from mmedge.data.folder import Sample, read_split
from mmedge.evaluation import Evaluation, evaluate
from mmedge.models import MmedgeConfig, new_model
from mmedge.runtime.errors import CheckpointError, DataError
from mmedge.training.dataset import TrainingStream, collate
from mmedge.training.inference import predictor
from mmedge.training.recipe import Recipe

Progress = Callable[[str, int, int], None]

RECIPE_FILE = "recipe.json"  # beside the weights: what the model was trained on, and how


@dataclass(frozen=True)
class TrainResult:
    """A finished run: where the model is, the loss of every step, scores on the validation split, seconds
    spent.
    """

    output: Path
    losses: tuple[float, ...]
    evaluation: Evaluation
    seconds: float


def train(
    recipe: Recipe,
    output: Path | str | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train, save the model with `save_pretrained`, evaluate it on the validation split, write metrics.json.

    `output` overrides the recipe's. With `resume` the run goes on from its last checkpoint and ends in the
    same weights, on a CPU to the last bit, as one that was never broken. `progress(stage, done, total)` is
    called per step and per validation sample; an exception it raises ends the run, which can then be
    resumed.

    Raises:
        DataError: the data cannot be used. CheckpointError: nothing to resume, or a run of another recipe.
    """
    output = Path(recipe.output if output is None else output)
    report = progress or (lambda stage, done, total: None)
    modalities = recipe.model.modalities
    samples = read_split(recipe.data, "train", modalities.names, recipe.labels)
    labels = recipe.labels or tuple(sorted({sample.label for sample in samples}))
    held_out = read_split(recipe.data, "validation", modalities.names, labels)
    _check_labels(samples, labels)

    checkpoints = output / "checkpoints"
    last = _last_checkpoint(checkpoints, recipe) if resume else None
    if last is None:
        _start_over(checkpoints, recipe)
    started = time.perf_counter()
    set_seed(recipe.seed)
    model = new_model(_config(recipe, labels))
    stream = TrainingStream(
        samples,
        labels,
        modalities,
        draws=recipe.training.steps * recipe.training.batch_size,
        seed=recipe.seed,
        modality_dropout=recipe.training.modality_dropout,
    )
    trainer = _Trainer(
        every_subset=recipe.training.every_subset,
        model=model,
        args=_arguments(recipe, checkpoints),
        train_dataset=stream,
        data_collator=partial(collate, shapes=stream.shapes),
        callbacks=[_Progress(report)],
    )
    trainer.remove_callback(PrinterCallback)
    with _no_progress_bars(), _threads(recipe.training.threads):
        trainer.train(resume_from_checkpoint=last)
        model.cpu().save_pretrained(output)
    record = recipe.model_copy(update={"data": recipe.data.resolve()})
    (output / RECIPE_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    losses = tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    seconds = time.perf_counter() - started

    scores = evaluate(predictor(model), held_out, modalities.names, labels, progress=partial(report, "validation"))
    metrics = {
        "steps": len(losses),
        "seconds": round(seconds, 1),
        "validation": scores.to_dict(),
        "losses": losses,
    }
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(checkpoints)
    return TrainResult(output, losses, scores, seconds)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """The same bits on any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws one for each file it writes."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()  # type: ignore[no-untyped-call]


def _check_labels(samples: list[Sample], labels: tuple[str, ...]) -> None:
    missing = sorted(set(labels) - {sample.label for sample in samples})
    if missing:
        raise DataError(f"the train split has no sample of {', '.join(missing)}; expected some of every label")
    if len(labels) < 2:
        raise DataError(f"the train split has the one label {labels[0]!r}; expected at least two")


def _config(recipe: Recipe, labels: tuple[str, ...]) -> MmedgeConfig:
    model = recipe.model.model_dump(mode="json")
    modalities = {
        name: {key: value for key, value in part.items() if key != "augment"}
        for name, part in model.pop("modalities").items()
        if part is not None
    }
    return MmedgeConfig(modalities=modalities, id2label=dict(enumerate(labels)), **model)


def _arguments(recipe: Recipe, checkpoints: Path) -> TrainingArguments:
    training = recipe.training
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=training.steps,
        per_device_train_batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=training.warmup_steps,
        seed=recipe.seed,
        full_determinism=True,
        save_steps=training.checkpoint_every,
        save_total_limit=1,
        logging_steps=1,
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=min(4, max(1, (os.cpu_count() or 1) - 1)),
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )


def _start_over(checkpoints: Path, recipe: Recipe) -> None:
    shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True)
    (checkpoints / RECIPE_FILE).write_text(recipe.model_dump_json(indent=2), encoding="utf-8")


def _last_checkpoint(checkpoints: Path, recipe: Recipe) -> str:
    last: str | None = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None  # type: ignore[no-untyped-call]
    if last is None:
        raise CheckpointError(f"{checkpoints} holds no checkpoint to resume from; start the run without resume")
    began = json.loads((checkpoints / RECIPE_FILE).read_text(encoding="utf-8"))
    changed = _differences(began, json.loads(recipe.model_dump_json()))
    if changed:
        raise CheckpointError(
            f"the run in {checkpoints} began with another recipe: {', '.join(changed)} changed; "
            "start over without resume, or put the old values back"
        )
    return last


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [path for key in keys for path in _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))]
    return [] if old == new else [where]


class _Trainer(Trainer):
    def __init__(self, *, every_subset: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._every_subset = every_subset

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self._every_subset:
            inputs = {**inputs, "every_subset": True}
        return super().compute_loss(model, inputs, *args, **kwargs)

    # The stream is shuffled already.
    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(cast(TrainingStream, self.train_dataset))


class _Progress(TrainerCallback):
    def __init__(self, report: Progress) -> None:
        self._report = report

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self._report("train", state.global_step, state.max_steps)
