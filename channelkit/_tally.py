"""What the limits and timeouts of a host did: every time is counted, and logged once in a while.

A log line for each packet of an attack would be an attack of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from channelkit._lifecycle import logger

EVERY = 60.0  # seconds between two log lines about one limit


class Tally:
    """Counts by the names the limits have in `Config`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self._now = now
        self._told: dict[str, tuple[float, int]] = {}  # when a limit was logged last, and its count then

    def hit(self, limit: str) -> None:
        """A peer ran into `limit`."""
        self.counts[limit] += 1
        count = self.counts[limit]
        at, before = self._told.get(limit, (-EVERY, 0))
        if self._now() - at >= EVERY:
            self._told[limit] = (self._now(), count)
            logger.warning("%s: %d connections ran into this limit (%d so far)", limit, count - before, count)
