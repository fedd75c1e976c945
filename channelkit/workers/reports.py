"""What a worker tells its supervisor: once a second that its loop runs, and its numbers if they are wanted.

A report is a line on their pipe: JSON, or nothing.  The first one says that the worker listens.  Each is written by
the event loop itself, so a loop that stands still is silent.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import anyio

from channelkit.observing.prometheus import Numbers, numbers_of

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from channelkit.server.run import Server

BEAT = 1.0  # seconds between two reports; a scrape is as fresh as that


class Reports:
    """The worker's end of the pipe; it begins when the server listens."""

    def __init__(self, pipe: int, tasks: TaskGroup, *, numbers: bool) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._tasks = tasks
        self._numbers = numbers
        self._server: Server | None = None
        self._rest = b""  # of a line for which the pipe had no room

    def started(self, server: Server) -> None:
        """It listens."""
        self._server = server
        self.send()
        self._tasks.start_soon(self._run, name="reports")

    async def _run(self) -> None:
        while True:
            await anyio.sleep(BEAT)
            self.send()

    def send(self) -> None:
        """Report once; also when all is over, for the last numbers.  Never waits: a supervisor may stand still."""
        if self._server is None:
            return
        try:
            self._rest = self._rest or self._line(self._server)
            self._rest = self._rest[os.write(self._pipe, self._rest) :]
        except OSError:
            pass  # no room, or no supervisor any more, which is noticed elsewhere

    def _line(self, server: Server) -> bytes:
        return (json.dumps(numbers_of(server.statistics())) if self._numbers else "").encode() + b"\n"


def numbers_in(line: bytes) -> Numbers | None:
    """What a report tells; None if it has no numbers, as a line of somebody else who has the pipe has none."""
    try:
        numbers = json.loads(line or "null")
    except ValueError:
        return None
    return numbers if isinstance(numbers, dict) else None
