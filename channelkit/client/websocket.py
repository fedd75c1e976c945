"""One WebSocket of a session: wsproto as engine, subprotocol `ck.v1`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import anyio
from anyio.abc import ByteStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from channelkit.session.frames import SUBPROTOCOL

ENGINE_FAILURES = (LocalProtocolError, RemoteProtocolError)
#: What is written at once at most, so that a slow network is given pieces.
PIECE = 1 << 16


class HandshakeRefused(Exception):
    """The server answered with this status instead of 101."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the WebSocket was refused with status {status}")
        self.status = status


class ClientWebSocket:
    """`write` from anywhere; `run_writer` and `receive` by one task each."""

    def __init__(self, stream: ByteStream, limit: int) -> None:
        self._stream = stream
        self._engine = WSConnection(ConnectionType.CLIENT)
        self.limit = limit
        self.heard: Callable[[], None] = lambda: None  # called for whatever comes, a part of a message too
        self._parts: list[str | bytes] = []
        self._size = 0
        self._out: deque[bytes] = deque()
        self._work = anyio.Event()

    async def open(self, host: str, target: str, headers: Iterable[tuple[str, str]]) -> None:
        """The handshake.  Raises HandshakeRefused, and what streams and wsproto raise."""
        extra = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        request = Request(host=host, target=target, subprotocols=[SUBPROTOCOL], extra_headers=extra)
        await self._stream.send(self._engine.send(request))
        event = await self._event()
        if isinstance(event, RejectConnection):
            raise HandshakeRefused(event.status_code)
        if not isinstance(event, AcceptConnection) or event.subprotocol != SUBPROTOCOL:
            raise RemoteProtocolError("the server does not speak ck.v1")

    def write(self, message: str | bytes) -> None:
        """Queue a message; the session's window bounds the queue."""
        self._put(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    def _put(self, event: Event) -> None:
        try:
            self._out.append(self._engine.send(event))
        except LocalProtocolError:
            return  # closed: the attachment's end is on its way
        self._work.set()

    async def run_writer(self) -> None:
        """Write what is queued, until cancelled or the stream breaks."""
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            while self._out:
                parts = [self._out.popleft()]
                size = len(parts[0])
                while self._out and size < PIECE:
                    parts.append(self._out.popleft())
                    size += len(parts[-1])
                await self._stream.send(b"".join(parts))

    async def receive(self) -> str | bytes | CloseConnection:
        """The next whole message, or the server's close (answered)."""
        while True:
            event = await self._event()
            if isinstance(event, CloseConnection):
                self._put(event.response())
                return event
            if isinstance(event, Ping):
                self._put(event.response())
            elif isinstance(event, TextMessage | BytesMessage):
                self._parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
                self._size += len(event.data)
                if self._size > self.limit:
                    raise RemoteProtocolError("a message beyond what hello allows")
                if event.message_finished:
                    return self._whole()

    def _whole(self) -> str | bytes:
        parts, self._parts, self._size = self._parts, [], 0
        if len(parts) == 1:
            return parts[0]
        if isinstance(parts[0], str):
            return "".join(part for part in parts if isinstance(part, str))
        return b"".join(part for part in parts if isinstance(part, bytes))

    async def _event(self) -> Event:
        while True:
            for event in self._engine.events():
                return event
            self._engine.receive_data(await self._stream.receive())
            self.heard()
