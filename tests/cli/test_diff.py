"""mmedge diff, on real bundles and a folder."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import make_bundles
import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
from click.testing import CliRunner, Result
from onnx import numpy_helper
from PIL import Image

from mmedge.cli import cli
from mmedge.diffing import diff_bundles
from mmedge.export.writing import write_bundle
from mmedge.runtime.manifest import read_manifest


def invoke(verb: str, *arguments: Any) -> Result:
    return CliRunner().invoke(cli, [verb, *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "validation"):
        folder = root / split
        folder.mkdir()
        rows = []
        for number, (_, inputs) in enumerate(make_bundles.raw_samples(4)):
            Image.fromarray(inputs["image"]).save(folder / f"{number}.png")
            soundfile.write(folder / f"{number}.wav", inputs["audio"].samples, 8000, subtype="FLOAT")
            files = {"image_file_name": f"{number}.png", "audio_file_name": f"{number}.wav"}
            rows.append(json.dumps(files | {"label": make_bundles.LABELS[number]}))
        (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def faulty(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The bundle with one channel of one convolution of the sound's encoder 10,000 times as large, and that weight."""
    model, manifest = onnx.load(digits_bundle / "model.onnx"), read_manifest(digits_bundle)
    weight = [entry for entry in model.graph.initializer if entry.name.startswith("module.encoders.audio")][4]
    values = numpy_helper.to_array(weight).copy()
    values[3] *= 1e4
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    folder = tmp_path_factory.mktemp("faulty") / "faulty.mme"
    folder.mkdir()
    write_bundle(folder, manifest, {"model.onnx": model.SerializeToString()})
    return folder, weight.name


def test_a_bundle_does_not_part_from_itself_nor_in_integers(digits_bundle: Path, bundles: Path, data: Path) -> None:
    int8 = bundles / "int8.mme"
    done = invoke("diff", digits_bundle, digits_bundle, "--data", data, "--tolerance", "1e-12", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["first"] is None
    assert len(found["tensors"]) > 10
    assert all(entry["noise"] == 0 for entry in found["tensors"])
    done = invoke("diff", digits_bundle, int8, "--data", data, "--samples", 2)
    assert done.exit_code == 0, done.output
    assert "stay within 0.01" in done.stdout
    noises = json.loads(invoke("diff", digits_bundle, int8, "--data", data, "--json").stdout)["tensors"]
    assert any(entry["reading"].startswith(f"{entry['tensor']}/uint8") for entry in noises)
    assert any(entry["noise"] > 0 for entry in noises)


def test_one_channel_gone_wrong_in_one_encoder_is_found_by_name(
    digits_bundle: Path, faulty: tuple[Path, str], data: Path, tmp_path: Path
) -> None:
    bundle, weight = faulty
    shown = tmp_path / "shown"
    done = invoke("diff", digits_bundle, bundle, "--data", data, "--save", shown, "--json")
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    model = onnx.load(digits_bundle / "model.onnx")
    (node,) = [node for node in model.graph.node if weight in node.input]
    assert found["node"] == node.name
    assert found["module"] == weight.removeprefix("module.").rpartition(".")[0]
    assert found["block"] == "encoder audio"
    assert "audio" in found["first"]["worst"]
    assert found["block"] in invoke("diff", digits_bundle, bundle, "--data", data).stdout.replace("\n", " ")
    # What was left shows it: that node alone, and another result.
    results = []
    for name in ("first", "second"):
        part = onnx.load(shown / f"{name}.onnx")
        assert [kept.name for kept in part.graph.node] == [node.name]
        session = onnxruntime.InferenceSession(part.SerializeToString())
        results.append(session.run(None, dict(np.load(shown / f"{name}.npz")))[0])
    assert np.abs(results[1] - results[0]).max() > 10 * np.abs(results[0]).max()


def test_what_cannot_be_compared_is_refused(digits_bundle: Path, bundles: Path, data: Path, tmp_path: Path) -> None:
    cases: list[tuple[list[Any], str]] = [
        ([digits_bundle, bundles / "vqa.mme", "--data", data], "take other inputs"),
        ([digits_bundle, digits_bundle, "--data", data, "--samples", 0], "expected at least 1"),
        ([digits_bundle, digits_bundle, "--data", data, "--tolerance", "nan"], "a tolerance of nan; expected a number"),
        ([digits_bundle, digits_bundle, "--data", data, "--tolerance", -1], "a tolerance of -1.0; expected a number"),
        ([digits_bundle, digits_bundle, "--data", data, "--save", tmp_path], "is there already"),
        ([digits_bundle, tmp_path / "none.mme", "--data", data], "no such bundle"),
    ]
    for arguments, message in cases:
        done = invoke("diff", *arguments)
        assert done.exit_code == 2, arguments
        assert message in done.stderr


def twin(bundle: Path, destination: Path, number: int, replaced: Any, files: dict[str, bytes]) -> Path:
    """The bundle with other preprocessing of one of its inputs, or other files."""
    manifest = read_manifest(bundle)
    inputs = list(manifest.inputs)
    inputs[number] = inputs[number].model_copy(update={"preprocess": inputs[number].preprocess | replaced})
    kept = {name: (bundle / name).read_bytes() for name in manifest.files}
    destination.mkdir()
    write_bundle(destination, manifest.model_copy(update={"inputs": inputs}), kept | files)
    return destination


def test_bundles_of_other_preprocessing_are_refused_by_its_key(
    digits_bundle: Path, bundles: Path, data: Path, tmp_path: Path
) -> None:
    other = twin(digits_bundle, tmp_path / "mean.mme", 0, {"mean": [0.0]}, {})
    done = invoke("diff", digits_bundle, other, "--data", data)
    assert done.exit_code == 2
    expected = read_manifest(digits_bundle).inputs[0].preprocess["mean"]
    assert f"preprocessing of the input image: {other} has mean [0.0], expected {expected}" in done.stderr
    other = twin(digits_bundle, tmp_path / "more.mme", 1, {"emphasis": 0.97}, {})
    done = invoke("diff", digits_bundle, other, "--data", data)
    assert done.exit_code == 2
    assert f"the input audio: {other} has emphasis 0.97, expected not there" in done.stderr
    words = bundles / "words.mme"
    other = twin(words, tmp_path / "words.mme", 0, {}, {"tokenizer.json": b"{}"})
    done = invoke("diff", words, other, "--data", data)
    assert done.exit_code == 2
    assert f"the input text: {other} has tokenizer 'tokenizer.json' of SHA-256 44136fa355b3, expected" in done.stderr


def test_rows_are_not_kept(digits_bundle: Path, data: Path, tmp_path: Path) -> None:
    many = tmp_path / "validation"
    shutil.copytree(data / "validation", many)
    rows = (many / "metadata.jsonl").read_text()
    (many / "metadata.jsonl").write_text(rows * 50)
    sizes = [np.prod(entry.shape) * 4 for entry in read_manifest(digits_bundle).inputs]

    def peak(samples: int) -> int:
        tracemalloc.start()
        try:
            options = {"split": "validation", "tolerance": 0.0, "target": "onnxruntime", "save": None}
            assert not diff_bundles(digits_bundle, digits_bundle, tmp_path, samples=samples, **options)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(4)  # what is imported and kept
    assert peak(200) - peak(4) < 0.25 * 196 * 3 * sum(sizes)
