"""One worker process as its supervisor sees it, and the place it fills."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from channelkit.observing.prometheus import Numbers
from channelkit.workers.job import DUMP_SIGNAL
from channelkit.workers.neighbours import clear, mailbox
from channelkit.workers.reports import numbers_in

FIRST_PAUSE = 0.5  # seconds before a worker that died is replaced; each further death doubles it
LONGEST_PAUSE = 30.0  # a handler that cannot start may be mended any time: keep trying
HEALTHY = 30.0  # a worker that lived so long starts a new count
WORKER_TIMEOUT = 60.0  # without a sign of life; above ping_interval + pong_timeout, after which its peers have given up
SHORTEST_TIMEOUT = 3.0  # three of its reports: a busy machine may delay one
DUMP_TIME = 2.0  # seconds from asking a worker for its stacks to killing it
LATE = 30.0  # seconds after which it is told that a worker does not listen yet: imports take some, databases too
_OF_SUPERVISOR = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")  # what systemd has told it alone


class Worker:
    """One worker process.  Raises OSError if the system has no room for it; nothing is left then."""

    def __init__(
        self, number: int, name: str, job: bytes, sockets: Sequence[int], others: Sequence[Worker], timeout: float
    ) -> None:
        """`name` is like no other's, not even of one that is over: sessions carry it.  `others` live."""
        self.number = number
        self.name = name
        self.ready = False
        self.stopping = False
        self.started_at = time.monotonic()
        self.late_at = self.started_at + LATE
        self.kill_at = math.inf
        self.numbers: Numbers | None = None  # what it has told of itself last
        self._timeout = timeout  # seconds that it may be silent
        self.silent_at = math.inf  # when it will have been so for too long
        self._rest = b""  # of a report that is not complete
        with ExitStack() as ours:
            with ExitStack() as theirs:
                job_read, job_write = _pipe(theirs, ours)
                leash_read, self._leash = _pipe(theirs, ours)
                self.reports, reports_write = _pipe(ours, theirs)
                os.set_blocking(self.reports, False)
                self._mailbox, self._way_in = mailbox()
                ours.callback(self._mailbox.close)
                ours.callback(self._way_in.close)
                pipes = (job_read, reports_write, leash_read, self._mailbox.fileno(), self.way_in)
                neighbours = {other.name: other.way_in for other in others}
                self.process = subprocess.Popen(
                    [
                        *(sys.executable, "-P", "-m", "channelkit.workers.process"),
                        *map(str, pipes),
                        name,
                        *(f"{other}={way}" for other, way in neighbours.items()),
                    ],
                    pass_fds=(*pipes, *neighbours.values(), *sockets),
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

    @property
    def way_in(self) -> int:
        """The descriptor of the end of its mailbox where others put in what is for it."""
        return self._way_in.fileno()

    def tell(self, number: int) -> None:
        """Send it a signal; it may be gone already."""
        self.process.send_signal(number)

    def hear(self) -> bool:
        """Take in its reports, when its pipe can be read or it has ended; False if there will be no more."""
        try:
            data = os.read(self.reports, 65536)  # all that the pipe can hold
        except BlockingIOError:
            return True  # it has ended, and a process that its module forked holds the other end still
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines:
            self.ready = True
            self.numbers = numbers_in(lines[-1])
            if not self.stopping:
                self.silent_at = time.monotonic() + self._timeout
        if not data:
            self.silent_at = math.inf
        return bool(data)

    def give_up(self) -> None:
        """Its loop stands still: ask it where, and soon kill it."""
        self.silent_at = math.inf
        self.kill_at = time.monotonic() + DUMP_TIME
        self.tell(DUMP_SIGNAL)

    def retire(self, patience: float) -> None:
        """Ask it to stop, within `patience` seconds."""
        self.stopping = True
        self.silent_at = math.inf
        self.kill_at = min(self.kill_at, time.monotonic() + patience)
        self.tell(signal.SIGTERM)

    @property
    def end(self) -> str:
        """How it has ended."""
        code = self.process.returncode
        if code >= 0:
            return f"exit status {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"

    def close(self) -> None:
        """It has ended: give back what belonged to it."""
        os.close(self.reports)
        os.close(self._leash)
        self._way_in.shutdown(socket.SHUT_RDWR)  # it takes no more; a process that it forked may have its end open
        clear(self._mailbox)
        self._mailbox.close()
        self._way_in.close()


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
