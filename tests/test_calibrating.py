"""Which precisions a calibrated bundle gets, where fewer bits really lose the answer."""

from __future__ import annotations

import json
from pathlib import Path

import make_bundles
import numpy as np
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from mmedge.calibrating import Settings, calibrate_bundle
from mmedge.calibration.errors import CalibrationError
from mmedge.cli.calibrated import print_calibrated

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
    with pytest.raises(CalibrationError, match="TensorRT's graph loses 50"):
        calibrate_bundle(plain, tmp_path / "made.mme", data, Settings(precision="int8"))
    assert not (tmp_path / "made.mme").exists()


def test_int8_is_refused_where_no_layer_of_it_holds_the_budget_and_auto_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without a ReLU the CPU's steps are as large as TensorRT's: too large for this level.
    data, plain = pictures(tmp_path / "data", level=1), bundle(tmp_path / "plain.mme", level=1, size=1.0, last="Abs")
    with pytest.raises(CalibrationError, match=r"TensorRT's graph has no layer in INT8 where 0\.5 points"):
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
