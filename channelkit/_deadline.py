"""One movable deadline, cheap to move: what the timeouts of every host are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channelkit._loop import Loop, Timer


class Deadline:
    """Calls `expired()` once the loop's clock reaches the time last set.

    Moving it later only stores a number; the one timer looks when it fires and sleeps on.  So a connection may move
    its deadline with every message.
    """

    __slots__ = ("_at", "_expired", "_loop", "_timer", "_timer_at")

    def __init__(self, loop: Loop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._at = math.inf
        self._timer_at = math.inf
        self._timer: Timer | None = None

    def set(self, seconds: float) -> None:
        """Expire in `seconds` from now (math.inf: never)."""
        if seconds == math.inf:
            self._at = math.inf
            return
        self._at = at = self._loop.time() + seconds
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._arm(at)

    def cancel(self) -> None:
        """Never expire; drop the timer."""
        self._at = math.inf
        self._timer_at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at: float) -> None:
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        if self._loop.time() >= self._at:
            self._at = math.inf
            self._expired()
        elif self._at < math.inf:
            self._arm(self._at)
