"""Which blocks are given back to float32, by what each loses in float16."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from mmedge.calibration.blocks import HalfGraph, half_within
from mmedge.calibration.graph import blocks_of
from mmedge.calibration.half import nodes_in_half

BLOCKS = {"encoder image": "first", "fusion": "second", "head": "third"}


def search(
    model: onnx.ModelProto, costs: dict[str, float], always: float = 0.0
) -> tuple[HalfGraph, list[tuple[str, ...]]]:
    """Where the blocks lose what they cost in float16, and the graph `always` so much, within half a point."""
    seen = []

    def score(graph: onnx.ModelProto, in_float32: tuple[str, ...]) -> float:
        seen.append(in_float32)
        half = [block for block, node in BLOCKS.items() if node in nodes_in_half(graph)]
        assert {*half, *in_float32} == set(BLOCKS)
        assert not {*half} & {*in_float32}
        return always + sum(costs[block] for block in half)

    return half_within(model, blocks_of(model), 0.5, score), seen


@pytest.mark.parametrize(
    ("costs", "expected", "scored"),
    [
        ((0.2, 0.1, 0.1), (), 1),
        ((0.1, 9.0, 0.2), ("fusion",), 6),
        ((float("inf"), 0.0, 0.0), ("encoder image",), 6),
        ((0.4, 0.3, 2.0), ("encoder image", "head"), 6),
    ],
)
def test_blocks_are_given_back_from_the_one_that_loses_most_until_the_budget_holds(
    three_blocks: onnx.ModelProto, costs: tuple[float, ...], expected: tuple[str, ...], scored: int
) -> None:
    half, seen = search(three_blocks, dict(zip(BLOCKS, costs, strict=True)))
    assert half.in_float32 == expected
    assert half.lost == pytest.approx(
        sum(cost for block, cost in zip(BLOCKS, costs, strict=True) if block not in expected)
    )
    assert len(seen) == scored
    kept = {node for block, node in BLOCKS.items() if block not in expected}
    assert kept == set(nodes_in_half(half.model)) & set(BLOCKS.values())


def test_no_block_is_tried_where_integers_alone_lose_too_much(three_blocks: onnx.ModelProto) -> None:
    half, seen = search(three_blocks, dict.fromkeys(BLOCKS, 1.0), always=2.0)
    assert half.lost == 2
    assert seen == [(), tuple(BLOCKS)]


def test_where_no_block_can_be_in_half_precision_all_are_given_back(three_blocks: onnx.ModelProto) -> None:
    half, _ = search(three_blocks, {"encoder image": 3.0, "fusion": 1.0, "head": 2.0})
    assert half.in_float32 == tuple(BLOCKS)
    assert half.lost == 0


def test_a_node_before_all_modules_is_of_the_block_that_takes_what_it_makes(three_blocks: onnx.ModelProto) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(three_blocks)
    graph.graph.node[0].input[0] = "raised"
    graph.graph.node.insert(0, helper.make_node("Exp", ["x"], ["raised"], "exp"))
    graph.graph.node.append(helper.make_node("Exp", ["x"], ["z"], "aside"))
    graph.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 16]))
    blocks = blocks_of(graph)
    assert blocks.pop("exp") == "encoder image"
    assert blocks.pop("aside") == ""
    assert blocks == {f"{node}{end}": block for block, node in BLOCKS.items() for end in ("", " relu")}
