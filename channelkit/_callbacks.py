"""Callbacks of a channel: the one queue, its one runner, and who is to be called.

All go through `_run_callbacks`: on_open, then messages, then on_close; one at a time, never inside a call the
application made (G7, G13, G14).  A callback that returns an awaitable gets a task for as long as it and what queued up
behind it takes, one that runs on a worker none; an idle channel owns none.
"""

from __future__ import annotations

import contextvars
import inspect
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from channelkit._inbox import Inbox, Message
from channelkit._lifecycle import OPEN, OVER, logger
from channelkit._threads.jobs import Job, PoolEnded
from channelkit.errors import WorkersBusy

if TYPE_CHECKING:
    from channelkit.http import Request
    from channelkit.spi import Exchange
    from channelkit.status import CloseStatus

#: Callbacks of one channel that run inline before the loop gets its turn; the rest follows in the next.
CALLBACKS_PER_TURN = 64

Callback = Callable[..., Any]


class Callbacks(Inbox):
    """The callbacks of a channel and their runner."""

    __slots__ = (
        "_calls",
        "_close_listeners",
        "_context",
        "_handler_running",
        "_holding",
        "_on_ping",
        "_on_receive",
        "_opened",
        "_opened_at",
        "_running",
    )

    def __init__(self, request: Request, exchange: Exchange) -> None:
        super().__init__(request, exchange)
        self._context: contextvars.Context = contextvars.copy_context()
        self._opened_at = 0.0
        self._on_receive: Callback | None = None
        self._on_ping: Callback | None = None
        self._close_listeners: list[Callback] | None = None  # those still to be told
        self._calls: deque[Callable[[], Any]] | None = None  # on_open, pings: in order, before messages
        self._running = False  # a callback is running, inline, in its task or on a worker
        self._opened = False  # on_open has returned, messages may be delivered
        self._handler_running = True  # it may still set a receiver
        self._holding = False  # a `with_channel` block will receive for sure

    # -- opening

    def _start(self, on_open: Callback | None, holding: bool) -> None:
        """The channel is open: run on_open, then what has arrived.  `holding`: a receiver will come for sure."""
        self._phase = OPEN
        self._opened_at = self._loop.time()
        self._loop.meters.channels.add(self)
        self._holding = holding
        if on_open is not None:
            self._queue_call(on_open)
        self._queue_call(self._opened_up)

    def _opened_up(self) -> None:
        """on_open is through, if there is one."""
        self._opened = True
        self._settle()

    def _handler_returned(self) -> None:
        """The host says that the request's handler has returned."""
        self._handler_running = False
        self._settle()
        if self._info is not None:
            self._loop.call_soon(self._run_callbacks)

    def _settle(self) -> None:
        """Once on_open and the handler are through with no receiver set, nobody will ask: count, do not keep."""
        if not self._opened or self._handler_running or self._holding or self._discarding:
            return
        if self._on_receive is not None or self._receiver is not None:
            return
        self._discarding = True
        self._drop_inbox()

    # -- the runner

    def _queue_call(self, call: Callable[[], Any]) -> None:
        if self._calls is None:
            self._calls = deque()
        self._calls.append(call)
        self._loop.call_soon(self._run_callbacks)

    def _next_call(self) -> Callable[[], Any] | None:
        """What is to run next, in the order of the contract; None if there is nothing for now."""
        if self._calls:
            return self._calls.popleft()
        if not self._opened:
            return None
        if self._inbox and self._on_receive is not None:
            if self._phase != OVER and self._outbox.unsent > self._config.soft_mark:
                self._exchange.want_room()
                return None
            return partial(self._on_receive, self._take())
        if self._info is not None and self._close_listeners and not self._receiver_may_come():
            return partial(self._close_listeners.pop(0), self._info.status)
        return None

    def _take_on_worker(self) -> Message | None:
        """The worker that runs on_receive goes on with this message; None: its job is done, and the loop looks.

        In that worker's thread only.  What it reads here the loop writes: a look that comes too early ends the job.
        """
        if self._calls or (self._phase != OVER and self._outbox.unsent > self._config.soft_mark):
            return None
        return self._take_elsewhere()

    def _receiver_may_come(self) -> bool:
        """Messages wait, and the handler, still running, may yet set their receiver: on_close comes after them (G7)."""
        return bool(self._inbox) and self._handler_running and not self._holding and self._on_receive is None

    def _run_callbacks(self) -> None:
        if self._running:
            return
        call = self._next_call()
        if call is not None:
            self._call(call)

    def _call(self, call: Callable[[], Any]) -> None:
        """Run `call`, and then what is ready, a budget's worth; inline as long as nothing has to be awaited."""
        self._running = True
        awaiting = False
        following: Callable[[], Any] | None = call
        left = CALLBACKS_PER_TURN
        try:
            while following is not None:
                result = self._invoke(following)
                if result is not None and self._follow(result):
                    awaiting = True
                    return
                left -= 1
                if not left:
                    self._loop.call_soon(self._run_callbacks)
                    return
                following = self._next_call()
        finally:
            if not awaiting:
                self._running = False

    def _invoke(self, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        try:
            return self._context.run(call)
        except Exception as error:
            self._callback_failed(error)
            return None
        finally:
            took = time.perf_counter() - started
            if took > self._config.slow_callback:
                logger.warning("a callback of %r held the event loop for %.0f ms", self, took * 1000)

    def _follow(self, result: Any) -> bool:
        """If a callback returned something to await, its end goes on from there; True if so.

        What runs on a worker tells its end; anything else gets a task, which is then the runner.
        """
        if isinstance(result, Job):
            self._loop.callbacks += 1
            result.when_done = self._worker_done
            return True
        if not inspect.isawaitable(result):
            return False
        self._loop.callbacks += 1
        self._context.run(self._loop.spawn, self._await_and_go_on, result)
        return True

    async def _await_and_go_on(self, result: Awaitable[Any]) -> None:
        """The channel's own task: await what callbacks return until nothing is ready."""
        left = CALLBACKS_PER_TURN
        try:
            pending: Awaitable[Any] | None = result
            while pending is not None:
                try:
                    await pending
                except Exception as error:
                    self._callback_failed(error)
                pending = None
                while (call := self._next_call()) is not None:
                    left -= 1
                    if not left:  # callbacks that never wait must not hold the loop
                        left = CALLBACKS_PER_TURN
                        await self._loop.checkpoint()
                    outcome = self._invoke(call)
                    if outcome is not None and inspect.isawaitable(outcome):
                        pending = outcome
                        break
        finally:
            self._loop.callback_done()
            self._running = False
            if self._phase == OVER:
                self._loop.call_soon(self._run_callbacks)

    def _worker_done(self, job: Job) -> None:
        """A callback that ran on a worker is through."""
        self._loop.callback_done()
        if job.running:  # left behind by a stop: nothing of this channel may ever run beside it
            if self._close_listeners:
                self._callback_failed(PoolEnded())
            return
        self._running = False
        self._settle_up()
        try:
            job.outcome()
        except Exception as error:
            self._callback_failed(error)
        self._run_callbacks()

    def _callback_failed(self, error: Exception) -> None:
        if isinstance(error, WorkersBusy):  # counted and logged by the pool
            self._unread += 1
            self._fail(1013)
            return
        if isinstance(error, PoolEnded):  # the one exception to G7: a callback of this channel is still in its thread
            logger.warning("a callback of %r did not run: the server has stopped before it", self)
            return
        if isinstance(error, anyio.WouldBlock):
            logger.error("a callback of %r let WouldBlock escape: the peer does not keep up; closed with 1013", self)
            self._fail(1013)
            return
        logger.error("a callback of %r raised; the channel is closed with 1011", self, exc_info=error)
        self._fail(1011)

    # -- registration

    def _pinged(self, data: bytes) -> None:
        if self._on_ping is not None and self._phase == OPEN and self._opened:
            self._queue_call(partial(self._on_ping, data))

    def on_ping(self, callback: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """Call `callback(data)` for each ping of the peer; the pong is sent first, by itself.  Also a decorator."""
        self._check_thread()
        if self._on_ping is not None:
            raise anyio.BusyResourceError("listening to pings of")
        self._on_ping = callback
        return callback

    def on_close(self, callback: Callable[[CloseStatus], Any]) -> Callable[[CloseStatus], Any]:
        """Call `callback(status)` once, after the last message's callback has returned.  Also a decorator.

        Any number may be registered; one that is registered after the end runs in the next turn of the loop.
        """
        self._check_thread()
        if self._close_listeners is None:
            self._close_listeners = []
        self._close_listeners.append(callback)
        if self._phase == OVER:
            self._loop.call_soon(self._run_callbacks)
        return callback

    def _forget_close_listener(self, callback: Callable[[CloseStatus], Any]) -> None:
        """A group lets go of the channel; nothing happens if the listener was told already."""
        if self._close_listeners and callback in self._close_listeners:
            self._close_listeners.remove(callback)
