"""Noticing that something holds the loop: a beat that comes late was held up by whatever ran meanwhile."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from channelkit._deadline import Deadline

if TYPE_CHECKING:
    from channelkit._loop import Loop

ALARMING = 1.0  # seconds: less happens on a busy machine without anybody's fault
BEAT = 0.5  # seconds: a stall of `slow_callback` is seen with a probability of its length over this, a long one always


class Heartbeat:
    """Beats until stopped; a beat that is more than `limit` seconds late is counted, and told once a minute."""

    def __init__(self, loop: Loop, limit: float) -> None:
        self._loop = loop
        self._limit = limit
        self._deadline = Deadline(loop, self._beat)
        self._next()

    def _next(self) -> None:
        self._due = self._loop.time() + BEAT
        self._deadline.set(BEAT)

    def _beat(self) -> None:
        late = self._loop.time() - self._due
        if late > self._limit:
            meters = self._loop.meters
            meters.stalls += 1
            meters.longest_stall = max(meters.longest_stall, late)
            level = logging.WARNING if late >= ALARMING else logging.INFO
            self._loop.tally.hit("slow_callback", f"something held the event loop for about {late:.2f} s", level)
        self._next()

    def stop(self) -> None:
        """No more beats."""
        self._deadline.cancel()
