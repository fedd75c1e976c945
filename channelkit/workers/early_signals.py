"""SIGTERM before anybody listens to it: while a handler's module is imported, which may take its time."""

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
    finally:
        signal.signal(signal.SIGTERM, before)
