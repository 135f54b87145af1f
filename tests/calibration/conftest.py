from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="session")
def small_graph() -> onnx.ModelProto:
    """Two convolutions with a sum around the second, moves to rows, a product of three dimensions with its sum and
    ReLU, a norm in float, and a product that gives the output.
    """
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        scale = 1.0 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
        return numpy_helper.from_array((random.standard_normal(shape) * scale).astype(np.float32), name)

    convolution = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], "conv0", **convolution),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], "conv1", **convolution),
        helper.make_node("Add", ["c1", "r0"], ["s"], "residual"),
        helper.make_node("Relu", ["s"], ["r1"], "relu1"),
        helper.make_node("Reshape", ["r1", "grid"], ["flat"], "flatten"),
        helper.make_node("Transpose", ["flat"], ["tokens"], "tokens", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "w2"], ["p0"], "product0"),
        helper.make_node("Add", ["p0", "b2"], ["l0"], "bias0"),
        helper.make_node("Relu", ["l0"], ["r2"], "relu2"),
        helper.make_node("MatMul", ["r2", "w3"], ["p1"], "product1"),
        helper.make_node("Add", ["b3", "p1"], ["l1"], "bias1"),
        helper.make_node("LayerNormalization", ["l1", "g", "b4"], ["n"], "norm"),
        helper.make_node("ReduceMean", ["n", "axis"], ["v"], "mean", keepdims=0),
        helper.make_node("Gemm", ["v", "w4", "b5"], ["logits"], "gemm", transB=1),
    ]
    weights = [
        *(weight(name, *shape) for name, shape in {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (8, 32)}.items()),
        *(weight(name, *shape) for name, shape in {"w3": (32, 16), "w4": (4, 16)}.items()),
        *(weight(name, size) for name, size in {"b0": 8, "b1": 8, "b2": 32, "b3": 16, "b4": 16, "b5": 4}.items()),
        numpy_helper.from_array(np.ones(16, np.float32), "g"),
        numpy_helper.from_array(np.array([-1, 8, 36], np.int64), "grid"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="session")
def three_blocks() -> onnx.ModelProto:
    """An encoder, a fusion and a head of a product and a ReLU each: "first", "second" and "third"."""
    random = np.random.default_rng(0)
    modules = {"first": "encoders.image.answer", "second": "fusion.project", "third": "head"}
    tensors = ["x", "a", "b", "y"]
    nodes, weights = [], []
    for (name, module), (source, made) in zip(modules.items(), itertools.pairwise(tensors), strict=True):
        nodes += [
            helper.make_node("Gemm", [source, f"module.{module}.weight"], [f"{made}0"], name),
            helper.make_node("Relu", [f"{made}0"], [made], f"{name} relu"),
        ]
        weights.append(numpy_helper.from_array(random.standard_normal((16, 16)).astype(np.float32), nodes[-2].input[1]))
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model
