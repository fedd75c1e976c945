"""Receiving: by callback, by `receive`, by iteration.

A message that finds everything idle takes the short way in `_received`: the runner of `_callbacks`, in its order, but
no queue.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from threading import get_ident
from typing import Any

import anyio

from channelkit._callbacks import Callback as Callback
from channelkit._callbacks import Callbacks
from channelkit._inbox import Message
from channelkit._lifecycle import OPEN, OVER
from channelkit._outgoing import ACCEPTANCES_PER_YIELD
from channelkit.errors import ChannelClosed, ReceiveUnsupported


class Incoming(Callbacks):
    """The receiving half of a channel."""

    __slots__ = ()

    #: What `receive` says where a channel cannot receive; None where it can.
    _receive_unsupported: str | None = None

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
        if self._store(message) and on_receive is not None and not self._running:
            self._exchange.want_room()  # held back only because too much is unsent

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

    # -- waiting for a message

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
