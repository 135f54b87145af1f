"""The command line: what a person types, and what they get."""

from __future__ import annotations

import json
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
from mmedge.runtime import Session
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
