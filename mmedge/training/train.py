"""Train a fused model as a recipe says, on HF's Trainer."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils import SAFE_WEIGHTS_NAME

from mmedge.calibration.table import CALIBRATION_FILE
from mmedge.data.folder import Sample
from mmedge.evaluation import Evaluation, evaluate
from mmedge.locking import locked
from mmedge.models import FusedModel
from mmedge.models.checkpoint import quiet_transformers
from mmedge.runtime.errors import CheckpointError, InvalidArgument, RecipeError
from mmedge.training.build import build_model, read_data, write_tokenizer
from mmedge.training.callbacks import EarlyStopping, Progress, ReportProgress, WeightAverage
from mmedge.training.dataset import TrainingStream, collate
from mmedge.training.inference import predictor
from mmedge.training.recipe import RECIPE_FILE, Recipe
from mmedge.training.tokenizer import TOKENIZER_FILE
from mmedge.training.trainer import FusedTrainer, check_choice, last_checkpoint, writing

if TYPE_CHECKING:
    from mmedge.training.qat import QuantizationAware

METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class TrainResult:
    """A finished run: where the model is, the loss of every step, scores on the validation split, seconds
    spent; of a quantisation-aware one, the layers whose module was not found and that stayed in float.
    """

    output: Path
    losses: tuple[float, ...]
    evaluation: Evaluation
    seconds: float
    float_layers: tuple[str, ...] = ()


def train(
    recipe: Recipe,
    output: Path | str | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    scored: Callable[[int, Evaluation], None] | None = None,
    qat: QuantizationAware | None = None,
) -> TrainResult:
    """Train, save the model with `save_pretrained`, evaluate it on the validation split, write metrics.json.

    `output` overrides the recipe's. With `resume` the run goes on from its last checkpoint and ends in the
    same weights, on a CPU to the last bit, as one that was never broken. `progress(stage, done, total)` is
    called per step and per validation sample, `scored(step, evaluation)` per evaluation between steps; an
    exception one of them raises ends the run, which can then be resumed.

    With `qat` the model of its checkpoint goes on training with the roundings of INT8 in calibrated ranges, is scored
    with them, and is saved without them, the ranges beside it; the recipe is one of `qat_recipe`.

    Every process of a `torchrun` calls this alike: the first alone writes and calls back, all get the result.

    Raises:
        DataError: the data cannot be used. CheckpointError: nothing to resume, a run of another recipe, or no room for
            a checkpoint.
        RecipeError: the model, its precision or its batches cannot be had. TrainingError: a loss or gradient
            that is no finite number. InvalidArgument: the output is the checkpoint of `qat`, a bundle or
            a folder of data, or has a folder "checkpoints" or "tensorboard" of something else, or another run trains
            in it. CalibrationError: a tensor has no range.
    """
    recipe = recipe.model_copy(update={"tune": {}})
    output = Path(recipe.output if output is None else output)
    if qat is not None and output.resolve() == qat.checkpoint.resolve():
        raise InvalidArgument(f"the output {output} is the checkpoint to start from; choose another")
    processes = PartialState(cpu=not torch.cuda.is_available())
    data = read_data(recipe)
    if recipe.training.evaluate_every is not None:
        check_choice(recipe, data[1])
    args = _arguments(recipe, output / "checkpoints")
    report = progress if progress and processes.is_main_process else (lambda stage, done, total: None)
    with _alone(output, resume):
        return _train(recipe, data, args, output, resume, report, scored, qat)


def _train(
    recipe: Recipe,
    data: tuple[list[Sample], list[Sample], tuple[str, ...]],
    args: TrainingArguments,
    output: Path,
    resume: bool,
    report: Progress,
    scored: Callable[[int, Evaluation], None] | None,
    qat: QuantizationAware | None,
) -> TrainResult:
    processes, checkpoints = PartialState(), output / "checkpoints"
    samples, held_out, labels = data
    described = recipe.model_dump(mode="json") | ({} if qat is None else {"qat": str(qat.checkpoint)})
    last = _resume_from(checkpoints, described) if resume else None
    if last is None and processes.is_main_process:
        _check_own(output, checkpoints)
        shutil.rmtree(output / "tensorboard", ignore_errors=True)
        _start_over(checkpoints, described)
        if qat is None:
            write_tokenizer(recipe, samples, checkpoints)
        else:
            qat.prepare(recipe, checkpoints, report)
    processes.wait_for_everyone()
    started = time.perf_counter()
    set_seed(recipe.seed)
    float_layers: tuple[str, ...] = ()
    if qat is None:
        model = build_model(recipe, labels, checkpoints)
    else:
        model, float_layers = qat.model(recipe, labels, checkpoints)
    score = partial(_evaluate, model, recipe, held_out, checkpoints, partial(report, "validation"))
    if qat is None and processes.num_processes > 1 and torch.cuda.is_available():
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    stream = TrainingStream(
        samples,
        labels,
        recipe,
        {name: part["preprocess"] for name, part in model.config.modalities.items()},
        directory=checkpoints,
        region_shape=model.region_shape,
    )
    average = None if recipe.training.ema is None else WeightAverage(model, recipe.training.ema, last)
    with quiet_transformers(), _threads(recipe.training.threads), _tensorboard(output, last) as board:
        trainer = FusedTrainer(
            model=model,
            args=args,
            train_dataset=stream,
            data_collator=partial(
                collate, zeros=stream.zeros, samples_per_image=recipe.training.samples_per_image or 1
            ),
            callbacks=[*board, *_callbacks(recipe, average, report)],
            every_subset=recipe.training.every_subset,
            average=average,
            evaluation=score,
            scored=scored,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        trainer.load_best()
        losses = tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
        seconds = time.perf_counter() - started
        scores: list[Any] = [score() if processes.is_main_process else None]
    (evaluation,) = broadcast_object_list(scores)
    if processes.is_main_process:
        _save(model, output, recipe, checkpoints)
        metrics = {
            "steps": len(losses),
            "seconds": round(seconds, 1),
            "validation": evaluation.to_dict(),
            "evaluations": _evaluations(trainer.state.log_history),
            "losses": losses,
        }
        (output / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        if qat is not None:
            qat.finish(output, checkpoints)
        shutil.rmtree(checkpoints)
    processes.wait_for_everyone()
    return TrainResult(output, losses, evaluation, seconds, float_layers)


def _evaluate(
    model: FusedModel, recipe: Recipe, held_out: list[Sample], folder: Path, report: Callable[[int, int], None]
) -> Evaluation:
    return evaluate(
        predictor(model, folder),
        held_out,
        recipe.model.modalities.names,
        model.config.labels,
        task=recipe.model.head,
        multi_label=recipe.model.multi_label,
        metric=recipe.model.metric,
        progress=report,
    )


def _save(model: FusedModel, output: Path, recipe: Recipe, checkpoints: Path) -> None:
    with quiet_transformers(), writing(output, checkpoints):
        model.save_pretrained(output)
    if (checkpoints / TOKENIZER_FILE).exists():
        shutil.copyfile(checkpoints / TOKENIZER_FILE, output / TOKENIZER_FILE)
    (output / CALIBRATION_FILE).unlink(missing_ok=True)  # of other weights
    record = recipe.model_dump(mode="json") | {"data": str(recipe.data.resolve())}
    text = record["model"]["modalities"]["text"]
    if text is not None and text["preprocess"].get("tokenizer") is not None:
        text["preprocess"]["tokenizer"] = str((output / TOKENIZER_FILE).resolve())
    (output / RECIPE_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _evaluations(log: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Of each evaluation between steps: the step, and the figures by name."""
    return [
        {"step": entry["step"], **{key[5:]: value for key, value in entry.items() if key.startswith("eval_")}}
        for entry in log
        if any(key.startswith("eval_") for key in entry)
    ]


