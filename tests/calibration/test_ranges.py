from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmedge.calibration.histogram import BINS, Histogram
from mmedge.calibration.ranges import LEVELS, METHODS, range_entropy, range_minmax, range_mse, range_percentile

FLOATS = st.floats(allow_nan=True, allow_infinity=False, width=32)
VALUES = arrays(np.float32, st.integers(1, 200), elements=FLOATS)


def histogram_of(values: npt.NDArray[Any]) -> Histogram:
    histogram = Histogram()
    assert histogram.add(values)
    return histogram


def sample(count: int = 20_000) -> npt.NDArray[np.float32]:
    """Activations as they are: most near zero, a few far out, some exactly zero."""
    random = np.random.default_rng(3)
    values = random.standard_t(3, count).astype(np.float32)
    values[::5] = 0
    return values


@given(VALUES, st.lists(st.integers(0, 200), max_size=5), st.randoms(use_true_random=False))
def test_neither_order_nor_batches_show(values: npt.NDArray[np.float32], cuts: list[int], random: Any) -> None:
    whole, parts = histogram_of(values), Histogram()
    pieces = np.split(values, sorted(min(cut, len(values)) for cut in cuts))
    random.shuffle(pieces)
    for piece in pieces:
        parts.add(piece)
        parts = Histogram.from_dict(json.loads(json.dumps(parts.to_dict())))
    assert parts.to_dict() == whole.to_dict()


@given(VALUES)
def test_every_finite_value_is_in_its_bin(values: npt.NDArray[np.float32]) -> None:
    histogram = histogram_of(values)
    known = values[~np.isnan(values)].astype(np.float64)
    assert histogram.nans == np.isnan(values).sum()
    assert histogram.values == len(known)
    assert histogram.largest == np.abs(known).max(initial=0)
    bins = np.floor(np.abs(known[known != 0]) / histogram.width).astype(int)
    np.testing.assert_array_equal(histogram.counts, np.bincount(bins, minlength=BINS))
    assert histogram.largest < BINS * histogram.width or not known.any()


@given(VALUES, st.sampled_from(sorted(METHODS)))
def test_a_range_is_never_past_what_was_seen(values: npt.NDArray[np.float32], method: str) -> None:
    histogram = histogram_of(values)
    found = METHODS[method](histogram)
    assert np.isfinite(found)
    assert 0 <= found <= histogram.largest
    assert found > 0 or histogram.largest == 0


@pytest.mark.parametrize("values", [[1.3], [0.0, 1.0], [0.1, 0.9], [0.5, 1.0, 3.99]])
@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_a_few_values_alone_are_not_cut_off(values: list[float], method: str) -> None:
    assert METHODS[method](histogram_of(np.repeat(np.array(values, np.float32), 1000))) == pytest.approx(max(values))


def test_a_nan_is_left_out_and_counted() -> None:
    histogram = histogram_of(np.array([np.nan, 1, 2, 3], np.float32))
    assert range_minmax(histogram) == 3
    assert histogram.nans == 1


@pytest.mark.parametrize("wrong", [np.inf, -np.inf])
def test_an_infinity_is_refused_and_nothing_counted(wrong: float) -> None:
    histogram = histogram_of(np.ones(3, np.float32))
    before = histogram.to_dict()
    assert not histogram.add(np.array([1, wrong], np.float32))
    assert histogram.to_dict() == before


def test_the_percentile_is_that_of_the_values() -> None:
    values = sample()
    histogram = histogram_of(values)
    for percentile in (50.0, 99.0, 99.9, 99.99):
        found = range_percentile(histogram, percentile)
        assert found == pytest.approx(
            np.percentile(np.abs(values), percentile, method="inverted_cdf"), abs=1.01 * histogram.width
        )


def test_the_mean_square_error_is_least_at_its_range() -> None:
    values = sample()
    histogram = histogram_of(values)

    def error(amax: float) -> float:
        step = amax / LEVELS
        stored = np.clip(np.rint(values.astype(np.float64) / step), -LEVELS, LEVELS)
        return float(np.square(stored * step - values).mean())

    found = error(range_mse(histogram))
    assert found <= 1.01 * min(map(error, np.linspace(0.05, 1, 200) * histogram.largest))
    assert found < error(histogram.largest)


def test_the_divergence_is_least_at_its_range() -> None:
    values = sample()
    histogram = histogram_of(values)

    def divergence(end: int) -> float:
        """Bin by bin, as the source says it, and by scipy."""
        inside = histogram.counts[:end].astype(float)
        p = inside.copy()
        p[-1] += histogram.counts[end:].sum()
        q = np.zeros(end)
        for level in range(LEVELS + 1):
            bins = [b for b in range(end) if b * (LEVELS + 1) // end == level]
            filled = [b for b in bins if inside[b] > 0]
            for b in filled:
                q[b] = inside[bins].sum() / len(filled)
        return float(scipy.stats.entropy(p, q))

    found = range_entropy(histogram)
    assert found < histogram.largest
    ends = np.linspace(LEVELS + 1, np.flatnonzero(histogram.counts).max() + 1, 40).astype(int)
    assert divergence(round(found / histogram.width)) <= 1.001 * min(map(divergence, ends))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_tensor_that_is_zero_throughout_has_range_zero(method: str) -> None:
    assert METHODS[method](histogram_of(np.zeros(10, np.float32))) == 0
