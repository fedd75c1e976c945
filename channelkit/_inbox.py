"""The inbox of a channel: what has arrived and nobody has taken, bounded; reading stops while it is full (G4, G14).

Not here: who takes it (`_callbacks`, `_incoming`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from channelkit._lifecycle import CLOSING, OPEN
from channelkit._outgoing import Outgoing

if TYPE_CHECKING:
    from channelkit._loop import Parking
    from channelkit.http import Request
    from channelkit.spi import Exchange

Message = str | bytes


class Inbox(Outgoing):
    """The messages of a channel that wait for a receiver."""

    __slots__ = ("_discarding", "_inbox", "_inbox_bytes", "_place", "_reading", "_received_count", "_receiver")

    def __init__(self, request: Request, exchange: Exchange) -> None:
        super().__init__(request, exchange)
        self._inbox: deque[Message] | None = None
        self._inbox_bytes = 0
        self._received_count = 0
        self._reading = True
        self._discarding = False  # nobody will ever receive
        self._place: Parking | None = None  # where a task waits in `receive`, once one has
        self._receiver: Parking | None = None  # the same, while one waits

    def _set_reading(self, on: bool) -> None:
        """Hook: stop or go on reading from the peer."""
        self._exchange.set_reading(on)

    def _store(self, message: Message) -> bool:
        """Keep it for whoever receives; False if nobody ever will: it is counted."""
        if (self._phase >= CLOSING and self._ending is not None) or self._discarding:
            self._unread += 1
            return False
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(message)
        self._inbox_bytes += len(message)
        if self._reading and self._inbox_full():
            self._reading = False
            self._set_reading(False)
        if self._receiver is not None:
            self._receiver.wake()
        return True

    def _inbox_full(self) -> bool:
        config = self._config
        assert self._inbox is not None
        return len(self._inbox) >= config.max_inbox or self._inbox_bytes >= config.max_inbox_bytes

    def _take(self) -> Message:
        assert self._inbox is not None
        message = self._inbox.popleft()
        self._inbox_bytes -= len(message)
        if self._info is not None and not self._inbox:
            self._loop.call_soon(self._run_callbacks)  # on_close may have waited for these
        if not self._reading and self._phase == OPEN and self._half_empty():
            self._reading = True
            self._set_reading(True)
        return message

    def _half_empty(self) -> bool:
        """Reading goes on at half, so that a slow receiver does not switch it with every message."""
        config = self._config
        assert self._inbox is not None
        return len(self._inbox) * 2 <= config.max_inbox and self._inbox_bytes * 2 <= config.max_inbox_bytes

    def _put_back(self, message: Message) -> None:
        """A message that was taken, by one who did not get it, is the next again."""
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.appendleft(message)
        self._inbox_bytes += len(message)
        if self._receiver is not None:
            self._receiver.wake()

    def _drop_inbox(self) -> None:
        if self._inbox:
            self._unread += len(self._inbox)
            self._inbox.clear()
            self._inbox_bytes = 0
        if not self._reading:
            self._reading = True
            self._set_reading(True)  # to see the reply to our close, say; what arrives is discarded
