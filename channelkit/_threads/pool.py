"""The worker pool: the threads that run plain `def` handlers, and the callbacks those gave.

Theory.  Work is of two kinds, in a queue each.  *Requests* begin something new; *callbacks* (also the pieces of a
streamed body) go on with something open.  Each kind has `thread` places and never waits for one of the other's, so
handlers that block, perhaps until a callback brings what they wait for, cannot keep it from coming.

Whoever has to wait inside one of our blocking calls steps aside: from then on, until it returns, its thread counts
among the *waiting* and its place is free.  It does not queue for a place when it wakes up, because it may hold a lock
that those who have the places wait for.  So a thread for each channel in a blocking loop is fine, up to
`max_waiting_threads`; and as no place is ever held by a thread that waits for a peer, nobody starves.

All accounting, in `places`, is under one lock.  A job is handed to one thread, which is then woken: no thread wakes up
in vain.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from channelkit._lifecycle import logger
from channelkit._threads.jobs import CALLBACK, REQUEST, Job, PoolEnded, WorkerStatistics, logged
from channelkit._threads.messages import Messages
from channelkit._threads.places import Places
from channelkit.errors import WorkersBusy

if TYPE_CHECKING:
    from concurrent.futures import Future

    from channelkit._callbacks import Callbacks
    from channelkit._loop import Loop
    from channelkit.config import Config

LEAVING = 1.0  # seconds for threads that have nothing left to do, at the end: they take microseconds


class _Worker:
    """One thread of our own, and what it is to do next."""

    __slots__ = ("job", "ready")

    def __init__(self, job: Job) -> None:
        self.job: Job | None = job
        self.ready = threading.Lock()  # held while there is nothing to do
        self.ready.acquire()


class Workers:
    """The pool of one server or application on one loop; it starts threads when there is work.

    With `Config.executor` the work is done there and no thread is ours: how many places there are is then its
    business, the two queues and their bounds stay.
    """

    def __init__(self, loop: Loop, config: Config) -> None:
        self.loop = loop
        self._config = config
        self._executor = config.executor
        self._places = Places(config)
        self._lock = self._places.lock
        self._idle: list[_Worker] = []
        self._threads: set[threading.Thread] = set()
        self._named = 0
        self._refused = 0
        self._stopped = False
        self._ended = loop.parking()

    def statistics(self) -> WorkerStatistics:
        """The numbers now; from any thread."""
        return self._places.statistics(len(self._threads), self._refused)

    # -- on the loop

    def check_room(self) -> None:
        """Raise WorkersBusy if a request would find no room now."""
        if self._places.full(REQUEST):
            self._refuse()

    async def run(self, kind: int, function: Callable[..., Any], *args: Any, must: bool = False) -> Any:
        """`function(*args)` on a worker, in a copy of the caller's context; its result, or what it raises.

        Raises WorkersBusy at once if `queue_size` others wait, unless it `must` be done.  Cancelled, it does not
        begin, or nobody hears of its outcome: a thread cannot be stopped.
        """
        return await self._submit(Job(self, kind, function, args), must)

    def callback(self, function: Callable[..., Any], *args: Any, must: bool) -> Job:
        """The same as a callback of a channel, begun at once.  Raises PoolEnded, too, if the pool has."""
        return self._submit(Job(self, CALLBACK, function, args), must)

    def messages(self, channel: Callbacks, function: Callable[..., Any], *args: Any) -> Job:
        """`callback` for an on_receive: `args` end in the message, and those of `channel` that wait are taken too."""
        return self._submit(Messages(self, channel, function, args), must=False)

    async def run_aside(self, function: Callable[..., Any], *args: Any) -> Any:
        """`run` in a place of its own, since all others may be taken by what this call is to end."""
        job = Job(self, CALLBACK, function, args)
        with self._lock:
            if self._stopped:
                raise PoolEnded
            self._places.begin_aside(job)
        try:
            if self._executor is not None:
                self._executor.submit(self._serve, job).add_done_callback(partial(self._served, job=job))
            else:
                with self._lock:
                    if not self._give(job):
                        self._refuse()
        except BaseException:
            with self._lock:
                self._places.finished(job)
            raise
        return await job

    def start(self, function: Callable[..., Any], *args: Any) -> None:
        """`function(*args)` on a worker, as a callback, with nobody waiting for it."""
        self._submit(Job(self, CALLBACK, logged, (function, args)), must=True)

    def _submit(self, job: Job, must: bool) -> Job:
        with self._lock:
            if self._stopped:
                raise PoolEnded
            refused = not must and self._places.full(job.kind)
            if not refused:
                self._places.put(job)
                refused = self._executor is None and not self._dispatch()
        if refused:
            self.give_up(job)
            self._refuse()
        if self._executor is not None:
            try:
                self._executor.submit(self._serve_one).add_done_callback(self._served)
            except BaseException:
                if self.give_up(job):  # else a thread that came for one that was given up has begun it
                    raise
        return job

    def _refuse(self) -> None:
        self._refused += 1
        self.loop.tally.hit("queue_size", "a worker was asked for and the queue is full")
        raise WorkersBusy(
            f"queue_size ({self._config.queue_size}) others wait for one of {self._config.thread} threads"
        )

    def give_up(self, job: Job) -> bool:
        """See `Places.give_up`."""
        return self._places.give_up(job)

    def step_aside(self, job: Job) -> bool:
        """See `Job.step_aside`."""
        if self._executor is not None:
            return True
        with self._lock:
            if not self._places.may_step_aside(job):
                return False
            self._places.aside(job)
            self._dispatch()
        return True

    # -- handing out, under the lock

    def _dispatch(self) -> bool:
        """Give every job that may begin a thread.  False if there is no thread at all to be had."""
        while (job := self._places.next()) is not None:
            if not self._give(job):
                self._places.take_back(job)
                return bool(self._threads)  # one of them comes for it
        return True

    def _give(self, job: Job) -> bool:
        if not self._idle:
            return self._hire(job)
        worker = self._idle.pop()
        worker.job = job
        worker.ready.release()
        return True

    def _hire(self, job: Job) -> bool:
        self._named += 1
        name = f"{self._config.worker_name_prefix}{self._named}"
        thread = threading.Thread(target=self._work, args=(_Worker(job),), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more
            self.loop.tally.hit("threads", error)
            return False
        self._threads.add(thread)
        return True

    # -- on the workers

    def _work(self, worker: _Worker) -> None:
        """A thread's whole life."""
        while (job := worker.job) is not None:
            job.run()
            idle = self._take_next(worker, job)
            self._deliver(job)
            del job  # an idle thread keeps nothing of what it did
            if idle:
                worker.ready.acquire()
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _take_next(self, worker: _Worker, job: Job) -> bool:
        """Before anybody hears of the outcome: who hears of it finds the place free.  True if there is nothing."""
        with self._lock:
            self._places.finished(job)
            worker.job = self._places.next()
            if worker.job is not None:
                return False
            if self._stopped or len(self._idle) >= 2 * self._config.thread:
                self._threads.discard(threading.current_thread())  # now: it comes for no more jobs
                return False
            self._idle.append(worker)
            return True

    def _serve_one(self) -> None:
        """On a thread of the executor: one job, the most urgent."""
        with self._lock:
            job = self._places.next()
        if job is not None:
            self._serve(job)

    def _serve(self, job: Job) -> None:
        job.run()
        with self._lock:
            self._places.finished(job)
        self._deliver(job)

    def _served(self, future: Future[None], job: Job | None = None) -> None:
        """Its owner may have cancelled it, by `shutdown(cancel_futures=True)`: then one job fewer will be done."""
        if not future.cancelled():
            return
        with self._lock:
            if job is not None:
                self._places.finished(job)
            else:
                job = self._places.first(CALLBACK) or self._places.first(REQUEST)
                if job is None or not self.give_up(job):
                    return
        job.error = RuntimeError("the executor was shut down, by its owner, before it could do this")
        self._deliver(job)

    def _deliver(self, job: Job) -> None:
        try:
            self.loop.run_from_thread(self._delivered, job)
        except RuntimeError:
            pass  # the loop has ended, and whoever waited with it

    def _delivered(self, job: Job) -> None:
        self._ended.wake()
        try:
            job.tell()
        finally:
            self.loop.look_idle()

    # -- the end

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called: nothing begins any more."""
        return self._stopped

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits to."""
        return self._places.busy

    def hurry(self) -> None:
        """Drain's deadline: callbacks that run now may never return and count no more; so every `on_close` finds a
        thread.  Requests that wait do not begin by it: nobody would hear of them."""
        with self._lock:
            for job in self._places.begun:
                if job.kind == CALLBACK:
                    self._places.aside(job)
            if self._executor is None:
                self._dispatch()

    async def ended(self) -> None:
        """Wait until nothing runs; one task at a time."""
        while self._places.begun:
            await self._ended.park()

    def stop(self) -> None:
        """On the loop: let the threads go.  One that is still busy is told of in the log, by name and stack; it is a
        daemon.  An executor that was given is left as it is.
        """
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            for worker in self._idle:
                worker.ready.release()
            self._idle.clear()
            lost = [*self._places.queued, *self._places.begun]
            stuck = [(job, job.thread) for job in self._places.begun if job.thread is not None]
            leaving = self._threads.difference(thread for _, thread in stuck)
        end = time.monotonic() + LEAVING
        for thread in leaving:
            thread.join(max(0.0, end - time.monotonic()))
        frames = sys._current_frames()
        for job, thread in stuck:
            frame = frames.get(thread.ident) if thread.ident is not None else None
            logger.error(
                "the server has stopped, but %s has not returned in thread %s; it is left behind:\n%s",
                job.describe(),
                thread.name,
                "".join(traceback.format_stack(frame)) if frame is not None else "",
            )
        for job in lost:
            self.give_up(job)
            job.abandon()
