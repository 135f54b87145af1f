"""The routes of a server with one model, as an ASGI application without a framework."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import reprlib
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import mmedge
from mmedge.runtime import Manifest, Session
from mmedge.runtime.errors import DataError, InvalidArgument, MmedgeError
from mmedge.runtime.media import decode_audio, decode_image, decode_text
from mmedge.server import kserve
from mmedge.server.limits import Limits
from mmedge.server.multipart import read_parts

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = dict[bytes, bytes]

_READS = ("GET", "HEAD")
_MOST_SECONDS = 600.0  # of a clip: a few bytes of silence unpack to as much as there is room for


class _HttpError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, reason: str, headers: Headers | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers or {}


class _ClientGoneError(Exception):
    """The client closed the connection before its request was answered."""


class App:
    """Answers for one session, which runs in a thread of its own: health answers while the model works."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self.ready = False  # until whoever serves it has warmed it up
        self._session = session
        self.manifest = session.manifest
        self._limits = limits
        self._worker = ThreadPoolExecutor(1, "mmedge-session")
        self._waiting = 0
        self._held_bytes = 0
        self._reads: dict[str, Callable[[], tuple[int, Any]]] = {
            "v2": lambda: (200, {"name": "mmedge", "version": mmedge.__version__, "extensions": []}),
            "v2/health/live": lambda: (200, {"live": True}),
            "v2/health/ready": lambda: (self._ready_status(), {"ready": self.ready}),
            "v2/models/*": lambda: (200, kserve.model_metadata(self.manifest)),
            "v2/models/*/ready": lambda: (
                self._ready_status(),
                {"name": self.manifest.name, "ready": self.ready},
            ),
        }
        most = limits.body_bytes
        self._jobs: dict[str, tuple[str, Callable[[str, bytes], Any], float]] = {
            "v2/models/*/infer": ("application/json", self._infer, min(most, _most_json(self.manifest))),
            "v2/models/*/predict": ("multipart/form-data", self._predict, most),
        }

    def close(self) -> None:
        """Finish the run in progress and drop those that wait."""
        self._worker.shutdown(cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens, the body is strict JSON and no traceback."""
        headers: Headers = {}
        try:
            status, body = await self._answer(scope, receive)
        except _ClientGoneError:
            return
        except _HttpError as refusal:
            status, body, headers = refusal.status, _encode({"error": str(refusal)}), refusal.headers
        except (InvalidArgument, DataError) as error:
            status, body = 400, _encode({"error": str(error)})
        except MmedgeError as error:
            status, body = 500, _encode({"error": str(error)})
        except asyncio.CancelledError:  # the stop has waited long enough
            status, body = 503, _encode({"error": "the server is stopping"})
        except Exception:
            logging.getLogger("mmedge.server").exception("%r %r failed", scope["method"], scope["path"])
            status, body = 500, _encode({"error": "internal error; the server's log has the details"})
        headers |= {b"content-type": b"application/json", b"content-length": str(len(body)).encode()}
        await send({"type": "http.response.start", "status": status, "headers": list(headers.items())})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        route = self._route(scope["path"])
        method = scope["method"]
        if route in self._reads:
            if method not in _READS:
                raise _method_refusal(method, _READS)
            status, payload = self._reads[route]()
            return status, _encode(payload)
        if method != "POST":
            raise _method_refusal(method, ("POST",))
        media_type, job, most = self._jobs[route]
        headers = dict(scope["headers"])
        _check_headers(headers, media_type)
        body = await self._read_body(headers, receive, most)
        try:
            return 200, await self._run(job, headers.get(b"content-type", b"").decode("latin-1"), body, receive)
        finally:
            self._held_bytes -= len(body)

    def _route(self, path: str) -> str:
        parts = path.removeprefix("/").split("/")
        if parts[:2] == ["v2", "models"] and len(parts) > 2:
            if parts[2] != self.manifest.name:
                found = reprlib.repr(parts[2])
                raise _HttpError(404, f"no model {found}; this server has {self.manifest.name!r}")
            if parts[3:4] == ["versions"]:
                if parts[4:5] != [kserve.VERSION]:
                    raise _HttpError(404, f"no such version; {self.manifest.name!r} has {kserve.VERSION!r}")
                del parts[3:5]
            parts[2] = "*"
        route = "/".join(parts)
        if route not in self._reads and route not in self._jobs:
            raise _HttpError(404, f"no such path: {reprlib.repr(path)}")
        return route

    def _ready_status(self) -> int:
        return 200 if self.ready else 400  # the protocol wants a 4xx

    async def _read_body(self, headers: Headers, receive: Receive, most: float) -> bytes:
        """The body, counted into the bytes held until the caller takes it off."""
        too_long = _HttpError(413, f"the body is longer than the {most} bytes taken here")
        if int(headers.get(b"content-length", b"0")) > most:
            raise too_long
        chunks: list[bytes] = []
        held, more = 0, True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientGoneError
                chunk, more = message.get("body", b""), message.get("more_body", False)
                chunks.append(chunk)
                held += len(chunk)
                self._held_bytes += len(chunk)
                if held > most:
                    raise too_long
                if self._held_bytes > self._limits.held_bytes:
                    raise _busy("the requests in progress fill the memory set aside for them")
        except BaseException:
            self._held_bytes -= held
            raise
        return b"".join(chunks)

    async def _run(self, job: Callable[[str, bytes], Any], content_type: str, body: bytes, receive: Receive) -> bytes:
        """The job's answer. One that waits is dropped when its client leaves; one that runs cannot be stopped."""
        if self._waiting >= self._limits.waiting:
            raise _busy(f"{self._waiting} requests are waiting")
        self._waiting += 1
        held = [body]  # the executor keeps what waits there after it is dropped
        del body
        answer = asyncio.get_running_loop().run_in_executor(
            self._worker, lambda: _encode(job(content_type, held.pop()))
        )
        gone = asyncio.ensure_future(receive())  # after the body there is nothing else to receive
        try:
            either: set[asyncio.Future[Any]] = {answer, gone}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise _ClientGoneError
            return answer.result()
        finally:
            answer.cancel()
            held.clear()
            gone.cancel()
            self._waiting -= 1

    def _infer(self, content_type: str, body: bytes) -> Any:
        request = kserve.read_request(body, self.manifest)
        return kserve.response(request, self._session.run(tensors=request.tensors), self.manifest)

    def _predict(self, content_type: str, body: bytes) -> Any:
        modalities = {entry.name: entry.modality for entry in self.manifest.inputs}
        decoders: dict[str, Callable[[bytes, str], Any]] = {
            "image": decode_image,
            "audio": partial(decode_audio, most_seconds=_MOST_SECONDS),
            "text": decode_text,
        }
        inputs = {
            name: decoders[modalities[name]](part.content, part.file_name)
            for name, part in read_parts(content_type, body, modalities).items()
        }
        return {"model": self.manifest.name, **self._session.run(**inputs).to_dict()}


def _most_json(manifest: Manifest) -> float:
    """Bytes a request needs at most, however it is indented: parsed JSON takes up to 30 times its length."""
    shapes = [entry.shape for entry in manifest.inputs]
    varies = any(size < 0 for shape in shapes for size in shape)
    return math.inf if varies else 65536 + 128 * sum(map(math.prod, shapes))


def _check_headers(headers: Headers, media_type: str) -> None:
    found = headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip().lower()
    # A body without a type can only be meant as what the path takes; a form cannot do without its boundary.
    if found != media_type and (found or media_type != "application/json"):
        raise _HttpError(415, f"found content type {reprlib.repr(found)}; expected {media_type}")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise _HttpError(415, "found an encoded body; send it without Content-Encoding")
    if b"inference-header-content-length" in headers:
        raise _HttpError(400, "binary tensors are not served; send the data as JSON")


def _method_refusal(method: str, allowed: tuple[str, ...]) -> _HttpError:
    names = ", ".join(allowed)
    return _HttpError(405, f"found method {reprlib.repr(method)}; expected {names}", {b"allow": names.encode()})


def _busy(reason: str) -> _HttpError:
    return _HttpError(503, f"{reason}; try again later", {b"retry-after": b"1"})


def _encode(payload: Any) -> bytes:
    return json.dumps(payload, allow_nan=False).encode()
