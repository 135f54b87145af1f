"""The command line: what a person types, and what they get."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_bundles
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from PIL import Image

from mmedge.cli import cli
from mmedge.export.writing import write_bundle
from mmedge.runtime import Gallery, Session
from mmedge.runtime.manifest import read_manifest
from mmedge.runtime.media import decode_audio, decode_image


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    random = np.random.default_rng(4)
    Image.fromarray(random.integers(0, 256, (20, 30), dtype=np.uint8)).save(folder / "7.png")
    soundfile.write(folder / "seven.wav", random.normal(0, 0.1, 8000), 8000)
    return {"image": folder / "7.png", "audio": folder / "seven.wav"}


def test_run_prints_what_a_session_finds(digits_bundle: Path, files: dict[str, Path]) -> None:
    done = invoke("run", digits_bundle, "--image", files["image"], "--audio", files["audio"], "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    session = Session(digits_bundle)
    expected = session.run(image=decode_image(files["image"]), audio=decode_audio(files["audio"]))
    assert found["label"] == expected.label
    assert found["scores"] == pytest.approx(expected.scores)
    assert found["present"] == ["image", "audio"]
    assert list(found["timings_us"]) == list(expected.timings)

    table = invoke("run", digits_bundle, "--audio", files["audio"])
    assert table.exit_code == 0
    assert table.stdout.startswith(session.run(audio=decode_audio(files["audio"])).label)
    assert f"mmedge serve {digits_bundle}" in table.stdout


def test_what_to_do_next_can_be_typed_whatever_a_bundle_is_called(
    digits_bundle: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "the kiosk's.mme"
    bundle.symlink_to(digits_bundle)
    shown = invoke("run", bundle, "--audio", files["audio"]).stdout
    assert shlex.split(shown.splitlines()[-1]) == ["mmedge", "serve", str(bundle)]


def test_a_folder_of_data_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    done = invoke("export", tmp_path, "-o", tmp_path / "made.mme")
    assert done.exit_code == 2
    assert f"{tmp_path} is no checkpoint: it has no config.json" in done.output


def test_run_takes_a_text(bundles: Path) -> None:
    found = json.loads(invoke("run", bundles / "words.mme", "--text", "red circle", "--json").stdout)
    assert found["scores"] == pytest.approx(Session(bundles / "words.mme").run(text="red circle").scores)
    assert found["present"] == ["text"]


def test_run_prints_what_each_task_has(bundles: Path, files: dict[str, Path], tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (255, 204, 0)).save(tmp_path / "orange.png")
    shown = invoke("run", bundles / "multilabel.mme", "--image", tmp_path / "orange.png")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("red, green  (from image)")

    Image.new("L", (80, 60), 255).save(tmp_path / "white.png")
    answered = invoke("run", bundles / "vqa.mme", "--image", tmp_path / "white.png", "--json")
    found = json.loads(answered.stdout)
    assert found["region"]["box"] == [0, 0, 80, 60]
    assert found["label"] == "left"
    shown = invoke("run", bundles / "vqa.mme", "--image", tmp_path / "white.png")
    assert "region: 80 x 60 pixels at 0, 0  (relevance up to 1.0000)" in shown.stdout
    Image.new("L", (80, 60)).save(tmp_path / "black.png")
    assert "no region" in invoke("run", bundles / "vqa.mme", "--image", tmp_path / "black.png").stdout
    refused = invoke("run", bundles / "vqa.mme", "--text", "Where?")
    assert refused.exit_code == 2
    assert "--text: vqa has 0 inputs of this modality; expected one; its inputs are" in refused.stderr
    assert "image (image)" in refused.stderr


def test_run_searches_and_fills_a_gallery(one_input_embedding: Path, bundles: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "people.gallery"
    for name, level in (("dark", 0), ("light", 255), ("grey", 102)):
        Image.new("L", (2, 2), level).save(tmp_path / f"{name}.png")
    run = ("run", one_input_embedding, "--image")
    missing = invoke(*run, tmp_path / "dark.png", "--gallery", gallery)
    assert missing.exit_code == 2
    assert "people.gallery: " in missing.stderr
    for name in ("dark", "light"):
        enrolled = invoke(*run, tmp_path / f"{name}.png", "--gallery", gallery, "--enroll", name, "--json")
        assert enrolled.exit_code == 0, enrolled.stderr
        assert json.loads(enrolled.stdout)["enrolled"] == name
    found = json.loads(invoke(*run, tmp_path / "grey.png", "--gallery", gallery, "--json").stdout)
    assert found["matches"] == [
        {"name": "dark", "score": pytest.approx(0.8)},
        {"name": "light", "score": pytest.approx(1.2)},
    ]
    assert found["enrolled"] is None
    assert found["embedding"] == pytest.approx([0.4] * 4)
    shown = invoke(*run, tmp_path / "grey.png", "--gallery", gallery).stdout
    assert shown.startswith("embedding of 4 numbers, length 0.8000: 0.4000")
    assert "euclidean" in shown
    assert len(Gallery.load(gallery)) == 2

    Gallery(4, "euclidean", "0" * 64).save(gallery)
    other = gallery.read_bytes()
    for arguments, message in (
        (("--gallery", gallery, "--enroll", "x"), "of two models cannot be compared"),
        (("--enroll", "x"), "--gallery FILE"),
        (("--gallery", tmp_path / "new.gallery", "--enroll", ""), "0 bytes"),
    ):
        refused = invoke(*run, tmp_path / "grey.png", *arguments)
        assert refused.exit_code == 2
        assert message in refused.stderr
    assert gallery.read_bytes() == other
    assert not (tmp_path / "new.gallery").exists()
    classifier = invoke("run", bundles / "vqa.mme", "--image", tmp_path / "grey.png", "--gallery", gallery)
    assert classifier.exit_code == 2
    assert "a gallery holds embeddings" in classifier.stderr


def test_people_enrolled_at_the_same_time_are_all_there(one_input_embedding: Path, tmp_path: Path) -> None:
    Image.new("L", (2, 2), 100).save(tmp_path / "7.png")
    command = [sys.executable, "-c", "from mmedge.cli import main; main()", "run", one_input_embedding]
    command += ["--image", tmp_path / "7.png", "--gallery"]
    paths = [tmp_path / "people.gallery", tmp_path / "elsewhere" / "link"]
    paths[1].parent.mkdir()
    paths[1].symlink_to(paths[0])
    started = [
        subprocess.Popen([*command, paths[number % 2], "--enroll", f"n{number}"], stdout=subprocess.DEVNULL)
        for number in range(6)
    ]
    assert [process.wait(timeout=60) for process in started] == [0] * 6
    assert len(Gallery.load(tmp_path / "people.gallery")) == 6
    assert [path.name for path in tmp_path.glob("*people*")] == ["people.gallery"]


def test_only_a_gate_ends_with_1(digits_bundle: Path, files: dict[str, Path]) -> None:
    wide = invoke("run", digits_bundle, "--image", files["image"], "--gallery", "x" * 300, "--enroll", "ann")
    assert wide.exit_code == 2
    folder = invoke("data", "sort-of-clevr", "/proc/none")
    assert folder.exit_code == 2
    assert "mmedge: [Errno 2] No such file or directory: '/proc/" in folder.stderr
    command = "import signal; from mmedge.cli import main; import mmedge.runtime as m; "
    command += "m.read_manifest = lambda bundle: signal.raise_signal(signal.SIGINT); main()"
    done = subprocess.run([sys.executable, "-c", command, "inspect", digits_bundle], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (130, "Aborted!")


def test_run_names_what_is_wrong(digits_bundle: Path, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(files["image"].read_bytes()[:80])
    for arguments, message in (
        (["--image", tmp_path / "cut.png"], "cut.png: not a readable image"),
        (["--image", tmp_path / "gone.png"], "gone.png: no such file"),
        (["--audio", files["image"]], "7.png: not a readable audio file"),
        ([], "every input is absent"),
    ):
        done = invoke("run", digits_bundle, *arguments, "--json")
        assert done.exit_code == 2
        assert message in done.stderr
        assert done.stdout == ""


def test_inspect_shows_the_versions_the_graph_keeps_to(digits_bundle: Path) -> None:
    shown = json.loads(invoke("inspect", digits_bundle, "--json").stdout)
    assert shown["graphs"] == [
        {
            "path": "model.onnx",
            "precision": "fp32",
            "target": "onnxruntime",
            "opset": 18,
            "ir_version": 10,
        }
    ]
    assert shown["labels"] == make_bundles.LABELS
    table = invoke("inspect", digits_bundle).stdout
    assert "IR version" in table
    assert "onnxruntime" in table


def test_inspect_shows_a_dash_for_figures_that_are_not_there(digits_bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(digits_bundle)
    first, *others = manifest.evidence["parity"]["outputs"]
    calibration = {"chosen": {"layers": [], "speedup": 1.0}, "layers": 4, "max_accuracy_drop": None}
    evidence = {"parity": {"outputs": [{"subset": first["subset"]}, *others]}, "calibration": calibration}
    graph = (digits_bundle / "model.onnx").read_bytes()
    write_bundle(tmp_path, manifest.model_copy(update={"evidence": evidence}), {"model.onnx": graph})
    shown = invoke("inspect", tmp_path)
    assert shown.exit_code == 0, shown.exception
    assert shown.stdout.count(f"{others[0]['max_abs']:.2e}") >= 1
    (row,) = [line for line in shown.stdout.splitlines() if line.count(" - ") == 4]
    assert "image" in row
    assert "at most - points lost" in shown.stdout.replace("\n", " ")


def test_what_is_there_in_the_place_of_what_was_expected_is_said(files: dict[str, Path], tmp_path: Path) -> None:
    image = files["image"]
    for arguments, message in (
        (["inspect", image], f"{image} is a file; expected a bundle"),
        (["run", image, "--image", image], f"{image} is a file; expected a bundle"),
        (["export", tmp_path / "none", "-o", tmp_path / "made.mme"], "none: no such folder; expected a checkpoint"),
    ):
        done = invoke(*arguments)
        assert done.exit_code == 2
        assert message in done.stderr


def test_a_mistyped_command_is_guessed() -> None:
    done = invoke("trian")
    assert done.exit_code == 2
    assert "did you mean 'train'?" in done.stderr


def test_a_command_whose_packages_are_missing_says_what_to_install(tmp_path: Path) -> None:
    # As on a device: the packages of the train extra cannot be found.
    code = """
import sys
sys.modules["torch"] = sys.modules["yaml"] = None
from mmedge.cli import main
main()
"""
    command = [sys.executable, "-c", code, "train", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'pip install "mmedge[train]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert invoke("--version").stdout == f"mmedge {version('mmedge')}\n"


def test_the_engines_options_reach_it_and_no_other_takes_its_place(
    digits_bundle: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    cached = invoke("run", digits_bundle, "--image", files["image"], "--threads", 2, "--cache", tmp_path, "--json")
    assert cached.exit_code == 0, cached.stderr
    assert json.loads(cached.stdout)["label"] == Session(digits_bundle).run(image=decode_image(files["image"])).label
    assert any(tmp_path.iterdir())
    for verb in ("run", "serve"):
        for option, value, message in (
            ("--provider", "tensorrt", "TensorrtExecutionProvider"),
            ("--provider", "abacus", "'abacus' is not one of"),
            ("--cache", tmp_path / "none", "is not a directory"),
            ("--threads", 0, "--threads"),
        ):
            refused = invoke(verb, digits_bundle, option, value)
            assert refused.exit_code == 2
            assert message in refused.stderr
