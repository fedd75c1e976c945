"""An Endpoint whose handler is a plain `def`: sessions and connections on the worker pool."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from channelkit import ConfigError, Endpoint, Request, Response, SessionConfig, SyncChannel, SyncRequest
from channelkit.client import connect

if TYPE_CHECKING:
    from tests.server.conftest import Host

PATIENCE = 10.0


def here() -> str:
    """The name of this thread, without its number."""
    return threading.current_thread().name.rstrip("0123456789")


def test_sessions_and_connections(host: Host) -> None:
    """The handler, its callbacks and `authenticate` run on workers, over every transport, with the blocking channel."""
    seen: list[Any] = []

    def authenticate(request: SyncRequest) -> Any:
        name = request.query_params.get("name") or request.headers.get("x-name")
        return reject() if name == "mallory" else (name, here())

    def reject() -> Response:
        return Response(403, {}, f"not you, says {here()}")

    def room(channel: SyncChannel) -> None:
        channel.send(
            f"hello {channel.principal[0]} from {here()} by {channel.transport}, {channel.session_id is not None}"
        )
        for message in channel:
            channel.send(message.upper())

    endpoint = Endpoint(
        room,
        authenticate=authenticate,
        on_open=lambda channel: seen.append(("open", here())),
        on_close=lambda channel, status: seen.append((status, here())),
    )
    host.serve(endpoint)
    url = f"http://127.0.0.1:{host.port}/room"

    async def talk(transport: Any) -> list[Any]:
        async with connect(url, transport=transport, headers={"X-Name": "alice"}) as channel:
            await channel.send("loud")
            return [await channel.receive(), await channel.receive()]

    for transport in ("websocket", "http_stream", "long_poll"):
        assert anyio.run(talk, transport) == ["hello alice from worker- by session, True", "LOUD"]
    host.until(lambda: len(seen) == 6)
    assert seen[:3:2] == [("open", "worker-")] * 2
    assert all(name == "worker-" for _, name in seen)
    peer = host.connect()
    peer.upgrade(path="/room?name=bob", more=peer.frame(1, b"x"))
    assert [peer.read_frame()[1] for _ in range(2)] == [b"hello bob from worker- by websocket, False", b"X"]
    refused = host.connect().ask("POST", "/room/ck?name=mallory")
    assert (refused.status, refused.body) == (403, b"not you, says worker-")


def test_an_async_authenticate_stays_on_the_loop(host: Host) -> None:
    """Each function is where its own kind says."""

    async def authenticate(request: Request) -> Any:
        return Response(403, {}, here())

    host.serve(Endpoint(lambda channel: None, authenticate=authenticate))
    assert host.connect().ask("POST", "/room/ck").body == b"channelkit-loop"


def test_no_worker_for_another(host: Host) -> None:
    """503 before anything is begun, in the form of what was asked for; a session that was begun is closed with 1013."""
    gate = threading.Event()
    begun = threading.Semaphore(0)

    def room(channel: SyncChannel) -> None:
        begun.release()
        assert gate.wait(PATIENCE)

    host.serve(Endpoint(room), thread=1, queue_size=1)
    for _ in range(2):
        host.connect().upgrade(path="/room")
    assert begun.acquire(timeout=PATIENCE)
    host.until(lambda: host.core.workers.statistics().queued_requests == 1)
    session = host.connect().ask("POST", "/room/ck")
    assert (session.status, json.loads(session.body)["code"], session.get("retry-after")) == (503, "full", "5")
    events = host.connect().ask("GET", "/room", "Accept: text/event-stream")
    assert (events.status, events.get("retry-after")) == (503, "1")
    upgrade = host.connect()
    upgrade.send(upgrade.handshake(path="/room"))
    assert upgrade.reply().status == 503
    gate.set()
    host.until(lambda: not host.core.workers.busy)
    made = host.connect().ask("POST", "/room/ck")
    assert made.status == 201


def test_a_session_that_finds_no_worker_when_it_begins(host: Host) -> None:
    """Its first request came when there was room, its handler begins when there is none: 1013 for the client."""
    gate = threading.Event()
    begun = threading.Semaphore(0)

    def room(channel: SyncChannel) -> None:
        begun.release()
        assert gate.wait(PATIENCE)

    host.serve(Endpoint(room), thread=1, queue_size=1)
    made = json.loads(host.connect().ask("POST", "/room/ck").body)
    for _ in range(2):
        host.connect().upgrade(path="/room")
    assert begun.acquire(timeout=PATIENCE)
    host.until(lambda: host.core.workers.statistics().queued_requests == 1)
    lines = (f"Authorization: Bearer {made['secret']}",)
    polled = host.connect().ask("GET", f"/room/ck/{made['sid']}/poll?a=1&ack=0&wait=5", *lines)
    assert b"1013" in polled.body
    gate.set()


@pytest.mark.parametrize("callbacks", [False, True])
def test_messages_that_count_when_they_are_processed(host: Host, callbacks: bool) -> None:
    """With ack="processed" a message counts when the callback has returned, or the next is asked for."""
    gate = threading.Event()
    taken = threading.Event()

    def work(message: str) -> None:
        taken.set()
        assert gate.wait(PATIENCE)

    def room(channel: SyncChannel) -> None:
        if callbacks:
            channel.wait_closed()
            return
        for message in channel:
            work(message)

    on_receive = (lambda channel, message: work(message)) if callbacks else None
    host.serve(Endpoint(room, session=SessionConfig(ack="processed"), on_receive=on_receive))
    made = json.loads(host.connect().ask("POST", "/room/ck").body)
    peer = host.connect()

    def acknowledged(sent: int = 1) -> int:
        lines = (f"Authorization: Bearer {made['secret']}",)
        number: int = json.loads(peer.ask("POST", f"/room/ck/{made['sid']}?n={sent}", *lines, body=b"x").body)["ack"]
        return number

    acknowledged()
    assert taken.wait(PATIENCE)
    assert [acknowledged(sent) for sent in (1, 2, 3)] == [0, 0, 0]
    gate.set()
    host.until(lambda: acknowledged() == 3)


def test_what_does_not_go_together() -> None:
    """`async def` callbacks beside a plain handler, and no function at all."""

    async def on_receive(channel: Any, message: Any) -> None: ...

    with pytest.raises(ConfigError, match="write both `async def`, or neither"):
        Endpoint(lambda channel: None, on_receive=on_receive)
    with pytest.raises(ConfigError, match="a handler is a function that takes a channel"):
        Endpoint("room")  # type: ignore[arg-type]
