"""A whole server in memory: the real engines and transports over an in-memory network, no socket, any clock.

`async with open_host(handler) as host: peer = await host.websocket("/chat")`.  The peer goes through the real
handshake and speaks real frames, by wsproto's client side.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from channelkit._loop import Loop, open_loop
from channelkit.config import Config
from channelkit.responding import Handler, PlainFunction, checked_handler
from channelkit.server.core import ServerCore
from channelkit.server.pump.stream import serve_stream
from channelkit.testing.network import MemoryStream, pair


class Refused(Exception):
    """The server answered the handshake with this status instead of 101."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the handshake was refused with {status}")
        self.status = status


class WebSocketPeer:
    """A client's end of one WebSocket."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._parts: list[Any] = []

    async def open(self, path: str, headers: list[tuple[bytes, bytes]], subprotocols: list[str]) -> None:
        request = Request(host="test", target=path, extra_headers=headers, subprotocols=subprotocols)
        await self.stream.send(self._connection.send(request))
        event = await self.event()
        if isinstance(event, RejectConnection):
            raise Refused(event.status_code)
        assert isinstance(event, AcceptConnection), event
        self.subprotocol = event.subprotocol

    async def event(self) -> Event:
        """The next event; anyio.EndOfStream when the connection has ended."""
        while True:
            for event in self._connection.events():
                if not isinstance(event, RejectData):
                    return event
            self._connection.receive_data(await self.stream.receive())

    async def receive(self) -> str | bytes | CloseConnection:
        """The next whole message, or the server's close; pings are answered on the way."""
        while True:
            event = await self.event()
            if isinstance(event, Ping):
                await self.stream.send(self._connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                return event
            elif isinstance(event, TextMessage | BytesMessage):
                self._parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
                if event.message_finished:
                    parts, self._parts = self._parts, []
                    return "".join(parts) if isinstance(parts[0], str) else b"".join(parts)

    async def send(self, data: str | bytes) -> None:
        event = TextMessage(data) if isinstance(data, str) else BytesMessage(data)
        await self.stream.send(self._connection.send(event))

    async def send_event(self, event: Event) -> None:
        await self.stream.send(self._connection.send(event))

    async def close(self, code: int = 1000, reason: str = "") -> CloseConnection:
        """Close and wait for the answer."""
        await self.send_event(CloseConnection(code, reason))
        while True:
            answer = await self.receive()
            if isinstance(answer, CloseConnection):
                await self.stream.aclose()
                return answer

    async def answer_close(self, close: CloseConnection) -> None:
        await self.send_event(close.response())


class Host:
    """A running server without a socket."""

    def __init__(self, loop: Loop, core: ServerCore) -> None:
        self.loop = loop
        self.core = core

    def connect(self, **network: Any) -> MemoryStream:
        """The client's end of a new connection; `network` are the options of `network.pair`."""
        ours, theirs = pair(**network)
        self.loop.spawn(serve_stream, self.loop, self.core.config, ours, self.core.connect)
        return theirs

    async def websocket(
        self,
        path: str = "/",
        headers: list[tuple[bytes, bytes]] | None = None,
        subprotocols: list[str] | None = None,
        **network: Any,
    ) -> WebSocketPeer:
        """An open WebSocket; raises Refused."""
        peer = WebSocketPeer(self.connect(**network))
        await peer.open(path, headers or [], subprotocols or [])
        return peer

    async def exchange(self, data: bytes, **network: Any) -> bytes:
        """Send `data` on a new connection and read until the server ends it."""
        stream = self.connect(**network)
        await stream.send(data)
        return await read_all(stream)

    async def get(self, path: str = "/", method: str = "GET") -> bytes:
        """One request that asks for the connection to close; everything that came back."""
        return await self.exchange(f"{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())


async def read_all(stream: MemoryStream) -> bytes:
    """Everything until the end of the stream, however it ends."""
    received = b""
    try:
        while True:
            received += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return received


@asynccontextmanager
async def open_host(handler: Handler | PlainFunction, **options: Any) -> AsyncIterator[Host]:
    """A server for `handler`; on leaving, everything is cut as after drain's deadline."""
    async with open_loop() as loop, anyio.create_task_group() as handlers:
        core = ServerCore(checked_handler(handler), Config(**options), loop, handlers)
        try:
            yield Host(loop, core)
        finally:
            with anyio.CancelScope(shield=True):
                await core.cut()
