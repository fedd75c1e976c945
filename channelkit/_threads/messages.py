"""Messages for a plain `on_receive`: one job of the pool takes those that wait, one after the other.

A turn through the loop for each would cost more than most callbacks do.  Between two messages the worker looks at what
the loop would look at (`Callbacks._take_on_worker`), and gives its place back to the pool after a while, or once it
has stepped aside to wait: so neither order nor the accounting of places differs from a job for each message.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from channelkit._threads.jobs import CALLBACK, Job, call_plain

if TYPE_CHECKING:
    from channelkit._callbacks import Callbacks
    from channelkit._threads.pool import Workers

#: Messages of one channel in one job: enough that a job's cost vanishes.
MESSAGES_PER_JOB = 64
#: Seconds after which no further one begins: what others wait for a place because of us, when callbacks are slow.
SECONDS_PER_JOB = 0.01


class Messages(Job):
    """Calls `function(*args)`, whose last argument is a message, and goes on with those behind it."""

    __slots__ = ("_channel",)

    def __init__(self, pool: Workers, channel: Callbacks, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        super().__init__(pool, CALLBACK, function, args)
        self._channel = channel

    def _do(self) -> None:
        until = time.monotonic() + SECONDS_PER_JOB
        self._call()
        for _ in range(MESSAGES_PER_JOB - 1):
            if self.kind != CALLBACK or self._pool.stopped or time.monotonic() >= until:
                return
            message = self._channel._take_on_worker()
            if message is None:
                return
            self._args = (*self._args[:-1], message)
            self._call()

    def _call(self) -> None:
        self._context.copy().run(call_plain, self._function, self._args)  # what one sets is its own
