"""HF's Trainer, told what is different here: the stream's order, the evaluation, and what ends a run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from mmedge.data.folder import METADATA, Sample
from mmedge.evaluation import Evaluation
from mmedge.models import FusedModel
from mmedge.runtime.errors import CheckpointError, DataError, MmedgeError, TrainingError
from mmedge.training.callbacks import EMA_FILE, WeightAverage, all_finite
from mmedge.training.dataset import TrainingStream
from mmedge.training.recipe import Recipe

_MOST_ROWS_SHOWN = 100

# What torch.save says, in a class that it has for everything.
_FAILED_WRITE = re.compile("inline_container|PytorchStreamWriter|iostream error")

Score = tuple[float, dict[str, float]]
"""A figure, the larger the better, and what the log says."""


class FusedTrainer(Trainer):
    """Trains a `FusedModel` on a `TrainingStream`.

    `evaluation` scores the model as it stands; `scored(step, evaluation)` is told. Both are called on the first process
    alone. `every_subset` is handed to the model.
    """

    def __init__(
        self,
        *,
        every_subset: bool,
        average: WeightAverage | None,
        evaluation: Callable[[], Evaluation],
        scored: Callable[[int, Evaluation], None] | None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._every_subset, self._average = every_subset, average
        self._evaluation, self._scored = evaluation, scored

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self._every_subset:
            inputs = {**inputs, "every_subset": True}
        return super().compute_loss(model, inputs, *args, **kwargs)

    # The stream is shuffled already.
    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(cast(TrainingStream, self.train_dataset))

    # Torch puts the traceback of a loader's worker before the message of what was raised there.
    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().get_batch_samples(*args, **kwargs)
        except MmedgeError as error:
            kind = type(error)
            raise kind(str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].rstrip()) from None

    # The base class knows a norm by its name, and a batch norm inside a Sequential has none.
    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    # ---- Evaluation: ours, on the first process ----------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        found: list[Score | None] = [None]
        if self.is_world_process_zero():
            with self._average.applied() if self._average else nullcontext():
                scores = self._evaluation()
            found = [_score(scores)]
            if self._scored:
                self._scored(self.state.global_step, scores)
        (score,) = broadcast_object_list(found)
        main, figures = score
        self.log({f"eval_{name}": value for name, value in figures.items()})
        metrics = {"eval_main": main}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best = super()._determine_best_metric(metrics, trial)
        self.control.should_save |= best
        return best

    def load_best(self) -> None:
        """Leave in the model what is to be saved: of the best checkpoint if there were evaluations, else of the last
        step; the average of the weights if there is one.
        """
        best = self.state.best_model_checkpoint
        if best is not None:
            file = EMA_FILE if self._average else SAFE_WEIGHTS_NAME
            cast(FusedModel, self.model).load_state_dict(load_file(Path(best) / file))
        elif self._average:
            self._average.apply()

    # ---- Checkpoints -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if not all_finite(cast(nn.Module, self.model)):
            # The step that made them so is counted already.
            raise self._stopped("left weights that are no finite numbers", self.state.global_step - 1)
        checkpoints = Path(cast(str, self.args.output_dir))
        folder = checkpoints / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with writing(folder, checkpoints):
            try:
                super()._save_checkpoint(model, trial)
            except Exception:
                if self.args.should_save:  # a part of its state would make it look whole
                    shutil.rmtree(folder, ignore_errors=True)
                raise

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self._average and self.args.should_save:
            assert output_dir is not None
            self._average.save(Path(output_dir))

    # The base class goes on with fresh weights where names do not match.
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        file = Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME
        try:
            cast(FusedModel, self.model).load_state_dict(load_file(file))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{file} cannot be loaded: {error}; start the run without resume") from error

    # ---- A loss or gradient that is no number ------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            raise self._stopped(f"has a loss of {loss.item()}", self.state.global_step)
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        # A loss scaler meets infinities on its way to a scale that fits, and skips their steps itself.
        if self.accelerator.scaler is None and not torch.isfinite(torch.as_tensor(norm)):
            raise self._stopped(f"has a gradient of norm {float(norm)}", self.state.global_step)
        return norm

    def _stopped(self, what: str, step: int) -> TrainingError:
        stream = cast(TrainingStream, self.train_dataset)
        size = len(stream) // self.state.max_steps
        rows = [stream.sample(draw) for draw in range(step * size, (step + 1) * size)]
        last = last_checkpoint(Path(cast(str, self.args.output_dir)))
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written before it"
        return TrainingError(
            f"step {step + 1} {what}; {kept}. Look at the rows of its batch (--resume goes on from the checkpoint once "
            f"they are corrected), or start over with a lower learning_rate, a gradient_clip or precision: fp32.\n"
            + _list_rows(rows)
        )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`; its state is written last."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


@contextmanager
def writing(folder: Path, checkpoints: Path) -> Iterator[None]:
    """Raise a CheckpointError where what is written meanwhile, a checkpoint in `folder`, cannot be, as on a full disk;
    a run with a whole one in `checkpoints` can go on.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _FAILED_WRITE.search(str(error)):
            raise
        go_on = "go on with --resume" if last_checkpoint(checkpoints) else "start the run again"
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the checkpoint in {folder} cannot be written: {reason}; make room and {go_on}"
        ) from error


def check_choice(recipe: Recipe, held_out: Sequence[Sample]) -> None:
    """See that models can be chosen by `held_out`, the validation split.

    Raises:
        DataError: no row has all modalities, and the main metric is that of those which do.
    """
    names = recipe.model.modalities.names
    if not any(len(sample.modalities) == len(names) for sample in held_out):
        raise DataError(
            f"{recipe.data / 'validation' / METADATA}: found no row with all of {', '.join(names)}; expected some, "
            "since models are chosen by their scores with all modalities: add such rows, or choose none (mmedge train "
            "without evaluate_every)"
        )


def _score(scores: Evaluation) -> Score:
    """The main metric with all modalities, and of each subset what sums it up."""
    main = scores.subsets[-1].main
    figures = {
        f"{'+'.join(subset.modalities)}_{name.replace(' ', '_')}": value
        for subset in scores.subsets
        for name, value in subset.summary.items()
        if value is not None
    }
    if main.value is None:
        return float("-inf"), figures
    return main.value if main.larger_is_better else -main.value, figures


def _list_rows(rows: list[Sample]) -> str:
    lines = [f"  line {row.line}: {', '.join(map(str, row.files.values())) or repr(row.text)}" for row in rows]
    if len(lines) > _MOST_ROWS_SHOWN:
        lines = [*lines[:_MOST_ROWS_SHOWN], f"  and {len(lines) - _MOST_ROWS_SHOWN} more"]
    return "\n".join([f"train/{METADATA}:", *lines])
