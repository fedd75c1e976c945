"""A session as a Channel, and the one object that holds it together: machine, channel, carrier, deadline.

The rules are the machine's (`session.server`); here its actions are done, in order, and the application's calls become
events.  What carries a session is a `Carrier`: a poll, a stream, a WebSocket, or one of another package.
"""

from __future__ import annotations

import contextvars
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Hashable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from channelkit._deadline import Deadline
from channelkit._lifecycle import NEW
from channelkit.channel import Channel
from channelkit.http import Response
from channelkit.session.actions import Attached, Detached, Ended, Finish, Kind, Room, ServerAction, Start, Write
from channelkit.session.codec import Halves, around, event_halves, line_halves
from channelkit.session.frames import Frame, Numbered, check_payload
from channelkit.session.refusals import Refusal
from channelkit.session.server import Admitted, Refused, ServerSession
from channelkit.spi import Exchange

if TYPE_CHECKING:
    from channelkit._loop import Loop
    from channelkit.config import Config, SessionConfig
    from channelkit.http import Request
    from channelkit.session.ending import Ending
    from channelkit.spi import Host


class Carrier(Protocol):
    """A connection that carries a session's downlink.  It never calls the session from inside these calls."""

    def write(self, frames: tuple[Frame, ...]) -> None:
        """Encode and write `frames`, in order."""

    def message(self, n: int, parcel: Parcel) -> None:
        """Encode and write message `n`; not asked of a poll."""

    def finish(self, action: Finish) -> None:
        """End after what was written; the session hears no more of this carrier."""


