"""Classification metrics, defined where they are defined and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmedge.runtime.errors import InvalidArgument


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; None where a ratio has nothing to divide by. `support`: samples that truly are
    of it.
    """

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class Report:
    """How well predictions match the truth.

    `macro_f1` is the mean F1 of the classes that occur in truth or prediction; `undefined` names those that
    occur in neither and are left out of it. `confusion[t][p]` counts samples of class t predicted as p, in
    the order of `classes`."""

    accuracy: float
    macro_f1: float
    samples: int
    classes: tuple[ClassScores, ...]
    undefined: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return asdict(self)


def classification_report(truth: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> Report:
    """Accuracy, and precision, recall and F1 = 2 TP / (2 TP + FP + FN) per class of `labels`.

    Raises:
        InvalidArgument: nothing to score, lengths that differ, or a label that is not in `labels`.
    """
    if len(truth) != len(predicted) or not len(truth):
        raise InvalidArgument(
            f"found {len(truth)} true and {len(predicted)} predicted labels; expected as many of each"
        )
    index = {label: number for number, label in enumerate(labels)}
    unknown = sorted({label for label in (*truth, *predicted) if label not in index})
    if unknown:
        raise InvalidArgument(f"found labels {', '.join(unknown)}; expected only {', '.join(labels)}")
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, ([index[label] for label in truth], [index[label] for label in predicted]), 1)

    hits, support, given = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    classes = tuple(
        ClassScores(
            label,
            _ratio(hits[i], given[i]),
            _ratio(hits[i], support[i]),
            _ratio(2 * hits[i], support[i] + given[i]),
            int(support[i]),
        )
        for label, i in index.items()
    )
    f1 = [scores.f1 for scores in classes if scores.f1 is not None]
    return Report(
        accuracy=float(hits.sum() / len(truth)),
        macro_f1=sum(f1) / len(f1),
        samples=len(truth),
        classes=classes,
        undefined=tuple(scores.label for scores in classes if scores.f1 is None),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def _ratio(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None
