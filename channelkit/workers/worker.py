"""One worker process as its supervisor sees it, and the place it fills."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from channelkit.workers.job import READY

FIRST_PAUSE = 0.5  # seconds before a worker that died is replaced; each further death doubles it
LONGEST_PAUSE = 30.0  # a handler that cannot start may be mended any time: keep trying
HEALTHY = 30.0  # a worker that lived so long starts a new count
LATE = 30.0  # seconds after which it is told that a worker does not listen yet: imports take some, databases too
_OF_SUPERVISOR = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")  # what systemd has told it alone


class Worker:
    """One worker process.  Raises OSError if the system has no room for it; nothing is left then."""

    def __init__(self, number: int, job: bytes, sockets: Sequence[int]) -> None:
        self.number = number
        self.ready = False
        self.stopping = False
        self.started_at = time.monotonic()
        self.late_at = self.started_at + LATE
        self.kill_at = math.inf
        with ExitStack() as ours:
            with ExitStack() as theirs:
                job_read, job_write = _pipe(theirs, ours)
                leash_read, self._leash = _pipe(theirs, ours)
                self.ready_pipe, ready_write = _pipe(ours, theirs)
                os.set_blocking(self.ready_pipe, False)
                inherited = (job_read, ready_write, leash_read)
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "channelkit.workers.process", *map(str, inherited)],
                    pass_fds=(*inherited, *sockets),
                    process_group=0,  # a Ctrl-C at the terminal is ours alone: two signals would mean "cut"
                    env={name: value for name, value in os.environ.items() if name not in _OF_SUPERVISOR},
                )
            ours.pop_all()
        with open(job_write, "wb", buffering=0) as pipe:
            try:
                pipe.write(job)
            except BrokenPipeError:
                pass  # it is gone already; that is seen elsewhere

    def __repr__(self) -> str:
        return f"worker {self.number} (process {self.process.pid})"

    def tell(self, number: int) -> None:
        """Send it a signal; it may be gone already."""
        self.process.send_signal(number)

    def has_become_ready(self) -> bool:
        """Whether it has said that it listens, asked when its pipe can be read or it has ended."""
        try:
            self.ready = os.read(self.ready_pipe, 1) == READY
        except BlockingIOError:
            pass  # it has ended, and a process that its module forked holds the other end still
        return self.ready

    def close(self) -> None:
        """It has ended: give back what belonged to it."""
        os.close(self.ready_pipe)
        os.close(self._leash)


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """A pipe whose ends are closed when whoever has them leaves."""
    read, write = os.pipe()
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    return read, write


class Slot:
    """A place for one worker: who is there, who comes next, and how often it went wrong."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.successor: Worker | None = None
        self.deaths = 0
        self.retry_at = -math.inf

    @property
    def empty(self) -> bool:
        """Nobody is there, and nobody comes."""
        return self.worker is None and self.successor is None

    def pause(self, lived: float) -> float:
        """Wait before another is started, and how long; `lived`: seconds that the one lived which died unasked."""
        if lived >= HEALTHY:
            self.deaths = 0
        self.deaths += 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.deaths - 1, 16))  # it may die for days
        self.retry_at = time.monotonic() + pause
        return pause
