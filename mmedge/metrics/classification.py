"""Metrics of one label per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from mmedge.runtime.errors import InvalidArgument

NO_PROBABILITIES = "not every prediction has a probability for every label"


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; None where a ratio has nothing to divide by. `support`: samples that truly are of it.

    `roc_auc` is of this class against the rest; where it is None, `roc_auc_undefined` says why.
    """

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    roc_auc: float | None
    roc_auc_undefined: str | None


@dataclass(frozen=True)
class ClassificationReport:
    """How well predictions match the truth.

    `macro_f1` is the mean F1 of the classes that occur in truth or prediction; `undefined` names those that occur in
    neither and are left out of it. `macro_roc_auc` is the mean of those that the classes have; None if none has one.
    `confusion[t][p]` counts samples of class t predicted as p, in the order of `classes`.
    """

    accuracy: float
    macro_f1: float
    macro_roc_auc: float | None
    samples: int
    classes: tuple[ClassScores, ...]
    undefined: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def summary(self) -> dict[str, float | None]:
        """The figures that sum it up by name, the main metric first."""
        return {"accuracy": self.accuracy, "macro F1": self.macro_f1, "ROC AUC": self.macro_roc_auc}

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return asdict(self)


def classification_report(
    truth: Sequence[str],
    predicted: Sequence[str],
    labels: Sequence[str],
    probabilities: npt.ArrayLike | None = None,
) -> ClassificationReport:
    """Accuracy; precision, recall, F1 = 2 TP / (2 TP + FP + FN) and ROC AUC per class of `labels`.

    `probabilities` is [samples, labels]; the ROC AUC is the probability that a sample of the class has more of it than
    one of the rest (Fawcett, "An introduction to ROC analysis", 2006, section 7), so both kinds must occur.

    Raises:
        InvalidArgument: nothing to score, lengths that differ, or a label that is not in `labels`.
    """
    if len(truth) != len(predicted) or not len(truth):
        raise InvalidArgument(
            f"found {len(truth)} true and {len(predicted)} predicted labels; expected as many of each"
        )
    unknown = sorted({*truth, *predicted} - set(labels))
    if unknown:
        raise InvalidArgument(f"found labels {', '.join(unknown)}; expected only {', '.join(labels)}")
    # Numbers, since scikit-learn orders texts by itself.
    index = {label: number for number, label in enumerate(labels)}
    true = np.array([index[label] for label in truth])
    found = np.array([index[label] for label in predicted])
    order = np.arange(len(labels))
    classes = class_scores(
        labels,
        precision_recall_fscore_support(true, found, labels=order, zero_division=np.nan),
        true[:, None] == order,
        None if probabilities is None else np.asarray(probabilities),
    )
    return ClassificationReport(
        accuracy=float((true == found).mean()),
        macro_f1=mean(scores.f1 for scores in classes) or 0.0,
        macro_roc_auc=mean(scores.roc_auc for scores in classes),
        samples=len(truth),
        classes=classes,
        undefined=tuple(scores.label for scores in classes if scores.f1 is None),
        confusion=tuple(tuple(row) for row in confusion_matrix(true, found, labels=order).tolist()),
    )


def class_scores(
    labels: Sequence[str],
    ratios: tuple[npt.NDArray[np.float64], ...],
    truth: npt.NDArray[np.bool_],
    probabilities: npt.NDArray[Any] | None,
) -> tuple[ClassScores, ...]:
    """Scores per label: `ratios` as `precision_recall_fscore_support` gives them, `truth` bool [samples, labels]."""
    rows = []
    for i, (label, precision, recall, f1, support) in enumerate(zip(labels, *ratios, strict=True)):
        roc_auc, reason = _roc_auc(truth[:, i], None if probabilities is None else probabilities[:, i])
        rows.append(
            ClassScores(label, _defined(precision), _defined(recall), _defined(f1), int(support), roc_auc, reason)
        )
    return tuple(rows)


def _defined(ratio: np.float64) -> float | None:
    return None if np.isnan(ratio) else float(ratio)


def _roc_auc(truth: npt.NDArray[np.bool_], probabilities: npt.NDArray[Any] | None) -> tuple[float | None, str | None]:
    if probabilities is None:
        return None, NO_PROBABILITIES
    if truth.all() or not truth.any():
        return None, f"{'every' if truth.all() else 'no'} sample is of this class"
    return float(roc_auc_score(truth, probabilities)), None


def mean(values: Any) -> float | None:
    """The mean of what is not None; None of nothing."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
