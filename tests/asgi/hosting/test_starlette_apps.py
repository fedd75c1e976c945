"""Starlette and FastAPI under our server where one request is not all: clients that leave, drain, start and stop."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI, UploadFile
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from channelkit import ASGIApp, ASGIHandler, LifespanFailed, Server, as_channel, run_server, serve
from channelkit.testing import clock
from tests.plain_sockets import read_rest, read_until

PATIENCE = 10.0
Served = Any


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def running(backend: Any) -> Iterator[Any]:
    """Serve an application; it is stopped at the end."""
    servers: list[Server] = []

    def start(app: Any, **options: Any) -> Server:
        servers.append(run_server(ASGIHandler(app), port=0, backend=backend, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop(1)
        assert server.connections == 0


def begin(port: int, target: str, *lines: str, method: str = "GET") -> socket.socket:
    """A connection with a request on it."""
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.sendall("\r\n".join([f"{method} {target} HTTP/1.1", "Host: test", *lines, "", ""]).encode())
    return sock


def until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


# -- the site of the comparison, as under uvicorn


@pytest.mark.parametrize("hang_up", ["close", "reset"])
@pytest.mark.parametrize(("target", "seen"), [("/events", "events ended"), ("/watched", "client gone")])
def test_a_client_that_leaves(target: str, seen: str, hang_up: str, oracle: Served, ours: Served) -> None:
    """A StreamingResponse is cancelled, `is_disconnected` turns true: under uvicorn, and so under ours."""
    for served in (oracle, ours):
        sock = begin(served.port, target)
        if target == "/events":
            read_until(sock, b"data: x\n\n")
        if hang_up == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        served.wait_seen(seen)


@pytest.mark.parametrize(
    ("target", "seen"),
    [("/background", ["background"]), ("/api/depends", ["resource closed", "api background"])],
)
def test_what_runs_after_the_response(target: str, seen: list[str], oracle: Served, ours: Served) -> None:
    """Background tasks and dependencies are finished though the client has its answer already."""
    for served in (oracle, ours):
        assert httpx.get(f"http://127.0.0.1:{served.port}{target}").status_code == 200
        for one in seen:
            served.wait_seen(one)


def test_one_connection_many_requests(ours: Served) -> None:
    """A client that keeps its connection: pages, uploads, errors, one after another."""
    with httpx.Client(base_url=f"http://127.0.0.1:{ours.port}") as client:
        for _ in range(3):
            assert client.get("/plain").text == "plain"
            assert client.post("/echo", content=b"x" * 100_000).content == b"x" * 100_000
            assert client.post("/api/upload", files={"file": b"abc"}, data={"note": "n"}).json()["size"] == 3
            assert client.get("/raise").status_code == 500
            assert client.head("/file").headers["content-length"] == "256000"
            assert client.get("/file").content == bytes(range(256)) * 1000


def test_pipelined_requests(ours: Served) -> None:
    """Each answer in its turn."""
    sock = begin(ours.port, "/plain")
    sock.sendall(b"GET /stream HTTP/1.1\r\nHost: t\r\n\r\nGET /json HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    answer = read_rest(sock, reset=b"")
    assert [answer.index(part) for part in (b"plain", b"piece 4", b'{"a"')] == sorted(
        answer.index(part) for part in (b"plain", b"piece 4", b'{"a"')
    )


# -- bodies


def test_an_upload_that_is_too_large(running: Any) -> None:
    """413 for the client, though FastAPI knows of nothing but a disconnect."""
    app = FastAPI()

    @app.post("/")
    async def upload(file: UploadFile) -> int:
        return file.size or 0

    server = running(app, max_body=100_000)
    kind = "Content-Type: multipart/form-data; boundary=x"
    sock = begin(server.port, "/", "Transfer-Encoding: chunked", kind, method="POST")
    for data in (b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n', bytes(0x30000)):
        sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))
    assert read_rest(sock, reset=b"").startswith(b"HTTP/1.1 413 ")


def test_a_client_that_breaks_off_an_upload(running: Any) -> None:
    """`request.stream()` raises Starlette's ClientDisconnect."""
    caught: list[str] = []

    async def upload(request: Request) -> PlainTextResponse:
        try:
            async for piece in request.stream():
                caught[:] = [piece.decode()]
        except ClientDisconnect:
            caught.append("disconnect")
        return PlainTextResponse("")

    server = running(Starlette(routes=[Route("/", upload, methods=["POST"])]))
    sock = begin(server.port, "/", "Content-Length: 10", method="POST")
    sock.sendall(b"half")
    until(lambda: caught)
    sock.close()
    until(lambda: caught[-1] == "disconnect")


