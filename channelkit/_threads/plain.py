"""What plain `def` code becomes on the loop: awaitables that run it on the worker pool.

Where code runs is decided once, by its kind: `async def` on the loop, plain `def` on a worker.  So a plain function
that returns an awaitable is a mistake, told as one; so is an `async def` callback given by a plain handler.
"""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from channelkit._threads.jobs import CALLBACK, Job, logged
from channelkit.errors import ConfigError
from channelkit.http import Response

if TYPE_CHECKING:
    from channelkit._threads.pool import Workers
    from channelkit.channel import Channel


def runs_on_loop(function: Any) -> bool:
    """Whether `function` is `async def`: itself, below `functools.partial`, or as the `__call__` of an object."""
    while isinstance(function, partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    return not inspect.isclass(function) and inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def is_plain(handler: Any) -> bool:
    """Whether a handler is a plain function, or an Endpoint of one."""
    return not runs_on_loop(handler) or getattr(handler, "_plain", False) is True


def on_worker(channel: Channel, callback: Callable[..., Any], must: bool = False) -> Callable[..., Job]:
    """`callback` as the loop's side of `channel` calls it.  `must`: it has room even if the queue has none."""
    check_plain(callback)
    workers = channel._exchange.host.workers

    def call(*args: Any) -> Job:
        return workers.callback(callback, *args, must=must)

    return call


def messages_on_worker(channel: Channel, callback: Callable[..., Any]) -> Callable[[Any], Job]:
    """The same for an `on_receive`: a job takes all messages that wait."""
    check_plain(callback)
    workers = channel._exchange.host.workers

    def call(message: Any) -> Job:
        return workers.messages(channel, callback, message)

    return call


def channel_callback(callback: Callable[..., Any] | None, must: bool = False) -> Callable[..., Any] | None:
    """The same for a callback that gets the channel first, before there is one."""
    if callback is None:
        return None
    check_plain(callback)

    def call(channel: Channel, *args: Any) -> Job:
        return channel._exchange.host.workers.callback(callback, channel.sync, *args, must=must)

    return call


def message_callback(callback: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """The same for an `on_receive`."""
    if callback is None:
        return None
    check_plain(callback)

    def call(channel: Channel, message: Any) -> Job:
        return channel._exchange.host.workers.messages(channel, callback, channel.sync, message)

    return call


def check_plain(callback: Any) -> None:
    """Raise for a callback that does not belong beside a plain handler."""
    if not callable(callback):
        raise TypeError(f"a callback is a function, not {callback!r}")
    if runs_on_loop(callback):
        raise ConfigError(
            f"{callback!r} is `async def`, and the handler is a plain function: its callbacks run on the worker pool "
            "too; write both `async def`, or neither"
        )


_END: Any = object()


class BodyOnWorkers:
    """An iterable body whose code belongs on a worker, as the loop iterates over it."""

    __slots__ = ("_body", "_iterator", "_lock", "_unwanted", "_workers")

    def __init__(self, body: Any, workers: Workers) -> None:
        self._body = body
        self._workers = workers
        self._iterator: Iterator[Any] | None = None
        self._lock = threading.Lock()
        self._unwanted = False

    @classmethod
    def of(cls, value: Any, workers: Workers) -> Any:
        """`value`, a response in any of its forms or a body, with its body iterated on workers if code of its own
        would run there."""
        if isinstance(value, Response):
            return dataclasses.replace(value, body=cls.of(value.body, workers)) if _has_code(value.body) else value
        if isinstance(value, Mapping):
            return {**value, "body": cls.of(value["body"], workers)} if _has_code(value.get("body")) else value
        return cls(value, workers) if _has_code(value) else value

    def __aiter__(self) -> BodyOnWorkers:
        return self

    async def __anext__(self) -> Any:
        piece = await self._workers.run(CALLBACK, self._next, must=True)
        if piece is _END:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Close the iterable, behind whatever it is doing; nobody waits for that, or a shield might hold for ever."""
        self._unwanted = True
        if hasattr(self._body, "close") or hasattr(self._iterator, "close"):
            self._workers.start(self._close)

    def _next(self) -> Any:
        try:
            with self._lock:
                if self._iterator is None:
                    self._iterator = iter(self._body)
                return next(self._iterator, _END)
        finally:
            if self._unwanted:
                logged(self._close, ())

    def _close(self) -> None:
        """Unless another worker is in it, who then does it at its end: no second place is taken by waiting for that."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            for one in (self._iterator, self._body):
                if (close := getattr(one, "close", None)) is not None:
                    close()
        finally:
            self._lock.release()


def _has_code(body: Any) -> bool:
    if isinstance(body, str | bytes | bytearray | memoryview | pathlib.Path | list | tuple | Mapping):
        return False
    return hasattr(body, "__iter__") and not hasattr(body, "__aiter__") and not hasattr(body, "read")
