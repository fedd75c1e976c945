"""A carrier of sessions in a package of its own: length-prefixed records over a streaming response.

    GET /ck/SID/records?ack=..    a record is: 4 bytes length of the rest, 1 byte kind, 8 bytes number, payload

It needs `channelkit.spi`, and `Response`; nothing else of channelkit.  The uplink is POST, as of every stream.
"""

from __future__ import annotations

import json
import struct

from channelkit import Response
from channelkit.spi import (
    ANSWERED,
    SPI_VERSION,
    Ack,
    Answered,
    Binary,
    End,
    Finish,
    Frame,
    Hello,
    HttpExchange,
    HttpWire,
    Kind,
    Refusal,
    Session,
    Text,
    Visit,
    hello_members,
)

_HEAD = struct.Struct("!IBQ")  # length, kind, number


class RecordSessions:
    """Offers /ck/SID/records; `Endpoint(chat, transports=["records", ...])` asks for it."""

    name = "records"
    spi_version = SPI_VERSION
    ways = ("records",)
    hello_first = False

    def carry(self, visit: Visit, way: str) -> Response | Answered:
        query = visit.query()
        session = visit.session()
        if isinstance(session, Refusal):
            return visit.refused(session)
        carrier = RecordCarrier(session, visit)
        refusal = carrier.attach(query.a, query.ack)
        return ANSWERED if refusal is None else visit.refused(refusal)


class RecordCarrier:
    """One response: the session's carrier, and the listener of its exchange."""

    def __init__(self, session: Session, visit: Visit) -> None:
        self._session = session
        self._visit = visit
        self._exchange: HttpExchange = visit.exchange
        self._number: int | None = None

    def attach(self, a: int, ack: int) -> Refusal | None:
        """Attach as a stream; hello and all that is pending are written within."""
        self._exchange.listener = self
        result = self._session.attach(Kind.STREAM, a, ack, self)
        if isinstance(result, Refusal):
            self._exchange.listener = None
            return result
        self._number = result
        self._exchange.watch_client()
        if self._exchange.gone:
            self._exchange.loop.call_soon(self.lost, None)
        return None

    # -- spi.Carrier

    def write(self, frames: tuple[Frame, ...]) -> None:
        if not self._exchange.started:
            headers = [("Content-Type", "application/octet-stream"), ("Cache-Control", "no-store, no-transform")]
            self._exchange.start(200, [*headers, *self._visit.fields], None)
        self._exchange.write(HttpWire(b"".join(map(encode, frames))))

    def finish(self, action: Finish) -> None:
        if not self._exchange.ended:
            self._exchange.finish()

    # -- spi.Listener

    def room(self) -> None:
        """A session's window is what bounds its writes."""

    def finished(self) -> None:
        """The response is complete: the session has ended it."""

    def lost(self, error: Exception | None) -> None:
        if self._number is not None:
            self._session.detached(self._number)

    def going_away(self, now: bool) -> None:
        """The session hears of it by itself, and ends this."""


def encode(frame: Frame) -> bytes:
    """One record."""
    if isinstance(frame, Hello):
        return _record(b"h", 0, json.dumps(hello_members(frame)).encode())
    if isinstance(frame, Text):
        return _record(b"t", frame.n, frame.text.encode())
    if isinstance(frame, Binary):
        return _record(b"b", frame.n, frame.data)
    if isinstance(frame, End):
        return _record(b"e", frame.n, frame.code.to_bytes(2, "big") + frame.reason.encode())
    return _record(b"a", frame.n, b"") if isinstance(frame, Ack) else _record(b"p", 0, b"")


def _record(kind: bytes, number: int, payload: bytes) -> bytes:
    return _HEAD.pack(9 + len(payload), kind[0], number) + payload


class Records:
    """A client's reader: feed it bytes as they come, it gives the frames that are complete."""

    def __init__(self, max_message: int) -> None:
        self._limit = 9 + 6 * max_message + 1024
        self._data = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        self._data += data
        frames: list[Frame] = []
        while len(self._data) >= _HEAD.size:
            length, kind, number = _HEAD.unpack_from(self._data)
            if length > self._limit:
                raise ValueError(f"a record of {length} bytes")
            if len(self._data) < 4 + length:
                break
            payload, self._data = self._data[_HEAD.size : 4 + length], self._data[4 + length :]
            frame = _frame(chr(kind), number, payload)
            if frame is not None:
                frames.append(frame)
        return frames


def _frame(kind: str, number: int, payload: bytes) -> Frame | None:
    if kind == "h":
        return Hello(json.loads(payload)["recv"])
    if kind == "t":
        return Text(number, payload.decode())
    if kind == "b":
        return Binary(number, payload)
    if kind == "e":
        return End(number, int.from_bytes(payload[:2], "big"), payload[2:].decode())
    return Ack(number) if kind == "a" else None
