"""The supervisor: it opens the sockets, starts workers that share them, and sees that there are always as many.

It imports no handler and runs no event loop: what happens to it is signals, a byte on a pipe, a changed file, and
time, all waited for in one `select`.  A worker that dies is replaced, after a pause that grows while it keeps dying.
SIGHUP, or a changed file with `reload`, replaces the workers one by one: the new one listens before the old one is
asked to stop, so no connection is refused.  SIGTERM and SIGINT end all of them, with the patience of
`drain_timeout`; a second one cuts.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from channelkit.server import systemd
from channelkit.workers.job import READY, START_FAILED, Job

logger = logging.getLogger("channelkit")

FIRST_PAUSE = 0.5  # seconds before a worker that died is replaced; each further death doubles it
LONGEST_PAUSE = 30.0  # a handler that cannot start may be mended any time: keep trying
HEALTHY = 30.0  # a worker that lived so long starts a new count
KILL_MARGIN = 5.0  # seconds past its own deadlines before a worker that was told to stop is killed


class Worker:
    """One worker process, as its supervisor sees it."""

    def __init__(self, number: int, job: bytes, sockets: Sequence[int]) -> None:
        self.number = number
        self.ready = False
        self.stopping = False
        self.started_at = time.monotonic()
        job_read, job_write = os.pipe()
        self.ready_pipe, ready_write = os.pipe()
        leash_read, self._leash = os.pipe()
        os.set_blocking(self.ready_pipe, False)
        theirs = (job_read, ready_write, leash_read)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "channelkit.workers.process", *map(str, theirs)],
                pass_fds=(*theirs, *sockets),
                process_group=0,  # a Ctrl-C at the terminal is ours alone: two signals would mean "cut"
                env={
                    k: v
                    for k, v in os.environ.items()
                    if k not in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
                },
            )
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        with open(job_write, "wb") as pipe:
            try:
                pipe.write(job)
                pipe.flush()
            except BrokenPipeError:
                pass  # it is gone already; that is seen elsewhere

    def __repr__(self) -> str:
        return f"worker {self.number} (process {self.process.pid})"

    def tell(self, number: int) -> None:
        """Send it a signal; it may be gone already."""
        self.process.send_signal(number)

    def close(self) -> None:
        """It has ended: give back what belonged to it."""
        os.close(self.ready_pipe)
        os.close(self._leash)


class Slot:
    """A place for one worker: who is there, who comes next, and how often it went wrong."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.successor: Worker | None = None
        self.deaths = 0
        self.retry_at = -math.inf

    def pause(self, worker: Worker) -> float:
        """How long to wait before `worker`, which died unasked, is replaced."""
        if time.monotonic() - worker.started_at >= HEALTHY:
            self.deaths = 0
        self.deaths += 1
        return float(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self.deaths - 1)))


