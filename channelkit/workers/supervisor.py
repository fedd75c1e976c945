"""The supervisor: it opens the sockets, starts workers that share them, and sees that there are always as many.

It imports no handler and runs no event loop: what happens to it is signals, reports on a pipe, a changed file, and
time, all waited for in one `select`.  A worker that dies is replaced, after a pause that grows while it keeps dying;
one that is silent, because something holds its event loop, is made to tell where, and killed.
SIGHUP, or a changed file with `reload`, replaces the workers one by one: the new one listens before the old one is
asked to stop, so no connection is refused.  SIGTERM and SIGINT end all of them, with the patience of
`drain_timeout`; a second one cuts.  Whoever was told to stop and does not is killed.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import FrameType

from channelkit.observing.totals import Totals
from channelkit.server import systemd
from channelkit.workers.job import KILL_MARGIN, START_FAILED, Job
from channelkit.workers.reports import BEAT
from channelkit.workers.worker import Slot, Worker

logger = logging.getLogger("channelkit")

LONGEST_NAP = 3600.0  # what `select` takes has an end


class Supervisor:
    """See the module.  `run` blocks until everything has ended."""

    def __init__(
        self,
        job: Job,
        sockets: Sequence[socket.socket],
        workers: int,
        *,
        drain_within: float,
        close_within: float,
        worker_timeout: float,
        totals: Totals | None = None,
        watch: Callable[[Callable[[str], None]], Callable[[], None]] | None = None,
    ) -> None:
        self._job = job.packed()
        self._names = map(str, itertools.count(1))
        self._sockets = [sock.fileno() for sock in sockets]
        self._slots = [Slot(number) for number in range(1, workers + 1)]
        self._retiring: set[Worker] = set()
        self._rolling: list[Slot] = []  # whose worker is still to be replaced
        self._drain_within = drain_within  # seconds a worker that is told to stop lets its clients end
        self._close_within = close_within  # and what it takes after that
        self._worker_timeout = worker_timeout
        self._totals = totals  # of their numbers, if somebody wants them
        self._watch = watch
        self._selector = selectors.DefaultSelector()
        self._looked_at = time.monotonic()  # the last moment of which it is known that all reports were taken in
        self._signals: list[int] = []
        self._stopping = False
        self._ever_ready = False
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
        events = self._selector.select(self._nap())
        now = time.monotonic()
        self._excuse(now - self._looked_at - BEAT)
        self._looked_at = now
        for key, _ in events:
            if key.fd == wake_read:
                os.read(wake_read, 4096)
            else:
                self._hear(key.data)
        while self._signals:
            self._on_signal(self._signals.pop(0))
        self._reap()
        for worker in self._living():
            self._look_at_clock(worker, now)
        if not self._stopping:
            self._fill(now)
            self._roll()

    def _excuse(self, late: float) -> None:
        """Silence does not count while this process stood still itself: it was stopped, or the machine slept.

        So silence is judged by the moment at which this was measured, and not by a later one.
        """
        for worker in self._living():
            worker.silent_at += max(0.0, late)

    def _nap(self) -> float:
        """Seconds until time alone is a reason to look; few where silence counts, so that `_excuse` can measure."""
        longest = BEAT if any(worker.silent_at < math.inf for worker in self._living()) else LONGEST_NAP
        dues = [due for worker in self._living() for due in (worker.kill_at, worker.late_at, worker.silent_at)]
        if not self._stopping:
            dues += [slot.retry_at for slot in self._slots if slot.empty]
        return max(0.0, min((longest, *(due - time.monotonic() for due in dues))))

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
                self._begin_rolling()
            return
        logger.info("%s: stopping", name)
        if not self._stopping:
            self._stop()
        else:
            for worker in self._living():  # a second signal: cut
                worker.tell(signal.SIGTERM)
                worker.kill_at = min(worker.kill_at, time.monotonic() + self._close_within + KILL_MARGIN)

    def _stop(self) -> None:
        self._stopping = True
        self._rolling.clear()
        systemd.notify(systemd.STOPPING)
        for worker in self._living():
            self._retire(worker)

    def _retire(self, worker: Worker) -> None:
        if not worker.stopping:
            worker.retire(self._drain_within + self._close_within + KILL_MARGIN)

    def _look_at_clock(self, worker: Worker, now: float) -> None:
        if now >= worker.kill_at:
            worker.kill_at = math.inf
            if worker.stopping:
                logger.error("%r did not stop in time: it is killed", worker)
            worker.process.kill()
            self._exit_code = 1 if self._stopping else self._exit_code
        if now >= worker.silent_at:
            logger.error(
                "%r has given no sign of life for %g s: something holds its event loop; its stacks follow, then it is "
                "killed (worker_timeout)",
                worker,
                self._worker_timeout,
            )
            worker.give_up()
        if now >= worker.late_at:
            worker.late_at = math.inf
            if not worker.ready and not worker.stopping:
                logger.warning(
                    "%r does not listen after %.0f s: its module is still being imported, or its lifespan opening",
                    worker,
                    now - worker.started_at,
                )

    def _hear(self, worker: Worker) -> None:
        """A report, the first of which says that it listens.  The end: it is gone, or will never be ready."""
        new = not worker.ready
        if not worker.hear():
            self._selector.unregister(worker.reports)
        if self._totals is not None and worker.numbers is not None:
            self._totals.tell(worker.process.pid, worker.numbers)
        if new and worker.ready:
            self._ever_ready = True
            logger.info("%r is ready", worker)
            self._settle(worker)

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

    def _start(self, slot: Slot) -> Worker | None:
        """None if the system has no room for another process: that must not end those that run."""
        try:
            name = next(self._names)
            worker = Worker(slot.number, name, self._job, self._sockets, self._living(), self._worker_timeout)
        except OSError as error:
            pause = slot.pause(0.0)
            logger.error("worker %d cannot be started (%s); tried again in %g s", slot.number, error, pause)
            return None
        self._selector.register(worker.reports, selectors.EVENT_READ, worker)
        logger.debug("%r is starting", worker)
        return worker

    def _fill(self, now: float) -> None:
        for slot in self._slots:
            if slot.empty and now >= slot.retry_at:
                slot.worker = self._start(slot)

    def _begin_rolling(self) -> None:
        """A successor that is still starting may have read what has changed since: another takes its place."""
        for slot in self._slots:
            if slot.successor is not None:
                self._retiring.add(slot.successor)
                self._retire(slot.successor)
                slot.successor = None
        self._rolling = list(self._slots)

    def _end_rolling(self) -> None:
        """A successor did not start, and neither would the next."""
        self._rolling.clear()
        systemd.notify(systemd.READY)  # the reload is over, for better or worse: systemd would wait for it

    def _roll(self) -> None:
        """Begin with the next slot of a rolling restart, when the one before it is through."""
        if self._rolling and not any(slot.successor for slot in self._slots):
            slot = self._rolling.pop(0)
            slot.retry_at = -math.inf
            slot.successor = self._start(slot)
            if slot.successor is None:
                self._end_rolling()

    def _reap(self) -> None:
        for worker in self._living():
            if worker.process.poll() is not None:
                self._ended(worker)

    def _ended(self, worker: Worker) -> None:
        if worker.reports in self._selector.get_map():
            self._hear(worker)  # its last words
        self._gone(worker)
        slot = self._slots[worker.number - 1]
        self._retiring.discard(worker)
        how = worker.end
        if worker is slot.worker:
            slot.worker = None
        if worker is slot.successor:
            slot.successor = None
            self._not_succeeded(slot, worker, how)
        elif worker.stopping:
            logger.info("%r has stopped%s", worker, "" if worker.process.returncode == 0 else f" ({how})")
        elif not self._stopping:
            self._died(slot, worker, how)

    def _not_succeeded(self, slot: Slot, worker: Worker, how: str) -> None:
        if self._stopping:
            return
        self._end_rolling()
        if slot.worker is None:
            self._died(slot, worker, how)
        else:
            logger.error("%r did not start (%s): the workers stay as they were", worker, how)

    def _died(self, slot: Slot, worker: Worker, how: str) -> None:
        if not self._ever_ready and worker.process.returncode == START_FAILED and self._watch is None:
            self._exit_code = 1
            self._stop()  # nothing has ever worked: what is wrong is in the message above, not in the moment
            return
        if self._watch is not None and worker.process.returncode == START_FAILED:
            slot.retry_at = math.inf  # only a change can mend it, and a change starts it
            logger.error("%r did not start; waiting for a file to change", worker)
            return
        pause = slot.pause(time.monotonic() - worker.started_at)
        logger.error("%r died (%s); another is started in %g s", worker, how, pause)

    def _gone(self, worker: Worker) -> None:
        if worker.reports in self._selector.get_map():
            self._selector.unregister(worker.reports)
        if self._totals is not None:
            self._totals.ended(worker.process.pid, died=not worker.stopping)
        worker.close()
