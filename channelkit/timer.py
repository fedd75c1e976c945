"""Timers of a running server: http-kit's `schedule-task`, `cancel` and `with-timeout`.

Tasks run in the server's task group, in the order of their deadlines, those of equal deadline in the order they were
scheduled; each in a task of its own, so a slow one delays no other.  The clock is the loop's, monotonic.
"""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from channelkit._lifecycle import logger
from channelkit._threads.crossing import LoopEnded, ask
from channelkit._threads.jobs import CALLBACK
from channelkit._threads.plain import runs_on_loop

if TYPE_CHECKING:
    from channelkit._loop import Loop, Timer
    from channelkit._threads.pool import Workers

T = TypeVar("T")


class TimerService:
    """Starts due tasks of one server, one after another: each one's first step starts the next.

    So tasks of equal deadline begin in order on every loop (trio starts what is spawned together in random order).
    """

    def __init__(self, loop: Loop, workers: Workers) -> None:
        self.loop = loop
        self.workers = workers
        self._due: deque[ScheduledTask] = deque()

    def fire(self, task: ScheduledTask) -> None:
        self._due.append(task)
        if len(self._due) == 1:
            self._start_first()

    def _start_first(self) -> None:
        task = self._due[0]
        task._context.run(self.loop.spawn, task._run)

    def started(self) -> None:
        self._due.popleft()
        if self._due:
            self._start_first()


#: The timers of the server this code runs under.
current_timers: ContextVar[TimerService] = ContextVar("channelkit.current_timers")


class ScheduledTask:
    """What `schedule_task` returns; give it to `cancel`."""

    __slots__ = ("_args", "_context", "_function", "_on_worker", "_service", "_timer")

    def __init__(
        self, service: TimerService, function: Callable[..., Any], args: tuple[Any, ...], on_worker: bool
    ) -> None:
        self._service = service
        self._function = function
        self._args = args
        self._context = copy_context()
        self._on_worker = on_worker
        self._timer: Timer | None = None

    def _fire(self) -> None:
        self._timer = None
        self._service.fire(self)

    async def _run(self) -> None:
        self._service.started()
        try:
            if self._on_worker:
                await self._service.workers.run(CALLBACK, self._function, *self._args, must=True)
                return
            result = self._function(*self._args)
            if inspect.isawaitable(result):
                await result
        except Exception:
            logger.exception("a scheduled task raised")

    def _cancel(self) -> bool:
        timer, self._timer = self._timer, None
        if timer is None:
            return False
        timer.cancel()
        return True


def schedule_task(seconds: float, function: Callable[..., Any], *args: Any) -> ScheduledTask:
    """Run `function(*args)` once, after at least `seconds` (0 or less: as soon as possible); await its result if it
    is awaitable.

    Belongs to the running server: RuntimeError outside its handlers, callbacks and tasks.  Scheduled by a plain `def`
    handler or callback, a plain function runs on the worker pool too.  An exception is logged.  When the server stops,
    tasks that have not begun never run.
    """
    try:
        service = current_timers.get()
    except LookupError:
        raise RuntimeError("schedule_task works inside a running server: in a handler, a callback or a task") from None
    if not isinstance(seconds, int | float) or math.isnan(seconds):
        raise ValueError(f"seconds must be a number, not {seconds!r}")
    # Where code runs is decided by where it comes from: what a worker schedules runs on a worker.
    on_worker = not service.loop.in_loop_thread and not runs_on_loop(function)
    return ask(service.loop, _schedule, service, seconds, function, args, on_worker)


def _schedule(
    service: TimerService, seconds: float, function: Callable[..., Any], args: tuple[Any, ...], on_worker: bool
) -> ScheduledTask:
    task = ScheduledTask(service, function, args, on_worker)
    task._timer = service.loop.call_at(service.loop.time() + max(0.0, seconds), task._fire)
    return task


def cancel(task: ScheduledTask) -> bool:
    """True if this call prevented `task` from running; False if it has run, runs, or was cancelled."""
    try:
        return ask(task._service.loop, task._cancel)
    except LoopEnded:
        return False  # it never ran and never will, but not by this call


class with_timeout(Generic[T]):  # noqa: N801  (http-kit's name)
    """A function that runs at most once, and only within `seconds`; else `on_timeout()` runs instead.

    `reply = with_timeout(answer, 5, give_up)`: the first `reply(...)` within 5 seconds runs `answer(...)` and returns
    its result; after that, and after the timeout, `reply(...)` does nothing and returns None.
    """

    __slots__ = ("_function", "_task")

    def __init__(self, function: Callable[..., T], seconds: float, on_timeout: Callable[[], Any]) -> None:
        self._function = function
        self._task = schedule_task(seconds, on_timeout)

    def __call__(self, *args: Any, **kwargs: Any) -> T | None:
        if cancel(self._task):
            return self._function(*args, **kwargs)
        return None
