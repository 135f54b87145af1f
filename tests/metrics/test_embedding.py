from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_curve

from mmedge.metrics import (
    Metric,
    Pairs,
    all_pairs,
    cross_retrieval,
    retrieval,
    score_pairs,
    similarity,
    verification,
)

METRICS: list[Metric] = ["cosine", "euclidean"]


def pairs(same: list[bool], scores: list[float]) -> Pairs:
    nothing = np.zeros(len(same), np.int64)
    return Pairs(nothing, nothing, np.array(same), np.array(scores, float))


@pytest.mark.parametrize(
    ("same", "scores", "eer", "threshold"),
    [
        # Separated: no error at the lowest score of a pair of one label.
        ([True, True, False, False], [0.9, 0.8, 0.3, 0.1], 0.0, 0.8),
        # Turned around: everything is wrong.
        ([True, True, False, False], [0.1, 0.2, 0.8, 0.9], 1.0, 0.8),
        # ROC (0, 0) (0, 1/2) (1/2, 1/2) (1/2, 1): it meets fpr = 1 - tpr at (1/2, 1/2).
        ([True, False, True, False], [0.9, 0.7, 0.5, 0.3], 0.5, 0.7),
        # All scores equal: the ROC is the diagonal, whatever the share of pairs of one label.
        ([True, False, False, False], [0.5, 0.5, 0.5, 0.5], 0.5, 0.5),
        # One tie: (0, 1/2) to (1/2, 1) is slanted and meets fpr = 1 - tpr at (1/4, 3/4), half-way from 0.9 to 0.5.
        ([True, True, False, False], [0.9, 0.5, 0.5, 0.1], 0.25, 0.7),
    ],
)
def test_the_eer_is_where_false_accepts_equal_false_rejects(
    same: list[bool], scores: list[float], eer: float, threshold: float
) -> None:
    found = verification(pairs(same, scores))
    assert found.eer == pytest.approx(eer)
    assert found.threshold == pytest.approx(threshold)
    assert (found.pairs, found.same) == (4, sum(same))


def test_the_threshold_is_one_at_which_the_errors_are_equal() -> None:
    # The ROC is level from (0, 0.8) to (1, 0.8): the two rejected of ten are matched by the second of ten accepted.
    different = [0.5 - 0.01 * step for step in range(10)]
    found = verification(pairs([True] * 10 + [False] * 10, [1.0] * 8 + [0.0] * 2 + different))
    assert found.eer == pytest.approx(0.2)
    assert found.threshold == pytest.approx(0.49)
    assert np.mean(np.array(different) >= 0.49) == 0.2


@given(st.lists(st.tuples(st.booleans(), st.integers(-8, 8)), min_size=2, max_size=60))
def test_the_eer_is_the_root_of_the_interpolated_roc(rows: list[tuple[bool, int]]) -> None:
    same, scores = [row[0] for row in rows], [row[1] / 8 for row in rows]
    found = verification(pairs(same, scores))
    if len(set(same)) == 1:
        assert found.eer is found.threshold is None
        assert found.undefined == f"no pair is of {'two labels' if same[0] else 'one label'}"
        return
    false_accepts, true_accepts, _ = roc_curve(same, scores, drop_intermediate=False)
    along = np.linspace(0, 1, len(false_accepts))  # by position, since the ROC has vertical pieces
    difference = interp1d(along, 1 - true_accepts - false_accepts)
    root = brentq(difference, 0, 1, xtol=1e-14)
    assert found.eer == pytest.approx(float(interp1d(along, false_accepts)(root)), abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_similarities_are_cosines_or_minus_distances(metric: Metric) -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(7, 5)).astype(np.float32), random.normal(size=(4, 5)).astype(np.float32)
    expected = 1 - cdist(a, b, "cosine") if metric == "cosine" else -cdist(a, b)
    np.testing.assert_allclose(similarity(a, b, metric), expected, atol=1e-6)


def test_a_vector_of_zeros_is_like_nothing() -> None:
    zeros, ones = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert similarity(zeros, ones, "cosine") == 0


@pytest.mark.parametrize("metric", METRICS)
def test_pairs_are_scored_as_one_by_one(metric: Metric) -> None:
    random = np.random.default_rng(1)
    vectors = random.normal(size=(400, 3)).astype(np.float32)  # more than one chunk of first rows
    labels = [str(random.integers(5)) for _ in vectors]
    wanted = random.integers(0, 400, (1000, 2))
    found = score_pairs(vectors, labels, wanted, metric)
    assert sorted(zip(found.first, found.second, strict=True)) == sorted(map(tuple, wanted))
    for a, b, same, score in zip(*found, strict=True):
        assert same == (labels[a] == labels[b])
        assert score == pytest.approx(similarity(vectors[a : a + 1], vectors[b : b + 1], metric)[0, 0], abs=1e-9)


