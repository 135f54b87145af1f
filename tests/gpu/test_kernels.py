"""The CUDA kernels on a GPU: the tests of tests/runtime/cuda, built by nvcc. `make gpu-check` builds and runs them."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "build" / "gpu" / "tests" / "gpu" / "test_gpu"


def device_count() -> int:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


pytestmark = [
    pytest.mark.skipif(device_count() == 0, reason="needs a CUDA device, and the driver finds none"),
    pytest.mark.skipif(not PROGRAM.exists(), reason="needs build/gpu, which `make gpu-check` builds"),
]


def test_every_kernel_gives_what_the_cpu_kernel_gives() -> None:
    run = subprocess.run([PROGRAM, "--gtest_brief=1"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer", path=os.environ["PATH"] + ":/usr/local/cuda/bin")
    if sanitizer is None:
        pytest.skip("needs compute-sanitizer, of the CUDA toolkit")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "1", PROGRAM, "--gtest_brief=1"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
