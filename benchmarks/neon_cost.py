"""What the kernels cost on a Jetson's CPU: instructions per call for NEON, beside those for AVX2.

A call of image_to_tensor turns an NV12 frame of 1280x720 to 224x224; one of log_mel turns 1 s at 16 kHz to 101 frames
of 64 bands (400/160).

Both are counted in qemu, by a plugin (count_instructions.c), of a loop over the public C API (preprocess_loop.c): the
difference of two loop lengths, so that start-up cancels but for 1 in 100. Counts tell whether the NEON code is
as tight as the AVX2 code, whose vectors are twice as wide; they are no times. "simd" are vector and floating-point
instructions.

    make build/aarch64/fetched.stamp && python benchmarks/neon_cost.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
SYSROOT = ROOT / "build" / "aarch64" / "sysroot"
LOOPS = 50  # and twice as many
KERNELS = {
    "image_to_tensor": (
        "image",
        {
            "type": "image",
            "width": 224,
            "height": 224,
            "channels": "rgb",
            "fit": "stretch",
            "interpolation": "bilinear",
            "antialias": True,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    ),
    "log_mel": (
        "audio",
        {
            "type": "log_mel",
            "sample_rate": 16000,
            "samples": 16000,
            "n_fft": 400,
            "win_length": 400,
            "hop_length": 160,
            "n_mels": 64,
            "f_min": 20.0,
            "f_max": 7600.0,
            "mel_scale": "slaney",
            "mel_norm": "slaney",
            "power": 2.0,
            "center": True,
            "pad_mode": "reflect",
            "drop_last": False,
            "log": "natural",
            "floor": 1e-10,
            "dynamic_range_db": 0.0,
            "normalize": "none",
        },
    ),
}


class Machine(NamedTuple):
    build: Path
    configure: list[str]
    compiler: list[str]
    emulator: list[str]


MACHINES = {
    "neon": Machine(
        ROOT / "build" / "aarch64" / "release",
        [f"-DCMAKE_TOOLCHAIN_FILE={ROOT}/cmake/aarch64-linux-gnu.cmake"],
        ["aarch64-linux-gnu-gcc", f"--sysroot={SYSROOT}"],
        ["qemu-aarch64", "-cpu", "cortex-a76", "-L", str(SYSROOT)],
    ),
    "avx2": Machine(ROOT / "build" / "release", [], ["cc"], ["qemu-x86_64", "-cpu", "max"]),
}


class Count(NamedTuple):
    instructions: int
    simd: int


def build(machine: Machine, program: Path) -> None:
    """Build libmmedge and the loop that calls it."""
    configure: list[str | Path] = ["cmake", "-S", ROOT, "-B", machine.build, "-G", "Ninja", *machine.configure]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", machine.build, "--target", "mmedge"], check=True, stdout=subprocess.DEVNULL)
    library = machine.build / "runtime"
    source = [f"{ROOT}/benchmarks/preprocess_loop.c", f"-I{ROOT}/runtime/include"]
    link = [f"-L{library}", "-lmmedge", f"-Wl,-rpath,{library}", "-Wl,--allow-shlib-undefined"]
    subprocess.run([*machine.compiler, "-O2", *source, *link, "-o", program], check=True)


def run(machine: Machine, plugin: Path, program: Path, modality: str, parameters: str, loops: int) -> Count:
    command: list[str | Path] = [*machine.emulator, "-plugin", plugin, program, modality, parameters, str(loops)]
    # Of the targets that qemu emulates AVX2 is the best; and each byte that `rep movsb` copies would count.
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.cpu.x86_rep_movsb_threshold=100000000"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return Count(*map(int, done.stderr.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    counts: dict[str, dict[str, Count]] = {kernel: {} for kernel in KERNELS}
    with tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder) / "count_instructions.so"
        source = ROOT / "benchmarks" / "count_instructions.c"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", source, "-o", plugin], check=True)
        for name, machine in MACHINES.items():
            program = Path(folder) / name
            build(machine, program)
            for kernel, (modality, parameters) in KERNELS.items():
                once, twice = (
                    run(machine, plugin, program, modality, json.dumps(parameters), loops)
                    for loops in (LOOPS, 2 * LOOPS)
                )
                counts[kernel][name] = Count(*((b - a) // LOOPS for a, b in zip(once, twice, strict=True)))

    if arguments.json:
        report = {
            kernel: {
                **{name: count._asdict() for name, count in of.items()},
                "ratio": round(of["neon"].instructions / of["avx2"].instructions, 2),
            }
            for kernel, of in counts.items()
        }
        print(json.dumps(report, indent=2))
        return
    table = Table(title="Instructions per call, counted in qemu")
    table.add_column("kernel", no_wrap=True)
    for column in ("NEON", "simd", "AVX2", "simd", "NEON / AVX2"):
        table.add_column(column, justify="right")
    for kernel, of in counts.items():
        cells = [f"{number:,}" for name in ("neon", "avx2") for number in of[name]]
        table.add_row(kernel, *cells, f"{of['neon'].instructions / of['avx2'].instructions:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
