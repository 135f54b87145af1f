from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge.metrics import multi_label_report
from mmedge.runtime.errors import InvalidArgument

LABELS = ["a", "b", "c"]
SETS = st.frozensets(st.sampled_from(LABELS))


@given(st.lists(st.tuples(SETS, SETS), min_size=1, max_size=30))
def test_scores_agree_with_counting(pairs: list[tuple[frozenset[str], frozenset[str]]]) -> None:
    truth, predicted = zip(*pairs, strict=True)
    report = multi_label_report(truth, predicted, LABELS)
    assert report.subset_accuracy == pytest.approx(np.mean([t == p for t, p in pairs]))
    counts = {
        label: (
            sum(label in t and label in p for t, p in pairs),
            sum(label in t for t in truth) + sum(label in p for p in predicted),
        )
        for label in LABELS
    }
    f1 = {label: 2 * hits / total if total else None for label, (hits, total) in counts.items()}
    assert {scores.label: scores.f1 for scores in report.classes} == pytest.approx(f1)
    assert report.undefined == tuple(label for label in LABELS if f1[label] is None)
    hits, total = np.sum(list(counts.values()), axis=0)
    assert report.micro_f1 == (pytest.approx(2 * hits / total) if total else None)
    defined = [value for value in f1.values() if value is not None]
    assert report.macro_f1 == (pytest.approx(np.mean(defined)) if defined else None)


def test_average_precision_walks_down_the_ranking_and_leaves_out_labels_nobody_has() -> None:
    # "a" is right at ranks 1 and 3 of 3: (1/1 + 2/3) / 2; "b" at rank 2: 1/2.
    report = multi_label_report(
        [{"a"}, {"b"}, {"a"}], [{"a"}, set(), set()], LABELS, [[0.9, 0.8, 0.1], [0.5, 0.6, 0.2], [0.4, 0.3, 0.3]]
    )
    assert report.average_precision == {"a": pytest.approx(5 / 6), "b": pytest.approx(1 / 2), "c": None}
    assert report.mean_average_precision == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert report.undefined == ("c",)
    assert report.classes[2].roc_auc_undefined == "no sample is of this class"


def test_what_is_undefined_is_null_with_the_reason_in_strict_json() -> None:
    nothing = multi_label_report([set()], [set()], LABELS, [[0.1, 0.1, 0.1]])
    found = json.loads(json.dumps(nothing.to_dict(), allow_nan=False))
    assert found["micro_f1"] is found["macro_f1"] is found["mean_average_precision"] is None
    assert found["average_precision_undefined"] == "no sample has a label"
    assert found["subset_accuracy"] == 1.0
    without = multi_label_report([{"a"}], [{"a"}], LABELS)
    assert without.average_precision_undefined == "not every prediction has a probability for every label"


def test_one_label_alone_is_no_special_case() -> None:
    report = multi_label_report([{"a"}, set(), {"a"}], [{"a"}, {"a"}, set()], ["a"], [[0.9], [0.6], [0.2]])
    assert report.classes[0].f1 == report.micro_f1 == report.macro_f1 == 0.5
    assert report.subset_accuracy == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [([], [], "found 0 true"), ([{"a"}], [], "found 1 true and 0"), ([{"a"}], [{"x"}], "found labels x")],
)
def test_what_cannot_be_scored_is_refused(truth: list[set[str]], predicted: list[set[str]], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        multi_label_report(truth, predicted, LABELS)
