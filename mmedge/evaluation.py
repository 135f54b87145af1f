"""Score a model on every subset of its modalities, whatever runs it: a checkpoint in torch or a bundle in
the runtime.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from mmedge.data.folder import Sample
from mmedge.metrics import (
    Box,
    ClassificationReport,
    EmbeddingReport,
    Metric,
    MultiLabelReport,
    Pairs,
    RegionScores,
    Retrieval,
    all_pairs,
    bounding_box,
    box_iou,
    classification_report,
    cross_retrieval,
    map_iou,
    multi_label_report,
    region_scores,
    retrieval,
    score_pairs,
    verification,
)
from mmedge.runtime.errors import DataError, InvalidArgument

Report = ClassificationReport | MultiLabelReport | EmbeddingReport


class Region(Protocol):
    """The part of an image that an answer rests on, as `mmedge.runtime.Result` has it."""

    @property
    def map(self) -> npt.NDArray[np.float32]:
        """Relevance of each cell [rows, columns], 0 to 1."""

    @property
    def map_box(self) -> Box:
        """What the map covers of the upright frame, in its pixels."""

    @property
    def threshold(self) -> float:
        """Relevance from which a cell belongs to the region."""

    @property
    def box(self) -> Box | None:
        """The box around the region, in pixels of the upright frame; None where no cell reaches the threshold, and
        everywhere in a checkpoint's: only the runtime draws boxes.
        """


class Prediction(Protocol):
    """What evaluation reads of a prediction: of `label`, `labels`, `embedding` and `region` what the task has."""

    @property
    def label(self) -> str | None:
        """The best class or answer."""

    @property
    def scores(self) -> Mapping[str, float]:
        """Probability by label."""

    @property
    def labels(self) -> Sequence[str] | None:
        """Of a multi-label model: those that apply."""

    @property
    def embedding(self) -> npt.NDArray[np.float32] | None:
        """float32 [dimension]."""

    @property
    def region(self) -> Region | None:
        """What the answer rests on."""


@dataclass(frozen=True)
class Predicted:
    """A `Prediction` and no more; `mmedge.runtime.Result` is another."""

    label: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    labels: Sequence[str] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    region: Region | None = None


Predict = Callable[[Mapping[str, Any]], Prediction]


@dataclass(frozen=True)
class Task:
    """What is evaluated: the model's task and labels, whether it gives any number of them, the metric of its
    embeddings, and which pairs of rows (by line number; None: all) verification looks at.
    """

    name: Literal["classification", "embedding", "vqa"]
    labels: tuple[str, ...]
    multi_label: bool = False
    metric: Metric = "cosine"
    pairs: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """A sample and what the model made of it; `region` is the IoU of its map and of its box (None: it was given none)
    with the sample's mask.
    """

    sample: Sample
    prediction: Predicted
    region: tuple[float, float | None] | None = None


@dataclass(frozen=True)
class MainMetric:
    """The one figure to choose a model by; None where it is undefined."""

    name: str
    value: float | None
    larger_is_better: bool


@dataclass(frozen=True)
class SubsetScores:
    """Scores with only `modalities` given.

    `groups`: the main metric by value of the column asked for. `region`: of the task "vqa", where the subset has the
    image. `cross_modal`: of embeddings and two modalities, each alone searched for with the other alone, rows of the
    same label relevant.
    """

    modalities: tuple[str, ...]
    main: MainMetric
    report: Report
    groups: dict[str, float | None]
    region: RegionScores | None
    cross_modal: dict[str, Retrieval]
    outcomes: tuple[Outcome, ...]

    @property
    def summary(self) -> dict[str, float | None]:
        """The figures that sum it up by name, the main metric first."""
        regions = {"map IoU": self.region.map_iou, "box IoU": self.region.box_iou} if self.region else {}
        return {**self.report.summary, **regions}

    def to_dict(self) -> dict[str, Any]:
        """JSON types, without the outcomes."""
        found: dict[str, Any] = {"main": asdict(self.main), **self.report.to_dict(), "groups": self.groups}
        if self.region:
            found["region"] = self.region.to_dict()
        if self.cross_modal:
            found["cross_modal"] = {name: scores.to_dict() for name, scores in self.cross_modal.items()}
        return found


@dataclass(frozen=True)
class Evaluation:
    """Scores of so many samples, per subset of modalities, single ones first, all of them last."""

    task: Task
    samples: int
    subsets: tuple[SubsetScores, ...]

    def __getitem__(self, modalities: tuple[str, ...]) -> SubsetScores:
        """The scores of one subset; KeyError if no sample had all of its modalities."""
        for subset in self.subsets:
            if set(subset.modalities) == set(modalities):
                return subset
        raise KeyError(modalities)

    def to_dict(self) -> dict[str, Any]:
        """JSON types: subset, its modalities joined by "+", -> its scores."""
        return {"+".join(subset.modalities): subset.to_dict() for subset in self.subsets}

    def to_evidence(self, data: str) -> dict[str, Any]:
        """What a manifest keeps of it: the figures that sum up each subset, and what they were measured on."""
        subsets = {
            "+".join(subset.modalities): {**subset.summary, "samples": len(subset.outcomes)} for subset in self.subsets
        }
        return {"data": data, "samples": self.samples, "subsets": subsets}


def modality_subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset, small ones first, each in the order of `modalities`."""
    return [subset for size in range(1, len(modalities) + 1) for subset in combinations(modalities, size)]


