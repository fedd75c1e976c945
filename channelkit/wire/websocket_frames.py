"""The codec of one open WebSocket, server side: bytes in, messages out, and back (RFC 6455 5).

Our scanner owns the bytes and walks every frame header.  A *fast* frame (whole, final, unfragmented text or binary,
masked, minimal length, small) is decoded here.  Everything else goes to wsproto in order, from its first byte: the
header when it is complete, the payload as it arrives, so that bad UTF-8 fails early.  wsproto never sees a byte of a
fast frame, so a connection of wsproto's is made for the first slow frame and dropped at the next frame boundary where
nothing is open: an idle codec holds none.  That both ways are equal is a differential property test.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from channelkit.wire.masking import unmask

FAST_SIZE = 64 * 1024
MAX_PARTS = 256  # fragments kept apart before they are joined: empty ones must not cost memory

_CONTINUATION, _CLOSE = 0x0, 0x8
_HEADS_TEXT = tuple(bytes((0x81, size)) for size in range(126))
_HEADS_BINARY = tuple(bytes((0x82, size)) for size in range(126))


@dataclass(frozen=True, slots=True)
class PingReceived:
    payload: bytes


@dataclass(frozen=True, slots=True)
class PongReceived:
    payload: bytes


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The peer's close frame; 1005 when it has no code."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The peer broke the protocol; `code` is what the close frame must say."""

    code: int
    detail: str


Event = str | bytes | PingReceived | PongReceived | CloseReceived | Failure


