"""Who may begin: the two queues of a worker pool, its places, and the numbers of both.

No threads here, and no waiting.  Everything is done under the pool's `lock`; whoever says "locked" has it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from channelkit._threads.jobs import BEGUN, CALLBACK, GONE, QUEUED, REQUEST, WAITING, Job, WorkerStatistics

if TYPE_CHECKING:
    from channelkit.config import Config


class Places:
    """The jobs of a pool that wait or run.  Without a bound (an executor's threads are its own business) every queued
    job may begin."""

    def __init__(self, config: Config) -> None:
        self._places = config.thread
        self._queue_size = config.queue_size
        self._max_waiting = config.max_waiting_threads
        self._bounded = config.executor is None
        self.lock = threading.RLock()  # a signal's handler may ask for the numbers in the middle of anything
        self.begun: set[Job] = set()
        self._queues: tuple[deque[Job], deque[Job]] = (deque(), deque())
        self._depth = [0, 0]  # of the queues, without those that were given up
        self._running = [0, 0, 0]
        self._count = 0
        self._waited = self._longest = 0.0

    def statistics(self, threads: int, refused: int) -> WorkerStatistics:
        """The numbers now."""
        with self.lock:
            firsts = [job.queued_at for kind in (REQUEST, CALLBACK) if (job := self.first(kind)) is not None]
            return WorkerStatistics(
                threads=threads,
                requests=self._running[REQUEST],
                callbacks=self._running[CALLBACK],
                waiting=self._running[WAITING],
                queued_requests=self._depth[REQUEST],
                queued_callbacks=self._depth[CALLBACK],
                begun=self._count,
                refused=refused,
                oldest=time.monotonic() - min(firsts) if firsts else 0.0,
                waited=self._waited,
                longest=self._longest,
            )

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits to."""
        return bool(self.begun) or self._depth != [0, 0]

    @property
    def queued(self) -> list[Job]:
        """Those that have not begun; locked."""
        return [job for queue in self._queues for job in queue if job.state == QUEUED]

    def full(self, kind: int) -> bool:
        """Whether one more would find neither a place nor room in the queue."""
        return self._depth[kind] >= self._queue_size and not (self._bounded and self._has_place(kind))

    def put(self, job: Job) -> None:
        """`job` waits for its turn; locked."""
        job.state = QUEUED
        self._queues[job.kind].append(job)
        self._depth[job.kind] += 1

    def first(self, kind: int) -> Job | None:
        """The first that waits; locked."""
        queue = self._queues[kind]
        while queue and queue[0].state != QUEUED:
            queue.popleft()
        return queue[0] if queue else None

    def next(self) -> Job | None:
        """The job to begin now, callbacks first, or None; it counts as begun.  Locked."""
        for kind in (CALLBACK, REQUEST):
            if self._has_place(kind) and (job := self.first(kind)) is not None:
                self._queues[kind].popleft()
                self._depth[kind] -= 1
                self._begin(job)
                return job
        return None

    def begin_aside(self, job: Job) -> None:
        """`job` begins now, in a place of its own; locked."""
        self._begin(job)
        self.aside(job)

    def take_back(self, job: Job) -> None:
        """What `next` gave could not begin: it is the next again.  Locked."""
        self._running[job.kind] -= 1
        self.begun.discard(job)
        self._count -= 1
        self._waited -= job.waited
        job.state = QUEUED
        self._queues[job.kind].appendleft(job)
        self._depth[job.kind] += 1

    def finished(self, job: Job) -> None:
        """A job that had begun is through; locked."""
        self._running[job.kind] -= 1
        self.begun.discard(job)
        job.state = GONE

    def give_up(self, job: Job) -> bool:
        """Take `job` out of its queue.  False if it is not there: it has begun."""
        with self.lock:
            if job.state != QUEUED:
                return False
            job.state = GONE  # it is passed over when its turn comes
            self._depth[job.kind] -= 1
            queue = self._queues[job.kind]
            if len(queue) > 2 * self._depth[job.kind] + 64:
                alive = [one for one in queue if one.state == QUEUED]
                queue.clear()
                queue.extend(alive)
            return True

    def may_step_aside(self, job: Job) -> bool:
        """False if too many wait for peers; locked."""
        return not self._counts(job) or self._running[WAITING] < self._max_waiting

    def aside(self, job: Job) -> None:
        """From now on `job` counts among those that wait; locked."""
        if self._counts(job):
            self._running[job.kind] -= 1
            self._running[WAITING] += 1
            job.kind = WAITING

    @staticmethod
    def _counts(job: Job) -> bool:
        return job.kind != WAITING and job.state == BEGUN

    def _has_place(self, kind: int) -> bool:
        return not self._bounded or self._running[kind] < self._places

    def _begin(self, job: Job) -> None:
        job.state = BEGUN
        self._running[job.kind] += 1
        self.begun.add(job)
        self._count += 1
        job.waited = time.monotonic() - job.queued_at
        self._waited += job.waited
        self._longest = max(self._longest, job.waited)
