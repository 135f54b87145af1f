"""Programs on a host that plays the GPU: the stand-ins of tests/runtime/tensorrt, which `make test-cpp` builds."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mmedge.runtime.native import find_onnxruntime

STAND_INS = Path(__file__).parents[1] / "build/release/tests/runtime/tensorrt/libraries"

needs_host_gpu = pytest.mark.skipif(not STAND_INS.is_dir(), reason="needs the stand-ins that `make test-cpp` builds")


def write_engine(folder: Path, bundle: Path, model: bytes, graph: str = "model.onnx") -> Path:
    """An engine of the bundle's `graph`, for the stand-in of TensorRT: `model`, an ONNX file, with its record."""
    digest = hashlib.sha256((bundle / graph).read_bytes()).hexdigest()
    engine = folder / f"{digest[:16]}.engine"
    engine.write_bytes(model)
    record = {
        "format": 2,
        "builder": "tensorrt",
        "version": "10.3.0.30",
        "graph_sha256": digest,
        "compute_capabilities": ["8.7"],
        "gpu": "Host GPU (4 multiprocessors)",
        "version_compatible": False,
        "hardware_compatible": False,
        "plugin": False,
        "sha256": hashlib.sha256(model).hexdigest(),
    }
    engine.with_suffix(".json").write_text(json.dumps(record))
    return engine


def run_on_host_gpu(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python's `program` with a GPU of its own memory."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(STAND_INS),
            "MMEDGE_TEST_GPU": "discrete",
            "MMEDGE_ONNXRUNTIME": find_onnxruntime(),  # which computes in TensorRT's place
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
