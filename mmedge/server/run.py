"""Start and stop a server process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from mmedge.runtime import Manifest, Session
from mmedge.runtime.errors import InvalidArgument
from mmedge.server.app import App
from mmedge.server.limits import Limits
from mmedge.server.protocol import Protocol
from mmedge.server.warmup import warm_up

_ACCEPTS_PER_TURN = 16
_BACKLOG = 1024


def serve(
    bundle: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    engine: Mapping[str, Any] | None = None,
    on_ready: Callable[[str, Manifest], None] = lambda url, manifest: None,
) -> None:
    """Serve a bundle until SIGTERM or SIGINT, then finish what runs and return. Call it in the main thread.

    `engine` holds options of `Session`. `on_ready` is called with the URL (port 0 lets the system pick a port) once the
    model is warm.

    Raises:
        BundleError, EngineError: the bundle cannot be loaded, or fails on noise.
        InvalidArgument: the address cannot be listened on.
    """
    limits = limits or Limits()
    session = Session(Path(bundle), **(engine or {}))
    with _listen(host, port, limits.unread_seconds) as listener:
        # What clients do wrong stands in their answers, not in the log.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        app = App(session, limits)
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        server = _Server(app, limits, lambda: on_ready(url, session.manifest))
        # uvicorn raises the signal that stopped it once more, which must not kill the process then.
        before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run(sockets=[listener])
        finally:
            app.close()
            for number, handler in before.items():
                signal.signal(number, handler)
        if server.failure is not None:
            raise server.failure


class _Server(uvicorn.Server):
    """A uvicorn server that warms its model up once it listens, so that health answers meanwhile."""

    def __init__(self, app: App, limits: Limits, on_ready: Callable[[], None]) -> None:
        protocol: Any = partial(Protocol, limits=limits)
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                loop="asyncio",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_ACCEPTS_PER_TURN,
                timeout_graceful_shutdown=limits.stop_seconds,
            )
        )
        self.failure: Exception | None = None
        self._app, self._limits = app, limits
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            # asyncio also accepts as many connections at a time as the backlog says: if that is large, a
            # burst uses up the files before any is refused. The kernel's queue may be long all the same.
            listener.listen(_BACKLOG)
            self._preparation = asyncio.create_task(self._prepare(listener.getsockname()[:2]))

    async def _prepare(self, address: tuple[str, int]) -> None:
        try:
            await asyncio.to_thread(warm_up, address, self._app.manifest, self._limits.body_bytes)
        except Exception as error:
            if not self.should_exit:  # else it is the stop that cut the warm-up short
                self.failure = error
                self.should_exit = True
        else:
            self._app.ready = True
            self._on_ready()


def _listen(host: str, port: int, unread_seconds: float) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InvalidArgument(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another address or port "
            "(port 0 picks a free one)"
        ) from error
    # Connections inherit both. The kernel cuts off a peer that takes none of what is sent to it; and an
    # answer's body does not wait until its head is acknowledged, which asyncio sees to for its own listeners.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * unread_seconds))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
