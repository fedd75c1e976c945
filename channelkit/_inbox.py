"""The inbox of a channel: what has arrived and nobody has taken, bounded; reading stops while it is full (G4, G14).

Not here: who takes it (`_callbacks`, `_incoming`).  A worker that runs this channel's on_receive takes messages in its
own thread.  No lock is needed for that: only one side takes at a time, but for a close that drops them, so both take
one by one what a deque gives to either; and each of the two numbers of bytes has one thread that writes it.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
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

    __slots__ = (
        "_discarding",
        "_inbox",
        "_inbox_bytes",
        "_place",
        "_reading",
        "_received_count",
        "_receiver",
        "_taken_bytes",
    )

    def __init__(self, request: Request, exchange: Exchange) -> None:
        super().__init__(request, exchange)
        self._inbox: deque[Message] | None = None
        self._inbox_bytes = 0
        self._taken_bytes = 0  # of them: taken by a worker, which has not come back yet
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
        return len(self._inbox) >= config.max_inbox or self._inbox_bytes - self._taken_bytes >= config.max_inbox_bytes

    @property
    def _waiting_bytes(self) -> int:
        return self._inbox_bytes - self._taken_bytes

    def _take(self) -> Message:
        assert self._inbox is not None
        message = self._inbox.popleft()
        self._inbox_bytes -= len(message)
        if self._info is not None and not self._inbox:
            self._loop.call_soon(self._run_callbacks)  # on_close may have waited for these
        if not self._reading:
            self._read_on()
        return message

    def _read_on(self) -> None:
        if not self._reading and self._phase == OPEN and self._half_empty():
            self._reading = True
            self._set_reading(True)

    def _take_elsewhere(self) -> Message | None:
        """`_take` in the thread of a worker, while the loop takes nothing; None if nothing is there."""
        if not self._inbox:
            return None
        try:
            message = self._inbox.popleft()
        except IndexError:  # a close was quicker
            return None
        self._taken_bytes += len(message)
        if not self._reading and self._half_empty():
            with suppress(RuntimeError):  # the loop has ended
                self._loop.run_from_thread(self._read_on)
        return message

    def _settle_up(self) -> None:
        """The worker is back."""
        self._inbox_bytes -= self._taken_bytes
        self._taken_bytes = 0
        if not self._reading:
            self._read_on()  # it may have emptied the inbox in the moment in which we found it full

    def _half_empty(self) -> bool:
        """Reading goes on at half, so that a slow receiver does not switch it with every message."""
        config = self._config
        assert self._inbox is not None
        return len(self._inbox) * 2 <= config.max_inbox and self._waiting_bytes * 2 <= config.max_inbox_bytes

    def _put_back(self, message: Message) -> None:
        """A message that was taken, by one who did not get it, is the next again."""
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.appendleft(message)
        self._inbox_bytes += len(message)
        if self._receiver is not None:
            self._receiver.wake()

    def _drop_inbox(self) -> None:
        while self._inbox:
            try:
                message = self._inbox.popleft()
            except IndexError:  # the worker was quicker
                break
            self._unread += 1
            self._inbox_bytes -= len(message)
        if not self._reading:
            self._reading = True
            self._set_reading(True)  # to see the reply to our close, say; what arrives is discarded
