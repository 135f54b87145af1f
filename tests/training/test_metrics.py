from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from mmedge.metrics import classification_report
from mmedge.runtime.errors import InvalidArgument

LABELS = ["a", "b", "c", "d", "e"]


def test_classes_absent_from_truth_or_prediction_count_and_unseen_ones_are_undefined() -> None:
    report = classification_report(["a", "b", "a", "d"], ["a", "b", "c", "c"], LABELS)
    assert [scores.f1 for scores in report.classes] == [pytest.approx(2 / 3), 1.0, 0.0, 0.0, None]
    assert report.macro_f1 == pytest.approx(0.4167, abs=1e-4)
    assert report.undefined == ("e",)
    assert report.accuracy == 0.5
    assert [scores.precision for scores in report.classes] == [1.0, 1.0, 0.0, None, None]
    assert [scores.recall for scores in report.classes] == [0.5, 1.0, None, 0.0, None]


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=60))
def test_scores_agree_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    truth, predicted = zip(*pairs, strict=True)
    report = classification_report(truth, predicted, LABELS)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=LABELS, zero_division=np.nan
    )
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        found = [getattr(scores, name) for scores in report.classes]
        np.testing.assert_allclose([np.nan if x is None else x for x in found], expected)
    assert [scores.support for scores in report.classes] == list(support)
    assert report.macro_f1 == pytest.approx(np.nanmean(f1))
    np.testing.assert_array_equal(report.confusion, confusion_matrix(truth, predicted, labels=LABELS))


def test_a_report_is_strict_json() -> None:
    report = classification_report(["a"], ["a"], LABELS)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["undefined"] == ["b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([], [], "found 0 true"),
        (["a"], ["a", "b"], "found 1 true and 2 predicted"),
        (["a"], ["x"], "found labels x"),
    ],
)
def test_what_cannot_be_scored_is_refused(truth: list[str], predicted: list[str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        classification_report(truth, predicted, LABELS)
