"""What limits and timeouts have done: counted, and logged once in a while, not once for each packet of an attack."""

from __future__ import annotations

import logging
from collections.abc import Callable

from channelkit.errors import BadRequest

logger = logging.getLogger("channelkit")

LOG_EVERY = 60.0  # seconds between two lines about one limit


class Tally:
    """How often each limit has acted.  The first time is logged at once, later ones together, at most once a minute."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.counts: dict[str, int] = {}
        self._clock = clock
        self._logged: dict[str, tuple[float, int]] = {}  # name -> when, and the count then

    def hit(self, name: str, detail: object = "", level: int = logging.WARNING) -> None:
        """The limit `name`, an option's name wherever it is one, has acted; `detail` tells of this one time."""
        count = self.counts[name] = self.counts.get(name, 0) + 1
        now = self._clock()
        last, before = self._logged.get(name, (-LOG_EVERY, 0))
        if now - last >= LOG_EVERY or not before:
            self._logged[name] = (now, count)
            logger.log(level, "%s: %d since the last such line, the latest: %s", name, count - before, detail)

    def refused(self, error: BadRequest) -> None:
        """A request was refused, or one that was being read broke off; each error counts once, whoever reports it."""
        if error.counted:
            return
        error.counted = True
        if error.limit is not None:
            self.hit(error.limit, error)
        else:
            self.hit(f"refused {error.status}", error, logging.INFO)
