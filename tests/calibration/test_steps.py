"""The two graphs of one calibration beside each other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import families
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.calibrating import Settings, take_ranges
from mmedge.calibration.collect import session_on_one_thread, subset_rows
from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.graph import with_outputs
from mmedge.calibration.half import to_half
from mmedge.calibration.layers import find_layers, quantizable, tensors_to_range
from mmedge.calibration.steps import steps_apart
from mmedge.data.folder import read_split
from mmedge.export.targets import find_target
from mmedge.exporting import export_checkpoint
from mmedge.runtime import Preprocessor
from mmedge.runtime.manifest import read_manifest
from mmedge.training.recipe import Recipe
from mmedge.training.train import train


@pytest.mark.parametrize("encoder", ["cnn", "resnet", "mobilenet_v2", "vit"])
def test_every_tensor_of_trained_weights_is_within_one_step(
    encoder: str, tones: Path, tones_recipe: dict[str, Any], tmp_path: Path
) -> None:
    values = copy.deepcopy(tones_recipe)
    values["model"]["modalities"] |= families.modality(encoder)
    values["training"] |= {"steps": 60, "checkpoint_every": 60}
    trained = train(Recipe.model_validate(values), tmp_path / "run")
    assert trained.losses[-1] < 0.5 * trained.losses[0]
    bundle = export_checkpoint(
        trained.output,
        tmp_path / "fp32.mme",
        data=tones,
        split="validation",
        target=find_target("onnxruntime"),
        parity_samples=2,
        tolerance=1e-4,
        overwrite=False,
        progress=lambda stage, done, total: None,
    ).path
    ranges = take_ranges(bundle, tones, Settings(), lambda stage, done, total: None).ranges
    model, manifest = onnx.load(bundle / "model.onnx"), read_manifest(bundle)
    layers = [layer.name for layer in find_layers(model)]
    preprocessors = {entry.name: Preprocessor(entry.preprocess, bundle) for entry in manifest.inputs}
    rows = [
        {name: value[None] for name, value in row.items()}
        for split in ("train", "validation")
        for sample in read_split(tones, split, list(preprocessors), manifest.labels)
        for row in subset_rows(manifest, sample.load(), preprocessors)
    ]
    cpu, tensorrt = emit_cpu(model, ranges, layers), to_half(emit_tensorrt(model, ranges, layers))
    found = steps_apart(cpu, tensorrt, rows, locally=True)
    assert len(found) >= len(layers)
    assert {name: apart.most for name, apart in found.items() if apart.most > 1.001} == {}


def test_a_wrong_layer_is_found_and_locally_is_the_only_one(small_graph: onnx.ModelProto) -> None:
    x = np.random.default_rng(1).standard_normal((64, 3, 6, 6)).astype(np.float32)
    names = tensors_to_range(small_graph)
    values = session_on_one_thread(with_outputs(small_graph, names)).run(names, {"x": x})
    ranges = {name: float(np.quantile(np.abs(found), 0.99)) for name, found in zip(names, values, strict=True)}
    layers = [layer.name for layer in find_layers(small_graph)]
    faulty = onnx.ModelProto()
    faulty.CopyFrom(small_graph)
    (weight,) = (entry for entry in faulty.graph.initializer if entry.name == "w0")
    weight.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(weight), "w0"))

    def too_far(model: onnx.ModelProto, locally: bool) -> set[str]:
        tensorrt = to_half(emit_tensorrt(small_graph, ranges, layers))
        found = steps_apart(emit_cpu(model, ranges, layers), tensorrt, [{"x": x}], locally=locally)
        assert set(found) == {"x", "r0", "tokens", "r2", "v"}
        assert all(entry.values >= entry.within_one > 0 and entry.total > 0 for entry in found.values())
        return {name for name, entry in found.items() if entry.most > 1.001}

    assert too_far(small_graph, locally=True) == set()
    assert too_far(faulty, locally=True) == {"r0"}
    assert too_far(faulty, locally=False) == {"r0", "tokens", "r2"}  # behind the norm scale and fault are gone


BETWEEN = {
    "clip": [helper.make_node("Clip", ["c", "zero", "six"], ["y"], "clip")],
    "norm": [helper.make_node("LayerNormalization", ["c", "gain"], ["y"], "norm")],
    "relu and norm": [
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("LayerNormalization", ["r", "gain"], ["y"], "norm"),
    ],
    "sum and norm": [
        helper.make_node("Add", ["x", "c"], ["s"], "sum"),
        helper.make_node("LayerNormalization", ["s", "gain"], ["y"], "norm"),
    ],
    "tokens and norm": [
        helper.make_node("Reshape", ["c", "rows"], ["f"], "flat"),
        helper.make_node("Transpose", ["f"], ["t"], "tokens", perm=[0, 2, 1]),
        helper.make_node("LayerNormalization", ["t", "gain"], ["n"], "norm"),
        helper.make_node("Transpose", ["n"], ["b"], "channels", perm=[0, 2, 1]),
        helper.make_node("Reshape", ["b", "grid"], ["y"], "back"),
    ],
}


def convolutions_around(between: list[onnx.NodeProto]) -> onnx.ModelProto:
    """A convolution that gives large values, some nodes from "c" to "y", and another convolution."""
    random = np.random.default_rng(0)
    constants = {
        "w0": random.standard_normal((8, 8, 3, 3)).astype(np.float32),
        "w1": random.standard_normal((4, 8, 1, 1)).astype(np.float32),
        "gain": random.uniform(1, 2, 8).astype(np.float32),
        "zero": np.float32(0),
        "six": np.float32(6),
        "rows": np.array([-1, 8, 64]),
        "grid": np.array([-1, 8, 8, 8]),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w0"], ["c"], "conv0", pads=[1, 1, 1, 1]),
            *between,
            helper.make_node("Conv", ["y", "w1"], ["z"], "conv1"),
        ],
        "between",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [numpy_helper.from_array(np.array(values), name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def branches(*nodes: onnx.NodeProto, **constants: float) -> onnx.ModelProto:
    """Nodes from "x" through convolutions of one weight to "s", which another convolution takes."""
    weights = {name: np.full((1, 1, 1, 1) if name.startswith("w") else (), v) for name, v in constants.items()}
    graph = helper.make_graph(
        [*nodes, helper.make_node("Conv", ["s", "w9"], ["z"], "last")],
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [
            numpy_helper.from_array(np.array(v, np.float32), name)
            for name, v in ({"w9": np.ones((1,) * 4)} | weights).items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    "model",
    [
        branches(
            helper.make_node("Conv", ["x", "wa"], ["a"], "conv0"),
            helper.make_node("Conv", ["x", "wb"], ["b"], "conv1"),
            helper.make_node("Add", ["a", "b"], ["s"], "sum"),
            wa=10,
            wb=-9,
        ),
        branches(
            helper.make_node("Conv", ["x", "wa"], ["a"], "conv0"),
            helper.make_node("Conv", ["a", "wb"], ["b"], "conv1"),
            helper.make_node("Clip", ["b", "zero", "six"], ["c"], "clip"),
            helper.make_node("Add", ["a", "c"], ["s"], "sum"),
            wa=4,
            wb=4,
            zero=0,
            six=6,
        ),
    ],
    ids=["branches that nearly cancel", "a clip before the sum"],
)
def test_what_joins_a_sum_is_not_cut_off_by_its_range(model: onnx.ModelProto) -> None:
    x = np.random.default_rng(1).standard_normal((64, 1, 4, 4)).astype(np.float32)
    names, layers = tensors_to_range(model), [layer.name for layer in find_layers(model)]
    values = session_on_one_thread(with_outputs(model, names)).run(names, {"x": x})
    ranges = {name: float(np.abs(found).max()) for name, found in zip(names, values, strict=True)}
    (expected,) = session_on_one_thread(model).run(None, {"x": x})
    (found,) = session_on_one_thread(emit_cpu(model, ranges, layers)).run(None, {"x": x})
    largest_step = max(ranges.values()) / 127
    assert np.abs(found - expected).max() < 3 * largest_step  # half a one for each of up to six roundings


@pytest.mark.parametrize("between", BETWEEN)
def test_what_a_convolution_gives_to_floats_is_rounded_in_both_graphs(between: str) -> None:
    model = convolutions_around(BETWEEN[between])
    x = np.random.default_rng(1).standard_normal((64, 8, 8, 8)).astype(np.float32)
    names = tensors_to_range(model)
    values = session_on_one_thread(with_outputs(model, names)).run(names, {"x": x})
    ranges = {name: float(np.abs(found).max()) for name, found in zip(names, values, strict=True)}
    layers = [layer.name for layer in find_layers(model)]
    tensorrt = to_half(emit_tensorrt(model, ranges, layers))
    found = steps_apart(emit_cpu(model, ranges, layers), tensorrt, [{"x": x}], locally=True)
    assert {"x", "y"} <= set(found)
    assert {name: apart.most for name, apart in found.items() if apart.most > 1.001} == {}


def test_what_is_looked_up_is_the_same_in_both_graphs() -> None:
    random = np.random.default_rng(0)
    constants = {
        "table": random.normal(3, 0.3, (50, 32)).astype(np.float32),  # the norm takes the 3 away, not the rounding
        "w0": random.standard_normal((32, 32)).astype(np.float32),
        "w1": random.standard_normal((32, 4)).astype(np.float32),
        "gain": random.uniform(1, 2, 32).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["e"], "look_up"),
            helper.make_node("LayerNormalization", ["e", "gain"], ["n"], "norm"),
            helper.make_node("MatMul", ["n", "w0"], ["m"], "product0"),
            helper.make_node("Add", ["n", "m"], ["s"], "sum"),
            helper.make_node("LayerNormalization", ["s", "gain"], ["t"], "norm1"),
            helper.make_node("MatMul", ["t", "w1"], ["y"], "product1"),
        ],
        "words",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5, 4])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    ids = random.integers(0, 50, (200, 5)).astype(np.int32)
    names = tensors_to_range(model)
    values = session_on_one_thread(with_outputs(model, names)).run(names, {"ids": ids})
    ranges = {name: float(np.abs(found).max()) for name, found in zip(names, values, strict=True)}
    chosen = list(quantizable(model))
    assert chosen == ["look_up", "product0", "product1"]
    tensorrt = to_half(emit_tensorrt(model, ranges, chosen))
    found = steps_apart(emit_cpu(model, ranges, chosen), tensorrt, [{"ids": ids}], locally=True)
    assert set(found) == {"n", "t"}
    assert {name: apart.most for name, apart in found.items() if apart.most > 1.001} == {}
