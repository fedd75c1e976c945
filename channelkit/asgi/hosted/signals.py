"""SIGINT and SIGTERM, heard beside the host: streams and WebSockets are to end before the host waits for them.

Hosts tell an application of their end by the lifespan's shutdown only, and most of them wait for every open response
before that: an event stream would hold them for ever.  So we stand in front of the handler that the host has set, act,
and call it.  Where nobody has set one we set none: then the signal's default is what the program wants.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Link:
    """Our handler for one signal, in front of the one that was there."""

    def __init__(self, number: int, before: Any, heard: Callable[[], None]) -> None:
        self._number = number
        self._before = before
        self._heard: Callable[[], None] | None = heard

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        if self._heard is not None:
            self._heard()
        return self._before(number, frame) if callable(self._before) else None

    def remove(self) -> None:
        """Hear no more; where somebody stands in front of us by now, go on passing on."""
        self._heard = None
        if signal.getsignal(self._number) is self:
            signal.signal(self._number, self._before)


def _is_hosts(number: int, before: Any) -> bool:
    """Whether a host has decided what this signal does.  A worker process that ignores Ctrl-C leaves it to its parent,
    which stops it a moment later."""
    if before is signal.SIG_IGN:
        return number == signal.SIGINT and multiprocessing.parent_process() is not None
    return callable(before) and before is not signal.default_int_handler


@contextmanager
def heard_signals(heard: Callable[[], None], wanted: bool) -> Iterator[None]:
    """Call `heard()` in the signal's handler, before the host's own, for as long as the block lasts."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    links: list[_Link] = []
    for number in SIGNALS:
        before = signal.getsignal(number)
        if _is_hosts(number, before):
            links.append(_Link(number, before, heard))
            signal.signal(number, links[-1])
    try:
        yield
    finally:
        for link in links:
            link.remove()
