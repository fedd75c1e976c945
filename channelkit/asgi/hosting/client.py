"""The client of one request as an application's `receive` and `send` see it: is it there, is there room."""

from __future__ import annotations

from channelkit._handover import Passage
from channelkit._loop import Parking
from channelkit._outgoing import ACCEPTANCES_PER_YIELD
from channelkit.errors import BadRequest
from channelkit.responding import refuse
from channelkit.spi import HttpExchange


class Client:
    """Implements `spi.Listener`; any number of the application's tasks may wait for news."""

    def __init__(self, exchange: HttpExchange) -> None:
        self.exchange = exchange
        self.gone = exchange.gone
        self.leaving = False  # the server stops: whatever has no end of its own must end now
        self._waiting: list[Parking] = []
        exchange.listener = self

    def release(self) -> None:
        """Let go of the exchange: nothing more is to be heard of it."""
        if self.exchange.listener is self:
            self.exchange.listener = None

    @property
    def passage(self) -> Passage | None:
        """What lets an application that holds sessions hand the connection on, if there is anybody to take it."""
        company = self.exchange.host.company
        return None if company is None else Passage(company, self.exchange.hand_over)

    # -- what the exchange tells

    def room(self) -> None:
        self.news()

    def finished(self) -> None:
        self.news()

    def lost(self, error: Exception | None) -> None:
        self.gone = True
        self.news()

    def going_away(self, now: bool) -> None:
        self.leaving = True
        if now and not self.exchange.started:
            # The application is cancelled next: a request that it holds is told so, as a held channel's is.
            refuse(self.exchange, BadRequest(503, "the server stops, and the application has not begun to answer"))
            self.gone = True
        self.news()

    # -- waiting

    def news(self) -> None:
        """Whoever waits looks again."""
        for parking in self._waiting:
            parking.wake()

    async def wait(self) -> None:
        """Wait for news, which may be of no interest.  What is buffered is handed over now: its writer waits."""
        self.exchange.flush()
        self.exchange.loop.burst = 0
        parking = self.exchange.loop.parking()
        self._waiting.append(parking)
        try:
            await parking.park()
        finally:
            self._waiting.remove(parking)

    async def wait_room(self) -> None:
        """Wait while more than `soft_mark` is unsent; now and then let the others run in any case.

        Once the exchange was let go of nobody tells of room: the response is over, and so is the wait.
        """
        exchange = self.exchange
        loop = exchange.loop
        loop.burst += 1
        if self.gone or loop.burst >= ACCEPTANCES_PER_YIELD:
            loop.burst = 0
            await loop.checkpoint()  # an application that sends for ever to nobody would freeze everything
        while exchange.listener is self and not self.gone and exchange.buffered_bytes > exchange.config.soft_mark:
            exchange.want_room()
            await self.wait()
