"""Which blocks of a graph to leave in float32, where float16 loses too much in all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import onnx

from mmedge.calibration.half import nodes_in_half, to_half


@dataclass(frozen=True)
class HalfGraph:
    """A graph in float16, but for the blocks `in_float32` and what is in integers. lost: the points it loses."""

    model: onnx.ModelProto
    in_float32: tuple[str, ...]
    lost: float


def half_within(
    model: onnx.ModelProto,
    blocks: Mapping[str, str],
    budget: float,
    score: Callable[[onnx.ModelProto, tuple[str, ...]], float],
) -> HalfGraph:
    """The graph in float16, with blocks in float32 where it takes them to lose no more than `budget` points; the one
    that loses least, where all in float32 loses more.

    If all in float16 loses too much, and all in float32 does not, each block is tried in float16 alone, and they are
    given back to float32 one after another, the one that loses most first.

    blocks: by node of the float32 graph, its block. score: the points that a graph loses; the blocks it has in float32
    are beside it.
    """
    points = dict[tuple[str, ...], float]()

    def make(in_float32: Collection[str]) -> onnx.ModelProto:
        return to_half(model, {node for node, block in blocks.items() if block in in_float32})

    whole = make(())
    points[()] = score(whole, ())
    there = tuple(dict.fromkeys(block for node in nodes_in_half(whole) if (block := blocks.get(node))))

    def lost(in_float32: Collection[str]) -> float:
        key = tuple(block for block in there if block in in_float32)
        if key not in points:
            points[key] = score(make(key), key)
        return points[key]

    if points[()] > budget and lost(there) <= budget:
        alone = {block: lost([other for other in there if other != block]) for block in there}
        worst = sorted(there, key=lambda block: -alone[block])
        given_back = 1
        while lost(worst[:given_back]) > budget:
            given_back += 1
    best = min(points, key=lambda key: (max(points[key] - budget, 0.0), len(key), points[key]))
    return HalfGraph(make(best), best, points[best])
