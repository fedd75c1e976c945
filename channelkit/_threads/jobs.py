"""One call on a worker of the pool, and the numbers of them all."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Generator
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from channelkit._lifecycle import logger
from channelkit._loop import tell_no_library
from channelkit.errors import HandlerError

if TYPE_CHECKING:
    from channelkit._loop import Parking
    from channelkit._threads.pool import Workers

REQUEST, CALLBACK, WAITING = range(3)
NEW, QUEUED, BEGUN, GONE = range(4)  # the life of a job

_here = threading.local()


class PoolEnded(RuntimeError):
    """Work for a pool that has ended with its server."""

    def __init__(self) -> None:
        super().__init__("the worker pool has ended with its server")


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """The pool's numbers at one moment: counts of jobs and threads, seconds of waiting in the queue."""

    threads: int  # of our own; 0 with an executor of yours
    requests: int  # handlers that run
    callbacks: int
    waiting: int  # threads that wait, or have waited, in a blocking call of ours
    queued_requests: int
    queued_callbacks: int
    begun: int  # since the start; several messages of one channel may be one
    refused: int  # that found the queue full
    oldest: float  # how long the first in a queue has been there
    waited: float  # all waiting of those that have begun
    longest: float  # the longest of them


class Job:
    """One call on a worker.  `run` belongs to the worker, everything else to the loop or the pool's lock.

    It can be awaited, by one task; whoever needs none sets `when_done` instead, before the loop's next turn.
    """

    __slots__ = (
        "_abandoned",
        "_args",
        "_context",
        "_function",
        "_pool",
        "_parking",
        "done",
        "error",
        "kind",
        "queued_at",
        "result",
        "state",
        "thread",
        "waited",
        "when_done",
    )

    def __init__(self, pool: Workers, kind: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._pool = pool
        self._function = function
        self._args = args
        self._context = copy_context()
        self._context.run(tell_no_library)  # a worker is no part of our loop: it may run one of its own
        self.kind = kind
        self.state = NEW
        self.queued_at = time.monotonic()
        self.waited = 0.0  # in the queue
        self.done = self._abandoned = False
        self.when_done: Callable[[Job], object] | None = None
        self._parking: Parking | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.thread: threading.Thread | None = None

    def run(self) -> None:
        """Do it, on this thread."""
        self.thread = threading.current_thread()
        outer = getattr(_here, "job", None)
        _here.job = self
        try:
            self.result = self._do()
        except BaseException as error:
            self.error = _as_the_loop_may_hear_it(error)
        finally:
            _here.job = outer

    def _do(self) -> Any:
        return self._context.run(call_plain, self._function, self._args)

    # -- on the loop

    def __await__(self) -> Generator[Any, Any, Any]:
        """What the function returns or raises.  Cancelled, it does not begin, or nobody hears of its outcome."""
        return self._wait().__await__()

    async def _wait(self) -> Any:
        self._parking = self._pool.loop.parking()
        try:
            while not self.done:
                await self._parking.park()
        except BaseException:
            self._pool.give_up(self)
            raise
        return self.outcome()

    def tell(self) -> None:
        """Its outcome is there: whoever waits for it goes on."""
        if self.done:
            return  # the pool has ended meanwhile, and said so
        self.done = True
        if self._parking is not None:
            self._parking.wake()
        if self.when_done is not None:
            self.when_done(self)

    def abandon(self) -> None:
        """The pool has ended: whoever is to be told of the outcome is told that there is none, by PoolEnded."""
        when_done, self.when_done = self.when_done, None
        if when_done is not None:
            self.done = self._abandoned = True
            when_done(self)

    def outcome(self) -> Any:
        """What it returned, or raise what it raised."""
        if self._abandoned:
            raise PoolEnded
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.result

    @property
    def running(self) -> bool:
        """Whether a thread is in it."""
        return self.state == BEGUN

    def step_aside(self) -> bool:
        """Give the place up: this job waits for a peer.  False if too many do."""
        return self._pool.step_aside(self)

    @property
    def pool(self) -> Workers:
        return self._pool

    def describe(self) -> str:
        return getattr(self._function, "__qualname__", None) or repr(self._function)


def _as_the_loop_may_hear_it(error: BaseException) -> BaseException:
    """SystemExit and KeyboardInterrupt end the server, as they do on the loop.  Nothing else but an Exception may: a
    CancelledError out of somebody's own loop on a worker would be taken for a cancellation of this one's tasks."""
    ends = SystemExit | KeyboardInterrupt
    if isinstance(error, Exception | ends):
        return error
    if isinstance(error, BaseExceptionGroup) and error.subgroup((SystemExit, KeyboardInterrupt)) is not None:
        return error
    mistake = HandlerError(f"a plain function raised {type(error).__name__}, which means nothing on a worker thread")
    mistake.__cause__ = error
    return mistake


def current_job() -> Job | None:
    """The job that this thread runs, if it is a worker."""
    return getattr(_here, "job", None)


def call_plain(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """`function(*args)`, which must not return something that would have to be awaited."""
    result = function(*args)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise HandlerError(
            f"{function!r} is a plain function, so it runs on a worker thread, but it returned a "
            f"{type(result).__name__}: write it `async def`, or mark it with inspect.markcoroutinefunction"
        )
    return result


def logged(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        function(*args)
    except Exception:
        logger.exception("%r failed on a worker", function)
