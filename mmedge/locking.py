"""A folder for one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmedge.runtime.errors import InvalidArgument


@contextmanager
def locked(folder: Path, refusal: str | None = None) -> Iterator[None]:
    """Alone among those who lock this folder, which must be there: waits for its turn or, given a `refusal`, not.

    Raises:
        InvalidArgument: the refusal; another holds the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if refusal is None else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InvalidArgument(refusal) from None
        try:
            yield
        finally:
            # Closing alone would leave it to a loader's worker that has inherited the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
