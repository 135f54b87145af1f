from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
def test_scores_agree_with_counting(pairs: list[tuple[str, str]]) -> None:
    truth, predicted = zip(*pairs, strict=True)
    report = classification_report(truth, predicted, LABELS[::-1])  # in the order given, not the alphabet's
    f1 = []
    for scores in report.classes:
        hits = sum(t == p == scores.label for t, p in pairs)
        misses, alarms = (sum(one == scores.label for one in some) - hits for some in (truth, predicted))
        assert scores.support == hits + misses
        assert scores.precision == (pytest.approx(hits / (hits + alarms)) if hits + alarms else None)
        assert scores.recall == (pytest.approx(hits / (hits + misses)) if hits + misses else None)
        f1 += [2 * hits / (2 * hits + misses + alarms)] if hits + misses + alarms else []
        assert scores.f1 == (pytest.approx(f1[-1]) if hits + misses + alarms else None)
    assert report.macro_f1 == pytest.approx(np.mean(f1))
    assert report.accuracy == pytest.approx(np.mean([t == p for t, p in pairs]))
    counted = [[pairs.count((t, p)) for p in LABELS[::-1]] for t in LABELS[::-1]]
    np.testing.assert_array_equal(report.confusion, counted)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), min_size=1, max_size=30))
def test_the_roc_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[str, int]]) -> None:
    truth = [label for label, _ in rows]
    probabilities = np.array([[score / 5, 1 - score / 5] for _, score in rows])
    report = classification_report(truth, truth, ["a", "b"], probabilities)
    inside, outside = ([score for label, score in rows if label == wanted] for wanted in "ab")
    if not inside or not outside:
        assert report.macro_roc_auc is None
        seen, missing = report.classes if inside else report.classes[::-1]
        assert seen.roc_auc_undefined == "every sample is of this class"
        assert missing.roc_auc_undefined == "no sample is of this class"
        return
    expected = np.mean([(x > y) + (x == y) / 2 for x in inside for y in outside])
    assert [scores.roc_auc for scores in report.classes] == pytest.approx([expected, expected])
    assert report.macro_roc_auc == pytest.approx(expected)


def test_without_probabilities_the_roc_auc_is_null_with_the_reason() -> None:
    report = classification_report(["a", "b"], ["a", "b"], ["a", "b"])
    assert report.to_dict()["macro_roc_auc"] is None
    assert {scores.roc_auc_undefined for scores in report.classes} == {
        "not every prediction has a probability for every label"
    }


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
