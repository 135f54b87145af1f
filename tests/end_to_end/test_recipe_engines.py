"""TensorRT-RTX compiles every recipe in every precision, for GPUs that are not here, and computes in what was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.graph import with_outputs
from mmedge.calibration.half import to_half
from mmedge.calibration.layers import find_layers, tensors_to_range
from mmedge.export.builders import EngineOptions
from mmedge.export.engines import build_engine
from mmedge.export.graph import export_graph
from mmedge.export.targets import find_target
from mmedge.models import tensor_shape
from mmedge.training.build import build_model
from mmedge.training.recipe import read_recipe
from mmedge.training.tokenizer import TOKENIZER_FILE, train_tokenizer

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
BATCH = 4


@pytest.fixture(scope="module", params=RECIPES, ids=lambda path: path.stem)
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """The graph of a recipe, its weights as they start."""
    recipe, folder = read_recipe(request.param), tmp_path_factory.mktemp("recipe")
    if recipe.model.modalities.text is not None:
        questions = ["what is the shape of the red object", "how many objects are near the blue one"]
        train_tokenizer(questions, recipe.model.modalities.text.vocab_size, folder / TOKENIZER_FILE)
    torch.manual_seed(0)
    model = build_model(recipe, recipe.labels or ["a", "b", "c"], folder).eval()
    example = {
        name: torch.zeros(
            1, *tensor_shape(part["preprocess"]), dtype=torch.int32 if part["preprocess"]["type"] == "text" else None
        )
        for name, part in model.config.modalities.items()
    }
    example["presence"] = torch.ones(1, len(example), dtype=torch.bool)
    return export_graph(model, example, target=find_target("onnxruntime"), output_names=model.output_names, metadata={})


def random_feeds(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    random = np.random.default_rng(0)
    makers: dict[int, Callable[[tuple[int, ...]], npt.NDArray[Any]]] = {
        onnx.TensorProto.FLOAT: lambda shape: random.standard_normal(shape).astype(np.float32),
        onnx.TensorProto.INT32: lambda shape: random.integers(1, 20, shape).astype(np.int32),
        onnx.TensorProto.BOOL: lambda shape: np.ones(shape, bool),
    }
    feeds = {}
    for entry in model.graph.input:
        shape = (BATCH, *(dimension.dim_value for dimension in entry.type.tensor_type.shape.dim[1:]))
        feeds[entry.name] = makers[entry.type.tensor_type.elem_type](shape)
    return feeds


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    names = tensors_to_range(model)
    session = onnxruntime.InferenceSession(with_outputs(model, names).SerializeToString())
    values = session.run(names, random_feeds(model))
    ranges = {name: float(np.abs(found).max()) for name, found in zip(names, values, strict=True)}
    return to_half(emit_tensorrt(model, ranges, [layer.name for layer in find_layers(model)]))


PRECISIONS: Mapping[str, tuple[Callable[[onnx.ModelProto], onnx.ModelProto], str]] = {
    "fp32": (lambda model: model, "Float"),
    "fp16": (to_half, "Half"),
    "int8": (int8, "Int8"),
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_layer_computes_in_the_precision_asked_for(graph: onnx.ModelProto, precision: str) -> None:
    emit, expected = PRECISIONS[precision]
    engine = build_engine(
        emit(graph).SerializeToString(), EngineOptions(compute_capabilities=("8.6", "12.0"), max_batch=BATCH)
    )
    assert not [line for line in engine.warnings if "Defaulting" in line]
    for layer in find_layers(graph):
        kernels = [kernel for kernel in engine.layers if layer.name in kernel.nodes]
        assert [kernel for kernel in kernels if expected in kernel.inputs], (layer.name, kernels)
