"""INT8 on an x86 processor of another kind than this one, emulated by QEMU."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_bundles
import numpy as np
import numpy.typing as npt
import pytest

RUN = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import make_bundles
from mmedge.runtime import Session
session = Session(sys.argv[2])
outputs = [session.run(**inputs).outputs["logits"] for _, inputs in make_bundles.raw_samples(4)]
np.save(sys.argv[3], np.stack(outputs))
"""


@pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("qemu-x86_64") is None, reason="emulates x86 processors on x86"
)
@pytest.mark.parametrize("processor", ["Haswell", "Nehalem"])
def test_int8_loses_no_more_without_vnni(processor: str, bundles: Path, tmp_path: Path) -> None:
    """The first has AVX2, whose sums of products of bytes are cut off at 16 bits; the second has not."""

    def logits(bundle: str, *emulator: str) -> npt.NDArray[Any]:
        helpers = Path(make_bundles.__file__).parent
        command = [*emulator, sys.executable, "-c", RUN, helpers, bundles / bundle, tmp_path / "logits.npy"]
        subprocess.run(command, check=True)
        return np.asarray(np.load(tmp_path / "logits.npy"))

    exact = logits("digits.mme")
    noise = np.square(logits("int8.mme") - exact).sum()
    assert noise > 0
    emulated = np.square(logits("int8.mme", "qemu-x86_64", "-cpu", processor) - exact).sum()
    assert emulated == pytest.approx(noise, rel=0.1)
