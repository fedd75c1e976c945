"""Failed credentials, counted for each address in a table of bounded size.  Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

Place = str | bytes | None


@dataclass(slots=True)
class _Count:
    count: int
    until: float  # when it is forgotten


class Failures:
    """`limit` failures of one place within `interval` seconds of its first; `places` are remembered at most.

    All counts live equally long, so the table is in the order in which they end.  When it is full the oldest goes: who
    has addresses enough to push others out has no need to.
    """

    def __init__(self, limit: int, interval: float, places: int) -> None:
        self._limit = limit
        self._interval = interval
        self._places = places
        self._counts: dict[Place, _Count] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def wait(self, place: Place, now: float) -> float | None:
        """Seconds for which `place` has used up its failures; None if it has not.

        Who has no address (a UNIX socket) cannot be told from others there, and is never held back.
        """
        found = self._counts.get(place)
        if found is None or found.count < self._limit or self._ended(found, now):
            return None
        return found.until - now

    def add(self, place: Place, now: float) -> None:
        """`place` failed once more."""
        if place is None:
            return
        while self._counts and self._ended(next(iter(self._counts.values())), now):
            del self._counts[next(iter(self._counts))]
        found = self._counts.get(place)
        if found is not None and not self._ended(found, now):
            found.count += 1
            return
        self._counts.pop(place, None)
        if len(self._counts) >= self._places:
            del self._counts[next(iter(self._counts))]
        self._counts[place] = _Count(1, now + self._interval)

    def _ended(self, count: _Count, now: float) -> bool:
        """Also if it lies in the future: then it is of another event loop, whose clock is not ours."""
        return not 0 < count.until - now <= self._interval
