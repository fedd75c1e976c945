"""A session as a client's program holds it: the client machine, and what it is told to do done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, Self

import anyio
from anyio.lowlevel import checkpoint

from channelkit.client.errors import ConnectFailed
from channelkit.errors import ChannelClosed, ConfigError, NotAvailable
from channelkit.session.actions import (
    Attached,
    Detached,
    Drained,
    Ended,
    Kind,
    Room,
)
from channelkit.session.client import Actions, ClientSession, Saved
from channelkit.session.doing import Doing
from channelkit.session.frames import Binary, Text, check_payload
from channelkit.status import CloseInfo, check_close

KINDS = {
    "websocket": Kind.WEBSOCKET,
    "http_stream": Kind.STREAM,
    "events": Kind.EVENTS,
    "long_poll": Kind.POLL,
}
#: Messages that wait for `receive`; beyond them the session's window holds the server.
INBOX = 256


def kind_of(transport: str) -> Kind:
    """The binding of a transport's name; ConfigError names those there are."""
    if transport not in KINDS:
        raise ConfigError(f"transport must be one of {', '.join(KINDS)}, not {transport!r}")
    return KINDS[transport]


class Links(Protocol):
    """What carries out the machine's actions on the network (connections.py)."""

    def act(self, action: Any) -> None:
        """Begin it; what comes of it is told to the machine later."""


