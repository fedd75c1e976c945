"""One call on a worker of the pool, and the numbers of them all."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from channelkit._lifecycle import logger
from channelkit.errors import HandlerError

if TYPE_CHECKING:
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
    begun: int  # since the start
    refused: int  # that found the queue full
    oldest: float  # how long the first in a queue has been there
    waited: float  # all waiting of those that have begun
    longest: float  # the longest of them


class Job:
    """One call on a worker.  `run` belongs to the worker, everything else to the loop or the pool's lock."""

    __slots__ = (
        "_args",
        "_context",
        "_function",
        "_pool",
        "done",
        "error",
        "kind",
        "parking",
        "queued_at",
        "result",
        "state",
        "thread",
        "waited",
    )

    def __init__(self, pool: Workers, kind: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._pool = pool
        self._function = function
        self._args = args
        self._context = copy_context()
        self.kind = kind
        self.state = NEW
        self.queued_at = time.monotonic()
        self.waited = 0.0  # in the queue
        self.parking = pool.loop.parking()
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.thread: threading.Thread | None = None

    def run(self) -> None:
        """Do it, on this thread."""
        self.thread = threading.current_thread()
        outer = getattr(_here, "job", None)
        _here.job = self
        try:
            self.result = self._context.run(call_plain, self._function, self._args)
        except BaseException as error:  # SystemExit too: it ends the server, as it does on the loop
            self.error = error
        finally:
            _here.job = outer

    def outcome(self) -> Any:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.result

    def step_aside(self) -> bool:
        """Give the place up: this job waits for a peer.  False if too many do."""
        return self._pool.step_aside(self)

    @property
    def pool(self) -> Workers:
        return self._pool

    def describe(self) -> str:
        return getattr(self._function, "__qualname__", None) or repr(self._function)


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
