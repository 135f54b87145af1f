"""Which processes run below another, for the tests of what starts and ends them."""

from __future__ import annotations

import time
from pathlib import Path


def children(parent: int) -> set[int]:
    """Process ids of those that `parent` started and that still run."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, above, *_ = status.read_text().rpartition(")")[2].split()
        except OSError:  # It ended meanwhile.
            continue
        if int(above) == parent and state != "Z":
            found.add(int(status.parent.name))
    return found


def ends(process: int, within_s: float = 15) -> bool:
    """Whether a process ends in that time."""
    limit = time.monotonic() + within_s
    while time.monotonic() < limit:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False
