"""A session as a Channel: what of a channel's promises the session keeps in place of a connection."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Hashable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import anyio

from channelkit.channel import Channel
from channelkit.http import Response
from channelkit.session.actions import Attached, Detached, ServerAction
from channelkit.session.frames import check_payload
from channelkit.session.parcel import Parcel
from channelkit.spi import Exchange

if TYPE_CHECKING:
    from channelkit._loop import Loop
    from channelkit.config import Config, SessionConfig
    from channelkit.http import Request
    from channelkit.session.ending import Ending
    from channelkit.spi import Host
    from channelkit.transports.session import LiveSession


@lru_cache
def _with_window(config: Config, terms: SessionConfig) -> Config:
    """The window is the mark: a message of any allowed size fits where `send` need not wait.  Sessions share it."""
    soft_mark = max(1, terms.window_bytes - terms.max_message)
    return dataclasses.replace(config, soft_mark=soft_mark, hard_mark=terms.window_bytes)


class SessionExchange(Exchange):
    """What a session is to its channel in place of a connection."""

    __slots__ = ("session",)

    def __init__(self, session: LiveSession, config: Config, loop: Loop, host: Host) -> None:
        self.session = session
        self.loop = loop
        self.host = host
        self.config = _with_window(config, session.machine.config)
        self.outbox = session.machine.sender  # what the peer has not acknowledged, against the window

    def want_room(self) -> None:
        self.session.blocked()

    def flush(self) -> None:
        """Carriers hand over by themselves; what counts is the acknowledgement."""

    def set_reading(self, on: bool) -> None:
        self.session.set_pulling(on)

    def abort(self) -> None:
        self.session.abort()


class SessionChannel(Channel):
    """A channel that outlives connections and moves between transports (docs/protocol.md).

    `send` waits while the window is full, attached or not; `flush` waits until the peer has acknowledged everything.
    """

    __slots__ = (
        "_detached",
        "_format",
        "_listeners",
        "_max_message",
        "_sender",
        "_session",
    )

    transport = "session"

    def __init__(self, request: Request, exchange: SessionExchange) -> None:
        super().__init__(request, exchange)
        self._session = exchange.session
        self._detached = False  # on_detach was told, on_attach not yet
        self._listeners: dict[type[ServerAction], Callable[[], Any]] = {}
        self._sender = self._session.machine.sender
        self._max_message = self._session.machine.config.max_message
        self._format = f"session, at most {self._max_message}"  # a str, whose hash is made once

    @property
    def session_id(self) -> str:
        return self._session.machine.sid

    @property
    def attached(self) -> bool:
        return self._session.machine.attachment is not None

    def on_attach(self, callback: Callable[[], Any]) -> Callable[[], Any]:
        self._listeners[Attached] = callback
        return super().on_attach(callback)

    def on_detach(self, callback: Callable[[], Any]) -> Callable[[], Any]:
        self._listeners[Detached] = callback
        return super().on_detach(callback)

    def detach(self) -> bool:
        """End the connection that carries the session, behind what was written to it; the client attaches again.

        False if there is none just now, as between two polls.  Nothing is lost by it: use it to move clients to another
        process, or to see what your application does when a network goes.
        """
        self._check_thread()
        return self._session.end_attachment("detached")

    def handled(self) -> None:
        """The handler has returned in order; with ack="processed" that is what counts."""

    def moved(self, action: ServerAction) -> None:
        """The session was attached or detached.  Of the first attach nobody is told: no handler was there before it."""
        if isinstance(action, Detached) or self._detached:
            self._detached = isinstance(action, Detached)
            self._queue_call(partial(self._tell, type(action)))

    def _tell(self, kind: type[ServerAction]) -> Any:
        callback = self._listeners.get(kind)
        return None if callback is None else callback()

    # -- hooks

    @property
    def _wire_format(self) -> Hashable | None:
        return self._format

    def _encode(self, data: Any) -> Any:
        payload = data if isinstance(data, str) else _payload_of(data)
        return Parcel(payload, check_payload(payload, self._max_message))

    def _accept_nowait(self, wire: Any, last: bool = False) -> None:
        if self._senders or not self._sender.has_room(wire.size):
            raise anyio.WouldBlock
        self._accept(wire, last)

    def _write(self, wire: Any, last: bool) -> None:
        self._session.send(wire)

    def _finish(self, code: int, reason: str) -> None:
        self._session.close(code, reason)

    def _abort(self) -> None:
        self._session.abort()

    def ended(self, ending: Ending) -> None:
        """The session is over: once, by the machine."""
        info = ending.close_info(server=True)
        self._ended(info.status, info.code, info.reason, info.by, delivered=info.delivered, unsent=info.unsent)


def _payload_of(data: Any) -> Any:
    """What of `data` a session carries; `check_payload` judges it."""
    payload: Any = data
    if isinstance(data, Response):
        payload = data.body
    elif isinstance(data, dict):
        payload = data.get("body", data)
    return bytes(payload) if isinstance(payload, bytearray | memoryview) else payload


class ProcessedChannel(SessionChannel):
    """With ack="processed": the session hears of each message that the application is through with.

    A callback is through when it has returned, and what it returned to await is done; iteration when the next message
    is asked for, or the handler has returned.  Never by an exception: what raised stays unacknowledged, and since the
    channel ends with it, so does everything behind.
    """

    __slots__ = ("_given",)

    def __init__(self, request: Request, exchange: SessionExchange) -> None:
        super().__init__(request, exchange)
        self._given = False  # iteration has a message, and has not asked for the next

    def handled(self) -> None:
        """The handler has returned, or asks for the next message."""
        if self._given:
            self._given = False
            self._session.processed()

    async def _next(self, ending: bool) -> Any:
        if self._receiver is None and self._on_receive is None:  # else it is about to raise
            self.handled()
        message = await super()._next(ending)
        self._given = True
        return message

    def _receive_now(self) -> Any:
        if self._receiver is None and self._on_receive is None:
            self.handled()
        message = super()._receive_now()
        self._given = message is not None
        return message

    def _take_on_worker(self) -> None:
        """Each message is a job of its own, whose end the session hears."""

    def _put_back(self, message: Any) -> None:
        self._given = False
        super()._put_back(message)

    def on_receive(self, callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
        super().on_receive(self._through(callback))
        return callback

    def _open(self, *, on_receive: Callable[..., Any] | None = None, **options: Any) -> None:
        super()._open(on_receive=None if on_receive is None else self._through(on_receive), **options)

    def _through(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            result = callback(*args)
            if inspect.isawaitable(result):
                return self._awaited(result)
            self._session.processed()
            return result

        return call

    async def _awaited(self, result: Awaitable[Any]) -> None:
        await result
        self._session.processed()
