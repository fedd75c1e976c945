"""What a `Loop` is on every backend, and what all have in common: queues, timers, other threads, the end."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from anyio.abc import TaskGroup

from channelkit._loop.detached import detach
from channelkit._loop.parking import Parking
from channelkit._loop.runner import Runner
from channelkit._loop.timer import Timer
from channelkit._meters import Meters
from channelkit._tally import Tally

logger = logging.getLogger("channelkit")

LAST_TURNS = 64  # rounds of calls that calls queued, when the loop ends

Call = tuple[Callable[..., Any], tuple[Any, ...]]
#: `start(context, function, *args)` runs `function(*args)` in `context` soon, and in a task.
Start = Callable[..., None]


class Loop(ABC):
    """What the package is about.  All methods but `run_from_thread` belong to the loop's own thread."""

    name: str
    #: The event loop itself: two `Loop`s on one have one clock and one thread.
    native: Any

    def __init__(self, tasks: TaskGroup, time: Callable[[], float]) -> None:
        self._tasks = tasks
        #: The loop's monotonic clock, in seconds; its own function, since it is asked for each request.
        self.time = time
        self._calls: deque[Call] = deque()
        self._heap: list[tuple[float, int, Timer]] = []
        self._counter = itertools.count()
        self._cancelled = 0
        #: `threading.get_ident()` of the loop's own thread.
        self.thread = threading.get_ident()
        # An RLock: a signal's handler may call us in a thread that was just doing so (`Server.stop_soon`).
        self._lock = threading.RLock()
        self._foreign: deque[Call] = deque()
        self._heard = False  # a wake-up is under way, and `_run_foreign` will look
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
        #: What has happened on it.
        self.meters = Meters()

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

    def starter(self, group: TaskGroup, name: str, waits: bool = False) -> Start:
        """What starts coroutines in tasks that belong to `group`, as cheaply as can be: there is one for each request.

        They are cancelled with the group, which ends after them, provided that it is cancelled at its end.  `waits`:
        each of them does, for sure.
        """
        runner = Runner(self, partial(group.start_soon, name=name))
        return runner.start_own if waits else runner.start

    @abstractmethod
    def traces(self) -> Callable[[], object]:
        """What compares equal, from one call to the next, as long as code in the current task left nothing on it.

        That is: nobody else got hold of the task, who might cancel it, or keep something by it, later on.
        """

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
        while self._calls or self.timers or self.tasks or self.callbacks or not unused():
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
            self._foreign.append((function, args))
            if not self._heard:
                self._heard = True
                try:
                    self._wake_from_thread()
                except BaseException:  # KeyboardInterrupt: others rely on this wake-up by now
                    self._wake_from_thread()
                    raise

    @abstractmethod
    def _wake_from_thread(self) -> None:
        """Have `_run_foreign` called on the loop."""

    @abstractmethod
    def run_from_signal(self, function: Callable[[], Any]) -> None:
        """Run `function()` on the loop soon; from a signal's handler, which may interrupt anything, us included."""

    def _run_foreign(self) -> None:
        # Without the lock: who wakes us has it still, and would have to be waited for.
        self._heard = False  # first: what comes from now on wakes us again
        for _ in range(len(self._foreign)):
            function, args = self._foreign.popleft()
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
