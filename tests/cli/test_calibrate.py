"""mmedge calibrate, on a real bundle and folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import make_bundles
import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner, Result
from PIL import Image

from mmedge import Session
from mmedge.calibration.table import read_calibration
from mmedge.cli import cli
from mmedge.runtime.manifest import read_manifest


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, ["calibrate", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(5)
    for split, count in (("train", 10), ("validation", 12)):
        folder = root / split
        folder.mkdir()
        rows = []
        for number in range(count):
            Image.fromarray(random.integers(0, 256, (70, 80), dtype=np.uint8)).save(folder / f"{number}.png")
            soundfile.write(folder / f"{number}.wav", random.normal(0, 0.1, 8000), 8000)
            row = {"image_file_name": f"{number}.png", "label": make_bundles.LABELS[number % 3]}
            rows.append(json.dumps(row | ({} if number == 1 else {"audio_file_name": f"{number}.wav"})))
        (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return root


def bundle_config() -> Any:
    """Large enough for integers to be faster on any processor."""
    from mmedge.models import MmedgeConfig

    return MmedgeConfig(
        modalities={
            "image": {"encoder": "cnn", "width": 32, "preprocess": make_bundles.IMAGE | {"width": 64, "height": 64}},
            "audio": {"encoder": "temporal_cnn", "width": 8, "preprocess": make_bundles.LOG_MEL},
        },
        fusion="gated",
        fusion_dim=16,
        id2label=dict(enumerate(make_bundles.LABELS)),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from mmedge.models import FusedModel

    torch.manual_seed(0)
    destination = tmp_path_factory.mktemp("bundle") / "big.mme"
    make_bundles.write(FusedModel(bundle_config()).eval(), destination)
    return destination


def test_a_calibrated_bundle_computes_in_integers_and_says_what_it_lost(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    made = tmp_path / "small.mme"
    done = invoke(bundle, data, "-o", made, "--max-accuracy-drop", 100, "--samples", 5, "--json")
    assert done.exit_code == 0, done.stderr
    assert "layers in INT8" in done.stderr
    manifest = read_manifest(made)
    assert [(graph.precision, graph.target) for graph in manifest.graphs] == [
        ("int8", "onnxruntime"),
        ("int8", "tensorrt"),
    ]
    assert json.loads(done.stdout)["evidence"] == manifest.evidence
    evidence = manifest.evidence["calibration"]
    assert evidence["accuracy_tensorrt"]["samples"] == 12
    assert evidence["chosen"]["layers"]
    assert evidence["chosen"]["speedup"] > 1
    assert evidence["accuracy_fp32"]["subsets"]["image+audio"]["samples"] == 11
    assert set(evidence["microseconds"]) == {"image", "audio", "image+audio"}
    assert all(0 < own < before for before, own in evidence["microseconds"].values())
    page = (made / "report.html").read_text()
    assert "Accuracy for speed" in page
    assert all(layer in page for layer in evidence["noise"])
    assert manifest.evidence["parity"] == read_manifest(bundle).evidence["parity"]
    calibration = read_calibration(made / "calibration.json")
    assert calibration.samples == 5
    assert calibration.rows == 4 * 3 + 1  # the first row taken has only its picture
    first, second = (onnx.load(made / graph.path) for graph in manifest.graphs)
    fused = {node.name for node in onnx.load(bundle / "model.onnx").graph.node if node.domain}
    for model, choice, left_out in ((first, "chosen", set()), (second, "largest", fused)):
        weights = {entry.name.split("/")[0] for entry in model.graph.initializer if entry.name.endswith("/weight")}
        assert weights == {*evidence[choice]["layers"]} - left_out
        assert weights == {*evidence["graphs"]["model.onnx" if model is first else "model.tensorrt.onnx"]["int8"]}
    # It runs in libmmedge, on every subset, and about as before.
    inputs = make_bundles.raw_samples(2)[1][1]
    for chosen in ({"image"}, {"audio"}, {"image", "audio"}):
        given = {name: value for name, value in inputs.items() if name in chosen}
        before, after = (Session(path).run(**given).outputs["logits"] for path in (bundle, made))
        assert 0 < np.abs(before - after).max() < 0.1 * np.abs(before).max() + 0.05


def test_half_precision_is_for_tensorrt_alone(bundle: Path, data: Path, tmp_path: Path) -> None:
    made = tmp_path / "half.mme"
    done = invoke(bundle, data, "-o", made, "--precision", "fp16", "--max-accuracy-drop", 100)
    assert done.exit_code == 0, done.stderr
    manifest = read_manifest(made)
    assert [graph.precision for graph in manifest.graphs] == ["fp32", "fp16"]
    assert (made / manifest.graphs[0].path).read_bytes() == (bundle / "model.onnx").read_bytes()
    assert "calibration.json" not in manifest.files
    assert "fp16 for TensorRT" in done.stdout


def test_an_export_can_be_calibrated_at_once(data: Path, tmp_path: Path) -> None:
    from mmedge.models import FusedModel

    checkpoint = tmp_path / "checkpoint"
    FusedModel(bundle_config()).save_pretrained(checkpoint)
    made = tmp_path / "made.mme"
    arguments = ["export", checkpoint, "-o", made, "--data", data, "--precision", "int8", "--max-accuracy-drop", 100]
    done = CliRunner().invoke(cli, [*map(str, arguments), "--samples", "3", "--parity-samples", "3"])
    assert done.exit_code == 0, done.stderr
    assert [graph.precision for graph in read_manifest(made).graphs] == ["int8", "int8"]
    assert "Parity, torch against" in done.stdout
    assert "layers in INT8" in done.stdout
    assert not list(tmp_path.glob(".made*"))
    done = CliRunner().invoke(cli, [*map(str, arguments), "--overwrite", "--target", "tensorrt-rtx"])
    assert done.exit_code == 2
    assert "--precision int8 with --target tensorrt-rtx" in done.stderr


OF_RANGES: list[tuple[str, Any]] = [
    ("--ranges", "made.mme"),
    ("--method", "mse"),  # what it is anyhow
    ("--samples", 3),
    ("--calibration-split", "test"),
]


@pytest.mark.parametrize(("option", "value"), [*OF_RANGES, ("--max-accuracy-drop", 0.5)])
def test_an_export_in_single_precision_takes_no_option_of_calibration(option: str, value: Any, tmp_path: Path) -> None:
    arguments = ["export", tmp_path / "checkpoint", "-o", tmp_path / "made.mme", option, value]
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    assert done.exit_code == 2
    wanted = "int8, fp16 or auto" if option == "--max-accuracy-drop" else "int8 or auto"
    assert f"{option} with --precision fp32: these need --precision {wanted}" in done.stderr


@pytest.mark.parametrize(("option", "value"), OF_RANGES)
def test_half_precision_takes_no_option_of_ranges(
    bundle: Path, data: Path, option: str, value: Any, tmp_path: Path
) -> None:
    made = tmp_path / "made.mme"
    for command in (["calibrate", bundle, data], ["export", tmp_path / "checkpoint", "--data", data]):
        done = CliRunner().invoke(cli, [*map(str, [*command, "-o", made, "--precision", "fp16", option, value])])
        assert done.exit_code == 2
        assert f"{option} with --precision fp16: these need --precision int8 or auto" in done.stderr
    assert not made.exists()


def test_half_precision_reads_one_split(bundle: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "validation", tmp_path / "data" / "validation")
    done = invoke(
        bundle, tmp_path / "data", "-o", tmp_path / "made.mme", "--precision", "fp16", "--max-accuracy-drop", 9
    )
    assert done.exit_code == 0, done.stderr


def test_where_nothing_may_be_lost_the_graph_stays_as_it_was_or_loses_nothing(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    made = tmp_path / "exact.mme"
    done = invoke(bundle, data, "-o", made, "--max-accuracy-drop", 0, "--samples", 5)
    assert done.exit_code == 0, done.stderr
    manifest = read_manifest(made)
    chosen = manifest.evidence["calibration"]["chosen"]
    assert chosen["drop"] <= 0
    budgeted = [manifest.evidence["calibration"][f"accuracy_{name}"]["subsets"] for name in ("fp32", "tensorrt")]
    both = [scores["image+audio"]["accuracy"] for scores in budgeted]
    assert both[1] >= both[0]
    assert (manifest.graphs[0].precision == "int8") == bool(chosen["layers"])
    assert "points lost at most" in done.stdout.replace("\n", " ")


def test_what_cannot_be_calibrated_is_refused_and_nothing_is_written(bundle: Path, data: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.mme"
    cases: list[tuple[list[Any], str]] = [
        ([tmp_path / "none.mme", data, "-o", made], "no such bundle"),
        ([bundle, tmp_path, "-o", made], "cannot read"),
        ([bundle, data, "-o", tmp_path / "made"], "ends in .mme"),
        ([bundle, data, "-o", bundle], "--overwrite"),
        ([bundle, data, "-o", made, "--samples", 0], "expected at least 1"),
        ([bundle, data, "-o", made, "--max-accuracy-drop", -1], "expected at least 1 and 0"),
        ([bundle, data, "-o", made, "--max-accuracy-drop", "nan"], "expected at least 1 and 0"),
        ([bundle, data, "-o", made, "--max-accuracy-drop", "inf"], "expected at least 1 and 0"),
    ]
    for arguments, message in cases:
        done = invoke(*arguments)
        assert done.exit_code == 2, arguments
        assert message in done.stderr
    assert not list(tmp_path.iterdir())
    assert invoke(bundle, data, "-o", made, "--max-accuracy-drop", 100, "--samples", 3).exit_code == 0
    again = invoke(made, data, "-o", tmp_path / "again.mme")
    assert again.exit_code == 2
    assert "has fewer bits already" in again.stderr
