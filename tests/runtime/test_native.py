"""What the shared library shows the world."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import mmedge.runtime
from mmedge.runtime.native import lib, text

HEADER = Path(__file__).parents[2] / "runtime" / "include" / "mmedge.h"


def test_only_the_functions_of_the_header_are_exported() -> None:
    library = next(path for folder in mmedge.runtime.__path__ if (path := Path(folder) / "libmmedge.so").is_file())
    command = ["nm", "--dynamic", "--defined-only", "--format=just-symbols", str(library)]
    exported = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    declared = set(re.findall(r"^MME_API [\w *]*?(mme_\w+)\(", HEADER.read_text(), re.MULTILINE))
    assert exported == declared
    assert len(declared) > 15


def test_the_binding_and_the_library_are_of_one_version() -> None:
    from importlib.metadata import version

    assert text(lib.mme_version()) == version("mmedge")
    numbers = re.findall(r"#define MME_API_VERSION_(?:MAJOR|MINOR) (\d+)", HEADER.read_text())
    assert lib.mme_api_version() == int(numbers[0]) << 16 | int(numbers[1])
