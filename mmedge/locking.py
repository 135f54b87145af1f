"""A folder for one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmedge.runtime.errors import InvalidArgument

_held: set[int] = set()


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


# The workers that load data outlive a process that is killed, by seconds.
os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path, refusal: str | None = None) -> Iterator[None]:
    """Alone among those who lock this folder, which must be there: waits for its turn or, given a `refusal`, not.
    Processes that are forked meanwhile hold nothing.

    Raises:
        InvalidArgument: the refusal; another holds the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if refusal is None else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InvalidArgument(refusal) from None
        yield
    finally:
        if descriptor in _held:  # not in a child
            _held.remove(descriptor)
            os.close(descriptor)
