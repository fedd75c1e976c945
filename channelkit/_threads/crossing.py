"""How other threads get into the loop, and how they wait there.

A `Crossing` is one call: it runs on the loop, in a copy of its caller's context, while the caller's thread waits.  It
begins with a plain function, which mostly has the answer at once; only if it returns MUST_WAIT is there a task, and
only then does a worker give up its place in the pool.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from channelkit._threads.jobs import current_job

if TYPE_CHECKING:
    from channelkit._loop import Loop

T = TypeVar("T")


class _MustWait:
    __slots__ = ()


#: What the beginning of a crossing returns that has no answer yet.
MUST_WAIT: Any = _MustWait()


#: Seconds for which an interrupted thread waits until its call is called off: two turns of the loop, if it turns.
CALLING_OFF = 1.0


class LoopEnded(RuntimeError):
    """The loop a thread asked has ended, or ended while it waited."""

    def __init__(self) -> None:
        super().__init__("the server's loop has ended")


def ask(loop: Loop, function: Callable[..., T], *args: Any) -> T:
    """`function(*args)` on the loop, from any thread; what it returns or raises.  Waits for the loop's next turn."""
    if loop.in_loop_thread:
        return function(*args)
    result: T = Crossing(loop, lambda: function(*args)).wait()
    return result


def wait_for(
    loop: Loop,
    name: str,
    begin: Callable[[], Any],
    go_on: Callable[[], Coroutine[Any, Any, Any]],
    timeout: float | None = None,
    **options: Any,
) -> Any:
    """`Crossing(loop, begin, go_on, ...).wait()`, for the method `name`, which only other threads may call."""
    if timeout is not None and math.isnan(timeout):  # the loop's timers would be out of order for ever
        raise ValueError(f"timeout of {name}() must be seconds from 0 or None, not {timeout!r}")
    if loop.in_loop_thread:
        raise RuntimeError(
            f"{name}() of a blocking view would stop the event loop that it waits for; on the loop's own thread use "
            f"the loop's own object: `await {name}(...)`"
        )
    return Crossing(loop, begin, go_on, timeout=timeout, **options).wait()


def _held() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class Crossing:
    """One call of another thread.

    `begin()` runs on the loop and returns the answer or MUST_WAIT; then `go_on()` is awaited, for at most `timeout`
    seconds.  `no_room()` is called if the caller is a worker and too many of them wait; `begin` is tried again then.
    `give_back(result)` takes back what an interrupted caller will not get.
    """

    __slots__ = (
        "_abandoned",
        "_begin",
        "_context",
        "_done",
        "_error",
        "_finished",
        "_give_back",
        "_go_on",
        "_job",
        "_loop",
        "_no_room",
        "_off",
        "_result",
        "_scope",
        "_timeout",
    )

    def __init__(
        self,
        loop: Loop,
        begin: Callable[[], Any],
        go_on: Callable[[], Coroutine[Any, Any, Any]] | None = None,
        *,
        timeout: float | None = None,
        no_room: Callable[[], None] | None = None,
        give_back: Callable[[Any], None] | None = None,
    ) -> None:
        self._loop = loop
        self._begin = begin
        self._go_on = go_on
        self._timeout = timeout
        self._no_room = no_room
        self._give_back = give_back
        self._context = copy_context()
        self._job = current_job()
        self._scope: anyio.CancelScope | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        self._finished = False
        self._abandoned = False
        self._done = _held()  # until the outcome is there
        self._off: threading.Lock | None = None  # held until the call is called off

    def wait(self) -> Any:
        """In the caller's thread: the outcome.  Raises LoopEnded if the loop ends before."""
        try:
            self._enter()
            self._done.acquire()
        except LoopEnded:
            raise
        except BaseException:  # KeyboardInterrupt: this thread will not come for the outcome
            self._interrupted()
            raise
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._result

    def _enter(self) -> None:
        try:
            self._loop.run_from_thread(self._start)
        except RuntimeError:
            raise LoopEnded from None

    def _interrupted(self) -> None:
        """Call it off, and wait for that, so that this thread may go on with another call of its kind."""
        self._off = _held()
        said = False
        while not said:
            try:
                self._loop.run_from_thread(self._abandon)
                said = True
            except RuntimeError:
                return
            except KeyboardInterrupt:  # once more, in the middle of it
                continue
        self._off.acquire(timeout=CALLING_OFF)

    # -- on the loop

    def _start(self) -> None:
        try:
            self._context.run(self._loop.prepare_context)
            result = self._context.run(self._begin)
            if result is MUST_WAIT:
                result = self._step_aside()
            if result is MUST_WAIT:
                self._wait_for_it()
            else:
                self._finish(result, None)
        except Exception as error:
            self._finish(None, error)
        except BaseException:
            self._finish(None, LoopEnded())
            raise

    def _step_aside(self) -> Any:
        """A worker that has to wait makes room for another."""
        if self._job is None or self._no_room is None or self._job.step_aside():
            return MUST_WAIT
        self._loop.tally.hit("max_waiting_threads", "one more had to wait, and its channel was closed")
        self._no_room()
        return self._context.run(self._begin)

    def _wait_for_it(self) -> None:
        if not self._loop.is_open:
            raise LoopEnded
        self._context.run(self._loop.spawn, self._wait_on)

    async def _wait_on(self) -> None:
        assert self._go_on is not None
        result: Any = None
        error: BaseException | None = LoopEnded()  # unless we hear otherwise: this task is cancelled with its loop
        try:
            if not self._abandoned:
                with anyio.CancelScope() as self._scope:
                    if self._timeout is not None:
                        self._scope.deadline = anyio.current_time() + self._timeout
                    result = await self._go_on()
                    error = None
                if self._scope.cancelled_caught:
                    error = TimeoutError(f"nothing came of it within {self._timeout} seconds")
        except Exception as raised:
            error = raised
        finally:
            self._finish(result, error)

    def _finish(self, result: Any, error: BaseException | None) -> None:
        self._finished = True
        self._result = result
        self._error = error
        if self._abandoned:
            self._take_back()
        self._done.release()

    def _abandon(self) -> None:
        if self._abandoned:
            return
        self._abandoned = True
        if self._finished:
            self._take_back()
        elif self._scope is not None:
            self._scope.cancel()

    def _take_back(self) -> None:
        assert self._off is not None
        self._off.release()
        if self._error is None and self._give_back is not None:
            self._give_back(self._result)
