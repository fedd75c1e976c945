"""Signals where nobody listens to them: before a server does, while its handler is imported, and when it has ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from channelkit.server.signals import by_default


class Early:
    """The handler of SIGTERM until a server has one, and again when it has none any more."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self.served = False  # the server has listened, or was stopped before: it hears, and heard, for itself

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            by_default(number)
        elif not self.served:
            raise KeyboardInterrupt


@contextmanager
def terminable() -> Iterator[Early]:
    """Inside, SIGTERM is a KeyboardInterrupt, as Ctrl-C is, until a server takes both over.  In the main thread only.

    The kernel keeps from process 1 of a container every signal that it has no handler for: `docker stop` would wait.
    """
    early = Early()
    before = signal.signal(signal.SIGTERM, early)
    try:
        yield early
    except KeyboardInterrupt:
        ignore_the_rest()  # one is enough
        raise
    except BaseExceptionGroup as group:  # what an event loop makes of it
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        ignore_the_rest()
        raise KeyboardInterrupt from None
    finally:
        if signal.getsignal(signal.SIGTERM) is early:
            signal.signal(signal.SIGTERM, before)


def ignore_the_rest() -> None:
    """The process has ended in order but for a few lines of Python: no further signal shall make a failure of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
