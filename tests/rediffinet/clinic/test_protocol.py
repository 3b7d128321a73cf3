"""Clients that open a connection and never come to the point, and those that are only slow."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="needs the extra [serve]")
protocol = pytest.importorskip("rediffinet.clinic.service.protocol")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers after twice the time that a head may take, with the length of the body."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await asyncio.sleep(1.0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": f"{size:04d}".encode()})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """One server for all clients, as it is outside."""
    config = uvicorn.Config(app, port=0, http=protocol.PunctualProtocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "HEAD_S", 0.5)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True
        thread.join(30)


def answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """All that comes until the other side closes: (head, body)."""
    connection.settimeout(60)
    content = b""
    while chunk := connection.recv(4096):
        content += chunk
    head, _, body = content.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_never_ends(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        head, body = answer(connection)
    assert head.startswith(b"HTTP/1.1 408") and b"application/problem+json" in head
    assert json.loads(body)["status"] == 408


def test_bytes_that_drip_do_not_prolong_it(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        started = time.monotonic()
        with pytest.raises(OSError):
            for letter in b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 100_000:
                connection.sendall(bytes([letter]))
                time.sleep(0.1)
                assert time.monotonic() - started < 120


def test_slow_answers_slow_bodies_and_further_requests_are_let_be(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(60)
        for _ in range(2):
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na")
            time.sleep(0.7)
            connection.sendall(b"bc")
            content = b""
            while not content.endswith(b"0003"):
                content += connection.recv(4096)
            assert content.startswith(b"HTTP/1.1 200")


def test_what_is_no_http(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, body = answer(connection)
    assert head.startswith(b"HTTP/1.1 400") and json.loads(body)["detail"]


@pytest.mark.parametrize("sent", [b"ZZ\r\n", b"1\r\nab\r\n", b"-1\r\n\r\n", b"1" * 30 + b"\r\n"])
def test_a_chunked_body_that_is_none(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + sent)
        head, body = answer(connection)
    assert head.startswith(b"HTTP/1.1 400") and b"application/problem+json" in head
    assert "body" in json.loads(body)["detail"]  # and nothing after it


def test_a_chunked_body_that_ends_as_none(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        time.sleep(0.2)
        connection.sendall(b"nonsense\r\n")
        head, body = answer(connection)
    assert head.startswith(b"HTTP/1.1 400") and "body" in json.loads(body)["detail"]
