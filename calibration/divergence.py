"""Where two graphs of one model part: the first tensor, the node that makes it, and a small graph that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from mmedge.calibration.collect import session_on_one_thread
from mmedge.calibration.errors import CalibrationError
from mmedge.calibration.graph import GraphIndex, block_of, module_of, part_of, with_outputs
from mmedge.calibration.layers import find_layers

Row = tuple[str, Mapping[str, npt.NDArray[Any]]]
"""A sample's name, and the graph's inputs without the batch dimension."""


@dataclass(frozen=True)
class TensorNoise:
    """A tensor that both graphs compute. reading: its name in the second; noise: the power of the difference over that
    of the first's values; worst: the sample where the difference is largest.
    """

    tensor: str
    reading: str
    noise: float
    worst: str


@dataclass(frozen=True)
class Divergence:
    """tensors: all that both compute, in the first graph's order; first: the first that is too far off, None where none
    is; node, operator: what makes it in the first graph; module: whose weights it uses, or the last used before it;
    block: which encoder, the fusion or the head.
    """

    tensors: tuple[TensorNoise, ...]
    first: TensorNoise | None
    node: str = ""
    operator: str = ""
    module: str = ""
    block: str = ""

    def __bool__(self) -> bool:
        """Whether they part."""
        return self.first is not None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; a noise without end is null."""
        found = asdict(self)
        for entry in (*found["tensors"], *([found["first"]] if found["first"] else [])):
            entry["noise"] = entry["noise"] if np.isfinite(entry["noise"]) else None
        return found


def find_divergence(
    first: onnx.ModelProto, second: onnx.ModelProto, rows: Iterable[Row], tolerance: float
) -> Divergence:
    """Compare every tensor that both graphs compute, on every row.

    Tensors are found by name: those of the first graph, and what the second reads out of their integers, or has of them
    in half precision.

    Raises:
        CalibrationError: they have no tensor in common, or one of another shape, or there is no row.
    """
    pairs = _pairs(first, second)
    if not pairs:
        raise CalibrationError("the two graphs have no tensor in common; expected two of one model")
    names, readings = list(pairs), list(dict.fromkeys(pairs.values()))
    sessions = [
        session_on_one_thread(with_outputs(first, names)),
        session_on_one_thread(with_outputs(second, readings)),
    ]
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    worst = dict.fromkeys(names, (-1.0, ""))
    seen = 0
    for sample, row in rows:
        feeds = {name: value[None] for name, value in row.items()}
        expected = dict(zip(names, sessions[0].run(names, feeds), strict=True))
        found = dict(zip(readings, sessions[1].run(readings, feeds), strict=True))
        seen += 1
        for name, values in expected.items():
            other = found[pairs[name]]
            # What a product over three dimensions takes and gives is written over two.
            in_rows = other.ndim == 2 and other.size == values.size and other.shape[-1:] == values.shape[-1:]
            if other.shape != values.shape and not in_rows:
                raise CalibrationError(
                    f"tensor {name!r} is of shape {list(values.shape)} in the first graph and {list(other.shape)} in "
                    "the second; expected two of one model"
                )
            a = np.asarray(values, np.float64).ravel()
            b = np.asarray(other, np.float64).ravel()
            error = float(np.square(a - b).sum())
            signal[name] += float(np.square(a).sum())
            noise[name] += error if np.isfinite(error) else np.inf
            worst[name] = max(worst[name], (error if np.isfinite(error) else np.inf, sample))
    if not seen:
        raise CalibrationError("there is no sample to compare on; expected at least one")
    tiny = float(np.finfo(np.float32).tiny)
    tensors = tuple(
        TensorNoise(name, pairs[name], noise[name] / max(signal[name], tiny), worst[name][1]) for name in names
    )
    far = next((entry for entry in tensors if not entry.noise <= tolerance), None)
    if far is None:
        return Divergence(tensors, None)
    node = GraphIndex(first.graph).producers[far.tensor]
    module = module_of(GraphIndex(first.graph), node)
    return Divergence(tensors, far, _named(first, node), node.op_type, module, block_of(module))


def _pairs(first: onnx.ModelProto, second: onnx.ModelProto) -> dict[str, str]:
    """By tensor of the first graph, in its order: what the second has of it."""
    there, readings, floats = GraphIndex(second.graph), _readings(second), _floats(first)
    pairs = {}
    for node in first.graph.node:
        for name in node.output:
            if name in floats:
                if name in there.producers:
                    pairs[name] = name
                elif name in readings:
                    pairs[name] = readings[name][-1]
    return pairs


def _readings(model: onnx.ModelProto) -> dict[str, list[str]]:
    """By tensor that the graph has in integers: what reads them, each for one node."""
    there, found = GraphIndex(model.graph), dict[str, list[str]]()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in there.producers:
            found.setdefault(node.input[0].rpartition("/")[0].removesuffix("/rows"), []).append(node.output[0])
    return found


def _floats(model: onnx.ModelProto) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return {
        value.name for value in (*inferred.value_info, *inferred.output) if value.type.tensor_type.elem_type in kinds
    }


def _named(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """The node, or the product whose sum or ReLU it is."""
    for layer in find_layers(model):
        if node.name in (layer.bias_node, layer.relu_node):
            return layer.name
    return node.name


def write_reproduction(
    folder: Path,
    first: onnx.ModelProto,
    second: onnx.ModelProto,
    found: Divergence,
    row: Mapping[str, npt.NDArray[Any]],
) -> None:
    """Leave in `folder` what shows the divergence: of each graph the part from the nearest tensors that both compute to
    the first that is too far off, first.onnx and second.onnx, and what each takes of `row`, the worst sample,
    first.npz and second.npz.
    """
    assert found.first is not None
    others = [entry for entry in found.tensors if entry.tensor != found.first.tensor]
    read = {entry.reading for entry in others}
    # One reading of the integers was compared, and each node that takes them has its own.
    read |= {name for names in _readings(second).values() if read.intersection(names) for name in names}
    feeds = {name: value[None] for name, value in row.items()}
    for model, name, output, cuts in (
        (first, "first", found.first.tensor, {entry.tensor for entry in others}),
        (second, "second", found.first.reading, read),
    ):
        part = part_of(model, output, cuts)
        inputs = [value.name for value in part.graph.input]
        inside = [entry for entry in inputs if entry not in feeds]
        values = session_on_one_thread(with_outputs(model, inside)).run(inside, feeds) if inside else []
        onnx.save(part, folder / f"{name}.onnx")
        np.savez(
            folder / f"{name}.npz",
            **{**{k: v for k, v in feeds.items() if k in inputs}, **dict(zip(inside, values, strict=True))},
        )
