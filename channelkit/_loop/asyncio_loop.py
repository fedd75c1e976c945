"""A `Loop` on asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any
from weakref import getweakrefcount

import anyio
from anyio.abc import TaskGroup

from channelkit._loop.base import Loop, Start
from channelkit._loop.parking import Parking
from channelkit._loop.runner import Runner, getrefcount


class AsyncioParking(Parking):
    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> bool:
        return self._future is not None and not self._future.done()

    def park(self) -> Awaitable[None]:
        self._future = future = self._loop.create_future()
        return future

    def wake(self) -> None:
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)


class _NativeTasks:
    """Tasks of asyncio itself, each in a cancel scope, with one task of an anyio group to stand for them all.

    Half the cost of a task of the group.  The scope is what makes cancelling them what it is in anyio: it reaches a
    task again until it ends, and respects shields.
    """

    def __init__(self, loop: AsyncioLoop, group: TaskGroup) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._scopes: set[anyio.CancelScope] = set()
        self._cancelled = False
        self._ended = loop.parking()
        group.start_soon(self._stand_for_all)

    def start(self, name: str, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        # Not by the loop's task factory: an eager one would run a handler inside the tick.
        task = asyncio.Task(self._run(function), loop=self._loop.native, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done, context=self._loop._context)  # or each would get a copy of its own

    async def _run(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            if self._cancelled:
                scope.cancel()
            try:
                await function()
            finally:
                self._scopes.discard(scope)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.fail(error)
        if self._cancelled and not self._tasks:
            self._ended.wake()

    async def _stand_for_all(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._cancelled = True
            for scope in tuple(self._scopes):
                scope.cancel()
            with anyio.CancelScope(shield=True):
                while self._tasks:
                    await self._ended.park()


class AsyncioLoop(Loop):
    """On asyncio or uvloop no helper task is needed: the loop calls us."""

    name = "asyncio"
    native: asyncio.AbstractEventLoop

    def __init__(self, tasks: TaskGroup) -> None:
        self.native = asyncio.get_running_loop()
        super().__init__(tasks, self.native.time)
        self._handle: asyncio.TimerHandle | None = None
        self._watched: set[int] = set()
        # What is asked for inside a channel's context, or on a foreign thread, must not run everybody's calls there.
        self._context = contextvars.copy_context()

    def parking(self) -> Parking:
        return AsyncioParking(self.native)

    def checkpoint(self) -> Awaitable[None]:
        return asyncio.sleep(0)

    def starter(self, group: TaskGroup, name: str, waits: bool = False) -> Start:
        runner = Runner(self, partial(_NativeTasks(self, group).start, name))
        return runner.start_own if waits else runner.start

    def traces(self) -> Callable[[], object]:
        task: Any = asyncio.current_task(self.native)

        def now() -> object:
            return getrefcount(task), getweakrefcount(task), len(gc.get_referents(task)), task.cancelling()

        return now

    def watch(self, fd: int, function: Callable[[], Any]) -> None:
        self._watched.add(fd)
        self.native.add_reader(fd, self._guarded, function, ())

    def unwatch(self, fd: int) -> None:
        self._watched.discard(fd)
        self.native.remove_reader(fd)

    def _wake_driver(self) -> None:
        self.native.call_soon(self._run_calls, context=self._context)

    def _set_timer(self, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if at < math.inf:
            self._handle = self.native.call_at(at, self._run_timers, context=self._context)

    def _wake_from_thread(self) -> None:
        self.native.call_soon_threadsafe(self._run_foreign, context=self._context)

    def prepare_context(self) -> None:
        tell_sniffio()

    def run_from_signal(self, function: Callable[[], Any]) -> None:
        self.native.call_soon_threadsafe(self._guarded, function, (), context=self._context)

    def _finish(self) -> None:
        self._set_timer(math.inf)
        for fd in tuple(self._watched):
            self.unwatch(fd)


def tell_no_library() -> None:
    """The current context is for code outside the loop, which may run `anyio.run`."""
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set(None)


def tell_sniffio() -> None:
    """In callbacks there is no current task to tell by, so under a plain `asyncio.run` anyio would find no loop there.

    Where sniffio is not installed (trio brings it) anyio takes asyncio for granted.
    """
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set("asyncio")
