"""The life of a channel: new, open, closing, over; and everything that waits for it.

Here: the phase, who closed it, the one `CloseInfo`, waking whoever waits.  Not here: messages (`_outgoing`,
`_inbox`).  The phases only ever go forward:

    NEW -> OPEN -> CLOSING (our side said so; the wire is finishing) -> OVER
              \\______ the peer or the network ended it _____________/

`is_open` is phase == OPEN.  OVER is entered exactly once, in `_end`, and only there is `close_info` set; so all that
waits sees the same info (G8), and `on_close` can be scheduled exactly once (G7).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from channelkit.errors import WorkersBusy
from channelkit.status import By, CloseInfo, CloseStatus

if TYPE_CHECKING:
    from channelkit._loop import Loop, Parking
    from channelkit.config import Config
    from channelkit.http import Request
    from channelkit.spi import Exchange
    from channelkit.sync import SyncChannel

NEW, OPEN, CLOSING, OVER = range(4)

logger = logging.getLogger("channelkit")


class Lifecycle(ABC):
    """Phase, end and waiters of one channel.  All methods: on the loop's own thread only."""

    __slots__ = (
        "_config",
        "_ending",
        "_exchange",
        "_info",
        "_loop",
        "_outbox",
        "_phase",
        "_sync",
        "_unread",
        "_waiters",
        "request",
    )

    def __init__(self, request: Request, exchange: Exchange) -> None:
        self.request = request
        self._exchange = exchange
        self._outbox = exchange.outbox  # whose `unsent` is what was accepted and not handed over
        self._loop: Loop = exchange.loop
        self._config: Config = exchange.config
        self._phase = NEW
        self._info: CloseInfo | None = None
        self._ending: tuple[CloseStatus, int, str] | None = None  # set by the call that closed it from our side
        self._unread = 0
        self._sync: SyncChannel | None = None  # its view for other threads, once asked for
        self._waiters: list[Parking] | None = None  # flush, wait_closed, receive: woken by room and by the end

    # -- hooks a transport supplies

    @abstractmethod
    def _finish(self, code: int, reason: str) -> None:
        """Begin the wire's end: all that was accepted, then the close.  `_ended` must follow in bounded time."""

    @abstractmethod
    def _abort(self) -> None:
        """End the wire at once, dropping what is unsent.  `_ended` must follow."""

    # -- the end, from our side

    def _begin_close(self, status: CloseStatus, code: int, reason: str) -> bool:
        """Close from our side; True if this call did it.  Nothing of the user's runs inside."""
        if self._phase >= CLOSING:
            return False
        self._phase = CLOSING
        self._ending = (status, code, reason)
        self._drop_inbox()
        self._wake_senders()
        self._finish(code, reason)
        return True

    def _fail(self, code: int = 1011) -> None:
        """End the channel because the application's own code failed."""
        status = CloseStatus.INTERNAL_SERVER_ERROR if code == 1011 else CloseStatus.SERVER_CLOSE
        self._begin_close(status, code, "")

    def _failed_by(self, error: BaseException) -> None:
        """The same, by `error`."""
        self._fail(1013 if isinstance(error, WorkersBusy) else 1011)

    # -- the end, from the wire

    def _peer_closing(self) -> None:
        """The peer has closed: nothing more is accepted; `_ended` follows when the wire is done."""
        if self._phase < CLOSING:
            self._phase = CLOSING
            self._wake_senders()

    def _ended(
        self,
        status: CloseStatus,
        code: int,
        reason: str,
        by: By,
        *,
        delivered: bool | None = None,
        unsent: int = 0,
    ) -> None:
        """The wire is at its end.  If our side had closed before, that is what is told (G6, G11)."""
        if self._phase == OVER:
            return
        if self._ending is not None:
            status, code, reason = self._ending
            by = "local"
        self._phase = OVER
        self._info = CloseInfo(status, code, reason, by, False if unsent else delivered, unsent, self._unread)
        self._account(self._info)
        self._wake_senders()
        self._wake_waiters()
        self._loop.call_soon(self._run_callbacks)

    # -- waiting

    def _wake_waiters(self) -> None:
        for parking in self._waiters or ():
            parking.wake()

    async def _wait(self) -> None:
        """Wait until there was room, or the end came; wake-ups carry nothing, so look again.

        A parked task cannot write more, so what is buffered is handed over now (design: coalescing).
        """
        self._exchange.flush()
        parking = self._loop.parking()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(parking)
        try:
            await parking.park()
        finally:
            self._waiters.remove(parking)

    # -- what the other layers of the channel supply

    @abstractmethod
    def _account(self, info: CloseInfo) -> None: ...

    @abstractmethod
    def _wake_senders(self) -> None: ...

    @abstractmethod
    def _drop_inbox(self) -> None: ...

    @abstractmethod
    def _run_callbacks(self) -> None: ...
