"""Virtual time for both loops: nothing ever waits for real, and a program that hangs fails instead.

`run` is `anyio.run` with a clock that stands still while anything can happen and jumps to the next timer when nothing
can.  Real sockets inside the one process work: whatever the kernel already holds is seen before the clock moves.
Not here: the network that fails on demand (`network`).

A *turn* is one pass of the loop: poll, then run what is ready.  It means the same on both loops, so one budget fits
both.  A run that must not go on (budget spent, or deadlock) is ended in two steps: first every task is
cancelled, as by a user, and has `GRACE` turns for its `finally` blocks; what is still there then is dropped.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import math
import selectors
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple, Unpack, cast

import anyio

from channelkit.errors import LocalError

if TYPE_CHECKING:
    import trio
    import trio.testing

    Events = list[tuple[selectors.SelectorKey, int]]

Backend = Literal["asyncio", "trio"]
BACKENDS: tuple[Backend, ...] = ("asyncio", "trio")
GRACE = 1000  # turns in which cancelled tasks may clean up
_RESOLUTION = time.get_clock_info("monotonic").resolution  # asyncio runs a timer this much before it is due
_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class NothingLeftToDo(LocalError):
    """Deadlock: every task waits, no timer is set, and no socket of this process has anything to say."""


class TickBudgetExceeded(LocalError):
    """The loop turned more often than the run was allowed to: something spins."""


def run(
    async_fn: Callable[[Unpack[_Args]], Awaitable[_T]],
    *args: *_Args,
    backend: Backend = "asyncio",
    max_ticks: int = 1_000_000,
    patience: float = 0.0,
) -> _T:
    """Run ``async_fn(*args)`` on a loop whose clock starts at 0 and jumps, and return its result.

    `patience` is how many *real* seconds to wait for sockets and threads before the clock may jump, or a deadlock is
    declared.  0 is right while everything happens on this loop; with worker threads give what they need at most.

    Raises NothingLeftToDo when no task could ever go on, and TickBudgetExceeded after `max_ticks` turns of the loop.
    In both cases all tasks have been cancelled before.
    """
    watch = _Watch(max_ticks)
    start: Any = {"asyncio": _run_on_asyncio, "trio": _run_on_trio}[backend]
    result: Any = None
    try:
        result = start(watch, patience, async_fn, *args)
    except BaseException as exc:
        if watch.error is None or isinstance(exc, KeyboardInterrupt):
            raise
        # else: what the tasks raised when they were cancelled is not the news
    if watch.error is None:
        return cast("_T", result)
    watch.error.__traceback__ = watch.error.__context__ = None  # they keep every dropped frame alive
    if watch.told_twice:
        _bury()
    raise watch.error


def _bury() -> None:
    """Collect the dropped tasks now, so that the noise of their end does not fall into somebody else's test."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook


class _Watch:
    """Counts turns, and remembers why the run must end.  Both loops ask it; it knows neither."""

    def __init__(self, max_ticks: int) -> None:
        self._left = max_ticks
        self._max_ticks = max_ticks
        self.error: LocalError | None = None
        self.told_twice = False  # cancelling was not enough

    def turn(self, now: float) -> LocalError | None:
        """Count a turn; what is returned is why the run must end now."""
        self._left -= 1
        if self._left >= 0:
            return None
        text = f"more than {self._max_ticks} turns of the loop, at virtual time {now:g}"
        return self._end(TickBudgetExceeded(text))

    def deadlock(self, now: float) -> LocalError:
        """Nothing can happen any more; what is returned is why the run must end now."""
        text = f"every task waits for something that cannot come, at virtual time {now:g}"
        return self._end(NothingLeftToDo(f"{text} (if it comes from a worker thread, give `patience`)"))

    def _end(self, error: LocalError) -> LocalError:
        self.told_twice = self.error is not None
        self.error = self.error or error
        self._left = GRACE
        return self.error


# -- asyncio -----------------------------------------------------------------------------------------------------------


