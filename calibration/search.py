"""Which layers to compute in integers: as many as the accuracy allows, of those that make the graph faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from mmedge.calibration.collect import session_on_one_thread
from mmedge.calibration.layers import Place

Emit = Callable[[Sequence[str]], onnx.ModelProto]
"""The graph with the layers of these names in integers."""

_ROUNDS, _SECONDS = 200, 1.0  # of a measurement: at most
_FASTER = 1.02  # what less than this may be noise


@dataclass(frozen=True)
class Point:
    """A choice of layers. drop: how much the accuracy falls, in points; speedup: FP32's time over its own."""

    layers: tuple[str, ...]
    drop: float
    speedup: float


@dataclass(frozen=True)
class Search:
    """All choices that were scored, and the one to take: the fastest within the budget, of no layer where FP32 is.
    largest: the one of the most layers within the budget; noise: what each layer alone adds, by `layer_noise`;
    blocks: the points that each block of the model alone loses, where all together lose too much.
    """

    points: tuple[Point, ...]
    chosen: Point
    largest: Point
    noise: Mapping[str, float]
    blocks: Mapping[str, float]


class Stopwatch:
    """Times graphs beside a reference on this machine's ONNX Runtime, one thread, turn about, by its CPU time: another
    program's turns on the core do not count.
    """

    def __init__(self, reference: onnx.ModelProto, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
        self._reference, self._feeds = session_on_one_thread(reference), dict(feeds)

    def speedup(self, model: onnx.ModelProto) -> float:
        """The reference's time over that of `model`."""
        reference, own = self.microseconds(model)
        return reference / own

    def microseconds(self, model: onnx.ModelProto) -> tuple[float, float]:
        """The median times of a run of the reference and of `model`."""
        sessions = self._reference, session_on_one_thread(model)
        for session in sessions:
            session.run(None, self._feeds)
        times: list[list[int]] = [[], []]
        end = time.perf_counter() + _SECONDS
        while len(times[0]) < _ROUNDS and (len(times[0]) < 5 or time.perf_counter() < end):
            for session, found in zip(sessions, times, strict=True):
                began = time.thread_time_ns()
                session.run(None, self._feeds)
                found.append(time.thread_time_ns() - began)
        return median(times[0]) / 1e3, median(times[1]) / 1e3


def layer_noise(
    reference: onnx.ModelProto, emit: Emit, layers: Iterable[str], feeds: Mapping[str, npt.NDArray[Any]]
) -> dict[str, float]:
    """By layer: the noise of its integers alone over the signal, by power, in the output where it is loudest."""
    expected = session_on_one_thread(reference).run(None, dict(feeds))
    noise = {}
    for layer in layers:
        found = session_on_one_thread(emit([layer])).run(None, dict(feeds))
        noise[layer] = max(
            float(np.square(a - b).sum() / max(np.square(a).sum(), np.finfo(np.float32).tiny))
            for a, b in zip(expected, found, strict=True)
        )
    return noise


def search_layers(
    layers: Mapping[str, Place],
    noise: Mapping[str, float],
    budget: float,
    *,
    drop: Callable[[Sequence[str]], float],
    speedup: Callable[[Sequence[str], Sequence[str]], float],
    report: Callable[[Point], None] = lambda point: None,
    for_size: Collection[str] = (),
) -> Search:
    """Search for the largest set within `budget` points, then leave out what does not make it faster.

    If all layers together cost too much accuracy, each block is tried alone, and what it loses is laid on its layers in
    proportion to their noise. From the least such share to the largest, the longest run that does not cost too much is
    found by halving. Of these one layer of each kind is left out once; kinds without one of which the graph is faster
    stay in float, but for layers in `for_size`, which make the file small. `drop` measures a choice, `speedup` how many
    times as fast it is as a second, the two turn about; `report` is told each point.
    """
    points: dict[tuple[str, ...], Point] = {}

    def score(chosen: Sequence[str]) -> Point:
        key = tuple(layer for layer in layers if layer in chosen)
        if key not in points:
            points[key] = Point(key, drop(key) if key else 0.0, speedup(key, ()) if key else 1.0)
            report(points[key])
        return points[key]

    best, blocks = score(list(layers)), dict[str, float]()
    if best.drop > budget:
        share = dict[str, float]()
        for block in dict.fromkeys(place.block for place in layers.values()):
            inside = [layer for layer, place in layers.items() if place.block == block]
            blocks[block] = score(inside).drop
            loudness = sum(noise[layer] for layer in inside) or 1.0
            share |= {layer: max(blocks[block], 0.0) * noise[layer] / loudness for layer in inside}
        ordered = sorted(layers, key=lambda layer: (share[layer], noise[layer]))
        enough, too_many = 0, len(ordered)
        while too_many - enough > 1:
            middle = (enough + too_many) // 2
            if score(ordered[:middle]).drop <= budget:
                enough = middle
            else:
                too_many = middle
        best = score(ordered[:enough])
    largest = best
    if best.layers:
        timed = {layers[layer].kind: layer for layer in best.layers if layer not in for_size}
        slow = {
            kind
            for kind, layer in timed.items()
            if speedup([other for other in best.layers if other != layer], best.layers) >= _FASTER
        }
        kept = [layer for layer in best.layers if layer in for_size or layers[layer].kind not in slow]
        if slow and speedup(kept, best.layers) >= _FASTER:
            pruned = score(kept)
            best = pruned if pruned.drop <= budget else best
    if best.speedup < _FASTER:
        best = score([])
    return Search(tuple(points.values()), best, largest, dict(noise), blocks)
