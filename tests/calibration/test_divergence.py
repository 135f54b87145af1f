from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.calibration.divergence import find_divergence
from mmedge.calibration.errors import CalibrationError


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
