"""What the conformance tests share: an echo server, and how a row of a table is played to it.

The clients are those of tests/server; a row is bytes out, frames back, and how it ends.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from channelkit import Channel, CloseInfo, CloseStatus, Deflate, Request, Server, as_channel, run_server
from tests.server.conftest import PATIENCE, Backend, Peer, Reply

MAX = 1 << 20
FRAGMENTS = 1000
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80
ALIVE = b"still there?"

Frame = tuple[int, bytes]  # first byte and payload


def code(number: int, reason: bytes = b"") -> bytes:
    """The payload of a close frame."""
    return number.to_bytes(2) + reason


def closed(number: int | None, reason: bytes = b"") -> Frame:
    """The close frame of the server."""
    return FIN | CLOSE, b"" if number is None else code(number, reason)


@dataclass(frozen=True)
class Row:
    """One thing a client does, and what the RFC wants to come of it."""

    clause: str  # of RFC 6455, or of RFC 7692 with that number before it
    name: str
    send: bytes
    expect: tuple[Frame, ...] = ()  # the server's frames; with a close frame as the last TCP must end
    told: tuple[str, int] | None = None  # the status and code that on_close is told, where it is worth a look


def ids(row: Row) -> str:
    return f"{row.clause}-{row.name}".replace(" ", "-")


class Echo:
    """A server on one loop that sends back what it gets, on any number of connections."""

    def __init__(self, backend: Backend, compression: Deflate | None = None) -> None:
        self.ends: dict[str, tuple[CloseStatus, CloseInfo]] = {}
        self._count = 0
        self._peers: list[Peer] = []
        self.server: Server = run_server(
            self._handle,
            backend=backend,
            port=0,
            max_ws=MAX,
            max_fragments=FRAGMENTS,
            compression=compression,
            hard_mark=1 << 26,
        )

    async def _handle(self, request: Request) -> Channel | str:
        if not request.is_websocket:
            return "a plain request"

        def receive(channel: Channel, message: Any) -> None:
            channel.send_nowait(message)

        def close(channel: Channel, status: CloseStatus) -> None:
            assert channel.close_info is not None
            self.ends[request.path] = (status, channel.close_info)

        return as_channel(request, on_receive=receive, on_close=close)

    def connect(self) -> tuple[Peer, str]:
        """A client, and a path that is its own."""
        self._count += 1
        peer = Peer(self.server.port)
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # pieces are to arrive as pieces
        self._peers.append(peer)
        return peer, f"/{self._count}"

    def end(self, path: str) -> CloseInfo:
        """What was told at the end of the connection with this path."""
        deadline = time.monotonic() + PATIENCE
        while path not in self.ends:
            assert time.monotonic() < deadline, "on_close was never told"
            time.sleep(0.0005)
        status, info = self.ends[path]
        assert info.status == status
        return info

    def let_go(self) -> None:
        """Close the clients; called behind each row."""
        for peer in self._peers:
            peer.close()
        self._peers.clear()

    def close(self) -> None:
        self.let_go()
        self.server.stop(timeout=5)
        assert self.server.connections == 0


# -- how bytes travel


def at_once(peer: Peer, path: str, send: bytes, *lines: str) -> Reply:
    """Everything after the handshake's answer."""
    reply = peer.upgrade(*lines, path=path)
    peer.send(send)
    return reply


def with_the_handshake(peer: Peer, path: str, send: bytes, *lines: str) -> Reply:
    """Everything in the packet of the handshake."""
    return peer.upgrade(*lines, path=path, more=send)


def piecemeal(peer: Peer, path: str, send: bytes, *lines: str) -> Reply:
    """Byte by byte as far as that is quick, then in pieces."""
    reply = peer.upgrade(*lines, path=path)
    size = 1 if len(send) <= 400 else 997
    for at in range(0, len(send), size):
        peer.send(send[at : at + size])
    return reply


WAYS: dict[str, Callable[..., Reply]] = {
    "at once": at_once,
    "with the handshake": with_the_handshake,
    "piecemeal": piecemeal,
}


def play(echo: Echo, row: Row, way: str, *lines: str) -> Reply:
    """Send a row's bytes, read the frames it expects, and see it to its end."""
    peer, path = echo.connect()
    try:
        reply = WAYS[way](peer, path, row.send, *lines)
        for expected in row.expect:
            assert peer.read_frame() == expected
        if row.expect and row.expect[-1][0] == FIN | CLOSE:
            assert peer.rest() == b""  # TCP ends, and by FIN
            if row.told is not None:
                info = echo.end(path)
                assert ((info.status, info.code), info.by) == (row.told, "peer")
        else:
            peer.send_frame(PING, ALIVE)
            assert peer.read_frame() == (FIN | PONG, ALIVE)
        return reply
    finally:
        echo.let_go()