class Supervisor:
    """See the module.  `run` blocks until everything has ended."""

    def __init__(
        self,
        job: Job,
        sockets: Sequence[socket.socket],
        workers: int,
        *,
        stop_within: float,
        watch: Callable[[Callable[[str], None]], Callable[[], None]] | None = None,
    ) -> None:
        self._job = job.packed()
        self._sockets = [sock.fileno() for sock in sockets]
        self._slots = [Slot(number) for number in range(1, workers + 1)]
        self._retiring: set[Worker] = set()
        self._rolling: list[Slot] = []  # whose worker is still to be replaced
        self._stop_within = stop_within
        self._watch = watch
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._stopping = False
        self._kill_at = math.inf
        self._ever_ready = False
        self._told_ready = False
        self._exit_code = 0

    # -- the loop

    def run(self) -> int:
        """Start the workers and look after them until told to stop; returns the exit code of the command."""
        wake_read, wake_write = os.pipe()
        for end in (wake_read, wake_write):
            os.set_blocking(end, False)
        self._selector.register(wake_read, selectors.EVENT_READ)
        before = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        watched = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        handlers = {number: signal.signal(number, self._note_signal) for number in watched}
        unwatch = self._watch(self._changed(wake_write)) if self._watch is not None else (lambda: None)
        try:
            for slot in self._slots:
                slot.worker = self._start(slot)
            while not (self._stopping and not self._living()):
                self._turn(wake_read)
        finally:
            unwatch()
            for worker in self._living():
                worker.process.kill()
                worker.process.wait()
                self._gone(worker)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            self._selector.close()
            os.close(wake_read)
            os.close(wake_write)
        return self._exit_code

    def _turn(self, wake_read: int) -> None:
        for key, _ in self._selector.select(self._nap()):
            if key.fd == wake_read:
                os.read(wake_read, 4096)
            else:
                self._read_ready(key.data)
        while self._signals:
            self._on_signal(self._signals.pop(0))
        self._reap()
        now = time.monotonic()
        if now >= self._kill_at:
            self._kill()
        elif not self._stopping:
            self._fill(now)
            self._roll()

    def _nap(self) -> float | None:
        """Seconds until time alone is a reason to look; None: never."""
        due = min(self._kill_at, *(slot.retry_at for slot in self._slots if slot.worker is None), math.inf)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    def _living(self) -> list[Worker]:
        here = [worker for slot in self._slots for worker in (slot.worker, slot.successor) if worker is not None]
        return [*here, *self._retiring]

    # -- what happens

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals.append(number)

    def _changed(self, wake_write: int) -> Callable[[str], None]:
        def changed(what: str) -> None:
            logger.info("%s changed: reloading", what)
            self._signals.append(signal.SIGHUP)
            os.write(wake_write, b"\0")

        return changed

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGHUP:
            if not self._stopping:
                logger.info("replacing the workers one by one")
                systemd.reloading()
                self._rolling = list(self._slots)
            return
        logger.info("%s: stopping", name)
        if not self._stopping:
            self._stop()
        else:
            for worker in self._living():  # a second signal: cut
                worker.tell(signal.SIGTERM)

    def _stop(self) -> None:
        self._stopping = True
        self._rolling.clear()
        systemd.notify(systemd.STOPPING)
        self._kill_at = time.monotonic() + self._stop_within + KILL_MARGIN
        for worker in self._living():
            self._retire(worker)

    def _retire(self, worker: Worker) -> None:
        if not worker.stopping:
            worker.stopping = True
            worker.tell(signal.SIGTERM)

    def _kill(self) -> None:
        self._kill_at = math.inf
        for worker in self._living():
            logger.error("%r did not stop in time: it is killed", worker)
            worker.process.kill()
            self._exit_code = 1

    def _read_ready(self, worker: Worker) -> None:
        """A byte: it listens.  The end: it is gone, or will never be ready."""
        if os.read(worker.ready_pipe, 1) == READY:
            worker.ready = self._ever_ready = True
            logger.info("%r is ready", worker)
            self._settle(worker)
        self._selector.unregister(worker.ready_pipe)

    def _settle(self, worker: Worker) -> None:
        """A worker that was awaited listens: its predecessor may go."""
        for slot in self._slots:
            if slot.successor is worker:
                if slot.worker is not None:
                    self._retiring.add(slot.worker)
                    self._retire(slot.worker)
                slot.worker, slot.successor = worker, None
        if not self._rolling and all(slot.worker is not None and slot.worker.ready for slot in self._slots):
            systemd.notify(systemd.READY)

    # -- coming and going

    def _start(self, slot: Slot) -> Worker:
        worker = Worker(slot.number, self._job, self._sockets)
        self._selector.register(worker.ready_pipe, selectors.EVENT_READ, worker)
        logger.debug("%r is starting", worker)
        return worker

    def _fill(self, now: float) -> None:
        for slot in self._slots:
            if slot.worker is None and slot.successor is None and now >= slot.retry_at:
                slot.worker = self._start(slot)

    def _roll(self) -> None:
        """Begin with the next slot of a rolling restart, when the one before it is through."""
        if self._rolling and not any(slot.successor for slot in self._slots):
            slot = self._rolling.pop(0)
            slot.retry_at = -math.inf
            slot.successor = self._start(slot)

    def _reap(self) -> None:
        for worker in self._living():
            if worker.process.poll() is not None:
                self._ended(worker)

    def _ended(self, worker: Worker) -> None:
        if not worker.ready and worker.ready_pipe in self._selector.get_map():
            self._read_ready(worker)  # it may have been ready before it died
        self._gone(worker)
        slot = self._slots[worker.number - 1]
        self._retiring.discard(worker)
        how = _how(worker.process.returncode)
        if worker is slot.worker:
            slot.worker = None
        if worker is slot.successor:
            slot.successor = None
            self._rolling.clear()
            if not self._stopping:
                logger.error("%r did not start (%s): the workers stay as they were", worker, how)
        elif worker.stopping:
            logger.info("%r has stopped%s", worker, "" if worker.process.returncode == 0 else f" ({how})")
        elif not self._stopping:
            self._died(slot, worker, how)

    def _died(self, slot: Slot, worker: Worker, how: str) -> None:
        if not self._ever_ready and worker.process.returncode == START_FAILED and self._watch is None:
            self._exit_code = 1
            self._stop()  # nothing has ever worked: what is wrong is in the message above, not in the moment
            return
        if self._watch is not None and worker.process.returncode == START_FAILED:
            slot.retry_at = math.inf  # only a change can mend it, and a change starts it
            logger.error("%r did not start; waiting for a file to change", worker)
            return
        pause = slot.pause(worker)
        slot.retry_at = time.monotonic() + pause
        logger.error("%r died (%s); another is started in %g s", worker, how, pause)

    def _gone(self, worker: Worker) -> None:
        if worker.ready_pipe in self._selector.get_map():
            self._selector.unregister(worker.ready_pipe)
        worker.close()


def _how(code: int) -> str:
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit status {code}"
