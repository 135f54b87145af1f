"""TensorRT-RTX compiles every recipe in every precision, for GPUs that are not here, and computes in what was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch

from mmedge.building import build_bundle
from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.graph import with_outputs
from mmedge.calibration.half import to_half
from mmedge.calibration.layers import find_layers, tensors_to_range
from mmedge.export.builders import EngineOptions
from mmedge.export.bundle import assemble
from mmedge.export.engines import build_engine
from mmedge.export.targets import find_target
from mmedge.export.writing import write_bundle
from mmedge.exporting import bundle_inputs, bundle_task
from mmedge.runtime.manifest import Manifest
from mmedge.training.build import build_model
from mmedge.training.recipe import read_recipe
from mmedge.training.tokenizer import TOKENIZER_FILE, train_tokenizer

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
BATCH = 4
FUSED = b"GatedFusion"


@dataclass
class Exported:
    """What a bundle of a recipe consists of, its weights as they start."""

    manifest: Manifest
    files: dict[str, bytes]

    @property
    def graph(self) -> onnx.ModelProto:
        return onnx.load_from_string(self.files["model.onnx"])


@pytest.fixture(scope="module", params=RECIPES, ids=lambda path: path.stem)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    recipe, folder = read_recipe(request.param), tmp_path_factory.mktemp("recipe")
    if recipe.model.modalities.text is not None:
        questions = ["what is the shape of the red object", "how many objects are near the blue one"]
        train_tokenizer(questions, recipe.model.modalities.text.vocab_size, folder / TOKENIZER_FILE)
    torch.manual_seed(0)
    model = build_model(recipe, recipe.labels or ["a", "b", "c"], folder).eval()
    parts = assemble(
        model,
        request.param.stem,
        inputs=bundle_inputs(model.config),
        task=bundle_task(model),
        target=find_target("onnxruntime"),
        provenance={},
        directory=folder,
    )
    return Exported(*parts)


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


FUNCTIONS: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "with the fused function": lambda model: model,
    "without": onnx.inliner.inline_local_functions,
}
OPTIONS = EngineOptions(compute_capabilities=("8.6", "12.0"), max_batch=BATCH)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_layer_computes_in_the_precision_asked_for(exported: Exported, precision: str, function: str) -> None:
    emit, expected = PRECISIONS[precision]
    model = FUNCTIONS[function](emit(exported.graph))
    assert bool(model.functions) == (function != "without" and FUSED in exported.files["model.onnx"])
    engine = build_engine(model.SerializeToString(), OPTIONS)
    assert not [line for line in engine.warnings if "Defaulting" in line]
    for layer in find_layers(exported.graph):
        kernels = [kernel for kernel in engine.layers if layer.name in kernel.nodes]
        assert [kernel for kernel in kernels if expected in kernel.inputs], (layer.name, kernels)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_bundle_becomes_an_engine_of_its_precision(
    exported: Exported, precision: str, function: str, tmp_path: Path
) -> None:
    emit, expected = PRECISIONS[precision]
    (first,) = exported.manifest.graphs
    graph = first.model_copy(update={"path": "model.tensorrt.onnx", "precision": precision, "target": "tensorrt"})
    bundle = tmp_path / "recipe.mme"
    bundle.mkdir()
    files = exported.files | {graph.path: FUNCTIONS[function](emit(exported.graph)).SerializeToString()}
    write_bundle(bundle, exported.manifest.model_copy(update={"graphs": [first, graph]}), files)
    built = build_bundle(bundle, OPTIONS, cache=tmp_path)
    assert (built.graph, built.precision, built.compute_capabilities) == (graph.path, precision, ("8.6", "12.0"))
    assert Path(built.engine).stat().st_size == built.size > 10_000
    assert built.kernels[expected] > 1
