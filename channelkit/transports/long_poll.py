"""The poll binding of a session: one GET, answered at once, when something comes, or when its wait is over.

A poll that is lost loses nothing, since only an acknowledgement removes a message (docs/protocol.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from channelkit.http import Response, header_lines
from channelkit.responding import ANSWERED, Answered
from channelkit.session.actions import Finish, Kind
from channelkit.session.codec import encode_line
from channelkit.session.refusals import Refusal
from channelkit.spi import SPI_VERSION, HttpExchange, HttpWire
from channelkit.transports.session_http import NDJSON, NO_STORE, refusal_response

if TYPE_CHECKING:
    from channelkit.session.frames import Frame
    from channelkit.spi import Session, Visit

PIECE = 64 * 1024  # at once: an ASGI host takes a piece of any size, and only lets the next one wait


class PollSessions:
    """Sessions over polls, at /poll."""

    name = "long_poll"
    spi_version = SPI_VERSION
    ways = ("poll",)
    hello_first = False

    async def carry(self, visit: Visit, way: str) -> Response | Answered:
        query = visit.query()
        session = visit.session()
        if isinstance(session, Refusal):
            return refusal_response(session)
        refusal = await PollCarrier(session, visit.exchange, visit.fields).answered(query.a, query.ack, query.wait)
        return ANSWERED if refusal is None else refusal_response(refusal)


class PollCarrier:
    """One poll.  `spi.Listener` of its exchange until its answer has left, and the session's carrier until it has one.

    It writes the answer itself, for one reason: a client that does not read its answers and polls again, and again,
    must not have the server keep all of them (`drop`).
    """

    __slots__ = ("_body", "_exchange", "_fields", "_news", "_over", "_session", "__weakref__")

    def __init__(self, session: Session, exchange: HttpExchange, fields: tuple[tuple[str, str], ...] = ()) -> None:
        self._session = session
        self._exchange = exchange
        self._fields = fields
        self._body: bytes | None = None
        self._over = False  # the answer has left, or the client has gone
        self._news = exchange.loop.parking()

    async def answered(self, a: int, ack: int, wait: float) -> Refusal | None:
        """Attach and wait until it is answered or the client gone.  A refusal is the caller's to answer."""
        exchange = self._exchange
        exchange.listener = self
        result = self._session.attach(Kind.POLL, a, ack, self, wait)
        if isinstance(result, Refusal):
            exchange.listener = None
            return result
        exchange.watch_client()
        try:
            while not (exchange.started or self._over):
                await self._news.park()
        finally:
            if exchange.gone or not exchange.started:  # its connection is lost, or this was cancelled
                self._session.detached(result)
                exchange.listener = None
        return None

    # -- spi.Carrier

    def write(self, frames: tuple[Frame, ...]) -> None:
        self._body = b"".join(map(encode_line, frames))

    def finish(self, action: Finish) -> None:
        body, self._body = self._body, None
        if body is not None:
            self._answer(Response(200, [NDJSON, *NO_STORE], body))
        elif action.refusal is not None:
            self._answer(refusal_response(action.refusal))
        else:
            self._answer(Response(204, [*NO_STORE], b""))
        self._news.wake()

    def _answer(self, response: Response) -> None:
        if not self._over:
            body = response.body
            assert isinstance(body, bytes)
            if self._exchange.start(response.status, [*header_lines(response.headers), *self._fields], len(body)):
                for start in range(0, len(body), PIECE):
                    self._exchange.write(HttpWire(body[start : start + PIECE]))
            self._exchange.finish()

    def drop(self) -> None:
        """The session has another connection now, which gets all of this again: keep no answer that is not read."""
        if not self._over and self._exchange.outbox.unsent > self._exchange.config.soft_mark:
            self._exchange.abort()

    # -- spi.Listener

    def room(self) -> None:
        """An answer is written whole."""

    def finished(self) -> None:
        self._over = True
        self._exchange.listener = None

    def lost(self, error: Exception | None) -> None:
        self.finished()
        self._news.wake()

    def going_away(self, now: bool) -> None:
        """The session hears of it by itself, and answers."""
