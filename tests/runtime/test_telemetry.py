"""ONNX Runtime's reports to its makers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from mmedge import Session
import onnxruntime
Session(sys.argv[1])
onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx")
"""


def test_none_are_prepared(digits_bundle: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", PROGRAM, digits_bundle], env=environment | {"HOME": str(tmp_path)}, check=True
    )
    assert [path for path in tmp_path.rglob("*") if "Microsoft" in path.parts] == []
