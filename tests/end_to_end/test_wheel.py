"""The wheels: what is in them, and that they run a bundle where nothing but Python is installed."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmedge.runtime import Session
from mmedge.runtime.media import decode_audio, decode_image

ROOT = Path(__file__).parents[2]
# What PEP 600 lets a wheel expect of the system; the rest has to be inside.
SYSTEM = re.compile(r"(libc|libm|libdl|libpthread|libgcc_s|libstdc\+\+|ld-linux-[\w-]+)\.so\.\d+")
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}


@pytest.fixture(scope="module", params=sorted({platform.machine(), "aarch64"}))
def machine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name != platform.machine() and not (ROOT / "build" / name / "sysroot").is_dir():
        pytest.skip(f"no build/{name}/sysroot; `make build/{name}/fetched.stamp` makes it")
    return name


@pytest.fixture(scope="module")
def wheel(machine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(["sh", ROOT / "scripts" / "build-wheel.sh", machine, folder], check=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def device(machine: str, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a system with Debian's Python, and `mmedge[cpu]` in /opt/mmedge: no soxr, no Highway, no compiler."""
    root = tmp_path_factory.mktemp("root")
    packages = ["python3-minimal", "libpython3-stdlib", "libstdc++6"]
    subprocess.run(["sh", ROOT / "scripts" / "fetch-root.sh", root, DEBIAN[machine], *packages], check=True)
    version = next((root / "usr/bin").glob("python3.*")).name.removeprefix("python")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-compile",
        "-c",
        ROOT / "constraints.txt",
        "--only-binary=:all:",
    ]
    command += [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(17, 36)]
    command += [f"--platform=manylinux2014_{machine}", f"--python-version={version}"]
    subprocess.run([*command, f"--target={root}/opt/mmedge", f"{wheel}[cpu]"], check=True)
    return root


def run_mmedge(machine: str, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run mmedge with that system's Python and libraries; `{root}` in an argument is where it sees its root."""
    if machine == platform.machine():
        enter = ["chroot", root] if os.geteuid() == 0 else ["unshare", "--map-root-user", "chroot", root]
        seen = ""
    else:
        enter, seen = [f"qemu-{machine}", "-cpu", "cortex-a76", "-L", root], str(root)
    command = [*enter, f"{seen}/usr/bin/python3", "-m", "mmedge", *(text.format(root=seen) for text in arguments)]
    environment = {"PYTHONPATH": f"{seen}/opt/mmedge", "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)


def test_one_wheel_fits_every_python_and_holds_no_sources(wheel: Path) -> None:
    assert re.fullmatch(r"mmedge-[\d.]+-py3-none-manylinux_2_\d+_\w+\.whl", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if name.startswith("mmedge/")}
    assert {"mmedge/py.typed", "mmedge/runtime/libmmedge.so", "mmedge/runtime/_abi.py"} <= inside
    assert {"mmedge/export/graph.py", "mmedge/runtime/session.py", "mmedge/report/page.html"} <= inside
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"mmedge", "mmedge.libs"}
    foreign = [n for n in inside if not n.endswith((".py", ".typed", ".so", ".md", ".html", "/"))]
    assert foreign == []


def test_a_wheel_holds_every_library_that_a_bare_system_lacks(wheel: Path, machine: str, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    libraries = list(tmp_path.rglob("*.so*"))
    inside = {library.name for library in libraries}
    assert {name.split("-")[0] for name in inside} >= {"libsoxr", "libhwy"}
    for library in libraries:
        read = ["readelf", "--wide", "--file-header", "--dynamic", "--version-info", library]
        text = subprocess.run(read, check=True, capture_output=True, text=True).stdout
        assert {"x86_64": "X86-64", "aarch64": "AArch64"}[machine] in text
        needed = re.findall(r"\(NEEDED\).*\[(.+)\]", text)
        assert needed
        assert [name for name in needed if name not in inside and not SYSTEM.fullmatch(name)] == []
        # JetPack 6: Ubuntu 22.04.
        assert max(int(minor) for minor in re.findall(r"GLIBC_2\.(\d+)", text)) <= 35
        assert max([int(minor) for minor in re.findall(r"GLIBCXX_3\.4\.(\d+)", text)], default=0) <= 30
    terms = " ".join(path.name for path in tmp_path.rglob("licenses/*"))
    assert all(library in terms for library in ("LICENSE", "libsoxr", "libhwy", "libgomp", "libssl", "kissfft"))


def test_a_wheel_runs_a_bundle_where_only_python_is_installed(device: Path, machine: str, digits_bundle: Path) -> None:
    installed = {path.name for path in (device / "opt/mmedge").iterdir()}
    assert not installed & {"torch", "transformers", "onnx", "sklearn"}
    random = np.random.default_rng(5)
    data = device / "opt/data"
    data.mkdir()
    Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(data / "frame.png")
    soundfile.write(data / "clip.wav", random.normal(0, 0.1, 12000), 16000, "PCM_16")
    shutil.copytree(digits_bundle, data / "digits.mme")

    files = ["{root}/opt/data/digits.mme", "--image={root}/opt/data/frame.png", "--audio={root}/opt/data/clip.wav"]
    done = run_mmedge(machine, device, "run", *files, "--json")
    assert done.returncode == 0, done.stderr
    inputs = {"image": decode_image(data / "frame.png"), "audio": decode_audio(data / "clip.wav")}
    expected = Session(digits_bundle).run(**inputs)
    assert json.loads(done.stdout)["scores"] == pytest.approx(expected.scores, abs=1e-5)
