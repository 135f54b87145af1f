"""Clients that are slow, deaf or many, over raw sockets, against a real server with short timeouts."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

HEAD = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def impatient(start_server: Callable[..., Any]) -> Iterator[Any]:
    """A server that waits for one second, and leaves no trace of its clients' faults in its log."""
    server = start_server(request_seconds=1, unread_seconds=1, body_bytes=200_000)
    yield server
    assert server.log.read_text() == ""


def connect(server: Any) -> socket.socket:
    return socket.create_connection(server.address, timeout=15)


def read_all(connection: socket.socket) -> bytes:
    return connection.makefile("rb").read()


def trickle(connection: socket.socket, data: bytes) -> bytes:
    """Send a byte at a time until the server has had enough; what it answered."""
    connection.settimeout(0.05)
    answer = b""
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
            answer += (received := connection.recv(65536))
        except TimeoutError:
            continue
        except OSError:
            return answer
        if not received:
            return answer
    pytest.fail("the server took it all")


def assert_healthy(server: Any) -> None:
    assert httpx.get(f"{server.url}/v2/health/ready", timeout=15).status_code == 200


def test_a_connection_that_says_nothing_is_closed(impatient: Any) -> None:
    with connect(impatient) as connection:
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")


def test_a_request_cut_in_its_headers_is_closed_with_408(impatient: Any) -> None:
    with connect(impatient) as connection:
        connection.sendall(HEAD)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'{"error": "the request did not arrive within 1 s"}' in answer


def test_a_request_cut_in_its_body_is_closed_with_408(impatient: Any) -> None:
    with connect(impatient) as connection:
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("start", [b"", HEAD + b"Content-Length: 1000\r\n\r\n"])
def test_a_client_that_sends_byte_by_byte_is_closed_with_408(impatient: Any, start: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(start)
        assert trickle(connection, HEAD + b"X-Long: " + b"x" * 1000).startswith(b"HTTP/1.1 408 ")


def test_a_body_refused_early_and_then_sent_byte_by_byte_is_closed(impatient: Any) -> None:
    with connect(impatient) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
        assert trickle(connection, b" " * 1000).startswith(b"HTTP/1.1 413 ")


def test_a_second_request_on_a_connection_has_the_same_time(impatient: Any) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\nGET /v2 HTTP/1.1\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


def test_after_a_refused_body_the_connection_serves_the_next_request(impatient: Any) -> None:
    body = b" " * 300_000
    with connect(impatient) as connection:
        head = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body)
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"HTTP/1.1 200 " in answer


def test_answers_that_nobody_reads_are_bounded_and_the_client_is_cut_off(impatient: Any) -> None:
    requests = b"GET /v2/models/digits HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    clients = 4

    def ask_without_end(connection: socket.socket) -> None:
        while True:
            connection.sendall(requests)

    def ask_until_cut_off(connection: socket.socket) -> None:
        with pytest.raises(ConnectionError):  # and not TimeoutError
            ask_without_end(connection)

    before, files = impatient.memory("VmHWM"), impatient.open_files()
    with ExitStack() as stack, ThreadPoolExecutor(clients) as pool:
        deaf = [stack.enter_context(connect(impatient)) for _ in range(clients)]
        list(pool.map(ask_until_cut_off, deaf))
    assert impatient.memory("VmHWM") - before < clients * (8 << 20)
    wait_until(lambda: impatient.open_files() <= files)
    assert_healthy(impatient)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("waited for 20 s")


def test_after_a_storm_beyond_its_files_a_server_accepts_again(start_server: Callable[..., Any]) -> None:
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))"
    server = start_server(before=few, request_seconds=2)
    files = server.open_files()
    with ExitStack() as stack:
        storm = [stack.enter_context(connect(server)) for _ in range(300)]
        answers = [read_all(connection)[:13] for connection in storm]
    assert set(answers) == {b"HTTP/1.1 408 ", b"HTTP/1.1 503 "}
    wait_until(lambda: server.open_files() <= files)
    assert_healthy(server)
    assert server.log.read_text() == ""


def test_what_clients_who_left_have_sent_is_not_held(start_server: Callable[..., Any]) -> None:
    slow = "import time, mmedge.server.kserve as kserve; read = kserve.read_request\n"
    slow += "kserve.read_request = lambda *given: (time.sleep(4), read(*given))[1]"
    server = start_server(when_ready=slow, held_bytes=20 << 20)
    body = bytes(10 << 20)
    head = b"POST /v2/models/digits/predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n".encode()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, f"{server.url}/v2/models/digits/infer", content=b"{}", timeout=20)
        time.sleep(0.5)
        before = server.memory("VmRSS")
        for _ in range(10):
            with connect(server) as connection:
                connection.sendall(head + body)
                time.sleep(0.1)  # until all of it waits for its turn
        assert not running.done()
        assert server.memory("VmRSS") - before < 50 << 20
        assert running.result().status_code == 400


def test_a_client_that_leaves_in_the_middle_is_forgotten(impatient: Any) -> None:
    files = impatient.open_files()
    for start in (b"", HEAD, HEAD + b"Content-Length: 100\r\n\r\n{"):
        with connect(impatient) as connection:
            connection.sendall(start)
    wait_until(lambda: impatient.open_files() <= files)
    assert_healthy(impatient)
