"""The streaming bindings of a session (NDJSON and Server-Sent Events), and what its HTTP answers have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from channelkit.http import Response
from channelkit.responding import ANSWERED, Answered
from channelkit.session.actions import Finish, Kind
from channelkit.session.codec import encode_answer, encode_event, encode_line
from channelkit.session.parcel import Parcel
from channelkit.session.refusals import Refusal, for_events
from channelkit.spi import SPI_VERSION, HttpExchange, HttpWire
from channelkit.transports.session_pace import PacedCarrier

if TYPE_CHECKING:
    from channelkit.session.frames import Frame
    from channelkit.spi import Session, Visit

NO_STORE = (("Cache-Control", "no-store, no-transform"),)
NDJSON = ("Content-Type", "application/x-ndjson")
EVENTS = ("Content-Type", "text/event-stream; charset=utf-8")
UNBUFFERED = (*NO_STORE, ("X-Accel-Buffering", "no"))  # nginx would hold a stream back


def refusal_response(refusal: Refusal) -> Response:
    """A refusal as a plain answer."""
    return Response(refusal.status, list(refusal.headers), refusal.body)


def events_refusal(refusal: Refusal, presented: int) -> Response:
    """A refusal as an EventSource understands it."""
    answer = for_events(refusal, presented)
    headers = [*NO_STORE]
    if answer.content_type:
        headers.append(("Content-Type", answer.content_type))
    return Response(answer.status, headers, answer.body)


def ack_response(ack: int) -> Response:
    """What a POST is answered."""
    return Response(200, [("Content-Type", "application/json"), *NO_STORE], encode_answer(ack))


class StreamSessions:
    """Sessions over streaming responses: lines of JSON at /stream, Server-Sent Events at /events."""

    name = "http_stream"
    spi_version = SPI_VERSION
    ways = ("stream", "events")
    hello_first = False

    def carry(self, visit: Visit, way: str) -> Response | Answered:
        events = way == "events"
        query = visit.query(visit.request.headers.get("last-event-id") if events else None)
        session = visit.session()
        if isinstance(session, Refusal):
            refused: Refusal | None = session
        else:
            kind = Kind.EVENTS if events else Kind.STREAM
            carrier = StreamCarrier(session, visit.exchange, kind, query.ack, visit.fields)
            refused = carrier.begin(query.a, query.ack)
        if refused is None:
            return ANSWERED
        return events_refusal(refused, query.ack) if events else refusal_response(refused)


class StreamCarrier(PacedCarrier):
    """One streaming response.  `spi.Listener` of its exchange, and the session's carrier until either ends."""

    __slots__ = ("_encode", "_fields", "_form", "_kind")

    def __init__(
        self,
        session: Session,
        exchange: HttpExchange,
        kind: Kind,
        presented: int,
        fields: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(exchange)
        self._session = session
        self._kind = kind
        self._fields = fields
        self._encode: Callable[[Frame], bytes] = encode_line
        self._form = Parcel.line
        if kind is Kind.EVENTS:
            self._encode = lambda frame: encode_event(frame, presented)
            self._form = Parcel.event

    def begin(self, a: int, ack: int) -> Refusal | None:
        """Attach: the head and what is pending are written then.  A refusal is the caller's to answer."""
        assert self._session is not None
        self._exchange.listener = self
        result = self._session.attach(self._kind, a, ack, self)
        if isinstance(result, Refusal):
            self._exchange.listener = None
            return result
        self._number = result
        self._exchange.watch_client()
        if self._exchange.gone:
            self._exchange.loop.call_soon(self.lost, None)
        return None

    # -- spi.QuickCarrier

    def _encoded(self, frame: Frame) -> bytes:
        return self._encode(frame)

    def _put(self, pieces: list[bytes]) -> None:
        if not self._exchange.started:
            content_type = EVENTS if self._kind is Kind.EVENTS else NDJSON
            self._exchange.start(200, [content_type, *UNBUFFERED, *self._fields], None)
        self._exchange.write(HttpWire(b"".join(pieces)))

    def message(self, n: int, parcel: Parcel) -> None:
        if self._behind or self._outbox.unsent > self._mark:
            self._skip(n)
        else:
            self._exchange.write(HttpWire(self._form(parcel, n)))

    def finish(self, action: Finish) -> None:
        self._behind = 0
        if not self._exchange.ended:
            self._exchange.finish()

    # -- spi.Listener

    def finished(self) -> None:
        """The response is complete: the session has ended it."""

    def lost(self, error: Exception | None) -> None:
        self._behind = 0
        if self._number and self._session is not None:
            self._session.detached(self._number)

    def going_away(self, now: bool) -> None:
        """The session hears of it by itself, and ends this."""
