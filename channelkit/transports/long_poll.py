"""The poll binding of a session: one GET, answered at once, when something comes, or when its wait is over.

A poll that is lost loses nothing, since only an acknowledgement removes a message (docs/protocol.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from channelkit.http import Response
from channelkit.responding import ANSWERED, Answered
from channelkit.session.actions import Finish, Kind
from channelkit.session.codec import encode_line
from channelkit.session.refusals import Refusal
from channelkit.spi import SPI_VERSION, HttpExchange
from channelkit.transports.session_http import NDJSON, NO_STORE, refusal_response

if TYPE_CHECKING:
    from channelkit.session.frames import Frame
    from channelkit.spi import Session, Visit


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
        answer = await PollCarrier(session, visit.exchange).answered(query.a, query.ack, query.wait)
        return ANSWERED if answer is None else answer


class PollCarrier:
    """One poll.  `spi.Listener` of its exchange, and the session's carrier until it is answered."""

    __slots__ = ("_answer", "_body", "_exchange", "_gone", "_news", "_number", "_session")

    def __init__(self, session: Session, exchange: HttpExchange) -> None:
        self._session = session
        self._exchange = exchange
        self._number: int | None = None
        self._body: bytes | None = None
        self._answer: Response | None = None
        self._gone = False
        self._news = exchange.loop.parking()

    async def answered(self, a: int, ack: int, wait: float) -> Response | None:
        """Attach and wait for the answer; None if the client has gone."""
        self._exchange.listener = self
        result = self._session.attach(Kind.POLL, a, ack, self, wait)
        if isinstance(result, Refusal):
            self._exchange.listener = None
            return refusal_response(result)
        self._number = result
        self._exchange.watch_client()
        try:
            while self._answer is None and not self._gone:
                await self._news.park()
        finally:
            if self._answer is None:
                self._session.detached(result)  # gone, or cancelled
            if self._exchange.listener is self:
                self._exchange.listener = None
        return self._answer

    # -- spi.Carrier

    def write(self, frames: tuple[Frame, ...]) -> None:
        self._body = b"".join(map(encode_line, frames))

    def finish(self, action: Finish) -> None:
        if self._body is not None:
            self._answer = Response(200, [NDJSON, *NO_STORE], self._body)
        elif action.refusal is not None:
            self._answer = refusal_response(action.refusal)
        else:
            self._answer = Response(204, [*NO_STORE])
        self._news.wake()

    # -- spi.Listener

    def room(self) -> None:
        """An answer is written whole."""

    def finished(self) -> None:
        """Nobody listens any more when the answer is written."""

    def lost(self, error: Exception | None) -> None:
        self._gone = True
        self._news.wake()

    def going_away(self, now: bool) -> None:
        """The session hears of it by itself, and answers."""
