"""How fast: back-off of a client, the rate rule for attaches (P7), and when a stream is rotated early (P6)."""

from __future__ import annotations

import math

NEVER = math.inf

#: P4, client 4: attach again after this, doubling, up to that or to a sixth of the grace, full jitter.
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0


def backoff(failures: int, jitter: float, grace: float) -> float:
    """Seconds before the next try after `failures` in a row; `jitter` is drawn from [0, 1).

    Never a large part of the grace, or an outage much shorter than it would be slept over: of the sessions cut off for
    20 s of 30, delays that double to 30 s lose nearly half (F29).
    """
    if failures <= 0:
        return 0.0
    return jitter * min(LONGEST_DELAY, grace / 6, FIRST_DELAY * 2.0 ** min(failures - 1, 10))


def rotation_delay(fruitless: int, longest: float) -> float:
    """The least age of an attachment before a full window ends it: 0, then 1, 2, 4 ... seconds.

    `fruitless` attachments in a row brought no higher acknowledgement: their client is slow, or a proxy strips its
    Last-Event-ID, and rotating faster would only send the same again (F11).
    """
    return 0.0 if fruitless <= 0 else min(longest, 2.0 ** min(fruitless - 1, 30))


class AttachRate:
    """At most `most` attaches in `interval` seconds that bring no higher ack and come within 1 s of the one before."""

    __slots__ = ("interval", "last", "most", "times")

    CLOSE_TOGETHER = 1.0

    def __init__(self, most: int, interval: float) -> None:
        self.most = most
        self.interval = interval
        self.times: list[float] = []
        self.last: float | None = None

    def refused(self, now: float, *, progress: bool) -> float | None:
        """Seconds after which to try again if this attach comes too often, else None; nothing is recorded."""
        if not self._counts(now, progress=progress):
            return None
        while self.times and self.times[0] <= now - self.interval:
            del self.times[0]
        if len(self.times) < self.most:
            return None
        return min(self.CLOSE_TOGETHER, self.times[0] + self.interval - now)

    def admitted(self, now: float, *, progress: bool) -> None:
        """Record an attach that was admitted."""
        if self._counts(now, progress=progress):
            self.times.append(now)
        self.last = now

    def _counts(self, now: float, *, progress: bool) -> bool:
        return not progress and self.last is not None and now - self.last < self.CLOSE_TOGETHER


class Turnover:
    """How often a session's attachments may follow one another, and when a full window ends a stream early."""

    __slots__ = ("_fruitless", "_longest", "blocked", "progress", "rate")

    def __init__(self, rate: AttachRate, longest: float) -> None:
        self.rate = rate
        self.blocked = False  # a sender waits for the window
        self._longest = longest
        self._fruitless = 0
        self.progress = False  # an acknowledgement since the newest attach, by whatever way it came

    def admitted(self, now: float, *, progress: bool) -> None:
        """An attach was admitted; `progress`: it acknowledges more than was."""
        self._fruitless = 0 if self.progress else self._fruitless + 1
        self.progress = False
        self.rate.admitted(now, progress=progress)

    def acknowledged(self) -> None:
        """A higher acknowledgement came: the window has room."""
        self.progress = True
        self._fruitless = 0
        self.blocked = False

    def early(self, since: float) -> float:
        """When a stream attached at `since` ends because of a full window, so that its client acknowledges."""
        return since + rotation_delay(self._fruitless, self._longest) if self.blocked else NEVER
