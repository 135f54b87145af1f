"""HTTP/1.1 connections: uvicorn's, with a deadline for each request, a bound on their number, JSON errors."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmedge.server.limits import Limits


class Protocol(H11Protocol):
    """One connection.

    uvicorn waits without end for the rest of a request. Here one timer runs whenever a request is awaited or
    has arrived in part.
    """

    def __init__(self, *arguments: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(503, f"too many connections; this server takes {self._limits.connections}")
        else:
            self._start_deadline()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(error)

    def handle_events(self) -> None:
        before = self.conn.their_state
        super().handle_events()
        now = self.conn.their_state
        arriving = now in (h11.IDLE, h11.SEND_BODY)
        # From a body to idle: it was answered early, and the next request has a deadline of its own.
        if not arriving or (before is h11.SEND_BODY and now is h11.IDLE):
            self._stop_deadline()
        if arriving and self._deadline is None and not self.transport.is_closing():
            self._start_deadline()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self._limits.request_seconds, self._expire)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        self._refuse(408, f"the request did not arrive within {self._limits.request_seconds:g} s")

    def _refuse(self, status: int, reason: str) -> None:
        """Answer, if no answer has begun, and close; a request in progress sees its client gone."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": reason}).encode()
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