class Parcel:
    """A session's wire: a message before it has a number.  A group's members share it, and the forms it is given."""

    __slots__ = ("_event", "_line", "payload", "size")

    def __init__(self, payload: str | bytes, size: int) -> None:
        self.payload = payload
        self.size = size
        self._line: Halves | None = None
        self._event: Halves | None = None

    def __len__(self) -> int:
        return self.size

    def line(self, n: int) -> bytes:
        """The line of JSON that says it is message `n`."""
        if self._line is None:
            self._line = line_halves(self.payload)
        return around(self._line, n)

    def event(self, n: int) -> bytes:
        """The same as a block of an event stream."""
        if self._event is None:
            self._event = event_halves(self.payload)
        return around(self._event, n)


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
    `session_id` is public; `principal` is what `authenticate` gave.
    """

    __slots__ = ("_format", "_listeners", "_max_message", "_sender", "_session", "principal", "session_id")

    transport = "session"

    def __init__(self, request: Request, exchange: SessionExchange, principal: Hashable) -> None:
        super().__init__(request, exchange)
        self._session = exchange.session
        self._listeners: dict[type[ServerAction], Callable[[], Any]] = {}
        self._sender = self._session.machine.sender
        self._max_message = self._session.machine.config.max_message
        self._format = f"session, at most {self._max_message}"  # a str, whose hash is made once
        self.session_id = self._session.machine.sid
        self.principal = principal

    @property
    def attached(self) -> bool:
        """Whether a connection carries the session now."""
        return self._session.machine.attachment is not None

    def on_attach(self, callback: Callable[[], Any]) -> Callable[[], Any]:
        """Call `callback()` each time a connection carries the session again; also a decorator."""
        self._check_thread()
        self._listeners[Attached] = callback
        return callback

    def on_detach(self, callback: Callable[[], Any]) -> Callable[[], Any]:
        """Call `callback()` when no connection carries the session (a poller: after `poll_gap`); also a decorator."""
        self._check_thread()
        self._listeners[Detached] = callback
        return callback

    def moved(self, action: ServerAction) -> None:
        """The session was attached or detached."""
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

    def ended(self, ending: Ending, unsent: int) -> None:
        """The session is over: once, by the machine."""
        info = ending.close_info(server=True)
        self._ended(info.status, info.code, info.reason, info.by, delivered=info.delivered, unsent=unsent)


def _payload_of(data: Any) -> Any:
    """What of `data` a session carries; `check_payload` judges it."""
    payload: Any = data
    if isinstance(data, Response):
        payload = data.body
    elif isinstance(data, dict):
        payload = data.get("body", data)
    return bytes(payload) if isinstance(payload, bytearray | memoryview) else payload


class LiveSession:
    """One session on one event loop."""

    __slots__ = (
        "_armed",
        "_carriers",
        "_context",
        "_deadline",
        "_direct",
        "_doing",
        "_host",
        "_over",
        "_pulling",
        "_sender",
        "_start",
        "_todo",
        "channel",
        "loop",
        "machine",
        "principal",
    )

    def __init__(
        self,
        machine: ServerSession,
        request: Request,
        exchange: Exchange,
        principal: Hashable,
        start: Callable[[SessionChannel], None],
        over: Callable[[LiveSession], None],
    ) -> None:
        self.machine = machine
        self.principal = principal
        self.loop = exchange.loop
        self._sender = machine.sender
        self._host = exchange.host
        self._start = start
        self._over = over
        self._carriers: dict[int, Carrier] = {}
        self._todo: deque[ServerAction] = deque()
        self._doing = False
        self._direct: Carrier | None = None  # what a message is simply written to: neither a poll nor amid actions
        self._pulling = False  # until the handler has begun
        self._deadline = Deadline(self.loop, self._tick)
        self._armed = math.inf  # when it fires
        self._context = contextvars.copy_context()
        inner = SessionExchange(self, exchange.config, exchange.loop, exchange.host)
        self.channel = SessionChannel(request, inner, principal)
        self._host.join(self)
        self._arm()

    # -- what carriers and requests tell

    def attach(self, kind: Kind, a: int, ack: int, carrier: Carrier, wait: float = 0.0) -> int | Refused:
        """Make `carrier` the attachment: its number, by which it is known from now on; or why not."""
        unsent = self.machine.sender.bytes
        result = self.machine.attach(kind, a, ack, self.loop.time(), wait=wait, draining=self._host.stopping)
        if isinstance(result, Admitted):
            self._carriers[result.number] = carrier
        self.do(result.actions, unsent)
        return result.number if isinstance(result, Admitted) else result

    def received(self, attachment: int, frame: Frame) -> None:
        """A frame came on a WebSocket."""
        now = self.loop.time()
        unsent = self.machine.sender.bytes
        actions = self.machine.received(attachment, frame, now)
        if actions:
            self.do(actions, unsent)
        self._pull(now)

    def broke(self, attachment: int, code: int, reason: str) -> None:
        """The peer broke the protocol on this attachment."""
        self.do(self.machine.broke(attachment, code, reason, self.loop.time()))

    def detached(self, attachment: int) -> None:
        """The carrier's connection is gone."""
        self._carriers.pop(attachment, None)
        self.do(self.machine.detached(attachment, self.loop.time()))

    def post(self, a: int, ack: int, frames: list[Numbered]) -> Refusal | int:
        """A batch came by POST: the ack to answer, or the refusal."""
        unsent = self.machine.sender.bytes
        result = self.machine.post(a, ack, frames, self.loop.time())
        self.do(result.actions, unsent)
        if isinstance(result, Refused):
            return result.refusal
        self._pull(self.loop.time())  # what there is room for enters the inbox before the answer tells of it
        return self.machine.answer(result)

    def delete(self, a: int) -> Refusal | None:
        """The client ends it, now; None if it may."""
        unsent = self.machine.sender.bytes
        result = self.machine.delete(a, self.loop.time())
        self.do(result.actions, unsent)
        return result.refusal if isinstance(result, Refused) else None

    # -- what the channel and its exchange ask

    def send(self, parcel: Parcel) -> None:
        """Number a message and write it, if there is where."""
        if (carrier := self._direct) is None:
            self.do(self.machine.send(parcel.payload, self.loop.time()))
        else:  # no deadline comes nearer by it
            carrier.message(self._sender.number(parcel.payload, parcel.size, self.loop.time()), parcel)

    def close(self, code: int, reason: str) -> None:
        unsent = self.machine.sender.bytes
        self.do(self.machine.close(code, reason, self.loop.time()), unsent)

    def blocked(self) -> None:
        self.do(self.machine.blocked(self.loop.time()))

    def set_pulling(self, on: bool) -> None:
        """The inbox is full, or has room again."""
        self._pulling = on
        if on:
            self.loop.call_soon(self._pull_soon)

    def going_away(self, now: bool) -> None:
        """The host stops: close in order with 1001 while there is time, else at once."""
        self.channel.going_away(now)
        if now:
            self.abort()

    def abort(self) -> None:
        unsent = self.machine.sender.bytes
        self.do(self.machine.kill(1001, "", self.loop.time()), unsent)

    # -- the machine's actions

    def do(self, actions: list[ServerAction], unsent: int = 0) -> None:
        """Do what the machine says, in order, before it is asked anything else."""
        self._todo.extend(actions)
        if self._doing:
            return
        self._doing = True
        self._direct = None
        try:
            while self._todo:
                self._act(self._todo.popleft(), unsent)
        finally:
            self._doing = False
        current = self.machine.attachment
        if current is not None and current.kind is not Kind.POLL:
            self._direct = self._carriers.get(current.number)
        self._arm()

    def _act(self, action: ServerAction, unsent: int) -> None:
        if isinstance(action, Write):
            carrier = self._carriers.get(action.attachment)
            if carrier is not None:
                carrier.write(action.frames)
        elif isinstance(action, Finish):
            carrier = self._carriers.pop(action.attachment, None)
            if carrier is not None:
                carrier.finish(action)
        elif isinstance(action, Room):
            self.loop.call_soon(self.channel._room)
        elif isinstance(action, Start):
            self._begin()
        elif isinstance(action, Ended):
            self._end(action.ending, unsent)
        else:
            self.channel.moved(action)

    def _begin(self) -> None:
        self._pulling = True
        if self.channel._phase == NEW:
            # Whatever request came first: the handler lives in the context of the session's creation.
            self._context.run(self._start, self.channel)
        self.loop.call_soon(self._pull_soon)

    def _end(self, ending: Ending, unsent: int) -> None:
        self._deadline.cancel()
        self.channel.ended(ending, unsent if ending.unacknowledged else 0)
        self._host.leave(self)
        self._over(self)

    def _pull_soon(self) -> None:
        self._pull(self.loop.time())

    def _pull(self, now: float) -> None:
        """Give the channel what it takes, and tell the machine that this is all for now."""
        machine = self.machine
        if machine.over:
            return
        hold = machine.receiver.hold
        while hold and self._pulling and (message := machine.pull()) is not None:
            self.channel._received(message.payload)
        unsent = machine.sender.bytes
        actions = machine.settle(now)
        if actions:
            self.do(actions, unsent)
        elif machine.ack_at < self._armed:
            self._arm()

    def _tick(self) -> None:
        self._armed = math.inf
        unsent = self.machine.sender.bytes
        self.do(self.machine.tick(self.loop.time()), unsent)

    def _arm(self) -> None:
        """Deadlines mostly move away as a session lives; a timer that comes too early looks, and sleeps on."""
        at = self.machine.deadline
        if at < self._armed:
            self._armed = at
            self._deadline.set(max(0.0, at - self.loop.time()))
