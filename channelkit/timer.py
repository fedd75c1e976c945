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

if TYPE_CHECKING:
    from channelkit._loop import Loop, Timer

T = TypeVar("T")


class TimerService:
    """Starts due tasks of one server, one after another: each one's first step starts the next.

    So tasks of equal deadline begin in order on every loop (trio starts what is spawned together in random order).
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
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

    __slots__ = ("_args", "_context", "_function", "_service", "_timer")

    def __init__(self, service: TimerService, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._service = service
        self._function = function
        self._args = args
        self._context = copy_context()
        self._timer: Timer | None = None

    def _fire(self) -> None:
        self._timer = None
        self._service.fire(self)

    async def _run(self) -> None:
        self._service.started()
        try:
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

    Belongs to the running server: RuntimeError outside its handlers, callbacks and tasks.  An exception is logged.
    When the server stops, tasks that have not begun never run.
    """
    try:
        service = current_timers.get()
    except LookupError:
        raise RuntimeError("schedule_task works inside a running server: in a handler, a callback or a task") from None
    if not isinstance(seconds, int | float) or math.isnan(seconds):
        raise ValueError(f"seconds must be a number, not {seconds!r}")
    task = ScheduledTask(service, function, args)
    task._timer = service.loop.call_at(service.loop.time() + max(0.0, seconds), task._fire)
    return task


def cancel(task: ScheduledTask) -> bool:
    """True if this call prevented `task` from running; False if it has run, runs, or was cancelled."""
    return task._cancel()


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
