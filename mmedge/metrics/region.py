"""How well a relevance map finds the part of an image that decides the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmedge.metrics.classification import mean

Box = tuple[float, float, float, float]
"""Left edge, upper edge, width and height in pixels of the upright frame."""


@dataclass(frozen=True)
class RegionScores:
    """Means over the `samples` whose mask marks something; None if there are none."""

    map_iou: float | None
    box_iou: float | None
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON types."""
        return asdict(self)


def map_iou(
    relevance: npt.NDArray[np.float32], map_box: Box, threshold: float, mask: npt.NDArray[np.bool_]
) -> float | None:
    """Intersection over union of a relevance map with a mask; None if the mask is empty.

    The map, [rows, columns] over `map_box` of the frame, is interpolated bilinearly between the centres of its cells
    at the centre of every pixel of `mask`, bool [height, width] of the frame, and counts where it reaches `threshold`.
    Pixels outside `map_box` do not count. Interpolation before the threshold is how class activation maps are compared
    with masks (Zhou et al., "Learning Deep Features for Discriminative Localization", 2016, section 3).
    """
    if not mask.any():
        return None
    left, upper, width, height = map_box
    rows, row_inside = _interpolation(mask.shape[0], upper, height, relevance.shape[0])
    columns, column_inside = _interpolation(mask.shape[1], left, width, relevance.shape[1])
    found = (rows @ relevance @ columns.T >= threshold) & row_inside[:, None] & column_inside
    return float((found & mask).sum() / (found | mask).sum())


def _interpolation(
    pixels: int, start: float, length: float, cells: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Weights [pixels, cells] of linear interpolation along one side, and which pixels lie inside."""
    at = (np.arange(pixels) + 0.5 - start) / length * cells
    weights = np.clip(1 - np.abs(np.clip(at - 0.5, 0, cells - 1)[:, None] - np.arange(cells)), 0, None)
    return weights, (at >= 0) & (at < cells)


def bounding_box(mask: npt.NDArray[np.bool_]) -> Box:
    """The smallest box around the true pixels of a mask that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, the second of some area."""
    sides = [
        min(a + length_a, b + length_b) - max(a, b)
        for a, length_a, b, length_b in zip(first[:2], first[2:], second[:2], second[2:], strict=True)
    ]
    common = max(sides[0], 0.0) * max(sides[1], 0.0)
    return float(common / (first[2] * first[3] + second[2] * second[3] - common))


def region_scores(ious: Sequence[tuple[float, float | None]]) -> RegionScores:
    """The means of (map, box) per sample; of boxes only if each has one."""
    boxes = [iou for _, iou in ious if iou is not None]
    return RegionScores(mean(iou for iou, _ in ious), mean(boxes) if len(boxes) == len(ious) else None, len(ious))