class ClientChannel:
    """An open session.  Its methods may be called by any task of the event loop it was made on."""

    def __init__(self, machine: ClientSession, on_change: Callable[[str], None] | None = None) -> None:
        self.machine = machine
        self.links: Links | None = None  # set by connect
        self._inbox: deque[str | bytes] = deque()
        self._info: CloseInfo | None = None
        self._changed: anyio.Event | None = None  # what those wait for who wait
        self._alarm = anyio.Event()
        self._armed = float("inf")
        self._on_change = on_change
        self._doing = Doing(self._act)
        self.failure: ConnectFailed | None = None
        self.trouble = ""  # what stood last in the way of a session, for the one who waits for it
        self.saved = False

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closing" if self._info is None else str(self._info)
        return f"<ClientChannel {self.machine.sid} over {self.transport}, {state}>"

    @property
    def is_open(self) -> bool:
        """Whether a message may be sent."""
        return self.machine.is_open

    @property
    def close_info(self) -> CloseInfo | None:
        """How the session ended and what was left; None before."""
        return self._info

    @property
    def session_id(self) -> str | None:
        """The session's public id."""
        return self.machine.sid

    @property
    def transport(self) -> str:
        """What carries the newest attachment."""
        return next(name for name, kind in KINDS.items() if kind is self.machine.kind)

    @property
    def unacknowledged(self) -> int:
        """Messages sent that the server has not said to have; after the end, those that may be lost."""
        return len(self.machine.left) if self._info is not None else self.machine.sender.unacknowledged

    @property
    def left(self) -> tuple[str | bytes, ...]:
        """After the end: the messages that may be lost, in order, to be sent again to a new session.  Before: none."""
        return tuple(frame.payload for frame in self.machine.left if isinstance(frame, Text | Binary))

    # -- sending and receiving

    async def send(self, data: str | bytes) -> bool:
        """Send a message, waiting for the session's window, detached too.

        True once it is numbered: from then on it arrives, or its loss is told.  False if the session is closed.
        Cancelled, it was not accepted.  Raises TypeError or ValueError for what cannot be carried.
        """
        await checkpoint()
        machine = self.machine
        while machine.is_open:
            if machine.had_hello and machine.has_room(check_payload(data, machine.terms.max_message)):
                self.do(machine.send(data, anyio.current_time()))
                return True
            await self._change()
        return False

    async def receive(self) -> str | bytes:
        """The next message.  Raises ChannelClosed once the session is over and all it had was received."""
        await checkpoint()
        while not self._inbox:
            if self._info is not None:
                raise ChannelClosed(self._info)
            await self._change()
        message = self._inbox.popleft()
        if len(self._inbox) == INBOX // 2:
            self.pull()
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.receive()
        except ChannelClosed:
            raise StopAsyncIteration from None

    async def flush(self) -> bool:
        """Wait until everything sent is acknowledged; False if the session ended before."""
        await checkpoint()
        while self._info is None and self.machine.sender.unacknowledged:
            await self._change()
        return self._info is None or self._info.delivered is True

    # -- closing and moving

    async def close(self, code: int = 1000, reason: str = "", timeout: float | None = None) -> CloseInfo:
        """Close in order and wait: everything sent arrives first.  At most `timeout` (default: the grace) seconds.

        Cancelled while waiting, the close goes on by itself.  Raises ValueError for what may not be said.
        """
        check_close(code, reason)
        self.do(self.machine.close(code, reason, anyio.current_time(), timeout))
        return await self.wait_closed()

    async def wait_closed(self) -> CloseInfo:
        """Wait until the session is over, whoever ends it."""
        await checkpoint()
        while self._info is None:
            await self._change()
        return self._info

    async def wait_drained(self) -> None:
        """Wait until the server knows of the end too, or cannot be told any more."""
        while not self.machine.drained:
            await self._change()

    async def wait_ready(self) -> None:
        """Wait for this client's first hello.  Raises ConnectFailed."""
        while not self.machine.had_hello:
            if self.failure is not None:
                raise self.failure
            if self._info is not None:
                raise ConnectFailed(f"no session: {self.trouble or self._info}")
            await self._change()

    def switch(self, transport: str) -> None:
        """Go on by another transport; nothing is lost.  Returns at once."""
        self.do(self.machine.switch(kind_of(transport), anyio.current_time()))

    def save(self) -> Saved:
        """The state for a successor: `connect(url, saved=...)` in a new process goes on where this one is.

        What is in this channel's inbox counts as received.  Use the channel no more after it; leaving the
        `async with` then cuts the connection and leaves the session to the successor.
        """
        if self.machine.sid is None or self._info is not None:
            raise NotAvailable("a session that has not begun, or is over, cannot be saved")
        self.saved = True
        return self.machine.save()

    # -- the machine's actions

    def do(self, actions: Actions) -> None:
        """Do what the machine says, in order, before it is asked anything else."""
        if self._doing(actions) and self.machine.deadline < self._armed:
            self._alarm.set()

    def _act(self, action: Any) -> None:
        if isinstance(action, Ended):
            unread = len(self._inbox)
            self._info = action.ending.close_info(server=False, unread=unread)
            self._tell(f"closed: {self._info}")
        elif isinstance(action, Attached):
            self._tell(f"attached by {self.transport}")
        elif isinstance(action, Detached):
            self._tell("detached")
        elif not isinstance(action, Room | Drained):
            assert self.links is not None
            self.links.act(action)
            return
        self.wake()

    def _tell(self, change: str) -> None:
        if self._on_change is not None:
            self._on_change(change)

    def wake(self) -> None:
        """Whoever waits looks again."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    async def _change(self) -> None:
        """Wait for the next `wake`."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def pull(self) -> None:
        """Fill the inbox, and tell the machine what entered it."""
        machine = self.machine
        before = len(self._inbox)
        while len(self._inbox) < INBOX and (message := machine.pull()) is not None:
            self._inbox.append(message.payload)
        if len(self._inbox) != before:
            self.wake()
        self.do(machine.settle(anyio.current_time()))

    async def run_clock(self) -> None:
        """Tell the machine the time when it wants to know, until cancelled."""
        while True:
            self._alarm = anyio.Event()
            now = anyio.current_time()
            self._armed = self.machine.deadline
            if self._armed <= now:
                self.do(self.machine.tick(now))
                await checkpoint()
                continue
            with anyio.move_on_after(self._armed - now):
                await self._alarm.wait()
