"""What all makers of data sets share: a set is made beside its place, moved there when complete, and kept when asked
for again. Nothing that was not made here is ever replaced."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from mmedge.runtime.errors import DataError, InvalidArgument

Progress = Callable[[str, int, int], None]
"""`progress(stage, done, total)`, called often."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class MadeSet:
    """Where a set is; rows per split; what was left out and why. `reused`: it was there already."""

    path: Path
    rows: dict[str, int]
    notices: tuple[str, ...]
    reused: bool = False


def check_not_negative(**arguments: float) -> None:
    """Raise InvalidArgument where one is no number from 0 on, before a set of minutes is begun."""
    for name, value in arguments.items():
        if not 0 <= value < inf:
            raise InvalidArgument(f"{name} is {value}; expected a number from 0 on")


def make_set(
    out: Path | str, name: str, arguments: Mapping[str, Any], write: Callable[[Path], tuple[dict[str, int], list[str]]]
) -> MadeSet:
    """The set `name` at `out`: the one made there with the same `arguments`, or a new one.

    `write(folder)` fills an empty folder with a README.md and the splits, and returns the rows per split and the
    notices. `arguments` are JSON values, a "format" among them that changes when the files do.

    Raises:
        DataError: `out` holds something else than a set `name` made here.
    """
    out = Path(out)
    # Tells a set made here from a folder not to be touched, and an up-to-date set from one to be made again.
    marker = f".{name}.json"
    made = _existing(out, name, marker)
    if made is not None and made["arguments"] == arguments:
        return MadeSet(out, made["rows"], tuple(made["notices"]), reused=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        rows, notices = write(work)
        made = {"arguments": dict(arguments), "rows": rows, "notices": notices}
        (work / marker).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        work.chmod(0o755)
        _move_into_place(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return MadeSet(out, rows, tuple(notices))


def _existing(out: Path, name: str, marker: str) -> dict[str, Any] | None:
    """The marker of the set at `out`, None if nothing is there; DataError if something else is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        made: dict[str, Any] = json.loads((out / marker).read_text(encoding="utf-8"))
        names = {path.name for path in out.iterdir()}
        if {"arguments", "rows", "notices"} <= made.keys() and names <= {marker, "README.md", *SPLITS}:
            return made
    except (OSError, ValueError, AttributeError):
        pass
    raise DataError(f"{out} exists and is not a set {name} made here; it is left as it is. Choose another place.")


def _move_into_place(work: Path, out: Path) -> None:
    if not out.exists():
        os.rename(work, out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    os.rename(out, old / out.name)
    os.rename(work, out)
    shutil.rmtree(old)