def test_no_pair_at_all_is_undefined() -> None:
    none = np.empty((0, 2), np.int64)
    found = verification(score_pairs(np.ones((1, 2), np.float32), ["a"], none, "cosine"))
    assert (found.eer, found.pairs, found.undefined) == (None, 0, "no pair is of one label")


def test_every_pair_of_few_rows_is_taken_and_of_many_rows_a_fixed_draw() -> None:
    assert sorted(map(tuple, all_pairs(5))) == list(itertools.combinations(range(5), 2))
    drawn = all_pairs(2100)
    assert len(drawn) == 2000 * 1999 // 2
    assert (drawn[:, 0] < drawn[:, 1]).all()
    assert np.count_nonzero(np.bincount(drawn.ravel())) == 2000
    np.testing.assert_array_equal(drawn, all_pairs(2100))


def rank_by_sorting(scores: npt.NDArray[np.float64], relevant: list[int], others: list[int]) -> int:
    """Best rank of a relevant row when it stands behind all its equals."""
    order = sorted([(-scores[i], 1) for i in relevant] + [(-scores[i], 0) for i in others], key=lambda row: row[::1])
    return next(rank for rank, (_, is_relevant) in enumerate(order, start=1) if is_relevant)


@given(
    arrays(np.float32, st.tuples(st.integers(1, 30), st.just(1)), elements=st.integers(-5, 5)),
    st.randoms(use_true_random=False),
)
def test_recall_agrees_with_sorting(vectors: npt.NDArray[np.float32], random: object) -> None:
    labels = [random.choice("abcd") for _ in vectors]  # type: ignore[attr-defined]
    found = retrieval(vectors, labels, "euclidean")
    ranks = []
    for query in range(len(vectors)):
        others = [row for row in range(len(vectors)) if row != query]
        relevant = [row for row in others if labels[row] == labels[query]]
        if relevant:
            scores = -cdist(vectors[query : query + 1], vectors)[0]
            ranks.append(rank_by_sorting(scores, relevant, [row for row in others if row not in relevant]))
    assert found.queries == len(ranks)
    for k, share in found.recall.items():
        assert share == (pytest.approx(np.mean([rank <= k for rank in ranks])) if ranks else None)


def test_retrieval_goes_over_more_rows_than_one_chunk() -> None:
    random = np.random.default_rng(2)
    vectors = random.normal(size=(600, 8)).astype(np.float32)
    doubled = np.concatenate([vectors, vectors + 1e-3 * random.normal(size=vectors.shape)]).astype(np.float32)
    labels = [str(row % 600) for row in range(1200)]
    assert retrieval(doubled, labels, "cosine").recall == {1: 1.0, 5: 1.0, 10: 1.0}
    assert cross_retrieval(doubled[:600], doubled[600:], labels[:600], "euclidean").recall[1] == 1.0
    assert cross_retrieval(doubled[:600], doubled[600:][::-1], labels[:600], "euclidean").recall[10] < 0.1


def test_across_modalities_every_row_of_the_label_counts() -> None:
    random = np.random.default_rng(3)
    of_label = random.normal(size=(10, 8)).repeat(2, axis=0)
    images, sounds = (of_label + 1e-3 * random.normal(size=of_label.shape) for _ in range(2))
    labels = [str(row // 2) for row in range(20)]
    found = cross_retrieval(images.astype(np.float32), sounds.astype(np.float32), labels, "cosine")
    assert (found.recall[1], found.queries) == (1.0, 20)
    # Where each row has a label of its own, the nearest is as often the other one.
    alone = cross_retrieval(images.astype(np.float32), sounds.astype(np.float32), list(map(str, range(20))), "cosine")
    expected = (cdist(images, sounds, "cosine").argmin(axis=1) == np.arange(20)).mean()
    assert alone.recall[1] == expected < 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_a_collapsed_model_finds_nothing(metric: Metric) -> None:
    vectors = np.ones((40, 4), np.float32)
    labels = [str(row // 2) for row in range(40)]
    assert verification(score_pairs(vectors, labels, all_pairs(40), metric)).eer == 0.5
    # Whose products are not all rounded alike.
    odd = np.tile(np.random.default_rng(130).standard_normal(130).astype(np.float32), (300, 1))
    for found, names in ((vectors, labels), (odd, [str(row % 10) for row in range(300)])):
        assert retrieval(found, names, metric).recall == {1: 0.0, 5: 0.0, 10: 0.0}
        assert cross_retrieval(found, found, names, metric).recall == {1: 0.0, 5: 0.0, 10: 0.0}
