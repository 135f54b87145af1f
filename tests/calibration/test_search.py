from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.layers import Place
from mmedge.calibration.search import Point, layer_noise, measure_speedup, search_layers

# Each of a kind of its own; c and e are of the head.
LAYERS = {name: Place("head" if name in "ce" else "encoder", (name, (), "")) for name in "abcde"}
# What each costs in accuracy, in the order of its noise, and what it saves.
COSTS = {"a": 0.05, "b": 0.8, "c": 0.1, "d": 0.02, "e": 0.3}
GAINS = {"a": 1.3, "b": 1.3, "c": 0.8, "d": 1.2, "e": 1.2}


def by_gains(gains: dict[str, float]) -> Callable[[Sequence[str], Sequence[str]], float]:
    """How many times as fast some layers in integers are as others."""
    return lambda layers, than: float(np.prod([gains[x] for x in layers]) / np.prod([gains[x] for x in than]))


def search(budget: float, gains: dict[str, float] = GAINS) -> tuple[Point, list[Point]]:
    seen: list[Point] = []
    found = search_layers(
        LAYERS,
        COSTS,
        budget,
        drop=lambda layers: sum(COSTS[x] for x in layers),
        speedup=by_gains(gains),
        report=seen.append,
    )
    assert list(found.points) == seen
    assert found.chosen in seen
    assert found.chosen.drop <= budget
    return found.chosen, seen


def test_everything_that_is_faster_is_taken_where_the_budget_allows_it() -> None:
    chosen, seen = search(2.0)
    assert chosen.layers == ("a", "b", "d", "e")
    assert len(seen) == 2


def test_the_loudest_layers_are_given_up_first() -> None:
    # d, a and c cost 0.17 together, and e would make it 0.47.
    chosen, _ = search(0.4)
    assert chosen.layers == ("a", "d")


def test_what_makes_the_file_small_is_not_given_up_for_speed() -> None:
    found = search_layers(LAYERS, COSTS, 2.0, drop=lambda layers: 0.0, speedup=by_gains(GAINS), for_size=["c"])
    assert found.chosen.layers == ("a", "b", "c", "d", "e")


def test_what_a_block_loses_alone_is_found_and_its_layers_are_given_up_first() -> None:
    # The head is quiet and yet loses more than is allowed.
    costs = {"a": 0.1, "b": 0.1, "c": 0.3, "d": 0.1, "e": 0.3}
    found = search_layers(
        LAYERS,
        {"a": 3, "b": 4, "c": 1, "d": 5, "e": 2},
        0.5,
        drop=lambda layers: sum(costs[x] for x in layers),
        speedup=by_gains(dict.fromkeys(LAYERS, 1.1)),
    )
    assert found.blocks == pytest.approx({"encoder": 0.3, "head": 0.6})
    assert found.chosen.layers == ("a", "b", "d")


def test_the_layers_of_a_kind_are_given_up_together() -> None:
    asked = []
    measure = by_gains({name: 1.3 if name in "ab" else 0.9 for name in LAYERS})

    def speedup(layers: Sequence[str], than: Sequence[str]) -> float:
        asked.append((tuple(layers), tuple(than)))
        return measure(layers, than)

    kinds = {name: Place("encoder", ("wide" if name in "ab" else "narrow", (), "")) for name in LAYERS}
    found = search_layers(kinds, COSTS, 2.0, drop=lambda layers: 0.0, speedup=speedup)
    assert found.chosen.layers == ("a", "b")
    everything = tuple(LAYERS)
    assert asked == [
        (everything, ()),
        (("c", "d", "e"), everything),
        (("a", "b"), everything),
        (("a", "b"), everything),  # it seems faster: once more
        (("a", "b"), ()),
    ]


def test_a_layer_that_was_slow_by_chance_is_not_given_up() -> None:
    luck = iter([1.3] + 20 * [1.0])  # of the first kind's first measurement

    def speedup(layers: Sequence[str], than: Sequence[str]) -> float:
        return by_gains(dict.fromkeys(LAYERS, 1.1))(layers, than) * (next(luck) if than else 1.0)

    found = search_layers(LAYERS, COSTS, 2.0, drop=lambda layers: 0.0, speedup=speedup)
    assert found.chosen.layers == tuple(LAYERS)


def test_a_machine_that_grows_slower_does_not_cost_a_layer() -> None:
    # Beside FP32 each measurement is off, as if others took the machine; beside what it is compared with it is not.
    drift = iter(np.linspace(1.0, 3.0, 20))

    def speedup(layers: Sequence[str], than: Sequence[str]) -> float:
        return by_gains(dict.fromkeys(LAYERS, 1.2))(layers, than) * (1.0 if than else float(next(drift)))

    found = search_layers(LAYERS, COSTS, 2.0, drop=lambda layers: 0.0, speedup=speedup)
    assert found.chosen.layers == tuple(LAYERS)


def test_where_integers_are_not_faster_or_not_allowed_nothing_is_taken() -> None:
    assert search(2.0, dict.fromkeys(LAYERS, 0.9))[0] == Point((), 0.0, 1.0)
    assert search(0.001)[0] == Point((), 0.0, 1.0)


def test_noise_is_measured_layer_by_layer(small_graph: onnx.ModelProto) -> None:
    x = np.random.default_rng(1).standard_normal((16, 3, 6, 6)).astype(np.float32)
    # A range cut far too short for one layer's input is heard in that layer alone.
    ranges = dict.fromkeys(["x", "r0", "c1", "r1", "r2", "l1", "v", "logits"], 8.0) | {"r2": 0.05}
    layers = ["conv0", "product0", "product1", "gemm"]
    noise = layer_noise(small_graph, lambda chosen: emit_cpu(small_graph, ranges, chosen), layers, {"x": x})
    assert set(noise) == set(layers)
    assert all(np.isfinite(value) and value > 0 for value in noise.values())
    assert max(noise, key=noise.__getitem__) == "product1"


def test_a_graph_is_about_as_fast_as_itself(small_graph: onnx.ModelProto) -> None:
    x = np.zeros((1, 3, 6, 6), np.float32)
    assert measure_speedup(small_graph, small_graph, {"x": x}) == pytest.approx(1, rel=0.9)


def test_a_graph_with_a_tenth_of_the_work_is_faster() -> None:
    def product(size: int) -> onnx.ModelProto:
        weight = onnx.numpy_helper.from_array(np.ones((size, size), np.float32), "weight")
        slots = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, None]) for name in "xy"]
        # The first of x's values, as many as the weight takes.
        ends = onnx.numpy_helper.from_array(np.array([size]), "end")
        starts = onnx.numpy_helper.from_array(np.array([0]), "start")
        axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
        nodes = [
            onnx.helper.make_node("Slice", ["x", "start", "end", "axes"], ["part"]),
            onnx.helper.make_node("MatMul", ["part", "weight"], ["y"]),
        ]
        graph = onnx.helper.make_graph(nodes, "product", slots[:1], slots[1:], [weight, ends, starts, axes])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)

    assert measure_speedup(product(2048), product(640), {"x": np.ones((1, 2048), np.float32)}) > 2
