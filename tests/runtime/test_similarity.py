"""mme_similarity_top_k, judged by numpy in float64."""

from __future__ import annotations

import sys
import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.runtime.errors import DataError, InvalidArgument
from mmedge.runtime.native import check, ffi, lib

METRICS = {"cosine": lib.MME_COSINE, "dot": lib.MME_DOT, "euclidean": lib.MME_EUCLIDEAN}
TYPES = {"float32": lib.MME_FLOAT32, "float16": lib.MME_FLOAT16, "int8": lib.MME_INT8}
Array = npt.NDArray[Any]


class Found(NamedTuple):
    rows: Array
    scores: Array


def search(gallery: Array, query: Array, k: int, metric: str, scale: float = 0.0, /, **changed: Any) -> Found:
    """The search of the rows of a 2-D view, whatever its row stride."""
    query = np.ascontiguousarray(query, np.float32)
    fields = {
        "struct_size": ffi.sizeof("mme_search"),
        "metric": METRICS[metric],
        "data_type": TYPES[gallery.dtype.name],
        "gallery": ffi.cast("void *", gallery.ctypes.data),
        "rows": gallery.shape[0],
        "dimension": gallery.shape[1],
        "row_stride": gallery.strides[0],
        "scale": scale,
    }
    wanted = ffi.new("mme_search *", fields | changed)
    rows, scores = np.full(k, -1, np.int64), np.full(k, np.nan, np.float32)
    found = ffi.new("size_t *")
    check(
        lib.mme_similarity_top_k(
            wanted,
            ffi.cast("float *", query.ctypes.data),
            k,
            ffi.cast("int64_t *", rows.ctypes.data),
            ffi.cast("float *", scores.ctypes.data),
            found,
        )
    )
    return Found(rows[: found[0]], scores[: found[0]])


def reference(gallery: Array, query: Array, metric: str, scale: float = 1.0) -> Array:
    """The score of every row in float64; larger is nearer."""
    rows, q = gallery.astype(np.float64) * scale, query.astype(np.float64)
    if metric == "euclidean":
        return -np.linalg.norm(rows - q, axis=1)
    if metric == "dot":
        return rows @ q
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(q)
    return np.divide(rows @ q, lengths, out=np.zeros(len(rows)), where=lengths != 0)


def make_gallery(rng: np.random.Generator, dtype: str, rows: int, dimension: int, padding: int = 0) -> Array:
    """Random rows, `padding` bytes of rubbish between them."""
    values = rng.normal(size=(rows, dimension))
    packed = (np.clip(values * 40, -128, 127) if dtype == "int8" else values).astype(dtype)
    memory = np.full((rows, packed.itemsize * dimension + padding), 0xFF, np.uint8)
    memory[:, : packed.itemsize * dimension] = packed.view(np.uint8)
    strides = (memory.strides[0], packed.itemsize)
    return np.ndarray((rows, dimension), dtype, buffer=memory, strides=strides)


