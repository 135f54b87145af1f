"""Write small bundles for the tests: a real exported model, with random weights, a broken twin, and graphs made by hand
whose results can be told from their inputs.

python tests/make_bundles.py FOLDER   ->  FOLDER/digits.mme, FOLDER/nan.mme (its last bias is NaN),
                                          FOLDER/multilabel.mme, FOLDER/embedding.mme, FOLDER/vqa.mme, FOLDER/words.mme,
                                          FOLDER/varying.mme, FOLDER/int8.mme (digits.mme in integers)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
IMAGE = {
    "type": "image",
    "width": 32,
    "height": 32,
    "channels": "grey",
    "fit": "stretch",
    "interpolation": "bilinear",
    "antialias": True,
    "mean": [0.5],
    "std": [0.25],
}
LOG_MEL = {
    "type": "log_mel",
    "sample_rate": 8000,
    "samples": 8000,
    "n_fft": 256,
    "win_length": 200,
    "hop_length": 80,
    "n_mels": 40,
    "f_min": 60.0,
    "f_max": 3800.0,
    "mel_scale": "htk",
    "mel_norm": "none",
    "power": 2.0,
    "center": True,
    "pad_mode": "reflect",
    "drop_last": False,
    "log": "db",
    "floor": 1e-10,
    "dynamic_range_db": 40.0,
    "normalize": "clip",
}


def raw_samples(count: int, seed: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """Named frames and clips of noise."""
    from mmedge.runtime import Audio

    random = np.random.default_rng(seed)
    return [
        (
            f"sample {i}",
            {
                "image": random.integers(0, 256, (48 + i, 40, 3), dtype=np.uint8),
                "audio": Audio(random.normal(0, 0.1, 7000 + 400 * i).astype(np.float32), 8000),
            },
        )
        for i in range(count)
    ]


def digits_model(seed: int = 0) -> Any:
    """A `FusedModel` of image and audio, in evaluation mode, with random weights."""
    import torch

    from mmedge.models import FusedModel, MmedgeConfig

    torch.manual_seed(seed)
    config = MmedgeConfig(
        modalities={
            "image": {"encoder": "cnn", "width": 4, "preprocess": IMAGE},
            "audio": {"encoder": "temporal_cnn", "width": 8, "preprocess": LOG_MEL},
        },
        fusion="gated",
        fusion_dim=16,
        id2label=dict(enumerate(LABELS)),
    )
    return FusedModel(config).eval()


def write(model: Any, destination: Path, **options: Any) -> None:
    """Export `model` to a bundle without measuring its accuracy."""
    from mmedge.export.bundle import export_bundle
    from mmedge.export.targets import find_target
    from mmedge.exporting import bundle_inputs, bundle_task

    arguments: dict[str, Any] = {
        "inputs": bundle_inputs(model.config),
        "task": bundle_task(model),
        "target": find_target("onnxruntime"),
        "samples": raw_samples(4),
        "score": lambda session: {},
        "provenance": {"model": "random weights"},
        **options,
    }
    export_bundle(model, destination, **arguments)


# Of the graphs made by hand. The pixels' levels, 0 to 1, as they are.
LEVELS = {**IMAGE, "width": 8, "height": 6, "mean": [0.0], "std": [1.0]}
COLORS = ["red", "green", "blue"]
ANSWERS = ["left", "right", "nowhere"]


def multilabel_graph() -> tuple[Any, dict[str, Any]]:
    """From an RGB frame of 2 x 2: the logit of each colour is 8 times its mean level, less 4."""
    from onnx import helper

    image = {**LEVELS, "width": 2, "height": 2, "channels": "rgb", "mean": [0.0] * 3, "std": [1.0] * 3}
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["levels"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["levels", "eight"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "four"], ["logits"]),
    ]
    model = hand_made(nodes, {"image": [3, 2, 2]}, {"logits": [3]}, {"eight": 8.0, "four": 4.0})
    return model, {
        "task": "classification",
        "multi_label": True,
        "threshold": 0.75,
        "inputs": [("image", "image", [3, 2, 2], image)],
        "outputs": [("logits", "logits", [3])],
        "labels": COLORS,
    }


def embedding_graph() -> tuple[Any, dict[str, Any]]:
    """From grey frames of 2 x 2: the embedding is their levels side by side, and the weights are shared evenly."""
    from onnx import helper

    image = {**LEVELS, "width": 2, "height": 2}
    nodes = [
        helper.make_node("Flatten", ["front"], ["one"]),
        helper.make_node("Flatten", ["back"], ["two"]),
        helper.make_node("Concat", ["one", "two"], ["embedding"], axis=1),
        helper.make_node("Cast", ["presence"], ["present"], to=1),
        helper.make_node("ReduceSum", ["present", "last"], ["count"], keepdims=1),
        helper.make_node("Div", ["present", "count"], ["weights"]),
    ]
    shapes = {"front": [1, 2, 2], "back": [1, 2, 2]}
    model = hand_made(nodes, shapes, {"embedding": [8], "weights": [2]}, {"last": [1]})
    return model, {
        "task": "embedding",
        "metric": "cosine",
        "inputs": [(name, "image", shape, image) for name, shape in shapes.items()],
        "outputs": [("weights", "modality_weights", [2]), ("embedding", "embedding", [8])],
        "labels": [],
    }


def vqa_graph() -> tuple[Any, dict[str, Any]]:
    """From a grey frame, letterboxed to 8 x 6, and a clip: the relevance is the picture, and the logits are the mean
    level of its left half, of its right half, and 0, from the clip.
    """
    from onnx import helper

    image = {**LEVELS, "fit": "letterbox"}
    nodes = [
        helper.make_node("Squeeze", ["image", "first"], ["relevance"]),
        helper.make_node("Split", ["image"], ["left", "right"], axis=3),
        helper.make_node("ReduceMean", ["left"], ["left_mean"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["right"], ["right_mean"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["audio"], ["loudness"], axes=[2], keepdims=0),
        helper.make_node("ReduceMean", ["loudness"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Concat", ["left_mean", "right_mean", "nothing"], ["logits"], axis=1),
    ]
    shapes = {"image": [1, 6, 8], "audio": [40, 101]}
    model = hand_made(nodes, shapes, {"relevance": [6, 8], "logits": [3]}, {"first": [1], "zero": 0.0})
    return model, {
        "task": "vqa",
        "inputs": [("image", "image", shapes["image"], image), ("audio", "audio", shapes["audio"], LOG_MEL)],
        "outputs": [("relevance", "relevance", [6, 8]), ("logits", "logits", [3])],
        "labels": ANSWERS,
    }


def varying_graph() -> tuple[Any, dict[str, Any]]:
    """From a grey float16 frame of 2 x 2 and samples of any length: the logits are the mean of each, and the weights
    are 0.75 and 0.25, whether they are there or not.
    """
    from onnx import TensorProto, helper

    image = {**LEVELS, "width": 2, "height": 2, "dtype": "float16"}
    waveform = {"type": "waveform", "sample_rate": 8000, "samples": 0, "normalize": "none"}
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["levels"], ["level"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["audio"], ["sample"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["level", "sample"], ["logits"], axis=1),
        helper.make_node("Identity", ["shares"], ["weights"]),
    ]
    shapes = {"image": [1, 2, 2], "audio": ["samples"]}
    kinds = {"image": TensorProto.FLOAT16}
    model = hand_made(nodes, shapes, {"logits": [2], "weights": [2]}, {"shares": ((0.75, 0.25),)}, kinds)
    return model, {
        "task": "classification",
        "inputs": [("image", "image", [1, 2, 2], image), ("audio", "audio", [-1], waveform)],
        "outputs": [("logits", "logits", [2]), ("weights", "modality_weights", [2])],
        "labels": ["seen", "heard"],
    }


def hand_made(
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    constants: dict[str, Any],
    kinds: dict[str, int] | None = None,
) -> Any:
    """A model of these nodes, with a presence mask that it may leave unread. Its inputs are float32, or of `kinds`."""
    from onnx import TensorProto, helper, numpy_helper

    def port(name: str, shape: list[int], kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, ["batch", *shape])

    tensors = [
        numpy_helper.from_array(np.array(value, np.int64 if isinstance(value, list) else np.float32), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            *(port(*entry, (kinds or {}).get(entry[0], TensorProto.FLOAT)) for entry in inputs.items()),
            port("presence", [len(inputs)], TensorProto.BOOL),
        ],
        [port(*entry) for entry in outputs.items()],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_hand_made(folder: Path, model: Any, parts: dict[str, Any]) -> None:
    """A bundle of a graph made by hand; `parts` are the manifest's, inputs and outputs as tuples."""
    import shutil

    from mmedge.export.writing import write_bundle
    from mmedge.runtime.manifest import Graph, Input, Manifest, Output

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    inputs = [
        Input(name=n, modality=m, dtype=p.get("dtype", "float32"), shape=s, preprocess=p)
        for n, m, s, p in parts["inputs"]
    ]
    outputs = [Output(name=n, kind=k, shape=s) for n, k, s in parts["outputs"]]
    graph = Graph(path="model.onnx", precision="fp32", target="onnxruntime", opset=17, ir_version=8)
    manifest = Manifest(
        name=folder.stem,
        presence="presence",
        graphs=[graph],
        files={},
        **{**parts, "inputs": inputs, "outputs": outputs},
    )
    write_bundle(folder, manifest, {"model.onnx": model.SerializeToString()})


