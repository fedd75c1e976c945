"""A client may vanish after any byte: the channel ends once, by its true status, and nothing is left behind."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from channelkit import CloseStatus, Request, as_channel

if TYPE_CHECKING:
    from tests.server.conftest import Host, Peer

GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FRAMES = b"\x81\x82\0\0\0\0hi\x01\x81\0\0\0\0a\x89\x81\0\0\0\0p\x80\x81\0\0\0\0b\x88\x82\0\0\0\0\x03\xe8"

EXCHANGES = {
    "get": GET % b"plain",
    "stream": GET % b"stream",
    "held": GET % b"held",
    "post": POST,
    "websocket": WEBSOCKET + FRAMES,
}


def serve(host: Host) -> None:
    async def handler(request: Request) -> Any:
        if request.path == "/ws":
            return as_channel(
                request,
                on_open=host.opened,
                on_receive=lambda channel, message: channel.send_nowait(message),
                on_close=host.closed,
            )
        if request.path == "/stream":
            channel = as_channel(request, streaming=True, on_open=host.opened, on_close=host.closed)
            await channel.send("begun")
            return channel
        if request.path == "/held":
            return as_channel(request, on_open=host.opened, on_close=host.closed)
        return await request.body() or "plain"

    host.serve(handler)


def vanish(peer: Peer, how: str) -> None:
    if how == "reset":
        peer.reset()
    else:
        peer.close()


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("kind", EXCHANGES)
def test_a_client_vanishes_after_any_byte(host: Host, kind: str, how: str) -> None:
    """Cut at every position, no connection and no descriptor is left, and whatever opened has closed once."""
    serve(host)
    with_one = host.connect()
    vanish(with_one, how)
    host.idle()
    before = len(os.listdir("/proc/self/fd"))
    data = EXCHANGES[kind]
    for position in range(len(data) + 1):
        peer = host.connect()
        peer.send(data[:position])
        vanish(peer, how)
    host.idle()
    host.until(lambda: len(host.ends) == len(host.channels))
    host.until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert {info.by for _, info in host.ends if info is not None} <= {"peer", "network"}


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("kind", ["stream", "held"])
def test_the_status_of_an_http_channel_whose_client_vanished(host: Host, kind: str, how: str) -> None:
    """A stream or held answer whose client vanished ended by client-close, 1006."""
    serve(host)
    peer = host.connect()
    peer.send(EXCHANGES[kind])
    host.channel()
    vanish(peer, how)
    info = host.end()
    assert (info.status, info.code, info.by) == (CloseStatus.CLIENT_CLOSE, 1006, "peer")
    host.idle()
    assert len(host.ends) == 1


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("position", range(len(FRAMES) + 1))
def test_the_status_of_a_websocket_whose_client_vanished(host: Host, position: int, how: str) -> None:
    """Cut after any byte of its frames a WebSocket ends abnormal, 1006; after the whole close frame as it said."""
    serve(host)
    peer = host.connect()
    peer.send(WEBSOCKET)
    assert peer.head().status == 101
    peer.send(FRAMES[:position])
    if position >= 8:
        assert peer.read_frame() == (0x81, b"hi")  # so what was sent has been read
    if position >= 22:
        assert peer.read_frame() == (0x8A, b"p")
    if position >= 29:
        assert peer.read_frame() == (0x81, b"ab")
    if position == len(FRAMES):
        assert peer.read_frame() == (0x88, b"\x03\xe8")
    vanish(peer, how)
    info = host.end()
    if position == len(FRAMES):
        assert (info.status, info.code, info.by) == (CloseStatus.NORMAL, 1000, "peer")
    else:
        assert (info.status, info.code, info.by) == (CloseStatus.ABNORMAL, 1006, "network")
    host.idle()
    assert len(host.ends) == 1


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_client_that_vanished_before_its_channel_was_made(host: Host, streaming: bool, how: str) -> None:
    """A handler that makes its channel when the client has gone already has on_open and on_close run once each."""
    go = threading.Event()

    async def handler(request: Request) -> Any:
        await anyio.to_thread.run_sync(go.wait)
        return as_channel(request, streaming=streaming, on_open=host.opened, on_close=host.closed)

    host.serve(handler)
    peer = host.connect()
    peer.send(EXCHANGES["held"])
    host.until(lambda: host.server is not None and host.server._core is not None and host.server._core.running)
    vanish(peer, how)
    if how == "reset":
        host.idle()
    else:
        host.until(lambda: any(getattr(one, "_eof", False) for one in host.server._core.connections))  # type: ignore[union-attr]
    go.set()
    assert host.end().status == CloseStatus.CLIENT_CLOSE
    host.idle()
    assert len(host.channels) == 1
