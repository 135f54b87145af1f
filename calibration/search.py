"""Which layers to compute in integers: as many as the accuracy allows, of those that make the graph faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from mmedge.calibration.collect import session_on_one_thread
from mmedge.calibration.layers import Place

Emit = Callable[[Sequence[str]], onnx.ModelProto]
"""The graph with the layers of these names in integers."""

_PAIRS = 6  # of sessions, in a measurement; even
_ROUNDS, _SECONDS = 40, 0.2  # of a pair: at most
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


def microseconds(
    reference: onnx.ModelProto, model: onnx.ModelProto, feeds: Mapping[str, npt.NDArray[Any]]
) -> tuple[float, float]:
    """The times of a run of two graphs in this machine's ONNX Runtime on one thread, turn about, each the median of its
    runs. It is CPU time: another program's turns on the core do not count.

    Where a session's memory happens to lie makes it a hundredth faster or slower for good, and the second of two that
    are made is the faster one more often than not. So several pairs of sessions are made, each graph's first in every
    other one; what is returned is the mean of the two pairs whose ratios are in the middle.
    """
    graphs, pairs = [reference, model], []
    for number in range(_PAIRS):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        sessions = {which: session_on_one_thread(graphs[which]) for which in order}
        times: tuple[list[int], list[int]] = ([], [])
        for session in sessions.values():
            session.run(None, dict(feeds))
        end = time.perf_counter() + _SECONDS
        while len(times[0]) < _ROUNDS and (len(times[0]) < 3 or time.perf_counter() < end):
            for which, session in sessions.items():
                began = time.thread_time_ns()
                session.run(None, dict(feeds))
                times[which].append(time.thread_time_ns() - began)
        pairs.append((median(times[0]), median(times[1])))
    middle = sorted(pairs, key=lambda pair: pair[0] / pair[1])[_PAIRS // 2 - 1 : _PAIRS // 2 + 1]
    return mean(pair[0] for pair in middle) / 1e3, mean(pair[1] for pair in middle) / 1e3


def measure_speedup(reference: onnx.ModelProto, model: onnx.ModelProto, feeds: Mapping[str, npt.NDArray[Any]]) -> float:
    """The reference's time over that of `model`, by `microseconds`."""
    before, own = microseconds(reference, model, feeds)
    return before / own


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
    found by halving. Of these the layers of one kind after another are left out, and stay in float where the graph is
    faster for it, but for layers in `for_size`, which make the file small. `drop` measures a choice, `speedup` how many
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
    largest, kept = best, best.layers
    for kind in dict.fromkeys(layers[layer].kind for layer in kept if layer not in for_size):
        others = tuple(layer for layer in kept if layer in for_size or layers[layer].kind != kind)
        if all(speedup(others, kept) >= _FASTER for _ in range(2)):  # once may be chance, with so many kinds
            kept = others
    if kept != best.layers:
        pruned = score(kept)
        best = pruned if pruned.drop <= budget else best
    if best.speedup < _FASTER:
        best = score([])
    return Search(tuple(points.values()), best, largest, dict(noise), blocks)
