"""From the values a tensor takes to the range that 8 bits are spread over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmedge.calibration.histogram import BINS, Histogram

LEVELS = 127
"""Steps between 0 and the largest magnitude: int8 without -128, so that both signs have as many."""

PERCENTILE = 99.99
_CANDIDATES = 128  # ranges that entropy and mse try, evenly up to the largest value


def range_minmax(histogram: Histogram) -> float:
    """The largest magnitude: nothing is cut off."""
    return histogram.largest


def range_percentile(histogram: Histogram, percentile: float = PERCENTILE) -> float:
    """The magnitude that `percentile` percent of all values, zeros among them, do not exceed, to a bin's width."""
    wanted = percentile / 100 * histogram.values
    cumulated = histogram.zeros + np.cumsum(histogram.counts)
    if not histogram.counts.any() or wanted <= histogram.zeros:
        # All but too few are zero for a percentile to say anything of the others.
        return histogram.largest
    return min(float(np.searchsorted(cumulated, wanted) + 1) * histogram.width, histogram.largest)


def range_mse(histogram: Histogram) -> float:
    """The range whose rounding and cutting off together lie least from the values, by the mean square."""
    middles = (np.arange(BINS) + 0.5) * histogram.width
    errors = {}
    for _, candidate in _candidates(histogram):
        step = candidate / LEVELS
        rounded = np.minimum(np.rint(middles / step), LEVELS) * step
        errors[candidate] = float(histogram.counts @ np.square(rounded - middles))
    return min(errors, key=errors.__getitem__, default=histogram.largest)


def range_entropy(histogram: Histogram) -> float:
    """The range whose 128 levels tell least different a distribution from that of the values: by the Kullback-Leibler
    divergence, what is cut off being counted at the edge (Migacz, "8-bit inference with TensorRT", GTC 2017). Zeros,
    which every range keeps as they are, do not count.
    """
    divergences = {candidate: _divergence(histogram.counts, end) for end, candidate in _candidates(histogram)}
    return min(divergences, key=divergences.__getitem__, default=histogram.largest)


def _candidates(histogram: Histogram) -> list[tuple[int, float]]:
    """Whole numbers of bins, from one per level to the largest value, and the magnitudes they reach; none for a
    histogram without values.
    """
    used = int(np.flatnonzero(histogram.counts).max(initial=-1)) + 1
    ends = np.unique(np.linspace(min(LEVELS + 1, used), used, _CANDIDATES).astype(int))
    return [(int(end), min(float(end) * histogram.width, histogram.largest)) for end in ends if end]


def _divergence(counts: np.ndarray[tuple[int], np.dtype[np.int64]], end: int) -> float:
    kept = counts[:end].astype(np.float64)
    reference = kept.copy()
    reference[-1] += counts[end:].sum()
    # A level's count is spread evenly over those of its bins that hold something.
    level = np.minimum(np.arange(end) * (LEVELS + 1) // end, LEVELS)
    filled = np.bincount(level, kept > 0, LEVELS + 1)
    share = np.bincount(level, kept, LEVELS + 1) / np.maximum(filled, 1)
    quantized = np.where(kept > 0, share[level], 0.0)
    inside = reference > 0
    p, q = reference[inside] / reference.sum(), quantized[inside]
    if not q.all():
        return float("inf")  # what is cut off lies where the levels say there is nothing
    return float((p * np.log(p / (q / quantized.sum()))).sum())


METHODS: dict[str, Callable[[Histogram], float]] = {
    "minmax": range_minmax,
    "entropy": range_entropy,
    "percentile": range_percentile,
    "mse": range_mse,
}
