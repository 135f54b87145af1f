"""The C and C++ examples, built against installed headers and library in both of the usual ways."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmedge.runtime import Session
from mmedge.runtime.media import decode_audio, decode_image
from mmedge.runtime.native import find_onnxruntime

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "runtime" / "examples"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build, folder = ROOT / "build" / "release", tmp_path_factory.mktemp("prefix")
    with (ROOT / "build" / "release.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of the processes that run tests one builds at a time
        subprocess.run(["cmake", "-S", ROOT, "-B", build, "-G", "Ninja"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["cmake", "--build", build], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["cmake", "--install", build, "--prefix", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def build_with_cmake(prefix: Path, folder: Path, source: str) -> Path:
    configure = ["cmake", "-S", EXAMPLE, "-B", folder, f"-DCMAKE_PREFIX_PATH={prefix}"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder], check=True, stdout=subprocess.DEVNULL)
    return folder / {"kiosk.c": "kiosk", "kiosk.cc": "kiosk_cpp"}[source]


def build_with_pkg_config(prefix: Path, folder: Path, source: str) -> Path:
    search = str(next(prefix.rglob("mmedge.pc")).parent)
    ask = ["pkg-config", "--cflags", "--libs", "mmedge"]
    flags = subprocess.run(
        ask, check=True, capture_output=True, text=True, env={**os.environ, "PKG_CONFIG_PATH": search}
    ).stdout.split()
    compiler = {"kiosk.c": ["cc", "-std=c11"], "kiosk.cc": ["c++", "-std=c++20"]}[source]
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run([*compiler, *strict, EXAMPLE / source, *flags, "-o", folder / "kiosk"], check=True)
    return folder / "kiosk"


@pytest.mark.parametrize("source", ["kiosk.c", "kiosk.cc"])
@pytest.mark.parametrize("build", [build_with_cmake, build_with_pkg_config])
def test_the_kiosk_prints_what_python_finds(
    build: Callable[[Path, Path, str], Path], source: str, prefix: Path, digits_bundle: Path, tmp_path: Path
) -> None:
    kiosk = build(prefix, tmp_path, source)
    random = np.random.default_rng(6)
    frame, clip = tmp_path / "frame.ppm", tmp_path / "clip.wav"
    Image.fromarray(random.integers(0, 256, (33, 47, 3), dtype=np.uint8)).save(frame)
    soundfile.write(clip, random.normal(0, 0.1, 12000), 16000, "PCM_16")
    environment = {
        **os.environ,
        "MMEDGE_ONNXRUNTIME": find_onnxruntime(),
        "LD_LIBRARY_PATH": str(next(prefix.rglob("libmmedge.so")).parent),
    }
    session = Session(digits_bundle)
    image, audio = decode_image(frame), decode_audio(clip)
    for files, inputs in (
        ((frame, clip), {"image": image, "audio": audio}),
        ((frame, "-"), {"image": image}),
        (("-", clip), {"audio": audio}),
    ):
        command = [kiosk, digits_bundle, *files]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        expected = session.run(**inputs)
        label, *lines = done.stdout.splitlines()
        assert label == expected.label
        found = [line.split() for line in lines]
        assert [name for name, _ in found] == list(expected.scores)
        assert [float(score) for _, score in found] == pytest.approx(list(expected.scores.values()), abs=1e-6)

    refused = subprocess.run([kiosk, tmp_path, "-", "-"], capture_output=True, text=True, env=environment)
    assert refused.returncode == 1
    assert "manifest.json" in refused.stderr