def evaluate(
    predict: Predict,
    samples: Sequence[Sample],
    modalities: Sequence[str],
    labels: Sequence[str],
    *,
    task: Literal["classification", "embedding", "vqa"] = "classification",
    multi_label: bool = False,
    metric: Metric = "cosine",
    pairs: Iterable[tuple[int, int]] | None = None,
    group_by: str | None = None,
    subsets: Sequence[tuple[str, ...]] | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run `predict` on every sample under every non-empty subset of `modalities`, or under `subsets` alone, and score
    what it returns.

    `predict` gets decoded inputs by modality (see `Sample.load`), those outside the subset left out. A
    sample takes part in the subsets whose modalities it has. `pairs` are those verification looks at, as line numbers
    of samples; pairs of which a subset lacks one are left out there. `group_by` names a column to give the main metric
    by; `threads` samples are run at a time, `predict` being called from as many threads; `progress(done, total)` is
    called per sample.

    Raises:
        DataError: a file cannot be decoded, or no sample has any of the modalities.
        InvalidArgument: a prediction lacks what the task needs, or no sample has the column to group by.
    """
    columns = {name for sample in samples for name in sample.columns}
    if group_by is not None and group_by not in columns:
        raise InvalidArgument(f"no row has the column {group_by!r}; found {', '.join(sorted(columns)) or 'none'}")
    what = Task(task, tuple(labels), multi_label, metric, None if pairs is None else tuple(pairs))
    subsets = modality_subsets(modalities) if subsets is None else subsets

    def run(sample: Sample) -> dict[tuple[str, ...], Outcome]:
        inputs = sample.load()
        mask = sample.mask() if task == "vqa" and "image" in inputs else None
        found = {}
        for subset in subsets:
            if inputs.keys() >= set(subset):
                made = predict({modality: inputs[modality] for modality in subset})
                region = _region(made.region, mask) if mask is not None and "image" in subset else None
                # A `Result` would hold the raw outputs and the times of every row.
                kept = Predicted(made.label, made.scores, made.labels, made.embedding, made.region)
                found[subset] = Outcome(sample, kept, region)
        return found

    outcomes: dict[tuple[str, ...], list[Outcome]] = {}
    with ThreadPoolExecutor(threads) as pool:
        for done, of_sample in enumerate((pool.map if threads > 1 else map)(run, samples), start=1):
            for subset, outcome in of_sample.items():
                outcomes.setdefault(subset, []).append(outcome)
            if progress:
                progress(done, len(samples))
    if not outcomes:
        raise DataError(f"none of the {len(samples)} samples has {' or '.join(modalities)}; nothing to evaluate")
    ordered = (subset for subset in subsets if subset in outcomes)
    return Evaluation(what, len(samples), tuple(_score(what, subset, outcomes, group_by) for subset in ordered))


def read_pairs(path: Path | str, samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Pairs of rows from JSON lines {"first": LINE, "second": LINE, ...}, line numbers of the split's metadata file.

    Raises:
        DataError: the file cannot be read, a line is something else, or names no row of `samples`.
    """
    known = {sample.line for sample in samples}
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; expected one JSON object per line") from error
    if not lines:
        raise DataError(f"{path} is empty; expected one JSON object per line")
    pairs = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            pair = row["first"], row["second"]
            known_both = known.issuperset(pair)
        except (ValueError, KeyError, TypeError) as error:
            expected = 'expected {"first": LINE, "second": LINE}'
            raise DataError(f"{path}, line {number}: found {line[:80]!r}; {expected}") from error
        if not known_both:
            raise DataError(f"{path}, line {number}: {pair} are not both lines of rows of the split")
        pairs.append(pair)
    return pairs


def embeddings(outcomes: Sequence[Outcome]) -> npt.NDArray[np.float32]:
    """The outcomes' embeddings [samples, dimension].

    Raises:
        InvalidArgument: a prediction has none.
    """
    vectors = [outcome.prediction.embedding for outcome in outcomes]
    if any(vector is None for vector in vectors):
        raise InvalidArgument("found a prediction without an embedding; the task 'embedding' needs one of each sample")
    return np.array(vectors, np.float32)


def scored_pairs(task: Task, outcomes: Sequence[Outcome]) -> Pairs:
    """The pairs that verification looks at among these outcomes, with their similarities."""
    if task.pairs is None:
        rows = all_pairs(len(outcomes))
    else:
        at = {outcome.sample.line: index for index, outcome in enumerate(outcomes)}
        chosen = [(at[a], at[b]) for a, b in task.pairs if a in at and b in at]
        rows = np.array(chosen, np.int64).reshape(-1, 2)
    return score_pairs(embeddings(outcomes), [outcome.sample.label for outcome in outcomes], rows, task.metric)


def _region(region: Region | None, mask: npt.NDArray[np.bool_]) -> tuple[float, float | None] | None:
    found = map_iou(region.map, region.map_box, region.threshold, mask) if region else None
    if region is None or found is None:
        return None
    if region.box is None:
        return found, None if region.map.max() >= region.threshold else 0.0
    return found, box_iou(region.box, bounding_box(mask))


def _score(
    task: Task,
    subset: tuple[str, ...],
    outcomes: Mapping[tuple[str, ...], Sequence[Outcome]],
    group_by: str | None,
) -> SubsetScores:
    found = outcomes[subset]
    two_ways = task.name == "embedding" and len(subset) == 2 and all((name,) in outcomes for name in subset)
    members: dict[str, list[Outcome]] = {}
    if group_by is not None:
        for outcome in found:
            members.setdefault(str(outcome.sample.columns.get(group_by)), []).append(outcome)
    report = _report(task, found)
    return SubsetScores(
        modalities=subset,
        main=_main(report),
        report=report,
        groups={group: _main_value(task, some) for group, some in sorted(members.items())},
        region=_regions(found) if task.name == "vqa" and "image" in subset else None,
        cross_modal=_cross_modal(task, subset, outcomes) if two_ways else {},
        outcomes=tuple(found),
    )


def _main(report: Report) -> MainMetric:
    if isinstance(report, EmbeddingReport):
        return MainMetric("eer", report.verification.eer, larger_is_better=False)
    if isinstance(report, MultiLabelReport):
        return MainMetric("macro_f1", report.macro_f1, larger_is_better=True)
    return MainMetric("accuracy", report.accuracy, larger_is_better=True)


def _main_value(task: Task, outcomes: Sequence[Outcome]) -> float | None:
    """The main metric without the rest of the report, for many small groups."""
    if task.name == "embedding":
        return verification(scored_pairs(task, outcomes)).eer
    if task.multi_label:
        return multi_label_report(*_sets(outcomes), task.labels).macro_f1
    return float(np.mean([outcome.prediction.label == outcome.sample.label for outcome in outcomes]))


def _report(task: Task, outcomes: Sequence[Outcome]) -> Report:
    if task.name == "embedding":
        found = retrieval(embeddings(outcomes), _truth(outcomes), task.metric)
        return EmbeddingReport(verification(scored_pairs(task, outcomes)), found, len(outcomes))
    scores = [outcome.prediction.scores for outcome in outcomes]
    probabilities = None
    if all(row.keys() >= set(task.labels) for row in scores):
        probabilities = [[row[label] for label in task.labels] for row in scores]
    if task.multi_label:
        return multi_label_report(*_sets(outcomes), task.labels, probabilities)
    predicted = [str(outcome.prediction.label) for outcome in outcomes]
    return classification_report(_truth(outcomes), predicted, task.labels, probabilities)


def _truth(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.sample.label for outcome in outcomes]


def _sets(outcomes: Sequence[Outcome]) -> tuple[list[Sequence[str]], list[Sequence[str]]]:
    """True and predicted sets of labels."""
    return [outcome.sample.labels for outcome in outcomes], [outcome.prediction.labels or () for outcome in outcomes]


def _regions(outcomes: Sequence[Outcome]) -> RegionScores:
    return region_scores([outcome.region for outcome in outcomes if outcome.region])


def _cross_modal(
    task: Task, subset: tuple[str, ...], outcomes: Mapping[tuple[str, ...], Sequence[Outcome]]
) -> dict[str, Retrieval]:
    """Both ways between two modalities, over the rows that have both; rows of the same label are relevant."""
    lines = [outcome.sample.line for outcome in outcomes[subset]]
    alone = []
    for modality in subset:
        of_line = {outcome.sample.line: outcome for outcome in outcomes[modality,]}
        alone.append(embeddings([of_line[line] for line in lines]))
    search = partial(cross_retrieval, labels=_truth(outcomes[subset]), metric=task.metric)
    (first, second), (a, b) = subset, alone
    return {f"{first}->{second}": search(a, b), f"{second}->{first}": search(b, a)}
