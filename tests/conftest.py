from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits.mme, a small real bundle (image and audio, random weights), and nan.mme."""
    folder = tmp_path_factory.mktemp("bundles")
    # In a process of its own, so that tests can check what the runtime imports.
    subprocess.run([sys.executable, Path(__file__).with_name("make_bundles.py"), folder], check=True)
    return folder


@pytest.fixture(scope="session")
def digits_bundle(bundles: Path) -> Path:
    return bundles / "digits.mme"
