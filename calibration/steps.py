"""How far the two graphs of one calibration are from each other, in steps of TensorRT's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from mmedge.calibration.collect import session_on_one_thread
from mmedge.calibration.graph import GraphIndex, part_of, with_outputs
from mmedge.calibration.half import as_an_engine_computes


@dataclass(frozen=True)
class StepsApart:
    """Of a tensor that both graphs round. values: how many were compared; within_one: how many of them are no more
    than a step apart, to float rounding; total, most: of all together and of the one furthest apart, in steps.
    """

    values: int = 0
    within_one: int = 0
    total: float = 0.0
    most: float = 0.0

    def and_of(self, apart: npt.NDArray[np.float32]) -> StepsApart:
        """With more values, given by how many steps they are apart."""
        return StepsApart(
            self.values + apart.size,
            self.within_one + int((apart <= 1.001).sum()),
            self.total + float(apart.sum()),
            max(self.most, float(apart.max())),
        )


def steps_apart(
    cpu: onnx.ModelProto,
    tensorrt: onnx.ModelProto,
    rows: Iterable[Mapping[str, npt.NDArray[Any]]],
    *,
    locally: bool = False,
) -> dict[str, StepsApart]:
    """How far apart the tensors that both graphs round are after their rounding, by tensor. TensorRT's is computed on
    this CPU by `as_an_engine_computes`; `rows` are the graphs' inputs, with a batch dimension. In place of the CPU's
    graph TensorRT's with another float type can be given, where not `locally`.

    locally: the CPU's graph computes each from the nearest such tensors before it, which it is given as TensorRT's
    has them, put on its own steps: what one layer does, without what adds up through several.
    """
    ours, theirs = _readings(cpu, "/uint8") or _readings(cpu, "/int8"), _readings(tensorrt, "/int8")
    names = [name for name in ours if name in theirs]
    here, there = GraphIndex(cpu.graph), GraphIndex(tensorrt.graph)
    integers = [theirs[name][0].input[0] for name in names]
    steps = [np.float32(there.constant(theirs[name][0].input[1])) for name in names]
    outputs = {name: ours[name][0].output[0] for name in names}
    taken = {node.input[0]: (name, node) for name in names for node in ours[name]}
    reference = session_on_one_thread(with_outputs(as_an_engine_computes(tensorrt), integers))
    parts = [(names, with_outputs(cpu, list(outputs.values())))]
    if locally:
        parts = [
            ([name], part_of(cpu, outputs[name], [tensor for tensor, (other, _) in taken.items() if other != name]))
            for name in names
        ]
    sessions = [(made, session_on_one_thread(part)) for made, part in parts]
    apart = dict.fromkeys(names, StepsApart())
    for row in rows:
        found = reference.run(integers, dict(row))
        expected = {name: values * step for name, values, step in zip(names, found, steps, strict=True)}
        feeds = dict(row)
        for tensor, (name, node) in taken.items():
            scale, zero = (here.constant(entry) for entry in node.input[1:])
            levels = np.clip(np.rint(expected[name] / scale) + zero, 0, 255).astype(np.uint8)
            feeds[tensor] = levels.reshape(-1, levels.shape[-1]) if tensor.endswith("/rows/uint8") else levels
        for made, session in sessions:
            wanted = {value.name: feeds[value.name] for value in session.get_inputs()}
            for name, values in zip(made, session.run([outputs[name] for name in made], wanted), strict=True):
                difference = np.abs(values.ravel() - expected[name].ravel())
                apart[name] = apart[name].and_of(difference / steps[names.index(name)])
    return apart


def _readings(model: onnx.ModelProto, ending: str) -> dict[str, list[onnx.NodeProto]]:
    """By tensor: the nodes that read it out of its integers, whose names end so."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0].endswith(ending):
            found.setdefault(node.input[0].removesuffix(ending).removesuffix("/rows"), []).append(node)
    return found
