"""The device install resolves where it has to: Python 3.10 on aarch64, glibc 2.35, as JetPack 6 has it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_mmedge_cpu_needs_only_wheels_that_exist_for_jetpack_6(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["cpu"]
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 36)]
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--only-binary=:all:", "--python-version=3.10", "--implementation=cp", *platforms]
    command += ["--platform=manylinux2014_aarch64", f"--target={tmp_path}", f"--report={report}", *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    chosen = {entry["metadata"]["name"].lower() for entry in json.loads(report.read_text())["install"]}
    assert {"onnxruntime", "numpy", "soundfile"} <= chosen
    assert not chosen & {"torch", "transformers", "onnx", "scikit-learn"}
