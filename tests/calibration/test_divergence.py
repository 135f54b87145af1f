from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.calibration.divergence import find_divergence, write_reproduction
from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.errors import CalibrationError
from mmedge.calibration.layers import quantizable, tensors_to_range


def product(width: int) -> onnx.ModelProto:
    """A hidden tensor of this width between an input of 4 and an output of 2."""
    random = np.random.default_rng(0)
    shapes = {"w": (4, width), "v": (width, 2)}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w"], ["hidden"], "first"),
            helper.make_node("Relu", ["hidden"], ["cut"], "relu"),
            helper.make_node("Gemm", ["cut", "v"], ["y"], "second"),
        ],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), name) for name, s in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("width", [1, 3, 12])  # of one value, numpy would make as many as are wanted
def test_graphs_of_other_sizes_are_refused_by_the_tensor_that_differs(width: int) -> None:
    rows = [("line 1", {"x": np.ones(4, np.float32)})]
    with pytest.raises(CalibrationError, match=rf"'hidden' is of shape \[1, 6\] in .*\[1, {width}\] in the second"):
        find_divergence(product(6), product(width), rows, 0.01)
    assert not find_divergence(product(6), product(6), rows, 0.0)


def test_the_parts_that_show_it_start_at_the_same_tensors(small_graph: onnx.ModelProto, tmp_path: Path) -> None:
    emitted = emit_cpu(small_graph, dict.fromkeys(tensors_to_range(small_graph), 4.0), list(quantizable(small_graph)))
    random = np.random.default_rng(0)
    rows = [(f"line {number}", {"x": random.standard_normal((3, 6, 6)).astype(np.float32)}) for number in range(2)]
    found = find_divergence(small_graph, emitted, rows, 1e9)
    taken = {}
    for entry in found.tensors:
        folder = tmp_path / entry.tensor
        folder.mkdir()
        write_reproduction(folder, small_graph, emitted, replace(found, first=entry), rows[0][1])
        parts = [onnx.load(folder / f"{name}.onnx") for name in ("first", "second")]
        names = [{value.name.partition("/")[0] for value in part.graph.input} for part in parts]
        assert names[0] == names[1], entry.tensor
        taken[entry.tensor] = names[0]
        for part, name in zip(parts, ("first", "second"), strict=True):
            session = onnxruntime.InferenceSession(part.SerializeToString())
            session.run(None, dict(np.load(folder / f"{name}.npz")))
    # What the first convolution gives is read by the second, and by the sum around it.
    assert taken["c1"] == {"r0"}
    assert taken["r1"] == {"c1", "r0"}
