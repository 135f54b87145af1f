"""The page: what the template shows, as plain values. Jinja escapes everything that comes from data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mmedge.evaluation import Evaluation, SubsetScores, scored_pairs
from mmedge.metrics import ClassificationReport, ClassScores, EmbeddingReport
from mmedge.report import charts
from mmedge.report.charts import Plot, histogram, trade_off, verification_plots
from mmedge.report.worst import worst
from mmedge.runtime.errors import DataError

if TYPE_CHECKING:
    from mmedge.calibration.search import Search

_MOST_CLASSES = 100
_MOST_GROUPS = 200
_LARGEST_MATRIX = 30  # classes; of more, the pairs that are confused most are listed


@dataclass(frozen=True)
class _Section:
    """What is shown of one subset of the modalities. A cell of `matrix` is a count and its shade, 0 to 1."""

    name: str
    matrix: list[tuple[str, list[tuple[int, float]]]]
    confusions: list[tuple[str, str, int]]
    classes: list[ClassScores]
    plots: list[Plot]
    notes: list[str]


@dataclass(frozen=True)
class Precision:
    """What a calibration came to. evaluations: before, in ONNX Runtime, of TensorRT's graph; microseconds: by subset,
    before and in ONNX Runtime; search: of the layers in INT8, None where there are none.
    """

    evaluations: Sequence[Evaluation]
    microseconds: Mapping[str, Sequence[float]]
    search: Search | None
    budget: float

    @property
    def metric(self) -> str:
        """The main one's name."""
        return self.evaluations[0].subsets[0].main.name

    @property
    def rows(self) -> list[tuple[str, list[float | None], Sequence[float]]]:
        """By subset: its name, its main metric in each evaluation, its times."""
        return [
            (
                " + ".join(scores[0].modalities),
                [entry.main.value for entry in scores],
                self.microseconds.get("+".join(scores[0].modalities), ()),
            )
            for scores in zip(*(evaluation.subsets for evaluation in self.evaluations), strict=True)
        ]

    @property
    def plot(self) -> Plot | None:
        """Of the choices of layers."""
        if self.search is None:
            return None
        chosen = self.search.chosen
        points = [(point.drop, point.speedup) for point in self.search.points]
        return trade_off([(0.0, 1.0), *points], (chosen.drop, chosen.speedup), self.budget)

    @property
    def layers(self) -> list[tuple[str, float, float, bool]]:
        """By layer, the loudest first: its noise in decibels below the signal, a bar's length, whether it is INT8."""
        assert self.search is not None
        loudest = sorted(self.search.noise.items(), key=lambda item: -item[1])
        decibels = {name: -10 * np.log10(max(noise, 1e-30)) for name, noise in loudest}
        most = max(decibels.values(), default=0.0)
        taken = self.search.chosen.layers
        return [(name, value, max(value, 0) / most, name in taken) for name, value in decibels.items()]


def write_report(
    path: Path | str,
    evaluation: Evaluation,
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    precision: Precision | None = None,
) -> None:
    """Write an evaluation as one HTML page without scripts or links: tables, plots and the worst samples.

    `facts` stand under the title, as names and values; `precision` comes before the rest. The file appears whole or not
    at all.

    Raises:
        DataError: a sample's file is gone or damaged, or the page cannot be written.
    """
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = lambda value: "undefined" if value is None else f"{value:.4f}"
    subsets = evaluation.subsets
    page = environment.get_template("page.html").render(
        title=title,
        facts=facts,
        precision=precision,
        area=(charts.LEFT, charts.TOP, charts.WIDTH, charts.HEIGHT),
        subsets=[(" + ".join(subset.modalities), subset) for subset in subsets],
        columns=list(dict.fromkeys(name for subset in subsets for name in subset.summary)),
        groups=sorted({group for subset in subsets for group in subset.groups})[:_MOST_GROUPS],
        cross_modal=[(name, scores) for subset in subsets for name, scores in subset.cross_modal.items()],
        sections=[_section(evaluation, subset) for subset in subsets[::-1]],
        galleries=worst(evaluation),
    )
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(page, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror}; give a file in a folder that exists") from error


def _section(evaluation: Evaluation, subset: SubsetScores) -> _Section:
    name, report = " + ".join(subset.modalities), subset.report
    if isinstance(report, EmbeddingReport):
        pairs = scored_pairs(evaluation.task, subset.outcomes)
        found = report.verification
        spread = histogram(
            "Similarity of pairs",
            "cosine" if evaluation.task.metric == "cosine" else "minus distance",
            {("one label", "good"): pairs.scores[pairs.same], ("two labels", "bad"): pairs.scores[~pairs.same]},
        )
        notes = [f"{found.pairs} pairs, {found.same} of them of one label; {report.retrieval.queries} queries."]
        notes += [f"The EER is undefined: {found.undefined}."] if found.undefined else []
        return _Section(name, [], [], [], [*([spread] if spread else []), *verification_plots(pairs, found)], notes)
    notes = [f"In neither truth nor prediction: {', '.join(report.undefined)}."] if report.undefined else []
    reasons = sorted({row.roc_auc_undefined for row in report.classes if row.roc_auc_undefined})
    notes += [f"Where the ROC AUC is undefined: {'; '.join(reasons)}."] if reasons else []
    classes = list(report.classes)
    if len(classes) > _MOST_CLASSES:
        notes.append(f"Of {len(classes)} classes the {_MOST_CLASSES} with the lowest F1 are shown.")
        classes = sorted(classes, key=lambda row: 2.0 if row.f1 is None else row.f1)[:_MOST_CLASSES]
    spread = _scores(evaluation, subset)
    matrix, confusions = _confusion(report) if isinstance(report, ClassificationReport) else ([], [])
    return _Section(name, matrix, confusions, classes, [spread] if spread else [], notes)


def _scores(evaluation: Evaluation, subset: SubsetScores) -> Plot | None:
    right: list[float] = []
    wrong: list[float] = []
    if evaluation.task.multi_label:
        for outcome in subset.outcomes:
            for label, score in outcome.prediction.scores.items():
                (right if label in outcome.sample.labels else wrong).append(score)
        kinds = ("labels that apply", "labels that do not")
    else:
        for outcome in subset.outcomes:
            found = str(outcome.prediction.label)
            if found in outcome.prediction.scores:
                (right if found == outcome.sample.label else wrong).append(outcome.prediction.scores[found])
        kinds = ("right", "wrong")
    return histogram("Scores", "probability", {(kinds[0], "good"): right, (kinds[1], "bad"): wrong})


def _confusion(
    report: ClassificationReport,
) -> tuple[list[tuple[str, list[tuple[int, float]]]], list[tuple[str, str, int]]]:
    """The matrix where it is small, else the pairs of classes confused most."""
    labels = [row.label for row in report.classes]
    counts = np.array(report.confusion)
    if len(labels) <= _LARGEST_MATRIX:
        # The root makes few errors visible.
        shades = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
        rows = [
            list(zip(some, shade, strict=True)) for some, shade in zip(counts.tolist(), shades.tolist(), strict=True)
        ]
        return list(zip(labels, rows, strict=True)), []
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_LARGEST_MATRIX]
    pairs = [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, counts.shape), strict=True)]
    return [], [(labels[row], labels[column], int(counts[row, column])) for row, column in pairs if counts[row, column]]
