"""Receiving: the bounded inbox, the one queue of callbacks with its one runner, and iteration.

All callbacks of a channel go through `_run_callbacks`: on_open, then messages, then on_close; one at a time, never
inside a call the application made (G7, G13, G14).  A message that finds everything idle takes the short way in
`_received`: same runner, same order, no queue.  A callback that returns an awaitable gets a task for as long as it
and what queued up behind it takes; an idle channel owns none.
"""

from __future__ import annotations

import contextvars
import inspect
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

import anyio

from channelkit._lifecycle import CLOSING, OPEN, OVER, logger
from channelkit._outgoing import ACCEPTANCES_PER_YIELD, Outgoing
from channelkit._threads.jobs import PoolEnded
from channelkit.errors import ChannelClosed, ReceiveUnsupported, WorkersBusy

if TYPE_CHECKING:
    from channelkit._loop import Parking
    from channelkit.http import Request
    from channelkit.spi import Exchange
    from channelkit.status import CloseStatus

#: Callbacks of one channel that run inline before the loop gets its turn; the rest follows in the next.
CALLBACKS_PER_TURN = 64

Message = str | bytes
Callback = Callable[..., Any]


class Incoming(Outgoing):
    """The receiving half of a channel."""

    __slots__ = (
        "_calls",
        "_close_listeners",
        "_context",
        "_discarding",
        "_handler_running",
        "_holding",
        "_inbox",
        "_inbox_bytes",
        "_on_ping",
        "_on_receive",
        "_opened",
        "_place",
        "_reading",
        "_receiver",
        "_opened_at",
        "_received_count",
        "_running",
    )

    #: What `receive` says where a channel cannot receive; None where it can.
    _receive_unsupported: str | None = None

    def __init__(self, request: Request, exchange: Exchange) -> None:
        super().__init__(request, exchange)
        self._context: contextvars.Context = contextvars.copy_context()
        self._inbox: deque[Message] | None = None
        self._inbox_bytes = 0
        self._received_count = 0
        self._opened_at = 0.0
        self._reading = True
        self._on_receive: Callback | None = None
        self._on_ping: Callback | None = None
        self._close_listeners: list[Callback] | None = None  # those still to be told
        self._calls: deque[Callable[[], Any]] | None = None  # on_open, pings: in order, before messages
        self._running = False  # a callback is running, inline or in its task
        self._opened = False  # on_open has returned, messages may be delivered
        self._handler_running = True  # it may still set a receiver
        self._holding = False  # a `with_channel` block will receive for sure
        self._discarding = False
        self._place: Parking | None = None  # where a receiver waits, once one has
        self._receiver: Parking | None = None  # the same, while one waits

    def _set_reading(self, on: bool) -> None:
        """Hook: stop or go on reading from the peer."""
        self._exchange.set_reading(on)

    # -- up-calls of a transport

    def _received(self, message: Message) -> None:
        """One message has arrived, in order."""
        self._received_count += 1
        on_receive = self._on_receive
        if (
            on_receive is not None
            and not self._running
            and self._phase == OPEN
            and self._opened
            and not self._inbox
            and not self._calls
            and self._outbox.unsent <= self._config.soft_mark
        ):
            self._running = True
            try:
                result = self._context.run(on_receive, message)
            except Exception as error:
                self._callback_failed(error)
                result = None
            except BaseException:
                self._running = False
                raise
            if result is None or result is True or result is False or not self._follow(result):
                self._running = False
                if self._calls:
                    self._loop.call_soon(self._run_callbacks)
            return
        self._store(message)

    def _follow(self, result: Any) -> bool:
        """If a callback returned something to await, give it a task, which is then the runner; True if so."""
        if not inspect.isawaitable(result):
            return False
        self._loop.callbacks += 1
        self._context.run(self._loop.spawn, self._await_and_go_on, result)
        return True

    def _pinged(self, data: bytes) -> None:
        if self._on_ping is not None and self._phase == OPEN and self._opened:
            self._queue_call(partial(self._on_ping, data))

    def _store(self, message: Message) -> None:
        if (self._phase >= CLOSING and self._ending is not None) or self._discarding:
            self._unread += 1
            return
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(message)
        self._inbox_bytes += len(message)
        if self._reading and self._inbox_full():
            self._reading = False
            self._set_reading(False)
        if self._receiver is not None:
            self._receiver.wake()
        elif self._on_receive is not None and not self._running:
            self._exchange.want_room()  # held back only because too much is unsent

    def _inbox_full(self) -> bool:
        config = self._config
        assert self._inbox is not None
        return len(self._inbox) >= config.max_inbox or self._inbox_bytes >= config.max_inbox_bytes

    def _take(self) -> Message:
        assert self._inbox is not None
        message = self._inbox.popleft()
        self._inbox_bytes -= len(message)
        if self._info is not None and not self._inbox:
            self._loop.call_soon(self._run_callbacks)  # on_close may have waited for these
        if not self._reading and self._phase == OPEN and self._half_empty():
            self._reading = True
            self._set_reading(True)
        return message

    def _half_empty(self) -> bool:
        """Reading goes on at half, so that a slow receiver does not switch it with every message."""
        config = self._config
        assert self._inbox is not None
        return len(self._inbox) * 2 <= config.max_inbox and self._inbox_bytes * 2 <= config.max_inbox_bytes

    def _drop_inbox(self) -> None:
        if self._inbox:
            self._unread += len(self._inbox)
            self._inbox.clear()
            self._inbox_bytes = 0
        if not self._reading:
            self._reading = True
            self._set_reading(True)  # to see the reply to our close, say; what arrives is discarded

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

    # -- opening

    def _start(self, on_open: Callback | None, holding: bool) -> None:
        """The channel is open: run on_open, then what has arrived.  `holding`: a receiver will come for sure."""
        self._phase = OPEN
        self._opened_at = self._loop.time()
        self._loop.meters.channels.add(self)
        self._holding = holding
        self._queue_call(partial(self._open_up, on_open))

    def _open_up(self, on_open: Callback | None) -> Any:
        later = False
        try:
            result = on_open() if on_open is not None else None
            if result is not None and inspect.isawaitable(result):
                later = True
                return self._open_up_later(result)
            return None
        finally:
            if not later:
                self._opened_up()

    async def _open_up_later(self, result: Awaitable[Any]) -> None:
        try:
            await result
        finally:
            self._opened_up()

    def _opened_up(self) -> None:
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

    # -- registration

    def on_receive(self, callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Call `callback(message)` for each message, in order, one at a time; also a decorator.

        Messages that are waiting are delivered first.  A result that is awaitable is awaited before the next message.
        Raises anyio.BusyResourceError if there is a receiver already, ReceiveUnsupported where nothing can arrive.
        """
        self._check_receivable()
        if self._on_receive is not None or self._receiver is not None:
            raise anyio.BusyResourceError("receiving from")
        self._on_receive = callback
        self._discarding = False
        self._loop.call_soon(self._run_callbacks)
        return callback

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

    # -- iteration

    def receive(self) -> Coroutine[Any, Any, Any]:
        """Wait for the next message: text as str, binary as bytes.

        Cancelled, it takes nothing.  One task at a time: anyio.BusyResourceError for a second, or if there is an
        `on_receive` callback.  After the end, and when all that arrived before it has been taken, raises
        ChannelClosed with the `close_info`.  Raises ReceiveUnsupported at once where nothing can arrive.
        """
        return self._next(ending=False)

    def _receive_now(self) -> Message | None:
        """The next message if there is one, None if one may still come; raises as `receive` does."""
        self._check_receivable()
        if self._on_receive is not None or self._receiver is not None:
            raise anyio.BusyResourceError("receiving from")
        self._discarding = False
        if self._inbox:
            return self._take()
        if self._info is not None:
            raise ChannelClosed(self._info)
        return None

    def _put_back(self, message: Message) -> None:
        """A message that was taken, by one who did not get it, is the next again."""
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.appendleft(message)
        self._inbox_bytes += len(message)
        if self._receiver is not None:
            self._receiver.wake()

    async def _next(self, ending: bool) -> Any:
        """The next message; at the end StopAsyncIteration if `ending`, else ChannelClosed."""
        loop = self._loop
        if get_ident() != loop.thread or self._receive_unsupported is not None:
            self._check_receivable()
        if self._on_receive is not None or self._receiver is not None:
            raise anyio.BusyResourceError("receiving from")
        self._discarding = False
        loop.burst += 1
        if loop.burst >= ACCEPTANCES_PER_YIELD:
            loop.burst = 0
            await loop.checkpoint()
        if not self._inbox:
            await self._wait_message(ending)
        return self._take()

    async def _wait_message(self, ending: bool) -> None:
        if self._receiver is not None:
            raise anyio.BusyResourceError("receiving from")
        if self._place is None:
            self._place = self._loop.parking()
        self._receiver = receiver = self._place
        try:
            while not self._inbox:
                if self._info is not None:
                    await self._loop.checkpoint()
                    if ending:
                        raise StopAsyncIteration
                    raise ChannelClosed(self._info)
                self._exchange.flush()
                self._loop.burst = 0  # parking is a real yield
                await receiver.park()
        finally:
            self._receiver = None

    def _wake_waiters(self) -> None:
        super()._wake_waiters()
        if self._receiver is not None and (self._phase == OVER):
            self._receiver.wake()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Any]:
        return self._next(ending=True)

    def _check_receivable(self) -> None:
        self._check_thread()
        if self._receive_unsupported is not None:
            raise ReceiveUnsupported(self._receive_unsupported)
