"""The examples do what their first lines say."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from socket import create_server
from typing import Any, Literal

import pytest
from websockets.sync.client import ClientConnection, connect

import channelkit
from channelkit import Server, run_server

EXAMPLES = Path(__file__).parent.parent / "examples"
PATIENCE = 10.0

Backend = Literal["asyncio", "trio"]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


@contextmanager
def example(name: str, handler: str, backend: Backend) -> Iterator[Server]:
    """The server of a fresh copy of an example."""
    server = run_server(runpy.run_path(str(EXAMPLES / name))[handler], port=0, backend=backend)
    yield server
    server.stop(timeout=1)


def socket(server: Server) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}/", open_timeout=PATIENCE, proxy=None)


@contextmanager
def response(server: Server, method: str, path: str, body: bytes | None = None) -> Iterator[HTTPResponse]:
    with sent(server, method, path, body) as connection, connection.getresponse() as got:
        yield got


@contextmanager
def sent(server: Server, method: str, path: str, body: bytes | None = None) -> Iterator[HTTPConnection]:
    """A request whose answer is not awaited yet."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body)
        yield connection
    finally:
        connection.close()


@pytest.mark.parametrize("name", ["echo.py", "echo_callbacks.py"])
def test_echo(name: str, backend: Backend) -> None:
    """Text and bytes come back as they went; a plain request is told what is needed."""
    with example(name, "echo", backend) as server:
        with socket(server) as client:
            messages: list[Any] = ["hello", b"\x00\xff", "", "\N{WAVING HAND SIGN}"]
            for message in messages:
                client.send(message)
            assert [client.recv(PATIENCE) for _ in messages] == messages
        assert client.close_code == 1000
        with response(server, "GET", "/") as refused:
            assert (refused.status, refused.headers["Upgrade"]) == (426, "websocket")


def test_chatroom(backend: Backend) -> None:
    """Those on a WebSocket and those on a stream hear each other, and who comes and goes."""
    with example("chatroom.py", "chatroom", backend) as server, socket(server) as first:
        assert first.recv(PATIENCE) == "welcome, you are one of 1"
        with response(server, "GET", "/") as stream:
            assert stream.readline() == b"data: welcome, you are one of 2\n"
            assert stream.readline() == b"\n"
            assert first.recv(PATIENCE) == "somebody came by http_stream"
            first.send("hello")
            assert (stream.readline(), stream.readline()) == (b"data: hello\n", b"\n")
            assert first.recv(PATIENCE) == "hello"
            with response(server, "POST", "/", b"by post") as told:
                assert told.read() == b"heard by 2\n"
            assert first.recv(PATIENCE) == "by post"
        assert first.recv(PATIENCE) == "somebody left (client-close)"


@contextmanager
def under_uvicorn() -> Iterator[int]:
    """The port of uvicorn with the FastAPI example, as its first lines say."""
    listener = create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    line = [sys.executable, "-m", "uvicorn", "--fd", str(listener.fileno()), "--log-level", "warning"]
    environment = {**os.environ, "PYTHONPATH": f"{EXAMPLES.parent}:{Path(channelkit.__file__).parents[1]}"}
    with (
        listener,
        subprocess.Popen(
            [*line, "examples.fastapi_chat:app"], env=environment, pass_fds=[listener.fileno()], stderr=subprocess.PIPE
        ) as process,
    ):
        try:
            yield port
        finally:
            process.terminate()
            assert process.stderr is not None
            complaints = process.stderr.read()
    assert b"Traceback" not in complaints, complaints


@contextmanager
def under_our_server(backend: Backend) -> Iterator[int]:
    made = runpy.run_path(str(EXAMPLES / "fastapi_chat.py"))
    server = run_server(made["under_our_server"], port=0, backend=backend, lifespan=made["site"].lifespan)
    yield server.port
    server.stop(timeout=1)


@pytest.mark.parametrize("host", ["uvicorn", "asyncio", "trio"])
def test_fastapi_chat(host: Any) -> None:
    """One room for WebSockets, streams and posts, beside the site's own pages, under uvicorn and under our server."""
    with under_uvicorn() if host == "uvicorn" else under_our_server(host) as port:
        assert b"<!doctype html>" in fetch(port, "GET", "/")
        with connect(f"ws://127.0.0.1:{port}/chat/", open_timeout=PATIENCE, proxy=None) as client:
            stream = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            stream.request("GET", "/chat/")
            with stream.getresponse() as events:
                assert events.headers["Content-Type"] == "text/event-stream; charset=utf-8"
                while fetch(port, "GET", "/people") != b'{"people":2}':
                    pass
                client.send("hello")
                assert (client.recv(PATIENCE), events.readline(), events.readline()) == (
                    "hello",
                    b"data: hello\n",
                    b"\n",
                )
                assert fetch(port, "POST", "/chat/", b"by post") == b"heard by 2\n"
                assert (client.recv(PATIENCE), events.readline()) == ("by post", b"data: by post\n")
            stream.close()


def fetch(port: int, method: str, path: str, body: bytes | None = None) -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body)
        with connection.getresponse() as got:
            assert got.status == 200
            return got.read()
    finally:
        connection.close()


def test_async_response(backend: Backend) -> None:
    """Requests that are held are answered by another one, all of them, once."""
    with example("async_response.py", "handler", backend) as server:
        with sent(server, "GET", "/wait") as one, sent(server, "GET", "/wait") as two:
            told = tell(server)
            answers = []
            for waiting in (one, two):
                with waiting.getresponse() as got:
                    answers.append((got.status, got.headers.get_content_type(), got.read()))
        assert answers == [(200, "text/plain", b"it happened")] * 2
        assert told == 2
        with response(server, "GET", "/else") as unknown:
            assert unknown.status == 404


def test_guestbook(backend: Backend) -> None:
    """Plain functions: who looks on hears of every entry, whoever makes it; the book can be read."""
    made = runpy.run_path(str(EXAMPLES / "guestbook.py"))
    server = run_server(made["guestbook"], port=0, backend=backend)
    with socket(server) as client:
        assert client.recv(PATIENCE) == "1 looking on"
        assert made["write"]("from this thread") == 1
        with response(server, "POST", "/", b"by post") as told:
            assert told.read() == b"seen by 1\n"
        client.send("by socket")
        assert [client.recv(PATIENCE) for _ in range(3)] == ["from this thread", "by post", "by socket"]
    with response(server, "GET", "/") as read:
        assert read.read() == b"from this thread\nby post\nby socket\n"
    server.stop(timeout=1)


def tell(server: Server) -> int:
    """Tell until both waiting requests have been answered; how many were."""
    told = 0
    while told < 2:
        with response(server, "POST", "/tell", b"it happened") as got:
            told += int(got.read().decode().removeprefix("told "))
    return told