def judge(found: Found, expected: Array, k: int, metric: str, tolerance: float) -> None:
    assert len(found.rows) == min(k, len(expected)) == len(set(found.rows))
    scores = -found.scores if metric == "euclidean" else found.scores
    np.testing.assert_allclose(scores, expected[found.rows], rtol=0, atol=tolerance)
    assert (np.diff(scores) <= 0).all()
    assert all(a < b for a, b, tie in zip(found.rows, found.rows[1:], np.diff(scores) == 0, strict=False) if tie)
    # Where float64 sees a clear order, the rows are the same.
    best = np.argsort(-expected, kind="stable")
    clear = np.append(np.diff(expected[best]) < -2 * tolerance, True)
    for i, row in enumerate(found.rows):
        if clear[i] and (i == 0 or clear[i - 1]):
            assert row == best[i]
    assert expected[found.rows].min(initial=np.inf) >= expected[best[len(found.rows) - 1]] - 2 * tolerance


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from(sorted(TYPES)),
    metric=st.sampled_from(sorted(METRICS)),
    rows=st.integers(1, 60),
    dimension=st.integers(1, 150),
    padding=st.integers(0, 9),
    k=st.integers(1, 70),
    scale=st.sampled_from([0.0, 0.02, -0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_nearest_rows_are_those_of_numpy_in_float64(
    dtype: str, metric: str, rows: int, dimension: int, padding: int, k: int, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    gallery = make_gallery(rng, dtype, rows, dimension, padding)
    query = rng.normal(size=dimension).astype(np.float32)
    stands_for = (scale or 1.0) if dtype == "int8" else 1.0
    expected = reference(gallery, query, metric, stands_for)
    size = np.abs(gallery.astype(np.float64) * stands_for).max() * np.abs(query).max() * dimension
    tolerance = 2e-6 if metric == "cosine" else 1e-6 * max(size, 1.0)
    judge(search(gallery, query, k, metric, scale), expected, k, metric, tolerance)


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("k", [1, 10, 1024, 1025, 3000])
def test_a_long_gallery_is_searched_whole(metric: str, k: int) -> None:
    rng = np.random.default_rng(k)
    gallery = make_gallery(rng, "float32", 2500, 96)
    query = rng.normal(size=96).astype(np.float32)
    judge(search(gallery, query, k, metric), reference(gallery, query, metric), k, metric, 2e-5)


@pytest.mark.parametrize("dtype", sorted(TYPES))
@pytest.mark.parametrize("metric", sorted(METRICS))
def test_equal_rows_come_in_the_order_of_the_gallery(dtype: str, metric: str) -> None:
    rng = np.random.default_rng(5)
    gallery = make_gallery(rng, dtype, 4, 33)[rng.integers(0, 4, 200)].copy()
    query = rng.normal(size=33).astype(np.float32)
    expected = np.argsort(-reference(gallery, query, metric), kind="stable")
    for k in (1, 30, 120, 200):
        np.testing.assert_array_equal(search(gallery, query, k, metric).rows, expected[:k])


def test_a_row_of_zeros_and_a_query_of_zeros_have_a_cosine_of_zero() -> None:
    gallery = np.array([[0, 0], [1, 1], [-1, 0]], np.float32)
    found = search(gallery, np.array([1, 0], np.float32), 3, "cosine")
    np.testing.assert_array_equal(found.rows, [1, 0, 2])
    np.testing.assert_allclose(found.scores, [2**-0.5, 0, -1], rtol=1e-6)
    found = search(gallery, np.zeros(2, np.float32), 3, "cosine")
    np.testing.assert_array_equal(found.rows, [0, 1, 2])
    np.testing.assert_array_equal(found.scores, [0, 0, 0])


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-18, 1e18, 1e25, 1e37])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_tiny_and_huge_rows_and_queries_are_scored_as_exactly_as_others(size: float, metric: str) -> None:
    rng = np.random.default_rng(6)
    gallery = (rng.uniform(-1, 1, size=(40, 20)) * size).astype(np.float32)
    for query in ((rng.uniform(-1, 1, size=20) * size).astype(np.float32), np.ones(20, np.float32)):
        found, expected = search(gallery, query, 40, metric), reference(gallery, query, metric)
        scores = -found.scores if metric == "euclidean" else found.scores
        largest = np.abs(expected).max()
        np.testing.assert_allclose(scores, expected[found.rows], rtol=2e-6, atol=2e-6 * largest + 2e-45)


def test_a_row_equal_to_the_query_has_distance_zero() -> None:
    gallery = make_gallery(np.random.default_rng(7), "float16", 30, 40)
    found = search(gallery, gallery[17].astype(np.float32), 1, "euclidean")
    assert (found.rows[0], found.scores[0]) == (17, 0.0)


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_that_hold_nan_or_infinity_come_last(metric: str, dtype: str) -> None:
    gallery = make_gallery(np.random.default_rng(8), dtype, 12, 20)
    gallery[2, 3] = np.nan
    gallery[7, 19] = np.nan
    found = search(gallery, np.ones(20, np.float32), 12, metric)
    assert list(found.rows[-2:]) == [2, 7]
    assert (found.scores[-2:] == (np.inf if metric == "euclidean" else -np.inf)).all()
    assert np.isfinite(found.scores[:-2]).all()


def test_an_infinity_in_a_float16_row_is_one() -> None:
    gallery = np.array([[1, 2], [np.inf, 1], [-np.inf, 1], [3, np.inf]], np.float16)
    found = search(gallery, np.array([1, 1], np.float32), 4, "dot")
    np.testing.assert_array_equal(found.rows, [1, 3, 0, 2])
    np.testing.assert_array_equal(found.scores, [np.inf, np.inf, 3, -np.inf])


def test_every_float16_is_read_as_numpy_reads_it() -> None:
    patterns = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = patterns[np.isfinite(patterns)].reshape(-1, 1)
    found = search(finite, np.ones(1, np.float32), len(finite), "dot")
    np.testing.assert_array_equal(found.scores, finite[found.rows, 0].astype(np.float32))
    found = search(finite, np.zeros(1, np.float32), len(finite), "euclidean")
    np.testing.assert_array_equal(found.scores, np.abs(finite[found.rows, 0].astype(np.float32)))


def test_no_rows_are_no_result() -> None:
    empty = np.zeros((0, 8), np.float32)
    assert len(search(empty, np.ones(8, np.float32), 3, "dot", gallery=ffi.NULL, row_stride=0).rows) == 0


def test_k_far_beyond_the_rows_needs_no_memory_of_its_own() -> None:
    gallery = np.eye(3, dtype=np.float32)
    rows, scores, found = ffi.new("int64_t[3]"), ffi.new("float[3]"), ffi.new("size_t *")
    fields = [ffi.sizeof("mme_search"), lib.MME_DOT, lib.MME_FLOAT32, ffi.cast("void *", gallery.ctypes.data), 3, 3, 0]
    query = ffi.new("float[]", [0, 2, 1])
    check(lib.mme_similarity_top_k(ffi.new("mme_search *", fields), query, sys.maxsize, rows, scores, found))
    assert (found[0], list(rows), list(scores)) == (3, [1, 2, 0], [2, 1, 0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"metric": 3}, "metric is 3"),
        ({"metric": -1}, "metric is -1"),
        ({"data_type": lib.MME_UINT8}, "data_type is 2"),
        ({"data_type": 9}, "data_type is 9"),
        ({"gallery": ffi.NULL}, "gallery is NULL"),
        ({"dimension": 0}, "dimension is 0"),
        ({"dimension": 2**63}, "dimension is 9223372036854775808"),
        ({"rows": 2**60}, "rows is 1152921504606846976"),
        ({"row_stride": 15}, "a row of 4 needs 16"),
        ({"data_type": lib.MME_INT8, "scale": float("nan")}, "scale is nan"),
        ({"struct_size": 8}, "struct_size is 8"),
    ],
)
def test_a_search_that_cannot_be_meant_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        search(np.ones((2, 4), np.float32), np.ones(4, np.float32), 1, "dot", **changed)