def _callbacks(recipe: Recipe, average: WeightAverage | None, report: Progress) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [ReportProgress(report)]
    training = recipe.training
    if average is not None:
        callbacks.append(average)
    if training.evaluate_every is not None:
        callbacks.append(EarlyStopping() if training.patience is None else EarlyStopping(training.patience))
    return callbacks


@contextmanager
def _tensorboard(output: Path, last: Path | None) -> Iterator[list[TrainerCallback]]:
    """What writes the loss, learning rate, norm of the gradient and evaluations; nothing beside the first process."""
    if not PartialState().is_main_process:
        yield []
        return
    # What a broken run wrote after its last checkpoint comes again.
    purge = None if last is None else int(last.name.rpartition("-")[2]) + 1
    writer = SummaryWriter(str(output / "tensorboard"), purge_step=purge)
    try:
        yield [TensorBoardCallback(writer)]  # type: ignore[no-untyped-call]
    finally:
        writer.close()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """The same bits on any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def _arguments(recipe: Recipe, checkpoints: Path) -> TrainingArguments:
    training, gpu, processes = recipe.training, torch.cuda.is_available(), PartialState().num_processes
    if training.precision == "fp16" and not gpu:
        raise RecipeError("training.precision: fp16 needs a GPU and there is none; expected fp32 or bf16")
    parts = training.accumulate_steps * processes * (training.samples_per_image or 1)
    if training.batch_size % parts:
        raise RecipeError(
            f"training.batch_size: found {training.batch_size} for {processes} processes times "
            f"{training.accumulate_steps} accumulate_steps times {training.samples_per_image or 1} samples_per_image; "
            f"expected a multiple of {parts}"
        )
    parts = training.accumulate_steps * processes
    args = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=training.steps,
        per_device_train_batch_size=training.batch_size // parts,
        gradient_accumulation_steps=training.accumulate_steps,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        max_grad_norm=training.gradient_clip,
        lr_scheduler_type=_SCHEDULES[training.schedule],
        warmup_steps=training.warmup_steps,
        bf16=training.precision == "bf16",
        fp16=training.precision == "fp16",
        use_cpu=not gpu,
        seed=recipe.seed,
        full_determinism=True,
        save_steps=training.checkpoint_every,
        save_total_limit=1,
        eval_steps=training.evaluate_every,
        metric_for_best_model=None if training.evaluate_every is None else "eval_main",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        dataloader_pin_memory=gpu,
        dataloader_num_workers=min(4, max(1, (os.cpu_count() or 1) - 1)),
        ddp_find_unused_parameters=True,  # an encoder of the transformers library may have some
        ddp_timeout=6 * 3600,  # the others wait while the first evaluates
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )
    args._n_gpu = min(args.n_gpu, 1)  # several GPUs are torchrun's matter; the Trainer would split the batch in threads
    return args


def _alone(output: Path, resume: bool) -> AbstractContextManager[None]:
    """Of several processes the first holds the folder for all of them."""
    if not PartialState().is_main_process:
        return nullcontext()
    if not resume:
        output.mkdir(parents=True, exist_ok=True)
    elif not output.is_dir():  # which is said where there is nothing to resume
        return nullcontext()
    return locked(output, f"another run trains in {output}; wait for its end, or choose another output")


def _check_own(output: Path, checkpoints: Path) -> None:
    """Raise where the output is no folder for a run, or what starting over removes may be someone else's."""
    if (output / "manifest.json").is_file():
        raise InvalidArgument(f"{output} is a bundle, and a bundle is never changed; choose another output")
    if (output / "metadata.jsonl").is_file() or any(output.glob("*/metadata.jsonl")):
        raise InvalidArgument(f"{output} is a folder of data; choose another output")
    board = output / "tensorboard"
    files = list(board.iterdir()) if board.is_dir() else []
    strange = [file for file in files if not file.name.startswith("events.out.tfevents.")]
    if checkpoints.exists() and not (checkpoints / RECIPE_FILE).is_file():
        strange.append(checkpoints)
    if strange:
        raise InvalidArgument(f"{strange[0]} is of no training of mmedge, which would remove it; choose another output")


def _start_over(checkpoints: Path, described: dict[str, Any]) -> None:
    shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True)
    (checkpoints / RECIPE_FILE).write_text(json.dumps(described, indent=2), encoding="utf-8")


def _resume_from(checkpoints: Path, described: dict[str, Any]) -> Path:
    last = last_checkpoint(checkpoints)
    output = checkpoints.parent
    if not checkpoints.exists() and (output / METRICS_FILE).is_file() and (output / SAFE_WEIGHTS_NAME).is_file():
        raise CheckpointError(
            f"the run in {output} is finished, and nothing is left to resume; export its model, or train another "
            "in its place without resume"
        )
    if last is None:
        raise CheckpointError(f"{checkpoints} holds no checkpoint to resume from; start the run without resume")
    began = json.loads((checkpoints / RECIPE_FILE).read_text(encoding="utf-8"))
    changed = differences(began, described)
    if changed:
        raise CheckpointError(
            f"the run in {checkpoints} began with another recipe: {', '.join(changed)} changed; "
            "start over without resume, or put the old values back"
        )
    return last


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The dotted keys at which two trees of JSON differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [path for key in keys for path in differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))]
    return [] if old == new else [where]
