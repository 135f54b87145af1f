"""What happens between the steps of a run: progress, early stopping, an average of the weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

Progress = Callable[[str, int, int], None]

EMA_FILE = "ema.safetensors"


class ReportProgress(TrainerCallback):
    """Calls `report("train", done, total)` after each step."""

    def __init__(self, report: Progress) -> None:
        self._report = report

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self._report("train", state.global_step, state.max_steps)


class EarlyStopping(EarlyStoppingCallback):
    """Evaluates every `eval_steps` steps and after the last, and stops after `early_stopping_patience` evaluations
    without a better one.
    """

    def __init__(self, early_stopping_patience: int = sys.maxsize, early_stopping_threshold: float = 0.0) -> None:
        super().__init__(early_stopping_patience, early_stopping_threshold)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """The base class would warn that the best model is not loaded by the Trainer."""

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_evaluate = not state.global_step % args.eval_steps or state.global_step >= state.max_steps


class WeightAverage(TrainerCallback):
    """An exponential moving average of the weights and of the statistics of norms (Tarvainen & Valpola 2017, eq. 1).

    After step t the decay is min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float, resumed: Path | None) -> None:
        self._model, self._decay = model, decay
        kept = None if resumed is None else load_file(resumed / EMA_FILE)
        self._average = {name: tensor.detach().clone() for name, tensor in (kept or model.state_dict()).items()}

    def on_optimizer_step(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step + 1
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, tensor in self._model.state_dict().items():
            self._update(name, tensor.detach(), decay)

    def _update(self, name: str, tensor: Tensor, decay: float) -> None:
        average = self._average[name] = self._average[name].to(tensor.device)
        if average.is_floating_point():
            average.lerp_(tensor, 1 - decay)
        else:
            average.copy_(tensor)

    def save(self, folder: Path) -> None:
        """Write the average beside a checkpoint's weights."""
        save_file(self._average, folder / EMA_FILE)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with the average in place of its weights."""
        own = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}
        self.apply()
        try:
            yield
        finally:
            self._model.load_state_dict(own)

    def apply(self) -> None:
        """Put the average in place of the model's weights."""
        self._model.load_state_dict(self._average)


def all_finite(model: nn.Module) -> bool:
    """Whether every weight is a number."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
