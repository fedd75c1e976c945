"""Plain `def` handlers inside an ASGI host: the same pool, which lives as long as the application does there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Literal

import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from channelkit import ASGIApp, ChannelClosed, Group, SyncRequest, as_channel, with_channel

PATIENCE = 10.0

Lifespan = Literal["on", "off"]


@pytest.fixture(params=["on", "off"])
def lifespan(request: pytest.FixtureRequest) -> Lifespan:
    lifespan: Lifespan = request.param
    return lifespan


def here() -> str:
    return threading.current_thread().name


def workers() -> list[str]:
    """The threads of pools that live now."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("smith-")]


@contextmanager
def uvicorned(app: ASGIApp, lifespan: Lifespan) -> Iterator[int]:
    """The port of uvicorn, in a thread; no worker is left when it has ended."""
    config = uvicorn.Config(app, port=0, lifespan=lifespan, log_config=None, ws="websockets-sansio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()
    until(lambda: not workers())


def until(condition: Any) -> None:
    waited = 0
    while not condition():
        threading.Event().wait(0.001)
        waited += 1
        assert waited < PATIENCE * 1000, "waited in vain"


def ask(connection: HTTPConnection, path: str, body: bytes | None = None) -> tuple[HTTPResponse, bytes]:
    connection.request("POST" if body else "GET", path, body)
    response = connection.getresponse()
    return response, response.read()


def websocket(port: int, path: str = "/") -> ClientConnection:
    return connect(f"ws://127.0.0.1:{port}{path}", proxy=None, open_timeout=PATIENCE)


def test_requests_and_channels(lifespan: Lifespan) -> None:
    """Answers, bodies, generators, callbacks and blocks, all on the pool; a group reaches them all."""
    room = Group()

    def handler(request: SyncRequest) -> Any:
        if request.path == "/pieces":
            return (f"{number} " for number in range(3))
        if request.path == "/block":
            with with_channel(request) as channel:
                for message in channel:
                    channel.send(f"{message} {here()}")
            return None
        if request.is_websocket:
            return as_channel(request, on_open=room.sync.add, on_receive=lambda channel, text: room.sync.send(text))
        return f"{request.body().decode()} {here()}"

    with uvicorned(ASGIApp(handler, worker_name_prefix="smith-", thread=1), lifespan) as port:
        http = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        assert ask(http, "/", b"hello")[1] == b"hello smith-1"
        assert ask(http, "/pieces")[1] == b"0 1 2 "
        with websocket(port, "/block") as one, websocket(port, "/block") as two:
            one.send("first")
            two.send("second")
            assert one.recv(PATIENCE).split()[0] == "first"
            assert two.recv(PATIENCE).split()[0] == "second"
            with websocket(port) as three:
                until(lambda: len(room) == 1)
                three.send("all")
                assert three.recv(PATIENCE) == "all"
        http.close()


def test_a_full_queue(lifespan: Lifespan) -> None:
    """503 with Retry-After, and the connection lives."""
    gate = threading.Event()
    begun = threading.Semaphore(0)

    def handler(request: SyncRequest) -> str:
        begun.release()
        assert gate.wait(PATIENCE)
        return "done"

    app = ASGIApp(handler, worker_name_prefix="smith-", thread=2, queue_size=1)
    with uvicorned(app, lifespan) as port:
        blocked = [HTTPConnection("127.0.0.1", port, timeout=PATIENCE) for _ in range(3)]
        for connection in blocked:
            connection.request("GET", "/")
        for _ in range(2):
            assert begun.acquire(timeout=PATIENCE)
        (home,) = app._homes._homes.values()
        assert home.core is not None
        until(lambda: home.core is not None and home.core.workers.statistics().queued_requests == 1)
        late = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        response, _ = ask(late, "/")
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        gate.set()
        answers = [connection.getresponse() for connection in blocked]
        assert [answer.read() for answer in answers] == [b"done"] * 3
        assert ask(late, "/")[1] == b"done"
        for connection in (*blocked, late):
            connection.close()


def test_the_end(lifespan: Lifespan) -> None:
    """A worker that waits for a message hears of the host's end."""
    ends: list[Any] = []

    def handler(request: SyncRequest) -> None:
        with with_channel(request) as channel:
            try:
                channel.receive()
            except ChannelClosed as error:
                ends.append(error.info.code)

    app = ASGIApp(handler, worker_name_prefix="smith-")
    with uvicorned(app, lifespan) as port:
        client = websocket(port)
        until(workers)
    with pytest.raises(ConnectionClosed), client:
        client.recv(PATIENCE)
    until(lambda: ends)
    assert len(ends) == 1
