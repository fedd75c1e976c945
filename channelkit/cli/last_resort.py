"""A process that was told to stop, and does not: it is made to end.

An event loop that something holds hears no signal, and a handler may go on although it was cancelled.  So a thread
waits for the signals, beside whoever else hears them, and gives the process the time its own deadlines add up to.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from channelkit.config import Config
from channelkit.workers.job import KILL_MARGIN

logger = logging.getLogger("channelkit")

STOP = (signal.SIGINT, signal.SIGTERM)


class LastResort:
    """Counts from the first signal; a second one, which means "cut", leaves only what a cut takes."""

    def __init__(self, config: Config, *, lifespan: bool) -> None:
        closing = config.lifespan_timeout if lifespan else 0.0
        self._cut_within = config.handler_cleanup_timeout + closing + KILL_MARGIN
        self._stop_within = config.drain_timeout + self._cut_within
        self._process = os.getpid()
        self._heard, self._signal = os.pipe()
        os.set_blocking(self._signal, False)

    def stand_by(self) -> None:
        """In the main thread, when the server has its handlers of the signals in place: they are called as before."""
        for number in STOP:
            signal.signal(number, self._behind(signal.getsignal(number)))
        threading.Thread(target=self._watch, name="channelkit-last-resort", daemon=True).start()

    def _behind(self, handler: Any) -> Callable[[int, FrameType | None], Any]:
        def hear(number: int, frame: FrameType | None) -> Any:
            if os.getpid() == self._process:  # else it was forked off this one, and only its own end is meant
                try:
                    os.write(self._signal, b".")
                except BlockingIOError:
                    pass  # it has more than enough of them
            return handler(number, frame) if callable(handler) else None

        return hear

    def _watch(self) -> None:
        os.read(self._heard, 1)
        begun = time.monotonic()
        deadline = begun + self._stop_within
        if self._heard_within(self._stop_within):
            deadline = min(deadline, time.monotonic() + self._cut_within)
        while (left := deadline - time.monotonic()) > 0:
            threading.Event().wait(min(left, threading.TIMEOUT_MAX))
        logger.error(
            "told to stop %.0f s ago, and something goes on (cancelled but shielded, holding the event loop, or in a "
            "thread that is waited for): the stacks of all threads follow, and the process is cut",
            time.monotonic() - begun,
        )
        try:
            faulthandler.dump_traceback(all_threads=True)
            logging.shutdown()
            sys.stdout.flush()
        finally:
            os._exit(1)

    def _heard_within(self, seconds: float) -> bool:
        wait = None if seconds == math.inf else min(seconds, threading.TIMEOUT_MAX)
        readable, _, _ = select.select([self._heard], [], [], wait)
        return bool(readable)
