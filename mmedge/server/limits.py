"""How much of the machine clients may hold, and for how long."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field

MIB = 1 << 20
_SPARE_FILES = 128  # for the process itself, and for connections accepted but not yet refused


def _most_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(1000, files - _SPARE_FILES)) if files != resource.RLIM_INFINITY else 1000


@dataclass(frozen=True)
class Limits:
    """Bounds of one server process; a client beyond them is refused with a reason.

    body_bytes: of one request (413). held_bytes: of all requests together (503).
    waiting: requests queued for the model, the one that runs included (503).
    connections: open at once (503); by default what the process's file limit allows, at most 1000.
    request_seconds: from the connection, or the answer before, to a request's last byte (408).
    unread_seconds: how long a client may leave an answer unread before it is cut off.
    stop_seconds: how long a stop waits for requests in progress.
    """

    body_bytes: int = 16 * MIB
    held_bytes: int = 128 * MIB
    waiting: int = 64
    connections: int = field(default_factory=_most_connections)
    request_seconds: float = 30.0
    unread_seconds: float = 30.0
    stop_seconds: int = 5
