"""The nearest rows of a gallery, judged by NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.runtime import similarity_top_k
from mmedge.runtime.errors import DataError, InvalidArgument


def exact(gallery: npt.NDArray[Any], query: npt.NDArray[Any], metric: str, scale: float) -> npt.NDArray[np.float64]:
    rows, wanted = gallery.astype(np.float64) * scale, query.astype(np.float64)
    if metric == "dot":
        return rows @ wanted
    if metric == "euclidean":
        return np.asarray(np.linalg.norm(rows - wanted, axis=1))
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted)
    return np.divide(rows @ wanted, norms, out=np.zeros(len(rows)), where=norms > 0)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    k=st.integers(1, 50),
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    dtype=st.sampled_from(["float32", "float16", "int8"]),
    padding=st.integers(0, 3),
    seed=st.integers(0, 999),
)
def test_the_best_rows_are_found_in_order(
    shape: tuple[int, int], k: int, metric: Any, dtype: str, padding: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    scale = 0.03 if dtype == "int8" else 1.0
    values = random.integers(-127, 128, (shape[0], shape[1] + padding)) if dtype == "int8" else None
    wide = random.normal(0, 1, (shape[0], shape[1] + padding)) if values is None else values
    gallery = wide.astype(dtype)[:, : shape[1]]
    query = random.normal(0, 1, shape[1]).astype(np.float32)
    expected = exact(gallery, query, metric, scale)
    indices, scores = similarity_top_k(gallery, query, k, metric, scale)
    assert indices.dtype == np.int64
    assert scores.dtype == np.float32
    assert len(indices) == len(scores) == min(k, shape[0]) == len(set(indices))
    tolerance = 1e-4 * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(scores, expected[indices], atol=tolerance)
    best = np.sort(expected)[: len(scores)] if metric == "euclidean" else -np.sort(-expected)[: len(scores)]
    np.testing.assert_allclose(scores, best, atol=tolerance)


def test_equal_rows_come_in_their_order_and_any_memory_will_do() -> None:
    gallery = np.ones((5, 8), np.float32)
    query = np.ones(8, np.float32)
    for rows, wanted in (
        (gallery, query),
        (torch.from_numpy(gallery), torch.from_numpy(query)),
        (memoryview(gallery), memoryview(query)),
        (gallery.astype(np.float16), query),
    ):
        indices, scores = similarity_top_k(rows, wanted, 3)
        assert indices.tolist() == [0, 1, 2]
        np.testing.assert_allclose(scores, 1, atol=1e-6)
    indices, scores = similarity_top_k(gallery[:0], query, 3)
    assert len(indices) == len(scores) == 0


def test_what_cannot_be_searched_is_refused_by_name() -> None:
    gallery = np.ones((5, 8), np.float32)
    query = np.ones(8, np.float32)
    refused: list[tuple[str, tuple[Any, ...]]] = [
        ("found a gallery of float64", (gallery.astype(float), query, 1)),
        ("found a gallery of >f4 .*; expected float32, float16, int8", (gallery.astype(">f4"), query, 1)),
        (r"found a gallery of float32 \[8\]", (gallery[0], query, 1)),
        ("found a gallery with strides", (np.asfortranarray(gallery), query, 1)),
        ("found a gallery with strides", (gallery[::-1], query, 1)),
        (r"found a query of float64", (gallery, query.astype(float), 1)),
        (r"found a query of float32 \[7\].*float32 \[8\]", (gallery, query[1:], 1)),
        ("found a query", (gallery, np.ones(16, np.float32)[::2], 1)),
        ("k is 0", (gallery, query, 0)),
        ("metric is 'angle'; expected cosine, dot, euclidean", (gallery, query, 1, "angle")),
    ]
    for message, arguments in refused:
        with pytest.raises(InvalidArgument, match=message):
            similarity_top_k(*arguments)
    query[3] = np.nan
    with pytest.raises(DataError):
        similarity_top_k(gallery, query, 1)
