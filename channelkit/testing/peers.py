"""Clients for the plans: what a peer says and understands, built on wsproto and h11, never on our own codecs.

The protocols (`WebSocketPeer`, `HttpPeer`) are sans-I/O: bytes in, records and answers out.  `PeerConnection` moves
their bytes over any stream, and misbehaves when asked: stops reading, falls silent, hangs up half or wholly.
`SocketEnd` is the peer's end of a socketpair.
"""

from __future__ import annotations

import base64
import json
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import h11
import wsproto
from anyio.abc import ByteStream
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

Payload = str | bytes

READ_SIZE = 64 * 1024


class PeerProtocol(Protocol):
    """What `PeerConnection` needs of a protocol."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the wire; what is returned is to be sent back."""
        ...

    def eof(self) -> None:
        """The server has ended its direction."""
        ...


# -- WebSocket ---------------------------------------------------------------------------------------------------------


class WebSocketPeer:
    """A WebSocket client: h11 reads the handshake, wsproto the frames."""

    def __init__(self, path: str, *, deflate: bool = False) -> None:
        self.path = path
        self.deflate = deflate  # offer permessage-deflate, and use it once it is agreed on
        self.messages: list[Payload] = []
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.close_received: tuple[int, str] | None = None  # the server's close frame; 1005 for one without a code
        self.close_sent: tuple[int, str] | None = None
        self.closed_first: bool | None = None  # whether our close frame was said before the server's was read
        self.status: int | None = None  # of the handshake
        self.ended = False
        self.junk = b""  # bytes behind the server's close frame: there must be none
        self._frames: Connection | None = None
        self._head = h11.Connection(h11.CLIENT)
        self._parts: list[str] | list[bytes] = []

    def request(self) -> bytes:
        """The handshake.  Frames may follow at once, in the same packet."""
        lines = [
            ("Host", "peer"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
        ]
        if self.deflate:
            lines.append(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"))
        data = self._head.send(h11.Request(method="GET", target=self.path, headers=lines))
        self._head.send(h11.EndOfMessage())
        self._frames = Connection(ConnectionType.CLIENT)
        return data or b""

    # -- saying

    @property
    def may_send(self) -> bool:
        """Whether the protocol still allows a message."""
        return self._frames is not None and self._frames.state is ConnectionState.OPEN

    def message(self, payload: Payload) -> bytes:
        """One message in one frame."""
        assert self._frames is not None
        event = TextMessage(payload) if isinstance(payload, str) else BytesMessage(payload)
        return self._frames.send(event)

    def ping(self, payload: bytes) -> bytes:
        """A ping frame."""
        assert self._frames is not None
        return self._frames.send(Ping(payload))

    def close(self, code: int, reason: str) -> bytes:
        """Our close frame; nothing if it was sent already."""
        assert self._frames is not None
        if not self.may_send:
            return b""
        self.close_sent = (code, reason)
        self.closed_first = True
        return self._frames.send(CloseConnection(code, reason))

    # -- understanding

    def feed(self, data: bytes) -> bytes:
        if self.status is None:
            data = self._read_head(data)
        if not data or self.status != 101:
            return b""
        assert self._frames is not None
        if self._frames.state in (ConnectionState.CLOSED, ConnectionState.REMOTE_CLOSING):
            self.junk += data
            return b""
        self._frames.receive_data(data)
        return b"".join(map(self._take, self._frames.events()))

    def eof(self) -> None:
        self.ended = True

    def _read_head(self, data: bytes) -> bytes:
        self._head.receive_data(data)
        event = self._head.next_event()
        if not isinstance(event, h11.InformationalResponse | h11.Response):
            return b""
        self.status = event.status_code
        answer = dict(event.headers).get(b"sec-websocket-extensions")
        assert answer is not None or not self.deflate or self.status != 101, "the plan is about compression"
        if answer is not None:  # what was said in the packet of the handshake was plain, and the first of it all
            agreed = PerMessageDeflate()
            agreed.finalize(answer.decode())
            self._frames = Connection(ConnectionType.CLIENT, [agreed])
        return bytes(self._head.trailing_data[0])

    def _take(self, event: wsproto.events.Event) -> bytes:
        if isinstance(event, TextMessage | BytesMessage):
            self._parts.append(event.data)  # type: ignore[arg-type]  # one message is all str or all bytes
            if event.message_finished:
                empty = "" if isinstance(event, TextMessage) else b""
                self.messages.append(empty.join(self._parts))  # type: ignore[arg-type]
                self._parts = []
        elif isinstance(event, Ping):
            self.pings.append(bytes(event.payload))
            assert self._frames is not None
            return self._frames.send(event.response()) if self.may_send else b""
        elif isinstance(event, Pong):
            self.pongs.append(bytes(event.payload))
        elif isinstance(event, CloseConnection):
            return self._take_close(event)
        return b""

    def _take_close(self, event: CloseConnection) -> bytes:
        self.close_received = (int(event.code), event.reason or "")
        if self.close_sent is not None:
            return b""
        self.closed_first = False
        self.close_sent = self.close_received
        assert self._frames is not None
        return self._frames.send(event.response())


# -- HTTP --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ParsedResponse:
    """One response as h11 saw it."""

    status: int
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False


class HttpPeer:
    """An HTTP/1.1 client that may pipeline: each response is parsed by a fresh h11 connection."""

    def __init__(self) -> None:
        self.responses: list[ParsedResponse] = []
        self.informational: list[int] = []
        self.ended = False
        self.error: str | None = None  # what the server sent is no response
        self.junk = b""  # bytes that answer no request
        self._asked: deque[str] = deque()
        self._parser: h11.Connection | None = None
        self._current: ParsedResponse | None = None

    def request(self, target: str, *, method: str = "GET", headers: tuple[tuple[str, str], ...] = ()) -> bytes:
        """A request without a body."""
        self._asked.append(method)
        lines = [f"{method} {target} HTTP/1.1", "Host: peer", *(f"{name}: {value}" for name, value in headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def feed(self, data: bytes) -> bytes:
        if self.error is None:
            try:
                self._parse(data)
            except h11.ProtocolError as error:
                self.error = str(error)
        return b""

    def eof(self) -> None:
        self.ended = True
        if self._parser is not None and self.error is None:
            try:
                self._parser.receive_data(b"")
                self._take_events()
            except h11.ProtocolError:
                pass  # the response was cut short: it stays incomplete

    def _parse(self, data: bytes) -> None:
        rest = data
        while rest:
            if self._parser is None and not self._ask():
                self.junk += rest
                return
            assert self._parser is not None
            self._parser.receive_data(rest)
            rest = self._take_events()

    def _ask(self) -> bool:
        """A parser for the next response that is due; False if none is."""
        if not self._asked:
            return False
        self._parser = h11.Connection(h11.CLIENT)
        self._parser.send(h11.Request(method=self._asked.popleft(), target="/", headers=[("Host", "peer")]))
        self._parser.send(h11.EndOfMessage())
        return True

    def _take_events(self) -> bytes:
        """Take what is parsed; the bytes behind a complete response are returned."""
        assert self._parser is not None
        while True:
            event = self._parser.next_event()
            if isinstance(event, h11.InformationalResponse):
                self.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                self._current = ParsedResponse(event.status_code, headers)
                self.responses.append(self._current)
            elif isinstance(event, h11.Data) and self._current is not None:
                self._current.body += event.data
            elif isinstance(event, h11.EndOfMessage) and self._current is not None:
                self._current.complete = True
                return self._behind()
            else:
                return b""

    def _behind(self) -> bytes:
        assert self._parser is not None
        rest = bytes(self._parser.trailing_data[0])
        self._parser = self._current = None
        return rest


# -- what a stream's body says -----------------------------------------------------------------------------------------


def read_sse(body: bytes) -> list[Payload]:
    """The messages of an event stream, by WHATWG HTML 9.2.6, the last incomplete event left out."""
    text = body.decode("utf-8", "strict").removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    messages: list[Payload] = []
    kind, data = "message", list[str]()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                messages.append(_event_message(kind, "\n".join(data)))
            kind, data = "message", []
        elif name == "data":
            data.append(value)
        elif name == "event":
            kind = value
    return messages


def _event_message(kind: str, data: str) -> Payload:
    if kind == "ck-b":
        return base64.b64decode(data, validate=True)
    if kind == "ck-j":
        return str(json.loads(data))
    return data


def read_ndjson(body: bytes) -> list[Payload]:
    """The messages of a stream of JSON lines, the last incomplete line left out."""
    values = [json.loads(line) for line in body.split(b"\n")[:-1] if line.strip()]
    return [value if isinstance(value, str) else base64.b64decode(value["base64"], validate=True) for value in values]


# -- moving bytes ------------------------------------------------------------------------------------------------------


class SocketEnd(ByteStream):
    """A connected non-blocking socket as a ByteStream, and nothing behind it: what the kernel says is what you get."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    async def receive(self, max_bytes: int = READ_SIZE) -> bytes:
        while True:
            try:
                data = self._sock.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
                continue
            except OSError as error:
                raise anyio.BrokenResourceError from error
            if not data:
                raise anyio.EndOfStream
            await anyio.lowlevel.checkpoint()
            return data

    async def send(self, item: bytes) -> None:
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._sock)
            except OSError as error:
                raise anyio.BrokenResourceError from error
        await anyio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        self.half_close()
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.reset()
        await anyio.lowlevel.checkpoint()

    def send_now(self, data: bytes) -> None:
        """Send what the kernel takes of `data` at once; the rest is lost."""
        try:
            self._sock.send(data)
        except OSError:
            pass

    def half_close(self) -> None:
        """End our direction."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other end is gone already

    def reset(self) -> None:
        """Vanish, as a killed process does."""
        if self._sock.fileno() >= 0:
            anyio.notify_closing(self._sock)
            self._sock.close()


class Hangable(Protocol):
    """The faults both kinds of stream know; `MemoryStream` and `SocketEnd` have them."""

    async def receive(self, max_bytes: int = ...) -> bytes: ...
    async def send(self, item: bytes) -> None: ...
    async def aclose(self) -> None: ...
    def half_close(self) -> None: ...
    def reset(self) -> None: ...


class PeerConnection:
    """One peer on one stream: a task that reads, a task that writes, and its bad manners."""

    def __init__(
        self,
        stream: Hangable,
        protocol: PeerProtocol,
        *,
        chunk: int | None = None,
        vanish_after: int | None = None,
        on_news: Callable[[], object] = lambda: None,
    ) -> None:
        self.gone_at: float | None = None  # when this side was over, however
        self.vanished = False
        self.mute = False
        self.half_closed = False
        self.bytes_read = 0
        self._stream = stream
        self._protocol = protocol
        self._chunk = chunk  # bytes a write is cut into
        self._vanish_after = vanish_after  # bytes to read before this peer dies
        self._on_news = on_news
        self._out: deque[bytes | None] = deque()  # None: half-close
        self._writable = anyio.Event()
        self._reading = anyio.Event()
        self._reading.set()
        self._over = anyio.Event()

    async def run(self) -> None:
        """Move bytes until the connection is over; then the stream is closed."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read)
            tasks.start_soon(self._write)
            await self._over.wait()
            tasks.cancel_scope.cancel()
        self.gone_at = anyio.current_time()
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()

    # -- manners

    def say(self, data: bytes) -> None:
        """Send `data` in order; waiting is the writer's business."""
        if data and not self.mute:
            self._out.append(data)
            self._writable.set()

    def stop_reading(self) -> None:
        if self._reading.is_set():
            self._reading = anyio.Event()

    def resume_reading(self) -> None:
        if not self.mute:
            self._reading.set()

    def fall_silent(self) -> None:
        """Neither read nor write any more, and stay connected: a machine whose cable was pulled."""
        self.stop_reading()
        self.mute = True
        self._out.clear()

    def half_close(self) -> None:
        """End our direction behind what was said."""
        self._out.append(None)
        self._writable.set()

    def vanish(self) -> None:
        """Die: no goodbye, what is on the way is lost."""
        if not self._over.is_set():
            self.vanished = True
            self._stream.reset()
            self._over.set()

    def hang_up(self) -> None:
        """Close the connection for good; nothing happens if it is over."""
        self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    # -- tasks

    async def _read(self) -> None:
        while True:
            await self._reading.wait()
            try:
                data = await self._stream.receive(READ_SIZE)
            except anyio.EndOfStream:
                self._protocol.eof()
                self._on_news()
                break
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._on_news()
                break
            self._read_some(data)
        self._over.set()

    def _read_some(self, data: bytes) -> None:
        if self._vanish_after is not None and self.bytes_read + len(data) >= self._vanish_after:
            data = data[: max(0, self._vanish_after - self.bytes_read)]
            if data:
                self._protocol.feed(data)
            self.bytes_read += len(data)
            self.vanish()
        else:
            self.bytes_read += len(data)
            self.say(self._protocol.feed(data))
        self._on_news()

    async def _write(self) -> None:
        while True:
            while not self._out:
                self._writable = anyio.Event()
                await self._writable.wait()
            data = self._out.popleft()
            try:
                if data is None:
                    self.half_closed = True
                    self._stream.half_close()
                else:
                    await self._send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # what the server still sends is read all the same

    async def _send(self, data: bytes) -> None:
        size = self._chunk or len(data)
        for start in range(0, len(data), size):
            if self.mute:
                return
            await self._stream.send(data[start : start + size])
