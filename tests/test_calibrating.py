"""Which precisions a calibrated bundle gets, where fewer bits really lose the answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import make_bundles
import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from scenes import LABELS as SHAPES
from scenes import answer, make_scenes

from mmedge.budget import accuracy_drop
from mmedge.calibrating import Settings, calibrate_bundle, take_ranges
from mmedge.calibration.errors import BudgetExceeded, CalibrationError
from mmedge.cli import cli
from mmedge.cli.calibrated import print_calibrated
from mmedge.data.folder import read_split
from mmedge.evaluation import evaluate
from mmedge.export.writing import write_bundle
from mmedge.runtime.manifest import read_manifest

LABELS = ["black", "grey"]


def pictures(folder: Path, level: int) -> Path:
    """Pictures of 2 x 2 with one white pixel, the others black or of this level of 255."""
    for split in ("train", "validation"):
        (folder / split).mkdir(parents=True)
        rows = []
        for number in range(8):
            pixels = np.full((2, 2), level * (number % 2), np.uint8)
            pixels[1, 1] = 255
            Image.fromarray(pixels).save(folder / split / f"{number}.png")
            rows.append(json.dumps({"image_file_name": f"{number}.png", "label": LABELS[number % 2]}))
        (folder / split / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def bundle(destination: Path, level: int, size: float, last: str = "Relu") -> Path:
    """Tells black from that level by a product of all pixels but the white one; they are of that size on their way, and
    the weights of its inverse. last: the operator before the product.
    """
    image = {**make_bundles.LEVELS, "width": 2, "height": 2}
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], "flat"),
        helper.make_node("Mul", ["flat", "root"], ["larger"], "larger"),
        helper.make_node("Mul", ["larger", "root"], ["large"], "large"),
        helper.make_node(last, ["large"], ["pixels"], "last"),
        helper.make_node("Gemm", ["pixels", "weight", "bias"], ["logits"], "answer", transB=1),
    ]
    model = make_bundles.hand_made(nodes, {"image": [1, 2, 2]}, {"logits": [2]}, {"root": size**0.5})
    weight, bias = np.float32([[0, 0, 0, 0], [1, 1, 1, 0]]) / np.float32(size), np.float32([1.5 * level / 255, 0])
    model.graph.initializer.extend([numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")])
    parts = {
        "task": "classification",
        "inputs": [("image", "image", [1, 2, 2], image)],
        "outputs": [("logits", "logits", [2])],
        "labels": LABELS,
    }
    make_bundles.write_hand_made(destination, model, parts)
    return destination


def test_ranges_of_a_file_are_those_of_every_tensor(tmp_path: Path) -> None:
    data, settings = pictures(tmp_path / "data", 8), Settings()
    source = bundle(tmp_path / "source.mme", 8, 1.0)
    calibrate_bundle(source, tmp_path / "first.mme", data, settings)
    found = json.loads((tmp_path / "first.mme" / "calibration.json").read_text())
    del found["tensors"]["pixels"]
    (tmp_path / "less.json").write_text(json.dumps(found))
    with pytest.raises(CalibrationError, match=r"less\.json has no range of pixels; calibrate again"):
        calibrate_bundle(source, tmp_path / "second.mme", data, replace(settings, ranges=tmp_path / "less.json"))
    assert not (tmp_path / "second.mme").exists()


def test_a_metric_without_a_value_is_no_budget(tmp_path: Path) -> None:
    samples = read_split(make_scenes(tmp_path), "validation", ["image"])
    alike = [sample for sample in samples if sample.label == SHAPES[0]]
    scores = evaluate(answer, alike, ["image"], [], task="embedding")
    with pytest.raises(CalibrationError, match="the budget is of eer, which has no value on these samples"):
        accuracy_drop(scores, scores)


@pytest.mark.parametrize(
    ("level", "size", "expected"),
    [
        (8, 1.0, "int8"),
        # Of the white pixel's 127 steps this level is less than half a one; after a ReLU the CPU's are half as large.
        (1, 1.0, "fp16"),
        # Weights that float16 has only zero for; values that are infinite in it.
        (1, 1e10, "fp32"),
        (1, 2.0**20, "fp32"),
    ],
)
def test_auto_gives_tensorrt_the_fewest_bits_that_hold_the_budget(
    level: int, size: float, expected: str, tmp_path: Path
) -> None:
    data, plain = pictures(tmp_path / "data", level), bundle(tmp_path / "plain.mme", level, size)
    made = calibrate_bundle(plain, tmp_path / "made.mme", data, Settings(precision="auto"))
    assert [graph.target for graph in made.manifest.graphs] == ["onnxruntime", "tensorrt"]
    assert made.manifest.graphs[1].precision == expected
    assert made.tensorrt.subsets[-1].main.value == made.before.subsets[-1].main.value == 1
    assert made.search is not None
    assert made.search.largest.layers == ("answer",)  # the CPU's INT8 holds it every time


def test_int8_alone_is_refused_where_tensorrt_would_lose_too_much_and_nothing_is_written(tmp_path: Path) -> None:
    data, plain = pictures(tmp_path / "data", level=1), bundle(tmp_path / "plain.mme", level=1, size=2.0**20)
    with pytest.raises(BudgetExceeded, match="TensorRT's graph loses 50"):
        calibrate_bundle(plain, tmp_path / "made.mme", data, Settings(precision="int8"))
    assert not (tmp_path / "made.mme").exists()


def test_int8_is_refused_where_no_layer_of_it_holds_the_budget_and_auto_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without a ReLU the CPU's steps are as large as TensorRT's: too large for this level.
    data, plain = pictures(tmp_path / "data", level=1), bundle(tmp_path / "plain.mme", level=1, size=1.0, last="Abs")
    with pytest.raises(BudgetExceeded, match=r"TensorRT's graph has no layer in INT8 where 0\.5 points"):
        calibrate_bundle(plain, tmp_path / "made.mme", data, Settings(precision="int8"))
    assert not (tmp_path / "made.mme").exists()
    made = calibrate_bundle(plain, tmp_path / "made.mme", data, Settings(precision="auto"))
    assert made.manifest.evidence["calibration"]["graphs"] == {
        "model.onnx": {"precision": "fp32", "int8": []},
        "model.tensorrt.onnx": {"precision": "fp16", "int8": []},
    }
    print_calibrated(made)
    told = capsys.readouterr().out.replace("\n", " ")
    assert "fp32 for ONNX Runtime" in told
    assert "fp16 for TensorRT" in told
    assert "0 of 1 layers in INT8 for ONNX Runtime" in told
    assert "its graph is the one it was" in told
    assert "it is fp16, without INT8" in told


@pytest.mark.parametrize(("last", "size"), [("Relu", 2.0**20), ("Abs", 1.0)])
def test_a_budget_that_is_not_held_ends_the_command_as_a_gate_does(last: str, size: float, tmp_path: Path) -> None:
    data, plain = pictures(tmp_path / "data", level=1), bundle(tmp_path / "plain.mme", level=1, size=size, last=last)
    arguments = ["calibrate", plain, data, "-o", tmp_path / "made.mme", "--precision", "int8"]
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    assert done.exit_code == 1
    assert "allow more" in done.stderr
    done = CliRunner().invoke(cli, [*map(str, arguments), "--calibration-split", "none"])
    assert done.exit_code == 2


def test_values_that_are_no_numbers_are_told_with_their_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "data", level=200)
    plain = bundle(tmp_path / "plain.mme", level=200, size=1.0)
    clean = calibrate_bundle(plain, tmp_path / "clean.mme", data, Settings())
    model = onnx.load(plain / "model.onnx")
    del model.graph.node[3:]
    model.graph.node.extend(
        [
            # The root of what a pixel is above a half: no number for the black ones.
            helper.make_node("Sub", ["large", "half"], ["above"], "above"),
            helper.make_node("Sqrt", ["above"], ["roots"], "roots"),
            helper.make_node("Gemm", ["roots", "weight"], ["answers"], "lost", transB=1),
            helper.make_node("IsNaN", ["answers"], ["isnan"], "isnan"),
            helper.make_node("Where", ["isnan", "zero", "answers"], ["cleaned"], "cleaned"),
            helper.make_node("Gemm", ["large", "weight", "bias"], ["known"], "answer", transB=1),
            helper.make_node("Add", ["cleaned", "known"], ["logits"], "sum"),
        ]
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(value), name) for name, value in (("half", 0.5), ("zero", 0.0))
    )
    write_bundle(plain, read_manifest(plain), {"model.onnx": model.SerializeToString()})
    made = calibrate_bundle(plain, tmp_path / "made.mme", data, Settings())
    for written, told in ((clean, False), (made, True)):
        print_calibrated(written)
        line = "NaN left out of ranges, in so many values: roots (12), answers (8). Look at the model."
        assert (line in capsys.readouterr().out.replace("\n", " ")) == told
        assert ("roots (12), answers (8)" in (written.path / "report.html").read_text()) == told
        assert ("nans" in written.manifest.evidence["calibration"]) == told


@pytest.mark.parametrize("kind", ["nothing", "a table"])
def test_a_graph_without_ranges_stays_in_float_and_says_so(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, plain = pictures(tmp_path / "data", level=200), bundle(tmp_path / "plain.mme", level=200, size=1.0)
    model = onnx.load(plain / "model.onnx")
    model.opset_import[0].version = 18
    (product,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    model.graph.node.remove(product)
    made = {
        # The grey pictures' least level, and the rest of one.
        "nothing": [
            helper.make_node("ReduceMin", ["pixels", "axis"], ["grey"], "least", keepdims=1),
            helper.make_node("Sub", ["one", "grey"], ["black"], "rest"),
            helper.make_node("Concat", ["black", "grey"], ["logits"], "logits", axis=1),
        ],
        "a table": [
            helper.make_node("ReduceMin", ["pixels", "axis"], ["grey"], "least", keepdims=0),
            helper.make_node("Round", ["grey"], ["index"], "index"),
            helper.make_node("Cast", ["index"], ["whole"], "whole", to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "whole"], ["logits"], "look up"),
        ],
    }
    model.graph.node.extend(made[kind])
    constants = {"axis": np.array([1]), "one": np.float32([1]), "table": np.float32([[1, 0], [0, 1]])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    manifest = read_manifest(plain)
    graphs = [manifest.graphs[0].model_copy(update={"opset": 18})]
    write_bundle(plain, manifest.model_copy(update={"graphs": graphs}), {"model.onnx": model.SerializeToString()})
    written = calibrate_bundle(plain, tmp_path / "made.mme", data, Settings(precision="auto"))
    assert written.after.subsets[-1].main.value == written.before.subsets[-1].main.value == 1
    print_calibrated(written)
    layers = 0 if kind == "nothing" else 1
    assert f"of {layers} layers in INT8 for ONNX Runtime" in capsys.readouterr().out.replace("\n", " ")
    if kind == "nothing":
        with pytest.raises(
            CalibrationError, match=r"plain\.mme has no layer that can be in INT8.*; take the precision"
        ):
            calibrate_bundle(plain, tmp_path / "int8.mme", data, Settings(precision="int8"))


def scenes(folder: Path) -> tuple[Path, list[str]]:
    """Grey pictures, dark and bright, each with a low and a high tone, and the labels of both."""
    labels = [f"{shade} {tone}" for shade in ("dark", "bright") for tone in ("low", "high")]
    for split in ("train", "validation"):
        (folder / split).mkdir(parents=True)
        rows = []
        for number, label in enumerate(labels):
            level, hertz = (128 if "bright" in label else 64), (3000 if "high" in label else 300)
            Image.fromarray(np.full((2, 2), level, np.uint8)).save(folder / split / f"{number}.png")
            tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(8000) / 8000)
            soundfile.write(folder / split / f"{number}.wav", tone, 8000)
            files = {f"{kind}_file_name": f"{number}.{end}" for kind, end in (("image", "png"), ("audio", "wav"))}
            rows.append(json.dumps({**files, "label": label}))
        (folder / split / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return folder, labels


def two_encoders(destination: Path, labels: list[str], root: float) -> Path:
    """Tells the shade by the picture's encoder, and the tone by that of the sound; the pixels are multiplied by `root`
    twice on their way, and divided by it twice.
    """
    image = {**make_bundles.LEVELS, "width": 2, "height": 2}
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], "flat"),
        helper.make_node("Mul", ["flat", "module.encoders.image.up"], ["larger"], "larger"),
        helper.make_node("Mul", ["larger", "module.encoders.image.up"], ["large"], "large"),
        helper.make_node("Mul", ["large", "module.encoders.image.down"], ["smaller"], "smaller"),
        helper.make_node("Mul", ["smaller", "module.encoders.image.down"], ["small"], "small"),
        helper.make_node("Relu", ["small"], ["pixels"], "relu"),
        helper.make_node("Gemm", ["pixels", *parameters("encoders.image")], ["shade"], "image"),
        helper.make_node("GlobalAveragePool", ["audio"], ["means"], "pool"),
        helper.make_node("Flatten", ["means"], ["spectrum"], "spectrum"),
        helper.make_node("Gemm", ["spectrum", *parameters("encoders.audio")], ["tone"], "audio"),
        helper.make_node("Concat", ["shade", "tone"], ["both"], "both", axis=1),
        helper.make_node("Gemm", ["both", *parameters("head")], ["logits"], "answer"),
    ]
    shapes = {"image": [1, 2, 2], "audio": [40, 101]}
    model = make_bundles.hand_made(nodes, shapes, {"logits": [4]}, {})
    values = {
        "encoders.image.up": root,
        "encoders.image.down": 1 / root,
        "encoders.image.weight": np.ones((4, 1)),
        "encoders.image.bias": [-4 * 96 / 255],
        "encoders.audio.weight": np.repeat([[-0.1], [0.1]], 20, axis=0),
        "encoders.audio.bias": [0],
        "head.weight": [[-1, -1, 1, 1], [-1, 1, -1, 1]],
        "head.bias": [0, 0, 0, 0],
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), f"module.{name}") for name, value in values.items()
    )
    parts = {
        "task": "classification",
        "inputs": [
            ("image", "image", shapes["image"], image),
            ("audio", "audio", shapes["audio"], make_bundles.LOG_MEL),
        ],
        "outputs": [("logits", "logits", [4])],
        "labels": labels,
    }
    make_bundles.write_hand_made(destination, model, parts)
    return destination


def parameters(module: str) -> list[str]:
    return [f"module.{module}.weight", f"module.{module}.bias"]


@pytest.mark.parametrize("precision", ["fp16", "int8", "auto"])
def test_an_encoder_that_overflows_alone_stays_in_single_precision(
    precision: Literal["fp16", "int8", "auto"], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, labels = scenes(tmp_path / "data")
    plain = two_encoders(tmp_path / "plain.mme", labels, root=1024.0)  # a quarter of its square is above 65504
    stages = []
    made = calibrate_bundle(
        plain,
        tmp_path / "made.mme",
        data,
        Settings(precision=precision),
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert made.tensorrt.subsets[-1].main.value == made.before.subsets[-1].main.value == 1
    expected = "fp16" if precision == "fp16" else "int8"
    assert made.manifest.graphs[1].precision == expected
    graph = made.manifest.evidence["calibration"]["graphs"]["model.tensorrt.onnx"]
    assert graph["float32"] == ["encoder image"]
    assert graph["int8"] == ([] if precision == "fp16" else ["image", "audio", "answer"])
    inferred = onnx.shape_inference.infer_shapes(onnx.load(made.path / "model.tensorrt.onnx")).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    assert {types[name] for name in ("larger", "large", "smaller", "small", "pixels", "shade")} == {TensorProto.FLOAT}
    assert types["tone"] == types["logits/inner"] == TensorProto.FLOAT16
    assert f"accuracy, TensorRT's graph in {expected}, encoder image in fp32" in stages
    print_calibrated(made)
    told = capsys.readouterr().out.replace("\n", " ")
    assert "FP32 for TensorRT where it is not INT8, as FP16 loses too much there: encoder image." in told


def test_a_model_without_overflow_has_no_block_in_single_precision(tmp_path: Path) -> None:
    data, labels = scenes(tmp_path / "data")
    plain = two_encoders(tmp_path / "plain.mme", labels, root=16.0)
    made = calibrate_bundle(plain, tmp_path / "made.mme", data, Settings(precision="fp16"))
    assert made.manifest.evidence["calibration"]["graphs"]["model.tensorrt.onnx"] == {"precision": "fp16", "int8": []}


def without(data: Path, split: str, modality: str, rows: slice) -> None:
    metadata = data / split / "metadata.jsonl"
    found = [json.loads(line) for line in metadata.read_text().splitlines()]
    for row in found[rows]:
        del row[f"{modality}_file_name"]
    metadata.write_text("".join(json.dumps(row) + "\n" for row in found))


def test_a_modality_that_no_row_has_gets_no_range(tmp_path: Path) -> None:
    data, labels = scenes(tmp_path / "data")
    plain, made = two_encoders(tmp_path / "plain.mme", labels, root=16.0), tmp_path / "made.mme"
    # One row of sound is enough, but it has to be among those taken.
    without(data, "train", "audio", slice(1, None))
    calibrate_bundle(plain, made, data, Settings(precision="auto"))
    with_sound = json.loads((made / "calibration.json").read_text())["tensors"]["means"]
    assert with_sound["range"] > 0
    stages = list[str]()
    message = "none of the 4 rows of the split train that ranges are taken from has audio.*; take another split"
    without(data, "train", "audio", slice(0, 1))
    for settings in (Settings(precision="auto"), Settings(precision="int8"), Settings(ranges=made)):
        with pytest.raises(CalibrationError, match=message):
            calibrate_bundle(
                plain, tmp_path / "deaf.mme", data, settings, progress=lambda stage, *_: stages.append(stage)
            )
    with pytest.raises(CalibrationError, match=message):
        take_ranges(plain, data, Settings(), lambda stage, *_: stages.append(stage))
    assert not stages
    assert {path.name for path in tmp_path.iterdir()} == {"data", "plain.mme", "made.mme"}


@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_a_budget_is_not_held_for_a_modality_that_no_row_has(
    precision: Literal["auto", "fp16"], tmp_path: Path
) -> None:
    data, labels = scenes(tmp_path / "data")
    plain, made = two_encoders(tmp_path / "plain.mme", labels, root=16.0), tmp_path / "made.mme"
    without(data, "validation", "audio", slice(None))
    with pytest.raises(CalibrationError, match="no row of the split validation has audio, and accuracy is measured"):
        calibrate_bundle(plain, made, data, Settings(precision=precision))
    assert not made.exists()
    assert take_ranges(plain, data, Settings(), lambda stage, done, total: None).samples == 4  # measures nothing


def test_a_budget_is_not_held_where_no_row_has_all_modalities(tmp_path: Path) -> None:
    data, labels = scenes(tmp_path / "data")
    plain, made = two_encoders(tmp_path / "plain.mme", labels, root=16.0), tmp_path / "made.mme"
    without(data, "validation", "audio", slice(0, 2))
    without(data, "validation", "image", slice(2, None))
    with pytest.raises(CalibrationError, match="no row of the split validation has image and audio, and the budget"):
        calibrate_bundle(plain, made, data, Settings(precision="auto"))
    assert not made.exists()
