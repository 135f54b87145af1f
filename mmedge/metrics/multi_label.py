"""Metrics of any number of labels per sample."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_recall_fscore_support

from mmedge.metrics.classification import NO_PROBABILITIES, ClassScores, class_scores, mean
from mmedge.runtime.errors import InvalidArgument


@dataclass(frozen=True)
class MultiLabelReport:
    """How well sets of labels match the true sets.

    `subset_accuracy` is the share of samples whose whole set is right. `micro_f1` pools all labels, `macro_f1` is the
    mean of those that occur in truth or prediction; `undefined` names the others. `mean_average_precision` is the mean
    of `average_precision`, which is None (by label) where no sample has the label; where there is none at all,
    `average_precision_undefined` says why.
    """

    subset_accuracy: float
    micro_f1: float | None
    macro_f1: float | None
    mean_average_precision: float | None
    samples: int
    classes: tuple[ClassScores, ...]
    undefined: tuple[str, ...]
    average_precision: dict[str, float | None]
    average_precision_undefined: str | None

    @property
    def summary(self) -> dict[str, float | None]:
        """The figures that sum it up by name, the main metric first."""
        return {
            "macro F1": self.macro_f1,
            "micro F1": self.micro_f1,
            "subset accuracy": self.subset_accuracy,
            "mAP": self.mean_average_precision,
        }

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return asdict(self)


def multi_label_report(
    truth: Sequence[Collection[str]],
    predicted: Sequence[Collection[str]],
    labels: Sequence[str],
    probabilities: npt.ArrayLike | None = None,
) -> MultiLabelReport:
    """Scores of predicted sets of labels; `probabilities` [samples, labels] adds average precision and ROC AUC.

    Average precision is sum over n of (R_n - R_(n-1)) P_n down the ranking of the samples by a label's probability,
    with no interpolation (Zhu, "Recall, precision and average precision", 2004; as scikit-learn computes it).

    Raises:
        InvalidArgument: nothing to score, lengths that differ, or a label that is not in `labels`.
    """
    if len(truth) != len(predicted) or not len(truth):
        raise InvalidArgument(
            f"found {len(truth)} true and {len(predicted)} predicted sets of labels; expected as many of each"
        )
    unknown = sorted({label for found in (*truth, *predicted) for label in found} - set(labels))
    if unknown:
        raise InvalidArgument(f"found labels {', '.join(unknown)}; expected only {', '.join(labels)}")
    true, found = (np.array([[label in some for label in labels] for some in sets]) for sets in (truth, predicted))
    scores = None if probabilities is None else np.asarray(probabilities)
    # scikit-learn takes a matrix of one column for two classes: a column in which nothing happens keeps it from that.
    targets = [np.pad(columns, ((0, 0), (0, 1))) for columns in (true, found)]
    ratios = precision_recall_fscore_support(*targets, labels=range(len(labels)), zero_division=np.nan)
    classes = class_scores(labels, ratios, true, scores)
    precisions = {
        label: float(average_precision_score(true[:, i], scores[:, i]))
        if scores is not None and true[:, i].any()
        else None
        for i, label in enumerate(labels)
    }
    missing = NO_PROBABILITIES if scores is None else None if true.any() else "no sample has a label"
    return MultiLabelReport(
        subset_accuracy=float(accuracy_score(*targets)),
        micro_f1=float(f1_score(*targets, average="micro")) if (true | found).any() else None,
        macro_f1=mean(label.f1 for label in classes),
        mean_average_precision=mean(precisions.values()),
        samples=len(truth),
        classes=classes,
        undefined=tuple(label.label for label in classes if label.f1 is None),
        average_precision=precisions,
        average_precision_undefined=missing,
    )
