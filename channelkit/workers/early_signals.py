"""Signals where nobody listens to them: before a server does, while its handler is imported, and when it has ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM is a KeyboardInterrupt, as Ctrl-C is, until a server takes both over.  In the main thread only.

    The kernel keeps from process 1 of a container every signal that it has no handler for: `docker stop` would wait.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        ignore_the_rest()  # one is enough
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, before)


def ignore_the_rest() -> None:
    """The process has ended in order but for a few lines of Python: no further signal shall make a failure of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
