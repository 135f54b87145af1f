"""Starting and stopping, as the command line does it."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
from click.testing import CliRunner

from mmedge.cli import cli
from mmedge.runtime.manifest import read_manifest
from mmedge.server.warmup import warm_up

PREDICT = "/v2/models/digits/predict"
SLOW = """
import time, mmedge.server.app as app
decode = app.decode_audio
def decode_slowly(*given, **limits):
    print("decoding", flush=True)
    time.sleep(1.5)
    return decode(*given, **limits)
app.decode_audio = decode_slowly
"""


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-c", "from mmedge.cli import main; main()", "serve", *map(str, arguments)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_running_request_finish_and_ends_with_0(
    start_server: Callable[..., Any], tmp_path: Path, number: signal.Signals
) -> None:
    server = start_server(when_ready=SLOW)
    soundfile.write(tmp_path / "seven.wav", [0.1] * 8000, 8000)
    answers: list[httpx.Response] = []

    def predict() -> None:
        with (tmp_path / "seven.wav").open("rb") as file:
            answers.append(httpx.post(server.url + PREDICT, files={"audio": file}, timeout=20))

    request = threading.Thread(target=predict)
    request.start()
    assert server.process.stdout.readline() == "decoding\n"
    server.process.send_signal(number)
    assert server.process.wait(timeout=15) == 0
    request.join()
    assert answers[0].status_code == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(server.address)
    assert server.log.read_text() == ""


def test_a_stop_waits_only_so_long_for_a_request_that_never_arrives(start_server: Callable[..., Any]) -> None:
    server = start_server(stop_seconds=1)
    with socket.create_connection(server.address, timeout=15) as connection:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
        connection.sendall(
            f"{head}Content-Type: multipart/form-data; boundary=x\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # it has begun to read
        server.process.terminate()
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert server.process.wait(timeout=15) == 0
    assert "Traceback" not in server.log.read_text()


def test_the_command_prints_an_example_that_works(digits_bundle: Path, tmp_path: Path) -> None:
    with subprocess.Popen(command(digits_bundle, "--port", 0), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, example = process.stdout.readline(), process.stdout.readline()
        found = re.search(r"Serving digits at (http://127\.0\.0\.1:\d+)", first)
        assert found
        words = shlex.split(example)
        assert words[0] == "curl"
        assert words[-1] == found.group(1) + PREDICT
        soundfile.write(tmp_path / "FILE.wav", [0.1] * 8000, 8000)
        assert "audio=@FILE.wav" in words
        with (tmp_path / "FILE.wav").open("rb") as file:
            assert httpx.post(words[-1], files={"audio": file}).json()["model"] == "digits"
        process.terminate()
        assert process.wait(timeout=15) == 0


def test_a_port_in_use_is_a_clear_error(digits_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = CliRunner().invoke(cli, ["serve", str(digits_bundle), "--port", str(port)])
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in result.output
    assert "port 0" in result.output


def test_a_host_that_does_not_exist_is_a_clear_error(digits_bundle: Path) -> None:
    result = CliRunner().invoke(cli, ["serve", str(digits_bundle), "--host", "256.256.256.256"])
    assert result.exit_code == 2
    assert "cannot listen on 256.256.256.256" in result.output


def test_a_bundle_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["serve", str(tmp_path / "none.mme")])
    assert result.exit_code == 2
    assert "none.mme: no such bundle directory" in result.output


def test_a_model_that_gives_nan_never_becomes_ready(bundles: Path) -> None:
    process = subprocess.run(
        command(bundles / "nan.mme", "--port", 0), capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 2
    assert process.stdout == ""
    assert 'output "logits" holds nan' in process.stderr


@pytest.mark.parametrize("missing", ["uvicorn", "python_multipart"])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, digits_bundle: Path, missing: str) -> None:
    for name in [*sys.modules]:
        if name.split(".")[0] == missing or name.startswith("mmedge.server"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    result = CliRunner().invoke(cli, ["serve", str(digits_bundle)])
    assert result.exit_code == 2
    assert 'pip install "mmedge[serve]"' in result.output


def test_a_warm_up_that_is_one_connection_too_many_is_tried_again(digits_bundle: Path) -> None:
    refused: list[str] = []

    class Full(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if len(refused) < 2:  # closed unread
                refused.append(self.path)
                self.close_connection = True
                return
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Full) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        warm_up(server.server_address, read_manifest(digits_bundle), 1 << 24)
        server.shutdown()
    assert len(refused) == 2


def test_the_help_has_an_example_and_needs_no_server_packages() -> None:
    script = "import sys; sys.modules['uvicorn'] = None; from mmedge.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", script, "serve", "--help"], capture_output=True, text=True, check=True
    )
    assert "curl -F image=@" in result.stdout