# -- stopping


def test_endless_event_streams_end_with_the_server(running: Any, new_site: Any) -> None:
    """They are told when drain begins and end properly; the server does not wait for its deadline."""
    site = new_site()
    server = running(site.app)
    sock = begin(server.port, "/events")
    read_until(sock, b"data: x\n\n")
    stopper = threading.Thread(target=server.stop, args=(PATIENCE,))
    stopper.start()
    assert read_rest(sock, reset=b"").endswith(b"0\r\n\r\n")
    assert site.seen == ["events ended"]
    stopper.join(PATIENCE)
    assert server.status == "stopped"


def test_what_does_not_end_is_cancelled(running: Any) -> None:
    """At the deadline: requests, streams, WebSockets; and then the lifespan is over, too."""
    ended: list[str] = []

    async def hang(request: Request) -> PlainTextResponse:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("page")
        raise AssertionError

    async def pieces() -> AsyncIterator[str]:
        try:
            yield "piece"
            await anyio.sleep_forever()
        finally:
            ended.append("stream")

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(pieces())

    async def socket_(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("websocket")

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        ended.append("lifespan")

    routes = [Route("/page", hang), Route("/stream", stream), WebSocketRoute("/ws", socket_)]
    server = running(Starlette(routes=routes, lifespan=lifespan))
    page, streaming = begin(server.port, "/page"), begin(server.port, "/stream")
    read_until(streaming, b"piece")
    with connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None) as websocket:
        stopper = threading.Thread(target=server.stop, args=(0.1,))
        stopper.start()
        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(PATIENCE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
    assert read_rest(page, reset=b"").startswith(b"HTTP/1.1 503 ")
    assert not read_rest(streaming, reset=b"").endswith(b"0\r\n\r\n")
    stopper.join(PATIENCE)
    assert sorted(ended[:-1]) == ["page", "stream", "websocket"]
    assert ended[-1] == "lifespan"


# -- starting


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
def test_a_lifespan_that_fails(kind: Any, backend: Any) -> None:
    """What Starlette says about it is in the error."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        raise RuntimeError("no database today")
        yield

    with pytest.raises(LifespanFailed, match="no database today"):
        run_server(ASGIHandler(kind(lifespan=lifespan)), port=0, backend=backend)


def test_beside_channels(backend: Any) -> None:
    """A FastAPI site and channels share one port; both have their own WebSockets."""
    app = FastAPI()

    @app.get("/hello")
    async def hello() -> str:
        return "site"

    @app.websocket("/site")
    async def of_the_site(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("site")
        await websocket.close()

    site = ASGIHandler(app)

    async def handler(request: Any) -> Any:
        if request.path == "/channel":
            return as_channel(request, on_open=lambda channel: channel.send_nowait("channel"))
        return await site(request)

    server = run_server(handler, lifespan=site.lifespan, port=0, backend=backend)
    assert httpx.get(f"http://127.0.0.1:{server.port}/hello").json() == "site"
    assert httpx.get(f"http://127.0.0.1:{server.port}/channel").text == "channel"
    for path in ("channel", "site"):
        with connect(f"ws://127.0.0.1:{server.port}/{path}", proxy=None) as websocket:
            assert websocket.recv(PATIENCE) == path
    server.stop()


def test_served_in_virtual_time(backend: Any) -> None:
    """Nothing in the handler needs a real clock: a site's timers run in virtual time, too."""

    async def slow(request: Request) -> PlainTextResponse:
        await anyio.sleep(3600)
        return PlainTextResponse("an hour later")

    app = Starlette(routes=[Route("/", slow)])

    async def main() -> bytes:
        async with anyio.create_task_group() as tasks:

            async def start(*, task_status: Any) -> None:
                await serve(ASGIHandler(app), port=0, handle_signals=False, task_status=task_status)

            server = await tasks.start(start)
            stream = await anyio.connect_tcp("127.0.0.1", server.port)
            await stream.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            answer = await stream.receive()
            await stream.aclose()
            server.stop_soon(0)
        return answer

    assert clock.run(main, backend=backend).endswith(b"an hour later")


def test_a_poll_that_is_left_behind_middleware(running: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Starlette's middleware of the decorator's kind raises if an application does not answer: ours does."""
    held: list[Any] = []
    app = FastAPI()

    async def hold(request: Any) -> Any:
        return as_channel(request, on_open=held.append)

    app.mount("/held", ASGIApp(hold))

    @app.middleware("http")
    async def see(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    server = running(app)
    with begin(server.port, "/held/"):
        until(lambda: held)
    until(lambda: server.statistics().handlers == 0)
    assert caplog.records == []
