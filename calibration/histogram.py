"""A histogram of magnitudes that comes out the same in whatever order and in whatever parts the values arrive."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import frexp
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 4096
_LOWEST_EXPONENT = -200  # bins far below the least float32 there is


@dataclass
class Histogram:
    """The finite values of one tensor so far.

    counts: int64 [BINS], bin b holding the magnitudes in [b, b + 1) times 2^exponent, zeros apart; exponent: the least
    that has room for the largest magnitude. As widths are powers of two, bins join exactly when the range grows, so
    that no order of the values and no cut into batches shows.
    """

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    exponent: int = _LOWEST_EXPONENT
    zeros: int = 0
    nans: int = 0
    minimum: float = float("inf")
    maximum: float = float("-inf")

    @property
    def values(self) -> int:
        """How many finite values there were."""
        return int(self.counts.sum()) + self.zeros

    @property
    def largest(self) -> float:
        """The largest magnitude; 0 where there was no value."""
        return max(self.maximum, -self.minimum, 0.0)

    @property
    def width(self) -> float:
        """Of a bin."""
        return 2.0**self.exponent

    def add(self, values: npt.NDArray[Any]) -> bool:
        """Count `values`, of any shape; NaNs apart. False, and nothing counted, where one is infinite."""
        flat = np.ascontiguousarray(values, np.float64).ravel()
        known = flat[~np.isnan(flat)]
        if np.isinf(known).any():
            return False
        self.nans += flat.size - known.size
        if not known.size:
            return True
        self.minimum = min(self.minimum, float(known.min()))
        self.maximum = max(self.maximum, float(known.max()))
        magnitudes = np.abs(known)
        self._reach(float(magnitudes.max()))
        positive = magnitudes[magnitudes > 0]
        self.zeros += known.size - positive.size
        self.counts += np.bincount(np.ldexp(positive, -self.exponent).astype(np.int64), minlength=BINS)
        return True

    def _reach(self, magnitude: float) -> None:
        """Widen the bins until the last one holds `magnitude`."""
        if not magnitude:
            return
        # magnitude < 2^e, and there are 2^12 bins.
        needed = frexp(magnitude)[1] - (BINS.bit_length() - 1)
        if needed <= self.exponent:
            return
        joined = np.bincount(np.arange(BINS) >> min(needed - self.exponent, 62), self.counts, minlength=BINS)
        self.counts, self.exponent = joined.astype(np.int64), needed

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; the counts without the empty bins at the end."""
        used = int(np.flatnonzero(self.counts).max(initial=-1)) + 1
        return {
            "counts": self.counts[:used].tolist(),
            "exponent": self.exponent,
            "zeros": self.zeros,
            "nans": self.nans,
            "minimum": self.minimum if self.values else None,
            "maximum": self.maximum if self.values else None,
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Histogram:
        """What `to_dict` gave."""
        made = cls(exponent=found["exponent"], zeros=found["zeros"], nans=found["nans"])
        made.counts[: len(found["counts"])] = found["counts"]
        if found["minimum"] is not None:
            made.minimum, made.maximum = found["minimum"], found["maximum"]
        return made