class WebSocketCodec:
    """See the module.  `fast=False` sends every frame through wsproto: for the tests that compare."""

    __slots__ = ("_at", "_buffer", "_closing", "_connection", "_done", "_fast", "_left", "_max", "_need", "_open", "_opcode", "_parts", "_size", "more")

    def __init__(self, max_message: int, *, fast: bool = True) -> None:
        self._max = max_message
        self._fast = fast
        self._buffer: bytes | bytearray = b""
        self._at = 0  # what is before it is consumed
        self._need = 0  # bytes that must be there before it is worth looking again
        self._connection: Connection | None = None
        self._left = 0  # payload bytes of the slow frame that is under way
        self._open = False  # a fragmented message is under way
        self._opcode = 0
        self._parts: list[str] | list[bytes] | None = None
        self._size = 0  # bytes of the message under way
        self._closing = False  # our close is sent
        self._done = False  # nothing more is looked at
        #: Whether `events` stopped at its limit and there may be another whole frame.
        self.more = False

    @property
    def buffered(self) -> int:
        """Bytes received and not yet parsed."""
        return len(self._buffer) - self._at

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the network; nothing of `data` is kept but a copy."""
        if self._done:
            return
        if self._at == len(self._buffer):
            self._buffer = bytes(data)
            self._at = 0
            return
        if type(self._buffer) is not bytearray:
            self._buffer = bytearray(self._buffer[self._at :])
            self._at = 0
        self._buffer += data

    def events(self, limit: int = 64) -> list[Event]:
        """At most `limit` messages and control events, in order."""
        found: list[Event] = []
        self.more = False
        while not self._done and self.buffered >= max(self._need, 1):
            if len(found) >= limit:
                self.more = True
                return found
            self._need = 0
            if self._left:
                self._payload(found)
            elif self._connection is None and self._fast and not self._closing:
                if not self._run_fast(found, limit) and not self._slow_header(found):
                    break
            elif not self._slow_header(found):
                break
        self._tidy()
        return found

    def _tidy(self) -> None:
        if self._done:
            self._buffer, self._at, self._parts = b"", 0, None
        elif self._at == len(self._buffer):
            self._buffer, self._at = b"", 0
        elif self._at > 65536:
            self._buffer = self._buffer[self._at :]
            self._at = 0

    # -- the fast way

    def _run_fast(self, found: list[Event], limit: int) -> bool:
        """Decode fast frames as long as they come; True if at least one was there."""
        buffer, at = self._buffer, self._at
        end = len(buffer)
        small = min(FAST_SIZE, self._max)
        first = at
        room = limit - len(found)
        while room and end - at >= 6:
            opcode = buffer[at]
            size = buffer[at + 1] - 128
            if opcode != 0x81 and opcode != 0x82 or size < 0:
                break
            start = at + 6
            if size == 126:
                start = at + 8
                size = (buffer[at + 2] << 8) | buffer[at + 3]
                if size < 126 or end < start:
                    break
            elif size == 127:
                break  # 64 KiB and more, or not minimal
            stop = start + size
            if size > small:
                break
            if stop > end:
                if opcode == 0x82:
                    self._need = stop - at
                break
            payload = unmask(bytes(buffer[start:stop]), bytes(buffer[start - 4 : start]))
            if opcode == 0x81:
                try:
                    found.append(payload.decode())
                except UnicodeDecodeError:
                    break  # wsproto says what is wrong with it
            else:
                found.append(payload)
            at = stop
            room -= 1
        self._at = at
        return at > first or self._need > 0

    # -- the slow way

    def _slow_header(self, found: list[Event]) -> bool:
        """Pass one frame header on if it is whole and may be; False if more bytes are needed."""
        buffer, at = self._buffer, self._at
        have = len(buffer) - at
        if have < 2:
            self._need = 2
            return False
        length = buffer[at + 1] & 0x7F
        extended = 2 if length == 126 else 8 if length == 127 else 0
        header = 2 + extended + (4 if buffer[at + 1] & 0x80 else 0)
        if have < header:
            self._need = header
            return False
        size = int.from_bytes(buffer[at + 2 : at + 2 + extended], "big") if extended else length
        if self._refused(found, buffer[at], size):
            return True
        self._at = at + header
        self._left = size
        self._feed(bytes(buffer[at : at + header]), found)
        if not self._left:
            self._frame_done()
        return True

    def _refused(self, found: list[Event], first: int, size: int) -> bool:
        """Judge the length before any payload is waited for: it may announce 2**62 bytes."""
        opcode = first & 0x0F
        if opcode >= _CLOSE:
            return False  # wsproto refuses those above 125
        if opcode != _CONTINUATION:
            self._opcode = opcode
        total = size if self._closing else self._size + size
        if total <= self._max:
            return False
        self._fail(found, 1009, f"a message of more than {self._max} bytes")
        return True

    def _payload(self, found: list[Event]) -> None:
        take = min(self._left, len(self._buffer) - self._at)
        data = bytes(self._buffer[self._at : self._at + take])
        self._at += take
        self._left -= take
        self._feed(data, found)
        if not self._left:
            self._frame_done()

    def _frame_done(self) -> None:
        connection = self._connection
        if connection is not None and not self._open and not self._closing and connection.state is ConnectionState.OPEN:
            self._connection = None

    def _wsproto(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(ConnectionType.SERVER)
        return self._connection

    def _feed(self, data: bytes, found: list[Event]) -> None:
        connection = self._wsproto()
        connection.receive_data(data)
        for event in connection.events():
            if isinstance(event, TextMessage | BytesMessage):
                self._part(event, found)
            elif isinstance(event, Ping):
                found.append(PingReceived(bytes(event.payload)))
            elif isinstance(event, Pong):
                found.append(PongReceived(bytes(event.payload)))
            elif isinstance(event, CloseConnection):
                self._close_event(connection, event, found)
                return

    def _part(self, event: TextMessage | BytesMessage, found: list[Event]) -> None:
        """A piece of a message.  Pieces are joined now and then, so that many empty ones cost nothing."""
        self._open = not event.message_finished
        if self._closing:
            self._size = 0
            return
        data = event.data if isinstance(event.data, str) else bytes(event.data)
        if self._parts is None and event.message_finished:
            found.append(data)
            self._size = 0
            return
        parts: list[object] = self._parts if self._parts is not None else []  # type: ignore[assignment]
        self._parts = parts  # type: ignore[assignment]
        if data:
            parts.append(data)
        self._size += len(data.encode()) if isinstance(data, str) else len(data)
        if event.message_finished or len(parts) >= MAX_PARTS:
            joined = "".join(parts) if isinstance(data, str) else b"".join(parts)  # type: ignore[arg-type]
            self._parts = None if event.message_finished else [joined]  # type: ignore[assignment,list-item]
            if event.message_finished:
                found.append(joined)
                self._size = 0

    def _close_event(self, connection: Connection, event: CloseConnection, found: list[Event]) -> None:
        """A close frame; or, with the state unchanged, wsproto's way to say that parsing failed."""
        if connection.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
            self._done = True
            found.append(CloseReceived(int(event.code), event.reason or ""))
        else:
            self._fail(found, int(event.code), event.reason or "")

    def _fail(self, found: list[Event], code: int, detail: str) -> None:
        self._done = True
        found.append(Failure(code, detail))

    # -- sending

    def text(self, message: str) -> bytes:
        """The frame of a text.  ValueError for a lone surrogate, which UTF-8 cannot carry."""
        data = message.encode()
        size = len(data)
        if size < 126:
            return _HEADS_TEXT[size] + data
        return _long_head(0x81, size) + data

    def binary(self, message: bytes) -> bytes:
        """The frame of a byte string."""
        size = len(message)
        if size < 126:
            return _HEADS_BINARY[size] + message
        return _long_head(0x82, size) + message

    def ping(self, payload: bytes = b"") -> bytes:
        """A ping frame; b"" once closing has begun."""
        return self._control(Ping(payload))

    def pong(self, payload: bytes) -> bytes:
        """A pong frame; b"" once closing has begun."""
        return self._control(Pong(payload))

    def _control(self, event: Ping | Pong) -> bytes:
        if len(event.payload) > 125:
            raise ValueError("a control frame carries at most 125 bytes (RFC 6455 5.5)")
        if self._closing or self._done:
            return b""
        connection = self._connection or Connection(ConnectionType.SERVER)
        return connection.send(event)

    def close(self, code: int, reason: str = "") -> bytes:
        """Our close frame.  From now on only the peer's close frame is an event."""
        data = self._wsproto().send(CloseConnection(code, reason))
        self._closing = True
        self._parts = None
        self._size = 0
        return data

    def reply(self, close: CloseReceived) -> bytes:
        """The answer to the peer's close frame: its own code and reason."""
        return self._wsproto().send(CloseConnection(close.code, close.reason))

    def fail(self, failure: Failure) -> bytes:
        """The close frame for a violation: the code alone, the detail belongs into the log."""
        return self._wsproto().send(CloseConnection(failure.code))


def _long_head(first: int, size: int) -> bytes:
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")
