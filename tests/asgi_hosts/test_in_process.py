"""The application inside a program of one's own: httpx and Starlette's TestClient, with and without a lifespan."""

from __future__ import annotations

import asyncio
import threading
import warnings
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.websockets import WebSocketDisconnect

from channelkit import ASGIApp, Request, Response, as_channel, schedule_task

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would like another httpx than ours
    from starlette.testclient import TestClient

ran: list[str] = []


async def handler(request: Request) -> Any:
    """A bit of everything."""
    if request.path == "/scheduled":
        schedule_task(0.01, ran.append, "ran")
        return "scheduled"
    if request.path == "/stream":
        channel = as_channel(request, streaming=True)
        for piece in ("one ", "two ", "three"):
            await channel.send(piece)
        channel.close_nowait()
        return channel
    if request.is_websocket:
        return as_channel(request, on_receive=lambda channel, message: channel.send_nowait(message))
    return Response(200, {"X-Path": request.path}, await request.body())


async def talk(app: ASGIApp) -> None:
    """An answer, a stream, a scheduled task."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/a%20b", content=b"body")
        assert (answer.content, answer.headers["x-path"]) == (b"body", "/a b")
        assert (await client.get("/stream")).content == b"one two three"
        ran.clear()
        assert (await client.get("/scheduled")).text == "scheduled"
    with anyio.fail_after(5):
        while not ran:
            await anyio.lowlevel.checkpoint()


def test_nothing_is_left_on_asyncio() -> None:
    """After the last request, and its scheduled task, no task of ours is alive; and no thread."""
    threads = set(threading.enumerate())

    async def main() -> None:
        await talk(ASGIApp(handler))
        with anyio.fail_after(5):
            while asyncio.all_tasks() != {asyncio.current_task()}:
                await asyncio.sleep(0)

    asyncio.run(main())
    assert set(threading.enumerate()) <= threads


def test_nothing_is_left_on_trio() -> None:
    """The same."""
    threads = set(threading.enumerate())

    async def main() -> None:
        before = trio.lowlevel.current_statistics().tasks_living
        await talk(ASGIApp(handler))
        with anyio.fail_after(5):
            while trio.lowlevel.current_statistics().tasks_living != before:
                await anyio.lowlevel.checkpoint()

    trio.run(main)
    assert {one for one in threading.enumerate() if not one.name.startswith("Trio thread")} <= threads


def test_one_application_on_loop_after_loop() -> None:
    """An application of a module serves one event loop after another, of both kinds."""
    app = ASGIApp(handler)
    for _ in range(3):
        asyncio.run(talk(app))
        trio.run(talk, app)


@pytest.mark.parametrize("lifespan", [False, True])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_starlettes_test_client(backend: Any, lifespan: bool) -> None:
    """Requests, streams and WebSockets through the TestClient, mounted, with and without the parent's lifespan."""
    channels = ASGIApp(handler)
    app = Starlette(routes=[Mount("/chat", channels)], lifespan=channels.lifespan if lifespan else None)
    client = TestClient(app, backend=backend)
    with client if lifespan else _nothing():
        assert client.post("/chat/x", content=b"body").headers["x-path"] == "/x"
        assert client.get("/chat/stream").text == "one two three"
        with client.websocket_connect("/chat/ws") as websocket:
            websocket.send_text("x")
            websocket.send_bytes(b"\0")
            assert (websocket.receive_text(), websocket.receive_bytes()) == ("x", b"\0")
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/chat/ws", headers={"Origin": "http://else"}):
        pass


class _nothing:  # noqa: N801  (a block that does nothing)
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
