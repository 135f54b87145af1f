"""Times work on a CUDA device: calls captured in a graph, so that what a launch costs the host is not in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor

Call = Callable[[], object]
REPLAYS = 30


def graph_of(calls: Sequence[Call], repeats: int) -> torch.cuda.CUDAGraph:
    """All calls, one after the other, again and again."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            for call in calls:
                call()
    return graph


def interleaved(work: Sequence[Call], calls: int) -> list[float]:
    """Microseconds for one of the `calls` in each piece of work, median of runs turn about, by CUDA's events."""
    times: list[list[float]] = [[] for _ in work]
    for piece in work:
        piece()
    for _ in range(REPLAYS):
        for piece, its in zip(work, times, strict=True):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            piece()
            end.record()
            end.synchronize()
            its.append(begin.elapsed_time(end) * 1e3 / calls)
    return [median(its) for its in times]


def compare(name: str, moved: int, ours: Sequence[Call], eager: Sequence[Call], compiled: Sequence[Call]) -> dict:
    """A row: our calls, one for each set of inputs, beside PyTorch's and beside copies of as many bytes.

    `moved`: the bytes that one call must read and write. `us`, `compile_us` and `copy_us` are of calls in a CUDA graph;
    `eager_us` of calls as PyTorch issues them, one after the other.
    """
    sets = len(ours)
    halves = [torch.empty(moved // 2, dtype=torch.uint8, device="cuda") for _ in range(2 * sets)]
    copies: list[Call] = [lambda to=halves[2 * i], of=halves[2 * i + 1]: to.copy_(of) for i in range(sets)]
    repeats = max(1, 24 // sets)
    graphs = [graph_of(calls, repeats) for calls in (ours, compiled, copies)]

    def issue() -> None:
        for _ in range(repeats):
            for call in eager:
                call()

    issue()
    us, compile_us, copy_us, eager_us = interleaved([*(graph.replay for graph in graphs), issue], repeats * sets)
    return {
        "name": name,
        "us": us,
        "bytes": moved,
        "copy_us": copy_us,
        "fraction_of_copy": copy_us / us,
        "eager_us": eager_us,
        "vs_eager": eager_us / us,
        "compile_us": compile_us,
        "vs_compile": compile_us / us,
    }


def agree(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Raise where what is timed is not the same computation; `tolerance` of the largest value."""
    error = (found.float() - expected.float()).abs().max() / expected.float().abs().max()
    if not error <= tolerance:
        raise SystemExit(f"ours and PyTorch's differ by {error:.2e}, more than {tolerance:.0e}")
