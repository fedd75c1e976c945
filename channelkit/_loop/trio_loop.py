"""A `Loop` on trio; imported where trio runs, since it need not be installed."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import getweakrefcount

import trio
from anyio.abc import TaskGroup

from channelkit._loop.base import Loop
from channelkit._loop.parking import Parking
from channelkit._loop.runner import getrefcount


class TrioParking(Parking):
    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: Any = None

    @property
    def waiting(self) -> bool:
        return self._task is not None

    def park(self) -> Awaitable[None]:
        self._task = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105  (the caller awaits it)

    def _abort(self, _: Any) -> Any:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)


class TrioLoop(Loop):
    """Trio has tasks only, so a few helpers stand for its callbacks: one drives, one keeps time, one watches.

    They are shielded, as asyncio's callbacks are by nature: when a server is cancelled they carry out its end.
    """

    name = "trio"

    def __init__(self, tasks: TaskGroup, helpers: TaskGroup) -> None:
        super().__init__(tasks, trio.current_time)
        self._helpers = helpers
        self.native = self._token = trio.lowlevel.current_trio_token()
        self._driver = TrioParking()
        self._timer_scope = trio.CancelScope()
        self._next = math.inf
        self._shields = [trio.CancelScope(shield=True) for _ in range(2)]
        self._watches: dict[int, trio.CancelScope] = {}
        helpers.start_soon(self._drive)
        helpers.start_soon(self._keep_time)

    def parking(self) -> Parking:
        return TrioParking()

    def checkpoint(self) -> Awaitable[None]:
        return trio.lowlevel.checkpoint()  # noqa: ASYNC105  (the caller awaits it)

    def traces(self) -> Callable[[], object]:
        task = trio.lowlevel.current_task()
        return lambda: (getrefcount(task), getweakrefcount(task))

    @trio.lowlevel.enable_ki_protection
    async def _drive(self) -> None:
        with self._shields[0]:
            while True:
                self._run_calls()
                if self._calls:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._driver.park()

    def _wake_driver(self) -> None:
        if self._open:
            self._driver.wake()
        else:  # the driver ends with the server; a late `on_close` may still come
            self._token.run_sync_soon(self._run_calls)

    @trio.lowlevel.enable_ki_protection
    async def _keep_time(self) -> None:
        with self._shields[1]:
            while True:
                with trio.CancelScope(deadline=self._next) as self._timer_scope:
                    await trio.sleep_forever()
                self._next = math.inf
                self._run_timers()

    def _set_timer(self, at: float) -> None:
        self._next = at
        self._timer_scope.deadline = at

    def watch(self, fd: int, function: Callable[[], Any]) -> None:
        scope = self._watches[fd] = trio.CancelScope(shield=True)
        self._helpers.start_soon(self._watch, fd, function, scope)

    @trio.lowlevel.enable_ki_protection
    async def _watch(self, fd: int, function: Callable[[], Any], scope: trio.CancelScope) -> None:
        # `unwatch` may come before the first wait, or between the wake-up and our step: then `fd` may be closed.
        with scope:
            while not scope.cancel_called:
                await trio.lowlevel.wait_readable(fd)
                if not scope.cancel_called:
                    self._guarded(function, ())

    def unwatch(self, fd: int) -> None:
        scope = self._watches.pop(fd, None)
        if scope is not None:
            scope.cancel()

    def _wake_from_thread(self) -> None:
        self._token.run_sync_soon(self._run_foreign)

    def run_from_signal(self, function: Callable[[], Any]) -> None:
        self._token.run_sync_soon(self._guarded, function, ())

    def _finish(self) -> None:
        for scope in (*self._shields, *self._watches.values()):
            scope.cancel()
        self._helpers.cancel_scope.cancel()
