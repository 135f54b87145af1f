"""What scripts/cuda_resources.py lets pass and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "cuda_resources.py"
SYMBOL = (
    "_ZN6mmedge12_GLOBAL__N_14scanIfEEvPKfPf"  # void mmedge::(anonymous namespace)::scan<float>(float const*, float*)
)


def make_log(registers: int, spilled: int = 0, shared: int = 512, device: str = "sm_87") -> str:
    return (
        f"ptxas info    : Compiling entry function '{SYMBOL}' for '{device}'\n"
        f"ptxas info    : Function properties for {SYMBOL}\n"
        f"    0 bytes stack frame, {spilled} bytes spill stores, {spilled} bytes spill loads\n"
        f"ptxas info    : Used {registers} registers, used 1 barriers, {shared} bytes smem, 1048 bytes cmem[0]\n"
    )


@pytest.fixture
def check(tmp_path: Path):
    """Checks a log against the table of a kernel with 40 registers; gives what is said of it, "" where it passes."""
    log, table = tmp_path / "log", tmp_path / "table.md"

    def run(text: str, *options: str) -> str:
        log.write_text(text)
        command = [sys.executable, str(SCRIPT), str(log), str(table), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    assert run(make_log(40), "--write") == ""
    assert "| scan<float> | sm_87 | 40 | 0 | 512 |" in table.read_text()
    return run


def test_a_tenth_more_registers_pass_and_one_more_does_not(check) -> None:
    assert check(make_log(44)) == ""
    assert "scan<float> sm_87: takes 45 registers; expected at most a tenth more than the table's 40" in check(
        make_log(45)
    )


def test_a_spilled_register_does_not_pass(check) -> None:
    assert "spills 16 bytes" in check(make_log(40, spilled=8))


def test_more_shared_memory_does_not_pass(check) -> None:
    assert "takes 513 bytes of shared memory" in check(make_log(40, shared=513))


def test_a_kernel_that_only_one_side_has_does_not_pass(check) -> None:
    message = check(make_log(40, device="sm_90"))
    assert "scan<float> sm_90: not in the table" in message
    assert "scan<float> sm_87: in the table, but not compiled" in message