def test_null_pointers_and_a_k_of_zero_are_refused() -> None:
    gallery = np.ones((2, 4), np.float32)
    fields = [ffi.sizeof("mme_search"), lib.MME_DOT, lib.MME_FLOAT32, ffi.cast("void *", gallery.ctypes.data), 2, 4, 0]
    good = [ffi.new("mme_search *", fields), ffi.new("float[4]"), 1]
    good += [ffi.new("int64_t *"), ffi.new("float *"), ffi.new("size_t *", 77)]
    for argument, name in enumerate(["search is NULL", "query is NULL", "k is 0", "indices", "scores", "found"]):
        arguments = list(good)
        arguments[argument] = 0 if argument == 2 else ffi.NULL
        with pytest.raises(InvalidArgument, match=name):
            check(lib.mme_similarity_top_k(*arguments))
    assert good[-1][0] == 77
    check(lib.mme_similarity_top_k(*good))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_query_that_is_not_finite_is_bad_input_and_named(value: float) -> None:
    query = np.ones(4, np.float32)
    query[2] = value
    with pytest.raises(DataError, match="element 2 of the query"):
        search(np.ones((2, 4), np.float32), query, 1, "cosine")


def test_threads_search_one_gallery_at_once() -> None:
    rng = np.random.default_rng(9)
    gallery = make_gallery(rng, "int8", 3000, 70)
    queries = rng.normal(size=(8, 70)).astype(np.float32)
    expected = [search(gallery, query, 5, "cosine") for query in queries]
    same: list[bool] = []

    def work(i: int) -> None:
        for _ in range(20):
            found = search(gallery, queries[i], 5, "cosine")
            same.append(np.array_equal(found.rows, expected[i].rows))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(same) == 160
    assert all(same)