WORD_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "circle", "square", "##s", "is", "left", "?"]
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [
        {"id": i, "content": WORD_PIECES[i], "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for i in range(4)
    ],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {piece: i for i, piece in enumerate(WORD_PIECES)},
    },
}
TEXT = {"type": "text", "tokenizer": "tokenizer.json", "max_length": 12}


def write_words(folder: Path, like: Path) -> None:
    """A bundle whose only input is text: its logits are the mean of a row of numbers for each token."""
    import hashlib
    import json

    import onnx
    from onnx import TensorProto, helper, numpy_helper

    labels = ["a", "b", "c"]
    rows = np.random.default_rng(0).normal(size=(len(WORD_PIECES), len(labels))).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["rows", "text"], ["found"]),
            helper.make_node("ReduceMean", ["found", "axes"], ["mean"], keepdims=0),
            helper.make_node("Cast", ["presence"], ["present"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["mean", "present"], ["logits"]),
        ],
        "words",
        [
            helper.make_tensor_value_info("text", TensorProto.INT32, [1, TEXT["max_length"]]),
            helper.make_tensor_value_info("presence", TensorProto.BOOL, [1, 1]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(labels)])],
        [numpy_helper.from_array(rows, "rows"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    files = {"model.onnx": model.SerializeToString(), "tokenizer.json": json.dumps(TOKENIZER).encode()}
    manifest = json.loads((like / "manifest.json").read_text()) | {"name": "words", "labels": labels}
    manifest["inputs"] = [
        {"name": "text", "modality": "text", "dtype": "int32", "shape": [TEXT["max_length"]], "preprocess": TEXT}
    ]
    manifest["outputs"] = [{"name": "logits", "kind": "logits", "shape": [len(labels)]}]
    manifest["files"] = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }
    text = json.dumps(manifest, indent=2).encode()
    folder.mkdir(exist_ok=True)
    for name, content in (files | {"manifest.json": text}).items():
        (folder / name).write_bytes(content)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")


def write_integers(folder: Path, like: Path) -> None:
    """The bundle `like` with every layer in integers, whatever that gains, and its ranges of `raw_samples(4)`."""
    import shutil
    from functools import partial

    import onnx

    from mmedge.calibration.collect import Collector
    from mmedge.calibration.emit_cpu import emit_cpu
    from mmedge.calibration.fusion import find_fusions
    from mmedge.calibration.layers import find_layers, tensors_to_range
    from mmedge.calibration.table import Origin
    from mmedge.export.writing import write_bundle
    from mmedge.runtime import read_manifest

    model, manifest = onnx.load(like / "model.onnx"), read_manifest(like)
    samples = [(name, partial(dict, inputs)) for name, inputs in raw_samples(4)]
    collector = Collector(model, manifest, like, tensors_to_range(model))
    ranges = collector.collect(samples, Origin.of(model, manifest, "raw samples", "minmax")).ranges
    names = [entry.name for entry in (*find_layers(model), *find_fusions(model))]
    graphs = [manifest.graphs[0].model_copy(update={"precision": "int8"})]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made = emit_cpu(model, ranges, names).SerializeToString()
    write_bundle(folder, manifest.model_copy(update={"graphs": graphs}), {"model.onnx": made})


def main(folder: Path) -> None:
    import shutil

    import onnx
    from onnx import numpy_helper

    from mmedge.export.writing import write_bundle
    from mmedge.runtime import read_manifest

    folder.mkdir(parents=True, exist_ok=True)
    digits, broken = folder / "digits.mme", folder / "nan.mme"
    write(digits_model(), digits, overwrite=True)
    graph = onnx.load(digits / "model.onnx")
    bias = next(tensor for tensor in graph.graph.initializer if tensor.dims == [len(LABELS)])
    bias.CopyFrom(numpy_helper.from_array(np.full(len(LABELS), np.nan, np.float32), bias.name))
    shutil.rmtree(broken, ignore_errors=True)
    broken.mkdir()
    write_bundle(broken, read_manifest(digits), {"model.onnx": graph.SerializeToString()})
    for make in (multilabel_graph, embedding_graph, vqa_graph, varying_graph):
        write_hand_made(folder / f"{make.__name__.removesuffix('_graph')}.mme", *make())
    write_words(folder / "words.mme", digits)
    write_integers(folder / "int8.mme", digits)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
