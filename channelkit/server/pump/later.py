"""Work that waits for a later turn of the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from channelkit.server.pump.reactor import Reactor

T = TypeVar("T")


class Later(Generic[T]):
    """Links with something to do that no event of epoll will tell of: in order, for a bounded time each turn.

    What is added while they are served, by themselves say, waits for the next turn: the loop gets its own in between.
    """

    __slots__ = ("_queue", "_reactor", "_scheduled", "_seconds", "_step")

    def __init__(self, reactor: Reactor, step: Callable[[T], None], seconds: float) -> None:
        self._reactor = reactor
        self._step = step
        self._seconds = seconds
        self._queue: deque[T] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, link: T) -> None:
        """`step(link)` is called when it is its turn."""
        self._queue.append(link)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._reactor.loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._scheduled = False
        self._reactor.turn(self._serve_some)
        if self._queue:
            self._schedule()

    def _serve_some(self) -> None:
        clock = self._reactor.clock
        until = clock() + self._seconds
        for _ in range(len(self._queue)):
            self._step(self._queue.popleft())
            if clock() > until:
                break
