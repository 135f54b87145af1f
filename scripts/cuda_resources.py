"""What the CUDA kernels take of a multiprocessor, checked against the table in the repository.

`python scripts/cuda_resources.py LOG TABLE` reads what `ptxas -v` printed and fails where a kernel spills registers,
takes more than a tenth more of them than the table says, or is not in the table. `--write` makes the table anew.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ENTRY = re.compile(
    r"Compiling entry function '(?P<symbol>\S+)' for '(?P<architecture>sm_\d+)'"
    r".*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
HEADER = ("kernel", "device", "registers", "spilled bytes", "shared bytes")


class Resources(NamedTuple):
    """What one kernel takes on one architecture: registers a thread, bytes of spills, bytes of static shared memory."""

    registers: int
    spilled: int
    shared: int


Table = dict[tuple[str, str], Resources]


def read_log(text: str) -> Table:
    """The kernels by their name and architecture."""
    entries = list(ENTRY.finditer(text))
    symbols = "\n".join(entry["symbol"] for entry in entries)
    names = subprocess.run(["c++filt"], input=symbols, capture_output=True, text=True, check=True).stdout.splitlines()
    table: Table = {}
    for entry, name in zip(entries, names, strict=True):
        # "void mmedge::(anonymous namespace)::convert_frames<__half>(...)"
        kernel = re.sub(r"^void |mmedge::|\(anonymous namespace\)::|\(.*\)$", "", name)
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        table[kernel, entry["architecture"]] = Resources(
            int(entry["registers"]), int(entry["stores"]) + int(entry["loads"]), int(shared[1]) if shared else 0
        )
    return table


def read_table(text: str) -> Table:
    """A file that `format_table` wrote."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return {(kernel, device): Resources(*map(int, numbers)) for kernel, device, *numbers in rows}


def format_table(table: Table) -> str:
    rows = [HEADER, tuple("---" for _ in HEADER), *((*key, *map(str, value)) for key, value in sorted(table.items()))]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def find_faults(found: Table, expected: Table) -> list[str]:
    """In words; empty where `found` is as good as `expected`."""
    faults = [f"{' '.join(key)}: in the table, but not compiled" for key in sorted(expected.keys() - found.keys())]
    for key, resources in sorted(found.items()):
        name = " ".join(key)
        if resources.spilled:
            faults.append(f"{name}: spills {resources.spilled} bytes; expected none")
        if key not in expected:
            faults.append(f"{name}: not in the table")
        elif resources.registers > 1.1 * expected[key].registers:
            faults.append(
                f"{name}: takes {resources.registers} registers; expected at most a tenth more than the table's "
                f"{expected[key].registers}"
            )
        elif resources.shared > expected[key].shared:
            faults.append(
                f"{name}: takes {resources.shared} bytes of shared memory; the table has {expected[key].shared}"
            )
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    found = read_log(arguments.log.read_text())
    if arguments.write:
        arguments.table.write_text(format_table(found))
        return
    faults = find_faults(found, read_table(arguments.table.read_text()))
    print(f"{len(found)} kernels compiled, {len(faults)} faults")
    if faults:
        sys.exit("\n".join([*faults, "If that is meant, write the table anew with --write"]))


if __name__ == "__main__":
    main()