class _JumpingSelector(selectors.DefaultSelector):
    """Owns the virtual clock: a wait that would be spent asleep is added to `now` instead."""

    def __init__(self, watch: _Watch, patience: float) -> None:
        super().__init__()
        self.now = 0.0
        self.timers: list[float] = []  # a heap of the times that timers were set for, cancelled ones too
        self._watch = watch
        self._patience = patience

    def select(self, timeout: float | None = None) -> Events:
        # An exception from here leaves `run_forever`; the runner then cancels all tasks, which is step one of an end.
        if error := self._watch.turn(self.now):
            raise error
        busy = timeout is not None and timeout <= 0
        ready = super().select(0 if busy else self._patience)
        if not ready and not busy:
            self._jump(timeout)
        self._catch_up()
        return ready

    def _jump(self, timeout: float | None) -> None:
        if timeout is None:
            raise self._watch.deadlock(self.now)
        self.now += timeout
        if self.now + _RESOLUTION == self.now:
            # After 97 days a float is coarser than asyncio's resolution: a timer due exactly now would never be run.
            self.now = math.nextafter(self.now, math.inf)

    def _catch_up(self) -> None:
        """With the timers that asyncio is going to run, a nanosecond too early: by the last bit of a sum, say.

        Who set one would find that it is too early, and set it again, for ever.
        """
        while self.timers and self.timers[0] <= self.now + _RESOLUTION:
            self.now = max(self.now, heapq.heappop(self.timers))


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's own selector loop, with `time()` taken from a selector that never sleeps."""

    def __init__(self, watch: _Watch, patience: float) -> None:
        self._clock = _JumpingSelector(watch, patience)
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Args]], object],
        *args: *_Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        # `anyio.sleep_forever` is `asyncio.sleep(inf)`: a timer that is never due is nothing to jump to.
        if when == math.inf:
            return asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._clock.timers, when)
        return super().call_at(when, callback, *args, context=context)


def _run_on_asyncio(watch: _Watch, patience: float, async_fn: Callable[..., Awaitable[_T]], *args: Any) -> _T:
    options = {"loop_factory": lambda: VirtualTimeLoop(watch, patience)}
    return anyio.run(async_fn, *args, backend="asyncio", backend_options=options)


# -- trio --------------------------------------------------------------------------------------------------------------


class _TrioWatch:
    """A trio Instrument that brings `_Watch` its turns and deadlocks, and ends the run.

    trio logs and forgets what an instrument raises, so step one is a cancel scope round everything, and step two an
    exception from the clock, which the run loop asks every turn.
    """

    def __init__(self, watch: _Watch, clock: trio.testing.MockClock, scope: trio.CancelScope) -> None:
        self._watch = watch
        self._scope = scope
        self._true_time = clock.current_time
        self._idle = 0

    def before_io_wait(self, timeout: float) -> None:
        """Called by trio once a turn."""
        if self._watch.turn(self._true_time()) or self._is_deadlock():
            self._scope.cancel()

    def before_task_step(self, task: object) -> None:
        """Called by trio before any task goes on."""
        self._idle = 0

    def current_time(self) -> float:
        """What stands in for the clock's own method."""
        if self._watch.told_twice and self._watch.error is not None:
            raise self._watch.error
        return self._true_time()

    def _is_deadlock(self) -> bool:
        self._idle = self._idle + 1 if self._is_idle() else 0
        # Seen once is not enough: what ends `wait_all_tasks_blocked` or `patience` shows only after the next poll.
        if self._idle <= 2:
            return False
        self._idle = 0
        self._watch.deadlock(self._true_time())
        return True

    def _is_idle(self) -> bool:
        import trio

        now = trio.lowlevel.current_statistics()
        quiet = now.tasks_runnable == 0 and now.run_sync_soon_queue_size == 0
        return quiet and now.seconds_to_next_deadline == math.inf


def _run_on_trio(watch: _Watch, patience: float, async_fn: Callable[..., Awaitable[_T]], *args: Any) -> _T | None:
    import trio  # an extra: imported only by those who ask for it
    import trio.testing

    async def main() -> _T | None:
        with scope:
            return await async_fn(*args)
        return None  # cancelled by the watch, whose error is raised instead

    scope = trio.CancelScope()
    clock = trio.testing.MockClock(autojump_threshold=patience)
    instrument = _TrioWatch(watch, clock, scope)
    clock.current_time = instrument.current_time  # type: ignore[method-assign]  # MockClock is final
    options = {"clock": clock, "instruments": [instrument]}
    return anyio.run(main, backend="trio", backend_options=options)
