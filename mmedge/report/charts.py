"""Line charts and histograms as coordinates; the page's template draws them as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from mmedge.metrics import Pairs, Verification

LEFT, TOP, WIDTH, HEIGHT = 44, 8, 258, 180  # of the plot's area, in the units of a drawing 320 wide and 230 high
_BINS = 30


@dataclass(frozen=True)
class Line:
    """A path of SVG. `kind`: "good" or "bad", its colour."""

    label: str
    kind: str
    path: str


@dataclass(frozen=True)
class Plot:
    """Lines within axes; ticks are positions with texts. `filled`: down to the x axis. `mark`: a point to show, and
    what it is.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    filled: bool = False
    mark: tuple[float, float] | None = None
    mark_label: str = ""


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    length: float

    def at(self, values: Any) -> Any:
        return self.start + (np.clip(values, self.low, self.high) - self.low) / (self.high - self.low) * self.length

    def ticks(self, values: Sequence[float], texts: Sequence[str]) -> tuple[tuple[float, str], ...]:
        return tuple((round(float(self.at(value)), 1), text) for value, text in zip(values, texts, strict=True))


def histogram(title: str, x_label: str, values: Mapping[tuple[str, str], npt.ArrayLike]) -> Plot | None:
    """How values are spread, each kind by itself; by (label, kind). None if there are no values."""
    arrays = {key: np.asarray(some, np.float64) for key, some in values.items() if np.size(some)}
    if not arrays:
        return None
    everything = np.concatenate(list(arrays.values()))
    low, high = float(everything.min()), float(everything.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low == high:
        low, high = low - 0.5, high + 0.5
    shares = {key: np.histogram(some, _BINS, (low, high))[0] / some.size for key, some in arrays.items()}
    top = max(float(share.max()) for share in shares.values())
    x, y = _Axis(low, high, LEFT, WIDTH), _Axis(0, top, TOP + HEIGHT, -HEIGHT)
    edges = x.at(np.linspace(low, high, _BINS + 1))
    lines = []
    for (label, kind), share in shares.items():
        heights = y.at(share)
        steps = [
            f"H{right:.1f}" if left == at else f"V{at:.1f}H{right:.1f}"
            for left, at, right in zip([None, *heights[:-1]], heights, edges[1:], strict=True)
        ]
        lines.append(
            Line(
                f"{label} ({arrays[label, kind].size})", kind, f"M{LEFT} {TOP + HEIGHT}{''.join(steps)}V{TOP + HEIGHT}Z"
            )
        )
    across, up = np.linspace(low, high, 5).tolist(), [0, top / 2, top]
    return Plot(
        title,
        x_label,
        "share of each",
        tuple(lines),
        x.ticks(across, [f"{round(value, 2) + 0.0:.2f}" for value in across]),
        y.ticks(up, [f"{value:.0%}" for value in up]),
        filled=True,
    )


def trade_off(points: Sequence[tuple[float, float]], chosen: tuple[float, float], budget: float) -> Plot:
    """The (points lost, times as fast) of each choice of layers, from the slowest to the fastest; the budget's line."""
    lost, speed = np.array(sorted(points, key=lambda point: point[::-1])).T
    low, high = min(0.0, float(lost.min())), 1.1 * max(budget, float(lost.max()), 0.1)
    top = 1.1 * float(speed.max())
    x, y = _Axis(low, high, LEFT, WIDTH), _Axis(0, top, TOP + HEIGHT, -HEIGHT)
    limit = f"M{x.at(budget):.1f} {TOP}v{HEIGHT}"
    across, up = np.linspace(low, high, 5).tolist(), np.linspace(0, top, 5).tolist()
    return Plot(
        "Accuracy for speed",
        "points lost",
        "times as fast as FP32",
        (Line("choices of layers", "good", _path(x.at(lost), y.at(speed))), Line("budget", "bad", limit)),
        x.ticks(across, [f"{value:.2f}" for value in across]),
        y.ticks(up, [f"{value:.1f}" for value in up]),
        mark=(x.at(chosen[0]), y.at(chosen[1])),
        mark_label="taken",
    )


def verification_plots(pairs: Pairs, scores: Verification) -> list[Plot]:
    """The ROC, and the same errors on normal deviates (DET); none where the equal error rate is undefined."""
    if scores.eer is None:
        return []
    false_accepts, true_accepts, _ = roc_curve(pairs.same, pairs.scores)
    even = (0, 0.25, 0.5, 0.75, 1)
    texts = [f"{share:.0%}" for share in even]
    x, y = _Axis(0, 1, LEFT, WIDTH), _Axis(0, 1, TOP + HEIGHT, -HEIGHT)
    roc = Plot(
        "ROC",
        "false accepts",
        "true accepts",
        (Line("", "good", _path(x.at(false_accepts), y.at(true_accepts))),),
        x.ticks(even, texts),
        y.ticks(even, texts),
        mark=(x.at(scores.eer), y.at(1 - scores.eer)),
        mark_label="EER",
    )
    rates = (0.001, 0.01, 0.05, 0.2, 0.5, 0.9)
    texts = ["0.1%", "1%", "5%", "20%", "50%", "90%"]
    deviates = [NormalDist().inv_cdf(rate) for rate in rates]
    x, y = (_Axis(deviates[0], deviates[-1], *side) for side in ((LEFT, WIDTH), (TOP + HEIGHT, -HEIGHT)))
    # Points that differ, since each deviate is a call and there may be millions.
    cells = np.round(np.stack([false_accepts, true_accepts]) * 20000)
    kept = (np.diff(cells, axis=1, prepend=-1) != 0).any(axis=0)
    accepts, rejects, eer = (
        [NormalDist().inv_cdf(min(max(rate, 1e-6), 1 - 1e-6)) for rate in some]
        for some in (false_accepts[kept], 1 - true_accepts[kept], [scores.eer])
    )
    det = Plot(
        "DET",
        "false accepts",
        "false rejects",
        (Line("", "good", _path(x.at(accepts), y.at(rejects))),),
        x.ticks(deviates, texts),
        y.ticks(deviates, texts),
        mark=(x.at(eer[0]), y.at(eer[0])),
        mark_label="EER",
    )
    return [roc, det]


def _path(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> str:
    points = dict.fromkeys(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
    return "M" + "L".join(points)
