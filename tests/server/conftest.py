from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

_SCRIPT = """
import json, sys
from mmedge.server.limits import Limits
from mmedge.server.run import serve

bundle, limits, before, when_ready = sys.argv[1:]
exec(before, {})

def ready(url, manifest):
    exec(when_ready, {})
    print(url, flush=True)

serve(bundle, port=0, limits=Limits(**json.loads(limits)), on_ready=ready)
"""


class Server:
    """A server process on a free port. `before` and `when_ready` are Python to run in it then."""

    def __init__(self, bundle: Path, log: Path, before: str, when_ready: str, limits: dict[str, Any]) -> None:
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SCRIPT, bundle, json.dumps(limits), before, when_ready],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, log.read_text()
        self.address = ("127.0.0.1", int(self.url.rsplit(":", 1)[1]))

    def memory(self, key: str) -> int:
        """Bytes: "VmRSS" is the memory in use, "VmHWM" the most that ever was."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def start_server(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers of a test bundle; they are stopped when the module's tests are done."""
    servers: list[Server] = []

    def start(bundle: str = "digits.mme", before: str = "", when_ready: str = "", **limits: Any) -> Server:
        log = tmp_path_factory.mktemp("server") / "log"
        servers.append(Server(bundles / bundle, log, before, when_ready, limits))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Server]) -> Iterator[Server]:
    """A server that takes bodies of up to 200 kB. What clients do must leave no trace in its log."""
    server = start_server(body_bytes=200_000)
    yield server
    assert server.log.read_text() == ""


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client
