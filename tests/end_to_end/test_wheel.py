"""The wheel: what is in it, and that it runs a bundle in an empty environment with its base dependencies alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmedge.runtime import Session

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def test_one_wheel_fits_every_python_and_holds_no_sources(wheel: Path) -> None:
    assert re.fullmatch(r"mmedge-[\d.]+-py3-none-linux_\w+\.whl", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if name.startswith("mmedge/")}
    assert {"mmedge/py.typed", "mmedge/runtime/libmmedge.so", "mmedge/runtime/_abi.py"} <= inside
    assert {"mmedge/export/graph.py", "mmedge/runtime/session.py"} <= inside
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"mmedge"}
    foreign = [n for n in inside if not n.endswith((".py", ".typed", ".so", ".md"))]
    assert foreign == []


def test_the_wheel_runs_a_bundle_with_base_dependencies_alone(wheel: Path, digits_bundle: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[cpu]"]
    subprocess.run(install, check=True)
    installed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"^(torch|transformers|onnx|scikit-learn) ", installed, re.MULTILINE)

    pixels = np.random.default_rng(5).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "frame.png")
    command = [environment / "bin" / "mmedge", "run", digits_bundle, "--image", tmp_path / "frame.png", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = Session(digits_bundle).run(image=pixels)
    assert json.loads(done.stdout)["scores"] == pytest.approx(expected.scores, abs=1e-6)
