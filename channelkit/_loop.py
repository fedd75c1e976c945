"""The event loop as the rest of channelkit sees it.  The only module that imports asyncio or trio.

A `Loop` runs things soon, at a time, when a descriptor is readable, or as a task; it parks a task on the cheapest
thing the backend has; and it lets other threads in.  All tasks live in the anyio task group of `open_loop`.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import logging
import math
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from channelkit._tally import Tally

logger = logging.getLogger("channelkit")

LAST_TURNS = 64  # rounds of calls that calls queued, when the loop ends

Call = tuple[Callable[..., Any], tuple[Any, ...]]
#: `start(context, name, function, *args)` starts `function(*args)` as a task in `context`.
Start = Callable[..., None]


class Timer:
    """One call at one time; `cancel` is cheap and may come late."""

    __slots__ = ("_args", "_function", "_loop")

    def __init__(self, loop: Loop, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._loop: Loop | None = loop
        self._function: Callable[..., Any] | None = function
        self._args = args

    @property
    def active(self) -> bool:
        return self._loop is not None

    def cancel(self) -> None:
        """The call will not be made; nothing happens if it was."""
        loop, self._loop = self._loop, None
        self._function = None
        self._args = ()
        if loop is not None:
            loop._timer_cancelled()

    def _fire(self) -> None:
        loop, function, args = self._loop, self._function, self._args
        self._loop = self._function = None
        if loop is not None:
            loop.timers -= 1
        if function is not None:
            function(*args)


class Parking(ABC):
    """A place where one task at a time waits; being woken says nothing but "look again"."""

    __slots__ = ()

    @property
    @abstractmethod
    def waiting(self) -> bool:
        """Whether a task is parked here and not yet woken."""

    @abstractmethod
    def park(self) -> Awaitable[None]:
        """Wait, when awaited at once, until woken.  Cancellable; then nothing has happened."""

    @abstractmethod
    def wake(self) -> None:
        """Wake the task that is parked here, if any."""


class Loop(ABC):
    """See the module.  All methods but `run_from_thread` belong to the loop's own thread."""

    name: str
    #: The event loop itself: two `Loop`s on one have one clock and one thread.
    native: Any

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._calls: deque[Call] = deque()
        self._heap: list[tuple[float, int, Timer]] = []
        self._counter = itertools.count()
        self._cancelled = 0
        #: `threading.get_ident()` of the loop's own thread.
        self.thread = threading.get_ident()
        self._lock = threading.Lock()
        self._foreign: deque[Call] = deque()
        self._open = True
        self._cancel_on_leaving = False
        self._error: BaseException | None = None
        #: Acceptances since some task last yielded: see `_outgoing`.
        self.burst = 0
        #: Callbacks of channels that are being awaited now; a server that stops gives them their time.
        self.callbacks = 0
        self._callbacks_done: Parking | None = None
        #: Timers that are set, and spawned tasks that live: while there are any, the loop is needed.
        self.timers = 0
        self.tasks = 0
        self._idle: Parking | None = None
        #: What the limits and timeouts of this loop's host have done.
        self.tally = Tally(self.time)

    def prepare_context(self) -> None:  # noqa: B027  (nothing is a good answer)
        """Put into the current context what our callbacks will need there; for a host whose tasks are not ours."""

    @property
    def is_open(self) -> bool:
        """Whether tasks can still be started, and other threads still be heard."""
        return self._open

    @property
    def in_loop_thread(self) -> bool:
        """Whether the caller is on the loop's own thread."""
        return threading.get_ident() == self.thread

    @abstractmethod
    def time(self) -> float:
        """The loop's monotonic clock, in seconds."""

    @abstractmethod
    def parking(self) -> Parking:
        """A new parking place."""

    @abstractmethod
    def checkpoint(self) -> Awaitable[None]:
        """Let everything else run once."""

    @abstractmethod
    def watch(self, fd: int, function: Callable[[], Any]) -> None:
        """Call `function()` each time `fd` is readable."""

    @abstractmethod
    def unwatch(self, fd: int) -> None:
        """Stop that."""

    @abstractmethod
    def _wake_driver(self) -> None:
        """Have `_run_calls` called in this turn of the loop."""

    @abstractmethod
    def _set_timer(self, at: float) -> None:
        """Have `_run_timers` called at `at` (math.inf: not)."""

    # -- running things

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Run `function(*args)` after the current step, in order.  An Exception out of it is logged."""
        self._calls.append((function, args))
        if len(self._calls) == 1:
            self._wake_driver()

    def _run_calls(self) -> None:
        """Run what is queued now; what that queues runs in the next turn, so the loop gets its own in between."""
        calls = self._calls
        for _ in range(len(calls)):
            function, args = calls[0]
            try:
                self._guarded(function, args)
            finally:
                calls.popleft()
        if calls:
            self._wake_driver()
        elif self._idle is not None:
            self._idle.wake()

    def _guarded(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            function(*args)
        except Exception:
            logger.exception("an internal call of the loop failed")
        except BaseException as error:
            self.fail(error)

    def spawn(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, name: object = None) -> None:
        """Start `function(*args)` as a task of the loop's group, in the caller's context.

        A callback set on a channel that outlived its server gets a task outside it: there is no other place any more.
        """
        if not self._open:
            detach(partial(self._guarded_task, function, args))
            return
        self.tasks += 1
        name = name if name is not None else getattr(function, "__qualname__", None)
        self._tasks.start_soon(self._run_task, function, args, name=name)

    async def _run_task(self, function: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        try:
            await function(*args)
        finally:
            self.tasks -= 1
            self.look_idle()

    async def _guarded_task(self, function: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        try:
            await function(*args)
        except Exception:
            logger.exception("a task that outlived its server failed")

    def starter(self, group: TaskGroup) -> Start:
        """What starts tasks that belong to `group`, as cheaply as the backend can: there is one for each request.

        They are cancelled with the group, which ends after them, provided that it is cancelled at its end.
        """

        def start(
            context: contextvars.Context, name: str, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any
        ) -> None:
            context.run(partial(group.start_soon, function, *args, name=name))

        return start

    def cancel_on_leaving(self) -> None:
        """When the body of `open_loop` ends, cancel the spawned tasks instead of waiting for them."""
        self._cancel_on_leaving = True

    def callback_done(self) -> None:
        """A callback of a channel has been awaited."""
        self.callbacks -= 1
        if not self.callbacks and self._callbacks_done is not None:
            self._callbacks_done.wake()

    async def wait_callbacks(self) -> None:
        """Wait until no callback of a channel is being awaited; one task at a time."""
        self._callbacks_done = self.parking()
        while self.callbacks or self._calls:
            if self.callbacks:
                await self._callbacks_done.park()
            else:
                await self.checkpoint()

    async def wait_idle(self, unused: Callable[[], bool]) -> None:
        """Wait until nothing is queued, set or running, and `unused()`; one task at a time.  Nothing wakes by itself
        when `unused` changes: call `look_idle` then."""
        self._idle = self.parking()
        while self._calls or self.timers or self.tasks or not unused():
            await self._idle.park()

    def look_idle(self) -> None:
        """`wait_idle` looks again."""
        if self._idle is not None:
            self._idle.wake()

    def fail(self, error: BaseException) -> None:
        """End `open_loop` with `error`."""
        if self._error is None:
            self._error = error
            self._tasks.cancel_scope.cancel()

    def cancel(self) -> None:
        """Cancel the body of `open_loop` and every spawned task; `open_loop` then returns."""
        self._tasks.cancel_scope.cancel()

    # -- time

    def call_at(self, deadline: float, function: Callable[..., Any], *args: Any) -> Timer:
        """Run `function(*args)` once the clock reaches `deadline`; equal ones in the order they were asked for."""
        timer = Timer(self, function, args)
        self.timers += 1
        if deadline < math.inf:
            heapq.heappush(self._heap, (deadline, next(self._counter), timer))
            if self._heap[0][2] is timer:
                self._set_timer(deadline)
        return timer

    def _timer_cancelled(self) -> None:
        """Cancelled timers are dropped when they are more than half of the heap, so it cannot grow without bound."""
        self.timers -= 1
        self.look_idle()
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].active]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def _run_timers(self) -> None:
        """Fire what is due now; what that sets, even for now, waits for the next turn: the loop gets its own first."""
        for timer in self._take_due(self.time()):
            if timer.active:  # one before it may have cancelled it
                self._guarded(timer._fire, ())
        self._set_timer(self._heap[0][0] if self._heap else math.inf)
        self.look_idle()

    def _take_due(self, now: float) -> list[Timer]:
        due: list[Timer] = []
        while self._heap and (self._heap[0][0] <= now or not self._heap[0][2].active):
            timer = heapq.heappop(self._heap)[2]
            if timer.active:
                due.append(timer)
            else:
                self._cancelled = max(0, self._cancelled - 1)
        return due

    # -- other threads

    def run_from_thread(self, function: Callable[..., Any], *args: Any) -> None:
        """Run `function(*args)` on the loop soon; from any thread.  RuntimeError once the loop has ended."""
        with self._lock:
            if not self._open:
                raise RuntimeError("the server's loop has ended")
            if not self._foreign:
                self._wake_from_thread()  # first: a KeyboardInterrupt between the two must not leave a call unheard
            self._foreign.append((function, args))

    @abstractmethod
    def _wake_from_thread(self) -> None:
        """Have `_run_foreign` called on the loop."""

    @abstractmethod
    def run_from_signal(self, function: Callable[[], Any]) -> None:
        """Run `function()` on the loop soon; from a signal's handler, which may interrupt anything, us included."""

    def _run_foreign(self) -> None:
        with self._lock:
            calls, self._foreign = self._foreign, deque()
        for function, args in calls:
            self._guarded(function, args)

    def _close(self) -> None:
        """The last turn: what is queued still runs, so no `on_close` is lost with the loop."""
        with self._lock:
            self._open = False
        self._run_foreign()
        for _ in range(LAST_TURNS):
            if not self._calls:
                return
            self._run_calls()

    @abstractmethod
    def _finish(self) -> None:
        """Stop the helpers."""


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

    def start(
        self, context: contextvars.Context, name: str, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any
    ) -> None:
        # Not by the loop's task factory: an eager one would run a handler inside the tick.
        task = asyncio.Task(self._run(function, args), loop=self._loop.native, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def _run(self, function: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            if self._cancelled:
                scope.cancel()
            try:
                await function(*args)
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
        super().__init__(tasks)
        self.native = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._watched: set[int] = set()
        # What is asked for inside a channel's context, or on a foreign thread, must not run everybody's calls there.
        self._context = contextvars.copy_context()

    def time(self) -> float:
        return self.native.time()

    def parking(self) -> Parking:
        return AsyncioParking(self.native)

    def checkpoint(self) -> Awaitable[None]:
        return asyncio.sleep(0)

    def starter(self, group: TaskGroup) -> Start:
        return _NativeTasks(self, group).start

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
        _tell_sniffio()

    def run_from_signal(self, function: Callable[[], Any]) -> None:
        self.native.call_soon_threadsafe(self._guarded, function, (), context=self._context)

    def _finish(self) -> None:
        self._set_timer(math.inf)
        for fd in tuple(self._watched):
            self.unwatch(fd)


def _trio_loop(tasks: TaskGroup, helpers: TaskGroup) -> Loop:
    import trio

    class TrioParking(Parking):
        __slots__ = ("_task",)

        def __init__(self) -> None:
            self._task: Any = None

        @property
        def waiting(self) -> bool:
            return self._task is not None

        async def park(self) -> None:
            def abort(_: Any) -> Any:
                self._task = None
                return trio.lowlevel.Abort.SUCCEEDED

            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)

        def wake(self) -> None:
            task, self._task = self._task, None
            if task is not None:
                trio.lowlevel.reschedule(task)

    class TrioLoop(Loop):
        """Trio has tasks only, so a few helpers stand for its callbacks: one drives, one keeps time, one watches."""

        name = "trio"

        def __init__(self) -> None:
            super().__init__(tasks)
            self.native = self._token = trio.lowlevel.current_trio_token()
            self._driver = TrioParking()
            self._timer_scope = trio.CancelScope()
            self._next = math.inf
            self._watches: dict[int, trio.CancelScope] = {}
            helpers.start_soon(self._drive)
            helpers.start_soon(self._keep_time)

        def time(self) -> float:
            return trio.current_time()

        def parking(self) -> Parking:
            return TrioParking()

        def checkpoint(self) -> Awaitable[None]:
            return trio.lowlevel.checkpoint()  # noqa: ASYNC105  (the caller awaits it)

        @trio.lowlevel.enable_ki_protection
        async def _drive(self) -> None:
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
            while True:
                with trio.CancelScope(deadline=self._next) as self._timer_scope:
                    await trio.sleep_forever()
                self._next = math.inf
                self._run_timers()

        def _set_timer(self, at: float) -> None:
            self._next = at
            self._timer_scope.deadline = at

        def watch(self, fd: int, function: Callable[[], Any]) -> None:
            scope = self._watches[fd] = trio.CancelScope()
            helpers.start_soon(self._watch, fd, function, scope)

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
            helpers.cancel_scope.cancel()

    return TrioLoop()


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_task()


def _tell_sniffio() -> None:
    """In callbacks there is no current task to tell by, so under a plain `asyncio.run` anyio would find no loop there.

    Where sniffio is not installed (trio brings it) anyio takes asyncio for granted.
    """
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set("asyncio")


#: asyncio keeps only weak references to tasks.
_detached: set[asyncio.Task[None]] = set()


def detach(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main()` as a task outside every task group, in a context of its own.

    For a host that calls us and gives no place where a task may live longer than the call.  The task ends with the
    event loop at the latest: both backends cancel it then.  `main` must see to its own errors.
    """
    if _in_trio():
        import trio

        trio.lowlevel.spawn_system_task(main)
        return
    task = asyncio.get_running_loop().create_task(main(), context=contextvars.Context())
    _detached.add(task)
    task.add_done_callback(_detached.discard)


@asynccontextmanager
async def open_loop() -> AsyncIterator[Loop]:
    """The running event loop as a `Loop`; on leaving, spawned tasks are awaited, then the helpers end."""
    asyncio_backend = not _in_trio()
    if asyncio_backend:
        _tell_sniffio()
    loop: Loop | None = None
    try:
        async with anyio.create_task_group() as helpers:
            try:
                async with anyio.create_task_group() as tasks:
                    loop = AsyncioLoop(tasks) if asyncio_backend else _trio_loop(tasks, helpers)
                    yield loop
                    if loop._cancel_on_leaving:
                        tasks.cancel_scope.cancel()
            finally:
                if loop is not None:
                    loop._close()
                    loop._finish()
    finally:
        if loop is not None and loop._error is not None:
            error, loop._error = loop._error, None
            raise error
