"""Search a recipe's `tune:` for the values that score best on the validation split."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from mmedge.evaluation import Evaluation, MainMetric
from mmedge.locking import locked
from mmedge.runtime.errors import CheckpointError, DataError, NotFinite, RecipeError, TrainingError
from mmedge.training.build import read_data
from mmedge.training.callbacks import Progress
from mmedge.training.recipe import Recipe, changed
from mmedge.training.spaces import Range, Scalar
from mmedge.training.train import differences, train
from mmedge.training.trainer import check_choice

STUDY_FILE = "study.db"
BEST_FILE = "best.yaml"

# Of a trial's values; anything else ends the search. The data was read before: what it lacks then, such as labels for
# a batch, the values ask for.
_FAILURES = (DataError, NotFinite, RecipeError, TrainingError, ValidationError)


@dataclass(frozen=True)
class Trial:
    """One choice of values; `state` is complete, pruned or fail, `score` the main metric (None where there is none),
    `problem` why it failed.
    """

    number: int
    state: str
    score: float | None
    problem: str | None
    values: dict[str, Scalar]


@dataclass(frozen=True)
class TuneResult:
    """A study so far: every finished trial in order, the best of them, and the recipe it makes."""

    metric: str | None
    trials: tuple[Trial, ...]
    best: Trial | None
    recipe: Path | None
    interrupted: bool


def tune(
    recipe: Recipe,
    *,
    trials: int,
    storage: Path | None = None,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> TuneResult:
    """Train `trials` more times, or for `timeout` seconds, and write best.yaml, the recipe of the best trial.

    Everything is kept in `tune` inside the recipe's output; the study, an SQLite file of optuna, in `storage` (there by
    default), from which the next call goes on. Values are drawn by TPE (Bergstra et al. 2011). A trial that is worse
    than the median of the others at an evaluation between steps is pruned; one that cannot be trained fails. A
    KeyboardInterrupt ends the search and keeps what is finished.

    Raises:
        RecipeError: nothing to search. CheckpointError: the study cannot be opened or is of another recipe. DataError:
            the data cannot be used, or no row of the validation split has all modalities. InvalidArgument: another
            search runs in the folder.
    """
    if not recipe.tune:
        raise RecipeError(
            "the recipe has no search space; expected some keys under tune, such as training.learning_rate"
        )
    _, held_out, _ = read_data(recipe)
    check_choice(recipe, held_out)
    folder = recipe.output / "tune"
    storage = folder / STUDY_FILE if storage is None else storage
    folder.mkdir(parents=True, exist_ok=True)
    taken = f"another search runs in {folder}; wait for its end, or give the recipe another output"
    with locked(folder, taken):
        storage.parent.mkdir(parents=True, exist_ok=True)
        study = _open(storage, recipe)
        search = _Search(study, recipe, folder, progress)
        interrupted = False
        try:
            study.optimize(search, n_trials=trials, timeout=timeout, catch=_FAILURES)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            _end_unfinished(study)
        return _result(study, recipe, folder, interrupted)


def database(storage: Path) -> str:
    """The address of the study in the file `storage`. SQLite, since an interrupt inside a call leaves it whole."""
    return f"sqlite:///{storage}"


def _open(storage: Path, recipe: Recipe) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(
            study_name=recipe.output.name,
            storage=database(storage),
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
        )
    except DBAPIError as error:
        raise CheckpointError(
            f"the study in {storage} cannot be opened: {error.orig}; expected a file that can be written, a new one or "
            "one of an earlier search: give another --storage"
        ) from error
    # A search that goes on draws new values.
    study.sampler = optuna.samplers.TPESampler(seed=(recipe.seed + len(study.trials)) % 2**32)
    described = recipe.model_dump(mode="json")
    began = study.user_attrs.get("recipe")
    if began is None:
        study.set_user_attr("recipe", described)
    elif changes := differences(began, described):
        raise CheckpointError(
            f"the study in {storage} is of another recipe: {', '.join(changes)} changed; give another --storage, or "
            "put the old values back"
        )
    # Not before: a study of another recipe may be that of a search that runs.
    _end_unfinished(study)
    return study


def _end_unfinished(study: optuna.Study) -> None:
    """A trial that was broken off counts as failed."""
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)


class _Search:
    """A trial's score: the main metric with all modalities, negative where smaller is better."""

    def __init__(self, study: optuna.Study, recipe: Recipe, folder: Path, progress: Progress | None) -> None:
        self._study, self._recipe, self._folder, self._progress = study, recipe, folder, progress

    def __call__(self, trial: optuna.Trial) -> float:
        try:
            return self._train(trial)
        except _FAILURES as error:
            trial.set_user_attr("problem", str(error).splitlines()[0])
            raise

    def _train(self, trial: optuna.Trial) -> float:
        values = {key: _suggest(trial, key, space) for key, space in self._recipe.tune.items()}
        recipe = Recipe.model_validate(changed(self._recipe, values))
        output = self._folder / "trial"

        def scored(step: int, evaluation: Evaluation) -> None:
            trial.report(self._signed(evaluation.subsets[-1].main), step)
            if trial.should_prune():
                raise optuna.TrialPruned

        report = self._progress
        named = None if report is None else _named(report, f"trial {trial.number}, ")
        try:
            result = train(recipe, output, progress=named, scored=scored)
        finally:
            shutil.rmtree(output, ignore_errors=True)  # best.yaml trains it again
        return self._signed(result.evaluation.subsets[-1].main)

    def _signed(self, main: MainMetric) -> float:
        self._study.set_user_attr("metric", [main.name, main.larger_is_better])
        if main.value is None:
            return float("-inf")
        return main.value if main.larger_is_better else -main.value


def _named(report: Progress, prefix: str) -> Progress:
    return lambda stage, done, total: report(prefix + stage, done, total)


def _suggest(trial: optuna.Trial, key: str, space: Range | list[Scalar]) -> Scalar:
    if not isinstance(space, Range):
        return cast(Scalar, trial.suggest_categorical(key, space))
    if isinstance(space.low, int) and isinstance(space.high, int):
        return trial.suggest_int(key, space.low, space.high, log=space.log)
    return trial.suggest_float(key, space.low, space.high, log=space.log)


def _result(study: optuna.Study, recipe: Recipe, folder: Path, interrupted: bool) -> TuneResult:
    metric, larger_is_better = study.user_attrs.get("metric", (None, True))
    sign = 1.0 if larger_is_better else -1.0
    trials = tuple(_trial(trial, sign) for trial in study.get_trials(deepcopy=False))
    finished = [trial for trial in trials if trial.state == "complete" and trial.score is not None]
    if not finished:
        return TuneResult(metric, trials, None, None, interrupted)
    best = max(finished, key=lambda trial: (sign * (trial.score or 0.0), -trial.number))
    path = folder / BEST_FILE
    path.write_text(_describe(best, metric, changed(recipe, best.values)), encoding="utf-8")
    return TuneResult(metric, trials, best, path, interrupted)


def _trial(trial: FrozenTrial, sign: float) -> Trial:
    found = trial.value
    score = None if found is None or found == float("-inf") else sign * found
    return Trial(trial.number, trial.state.name.lower(), score, trial.user_attrs.get("problem"), dict(trial.params))


def _describe(best: Trial, metric: str | None, values: dict[str, Any]) -> str:
    return f"# Trial {best.number}: {metric} {best.score:.4f}\n" + yaml.safe_dump(values, sort_keys=False)
