"""Sending: acceptance, the two marks, and the line in which senders wait.

The rule everything here serves: *acceptance is the last thing `send` does*.  Encode (may raise), wait for a turn and
for room, yield if it is time; then accept and return with no await in between.  So a cancelled `send` was never
accepted, under anyio's scopes and under native `Task.cancel()` alike (G3, G18).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Hashable
from threading import get_ident
from typing import TYPE_CHECKING, Any

import anyio

from channelkit._lifecycle import OPEN, Lifecycle
from channelkit.status import CloseStatus

if TYPE_CHECKING:
    from channelkit._loop import Parking
    from channelkit.http import Request
    from channelkit.spi import Exchange

#: A task gets to accept this many messages between two real yields: enough that a yield's cost (about 1 us) vanishes,
#: few enough that a loop of sends cannot hold the event loop for a millisecond.
ACCEPTANCES_PER_YIELD = 64


class Outgoing(Lifecycle):
    """The sending half of a channel."""

    __slots__ = ("_accepted", "_senders", "single_response")

    def __init__(self, request: Request, exchange: Exchange) -> None:
        super().__init__(request, exchange)
        self._accepted = 0
        self._senders: deque[Parking] | None = None
        #: Whether the first `send` is the whole answer: the default of `close_after_send`.
        self.single_response = False

    # -- hooks a transport supplies

    @abstractmethod
    def _encode(self, data: Any) -> Any:
        """The wire form of `data` (sized), or TypeError or ValueError naming what is wrong.  No effect."""

    @abstractmethod
    def _write(self, wire: Any, last: bool) -> None:
        """Accept `wire`; `last`: nothing follows it, `_finish` is called next.  Never waits, never raises."""

    @property
    def _wire_format(self) -> Hashable | None:
        """Channels of equal format may share what `_encode` gave; None: never."""
        return None

    # -- sending

    async def send(self, data: Any, close_after_send: bool | None = None) -> bool:
        """Send `data` to the peer, waiting for room while more than `soft_mark` bytes are unsent.

        Returns True once the message is accepted, in order; False if the channel is closed or closes meanwhile.  Use
        `flush` to know that it was handed over.  With `close_after_send` the close follows the message with nothing
        between; the default is True on a single-response channel and False on every other.

        Cancelled, the message was not accepted.  Any number of tasks may send at once; waiting ones are served in
        order.  Raises TypeError or ValueError if `data` cannot be carried; nothing is sent then.  It never raises
        because of the peer.
        """
        loop = self._loop
        if get_ident() != loop.thread:
            self._check_thread()
        wire = self._encode(data)
        if (
            self._phase == OPEN
            and not self._senders
            and self._outbox.unsent <= self._config.soft_mark
            and loop.burst < ACCEPTANCES_PER_YIELD
        ):
            loop.burst += 1
        elif not await self._turn():
            await loop.checkpoint()  # or a loop of sends to a closed channel would freeze everything
            return False
        self._accept(wire, self.single_response if close_after_send is None else close_after_send)
        return True

    def send_nowait(self, data: Any, close_after_send: bool | None = None) -> bool:
        """Send `data` without waiting: True if accepted, False if the channel is closed.

        Raises anyio.WouldBlock, having sent nothing, if more than `hard_mark` bytes would be unsent or senders are
        waiting in `send`; TypeError or ValueError as `send` does; RuntimeError from another thread than the loop's.
        """
        if get_ident() != self._loop.thread:
            self._check_thread()
        wire = self._encode(data)
        if self._phase != OPEN:
            return False
        self._accept_nowait(wire, self.single_response if close_after_send is None else close_after_send)
        return True

    def _accept_nowait(self, wire: Any, last: bool = False) -> None:
        unsent = self._outbox.unsent
        if self._senders or (unsent and unsent + len(wire) > self._config.hard_mark):
            raise anyio.WouldBlock
        self._accept(wire, last)

    def _accept(self, wire: Any, last: bool) -> None:
        self._accepted += 1
        self._write(wire, last)
        if last:
            self._begin_close(CloseStatus.SERVER_CLOSE, 1000, "")

    async def _turn(self) -> bool:
        """Wait for this sender's turn and for room.  No await follows its last look, so the answer still holds."""
        loop = self._loop
        place: Parking | None = None
        try:
            while self._phase == OPEN:
                first = not self._senders or self._senders[0] is place
                if not first or self._outbox.unsent > self._config.soft_mark:
                    if place is None:
                        place = self._join_line()
                    self._exchange.flush()
                    if not first or self._outbox.unsent > self._config.soft_mark:
                        self._exchange.want_room()
                        loop.burst = 0  # parking is a real yield
                        await place.park()
                elif loop.burst >= ACCEPTANCES_PER_YIELD:
                    loop.burst = 0
                    await loop.checkpoint()
                else:
                    loop.burst += 1
                    return True
            return False
        finally:
            if place is not None:
                self._leave_line(place)

    def _join_line(self) -> Parking:
        place = self._loop.parking()
        if self._senders is None:
            self._senders = deque()
        self._senders.append(place)
        return place

    def _leave_line(self, place: Parking) -> None:
        """Leave, served or cancelled; a wake-up that came meanwhile is passed on."""
        assert self._senders is not None
        self._senders.remove(place)
        if self._senders:
            self._senders[0].wake()

    def _wake_senders(self) -> None:
        for place in self._senders or ():
            place.wake()

    def _room(self) -> None:
        """Bytes have left: the first sender looks again, so do the others who wait, and the callbacks go on."""
        if self._senders:
            self._senders[0].wake()
        self._wake_waiters()
        self._run_callbacks()

    def _check_thread(self) -> None:
        if not self._loop.in_loop_thread:
            raise RuntimeError("a channel belongs to its event loop's thread; in any other thread use channel.sync")
