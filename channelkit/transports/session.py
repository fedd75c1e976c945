"""The one object that holds a session together: machine, channel, carrier, deadline.

The rules are the machine's (`session.server`); here its actions are done, in order, and the application's calls become
events.  What carries a session is a `Carrier`: a poll, a stream, a WebSocket, or one of another package.
"""

from __future__ import annotations

import contextvars
import math
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any

from channelkit._deadline import Deadline
from channelkit._lifecycle import NEW
from channelkit.session.actions import Ended, Finish, Kind, Room, ServerAction, Start, Write
from channelkit.session.doing import Doing
from channelkit.session.frames import Frame, Numbered
from channelkit.session.parcel import Parcel
from channelkit.session.refusals import Refusal
from channelkit.session.server import Admitted, Refused, ServerSession
from channelkit.spi import Carrier, Exchange
from channelkit.transports.session_channel import ProcessedChannel, SessionChannel, SessionExchange

if TYPE_CHECKING:
    from channelkit.config import SessionConfig
    from channelkit.http import Request
    from channelkit.session.ending import Ending


class LiveSession:
    """One session on one event loop."""

    __slots__ = (
        "_armed",
        "_carriers",
        "_channel",
        "_context",
        "_deadline",
        "_direct",
        "_doing",
        "_host",
        "_leaving",
        "_over",
        "_pulling",
        "_sender",
        "_start",
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
        self._doing = Doing(self._act)
        self._direct: Callable[[int, Parcel], None] | None = None  # how a message is simply written, if it can be
        self._leaving: weakref.ref[Any] | None = None  # the last one that was finished, if it has a `drop`
        self._pulling = False  # until the handler has begun
        self._deadline = Deadline(self.loop, self._tick)
        self._armed = math.inf  # when it fires
        self._context = contextvars.copy_context()
        inner = SessionExchange(self, exchange.config, exchange.loop, exchange.host)
        kind = ProcessedChannel if machine.config.ack == "processed" else SessionChannel
        self._channel: SessionChannel | None = kind(request.outliving(), inner)
        self._host.join(self)
        self._arm()

    @property
    def channel(self) -> SessionChannel | None:
        """The application's end; None when the session is over: what is remembered of it holds no message."""
        return self._channel

    # -- what carriers and requests tell

    @property
    def config(self) -> SessionConfig:
        """The limits of this session."""
        return self.machine.config

    def attach(self, kind: Kind, a: int, ack: int, carrier: Carrier, wait: float = 0.0) -> int | Refusal:
        """Make `carrier` the attachment: its number, by which it is known from now on; or why not."""
        result = self.machine.attach(kind, a, ack, self.loop.time(), wait=wait, draining=self._host.stopping)
        if isinstance(result, Admitted):
            self._carriers[result.number] = carrier
        self.do(result.actions)
        return result.number if isinstance(result, Admitted) else result.refusal

    def received(self, attachment: int, frame: Frame) -> None:
        """A frame came on a WebSocket."""
        now = self.loop.time()
        actions = self.machine.received(attachment, frame, now)
        if actions:
            self.do(actions)
        self._pull(now)

    def heard(self, attachment: int, at: float) -> None:
        """Bytes came that are no frame, or none yet: the peer lives."""
        self.machine.heard(attachment, at)

    def broke(self, attachment: int, code: int, reason: str) -> None:
        """The peer broke the protocol on this attachment."""
        self.do(self.machine.broke(attachment, code, reason, self.loop.time()))

    def after(self, n: int) -> Iterator[Numbered]:
        """What is kept with a number above `n`, in order; to be read before anything else happens."""
        return self._sender.after(n)

    def caught_up(self, attachment: int) -> None:
        """A carrier that was `lagging` has written everything that is there: what waited for that may be due."""
        self._tick()

    def detached(self, attachment: int) -> None:
        """The carrier's connection is gone."""
        self._carriers.pop(attachment, None)
        self.do(self.machine.detached(attachment, self.loop.time()))

    def post(self, a: int, ack: int, frames: list[Numbered]) -> Refusal | int:
        """A batch came by POST: the ack to answer, or the refusal."""
        result = self.machine.post(a, ack, frames, self.loop.time())
        self.do(result.actions)
        if isinstance(result, Refused):
            return result.refusal
        self._pull(self.loop.time())  # what there is room for enters the inbox before the answer tells of it
        return self.machine.answer(result)

    def delete(self, a: int) -> Refusal | None:
        """The client ends it, now; None if it may."""
        result = self.machine.delete(a, self.loop.time())
        self.do(result.actions)
        return result.refusal if isinstance(result, Refused) else None

    # -- what the channel and its exchange ask

    def send(self, parcel: Parcel) -> None:
        """Number a message and write it, if there is where."""
        if (direct := self._direct) is None:
            self.do(self.machine.send(parcel.payload, self.loop.time()))
        else:  # no deadline comes nearer by it
            direct(self._sender.number(parcel.payload, parcel.size, self.loop.time()), parcel)

    def processed(self) -> None:
        """The application is through with the oldest message it has (ack="processed")."""
        if not self.machine.over:
            self.machine.processed()
            self.do(self.machine.settle(self.loop.time()))

    def end_attachment(self, reason: str) -> bool:
        """Let the connection go that carries the session; whether there was one."""
        current = self.machine.attachment
        if current is None:
            return False
        self.do(self.machine.broke(current.number, 1012, reason, self.loop.time()))
        return True

    def close(self, code: int, reason: str) -> None:
        self._look()
        self.do(self.machine.close(code, reason, self.loop.time()))

    def blocked(self) -> None:
        self._look()
        self.do(self.machine.blocked(self.loop.time()))

    def set_pulling(self, on: bool) -> None:
        """The inbox is full, or has room again."""
        self._pulling = on
        if on:
            self.loop.call_soon(self._pull_soon)

    def going_away(self, now: bool) -> None:
        """The host stops: close in order with 1001 while there is time, else at once."""
        if self._channel is not None:
            self._channel.going_away(now)
        if now:
            self.abort()

    def abort(self) -> None:
        self.do(self.machine.kill(1001, "", self.loop.time()))

    # -- the machine's actions

    def do(self, actions: list[ServerAction]) -> None:
        """Do what the machine says, in order, before it is asked anything else."""
        self._direct = None
        if self._doing(actions):
            current = self.machine.attachment
            if current is not None and current.kind is not Kind.POLL:
                self._direct = getattr(self._carriers.get(current.number), "message", None)
            self._arm()

    def _act(self, action: ServerAction) -> None:
        if isinstance(action, Write):
            carrier = self._carriers.get(action.attachment)
            if carrier is not None:
                carrier.write(action.frames)
        elif isinstance(action, Finish):
            carrier = self._carriers.pop(action.attachment, None)
            if carrier is not None:
                carrier.finish(action)
                self._left(carrier)
        elif self._channel is not None:
            self._tell(self._channel, action)

    def _tell(self, channel: SessionChannel, action: ServerAction) -> None:
        if isinstance(action, Room):
            self.loop.call_soon(channel._room)
        elif isinstance(action, Start):
            self._begin(channel)
        elif isinstance(action, Ended):
            self._end(channel, action.ending)
        else:
            channel.moved(action)

    def _left(self, carrier: Carrier) -> None:
        """What this one wrote may still be under way; of the one before it nobody wants that any more."""
        if self._leaving is not None and (before := self._leaving()) is not None:
            before.drop()
        self._leaving = weakref.ref(carrier) if hasattr(carrier, "drop") else None

    def _begin(self, channel: SessionChannel) -> None:
        self._pulling = True
        if channel._phase == NEW:
            # Whatever request came first: the handler lives in the context of the session's creation.
            self._context.run(self._start, channel)
        self.loop.call_soon(self._pull_soon)

    def _end(self, channel: SessionChannel, ending: Ending) -> None:
        self._deadline.cancel()
        self._channel = None
        self._context = contextvars.Context()
        channel.ended(ending)
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
        while hold and self._pulling and self._channel is not None and (message := machine.pull()) is not None:
            self._channel._received(message.payload)
        actions = machine.settle(now)
        if actions:
            self.do(actions)
        elif machine.ack_at < self._armed:
            self._arm()

    def _tick(self) -> None:
        self._armed = math.inf
        self._look()
        self.do(self.machine.tick(self.loop.time()))

    def _look(self) -> None:
        """Ask the carrier what it does not tell by itself: when it heard something, whether it is behind."""
        current = self.machine.attachment
        if current is None:
            return
        carrier = self._carriers.get(current.number)
        heard_at: float = getattr(carrier, "heard_at", -math.inf)
        if heard_at > current.heard:
            self.heard(current.number, heard_at)
        self.machine.lags(current.number, getattr(carrier, "lagging", False))

    def _arm(self) -> None:
        """Deadlines mostly move away as a session lives; a timer that comes too early looks, and sleeps on."""
        at = self.machine.deadline
        if at < self._armed:
            self._armed = at
            self._deadline.set(max(0.0, at - self.loop.time()))
