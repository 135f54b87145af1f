"""What is imported when: the device install has no torch, and --help must be quick."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from mmedge.cli import cli

HEAVY = {"torch", "transformers", "sklearn", "onnx", "onnxruntime", "datasets"}


def modules_after(code: str) -> set[str]:
    code += "\nimport sys; print('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("MODULES", 1)[1].split())


def test_import_mmedge_imports_nothing_heavy() -> None:
    assert not modules_after("import mmedge") & (HEAVY | {"numpy", "pydantic", "rich"})


def test_help_imports_nothing_heavy() -> None:
    code = "from mmedge.cli import cli\ntry: cli(['--help'])\nexcept SystemExit as e: assert e.code == 0"
    assert not modules_after(code) & (HEAVY | {"numpy", "pydantic", "rich"})


@pytest.mark.parametrize("verb", cli.list_commands(click.Context(cli)))
def test_the_help_of_every_verb_has_an_example_and_imports_nothing_heavy(verb: str) -> None:
    code = f"from mmedge.cli import cli\ntry: cli(['{verb}', '--help'])\nexcept SystemExit as e: assert e.code == 0"
    assert not modules_after(code) & HEAVY
    done = subprocess.run([sys.executable, "-m", "mmedge", verb, "--help"], capture_output=True, text=True, check=True)
    assert "Example:" in done.stdout


def test_running_a_bundle_imports_nothing_heavy(digits_bundle: Path) -> None:
    code = f"""
import mmedge, numpy
session = mmedge.Session({str(digits_bundle)!r})
print(session.run(image=numpy.zeros((8, 8), numpy.uint8)).label)
"""
    assert not modules_after(code) & HEAVY


def test_calibrating_and_comparing_bundles_imports_no_torch() -> None:
    assert not modules_after("import mmedge.calibrating, mmedge.diffing") & {"torch", "transformers"}
