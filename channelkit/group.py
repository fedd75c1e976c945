"""A Group: channels that get the same messages.

A message is encoded once per wire format and the same bytes go to every member.  One slow member never holds up the
others: what happens to it is a named policy, and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, get_args

import anyio
import anyio.lowlevel

from channelkit._lifecycle import OPEN
from channelkit.channel import Channel
from channelkit.errors import ConfigError
from channelkit.status import CloseStatus
from channelkit.sync.channel import SyncChannel
from channelkit.sync.group import SyncGroup

SlowPolicy = Literal["close", "drop-newest", "drop-oldest"]


class Group:
    """A set of channels to send to together; members leave by themselves when they close.

    `slow` says what happens to a member above its hard mark: "close" closes it with 1013, "drop-newest" skips this
    message for it, "drop-oldest" keeps the newest `backlog` messages for it and drops older ones.  Dropped messages
    are counted in `dropped`.  A group belongs to its channels' event loop; other threads use its `sync`.
    """

    def __init__(self, *, slow: SlowPolicy = "close", backlog: int = 16) -> None:
        if slow not in get_args(SlowPolicy):
            raise ConfigError(f"slow must be one of {', '.join(get_args(SlowPolicy))}, not {slow!r}")
        if backlog < 1:
            raise ConfigError(f"backlog must be at least 1, not {backlog}")
        self._members: dict[Channel, Callable[[CloseStatus], None]] = {}  # and its on_close listener
        self._behind: dict[Channel, deque[Any]] = {}  # messages of those that are, with "drop-oldest"
        self._slow: SlowPolicy = slow
        self._backlog = backlog
        #: Messages that slow members did not get, since the group was made.
        self.dropped = 0
        #: Members closed because they were slow.
        self.closed_slow = 0

    @property
    def sync(self) -> SyncGroup:
        """The blocking view of this group, for plain `def` handlers and any other thread."""
        return SyncGroup(self)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Channel]:
        """Iterate over the members there are now; members may come and go meanwhile."""
        return iter(tuple(self._members))

    def __contains__(self, channel: object) -> bool:
        return channel in self._members

    def add(self, channel: Channel) -> None:
        """Make `channel` a member; it leaves by itself when it is over.  Adding a closed one does nothing.

        Raises TypeError for the blocking view of one, whose group is `sync`; RuntimeError in another thread.
        """
        if isinstance(channel, SyncChannel):
            raise TypeError("that is the blocking view of a channel: plain `def` code adds it to group.sync")
        channel._check_thread()
        if channel in self._members or not channel.is_open:
            return
        listener = partial(self._left, channel)
        self._members[channel] = listener
        channel.on_close(listener)

    def discard(self, channel: Channel) -> None:
        """Let `channel` leave; nothing happens if it is no member.  Raises RuntimeError in another thread."""
        channel._check_thread()
        listener = self._members.pop(channel, None)
        if listener is not None:
            channel._forget_close_listener(listener)

    def _left(self, channel: Channel, status: CloseStatus) -> None:
        self.discard(channel)

    def send_nowait(self, message: Any, *, exclude: Channel | None = None) -> int:
        """Send `message` to every member but `exclude`; returns how many accepted it.  Never waits.

        Raises TypeError or ValueError if a member's transport cannot carry `message`; members of other formats may
        have it already then.
        """
        members = tuple(self._members)
        if members:
            members[0]._check_thread()
        wires: dict[object, Any] = {}
        count = 0
        for channel in members:
            if channel is exclude or channel._phase != OPEN:
                continue
            kind = channel._wire_format
            wire = wires.get(kind)
            if wire is None:
                wire = channel._encode(message)
                if kind is not None:
                    wires[kind] = wire
            count += self._send_to(channel, wire)
        return count

    async def send(self, message: Any, *, exclude: Channel | None = None) -> int:
        """`send_nowait`, and one turn for the loop before it, so that a loop of sends lets others run."""
        await anyio.lowlevel.checkpoint()
        return self.send_nowait(message, exclude=exclude)

    def _send_to(self, channel: Channel, wire: Any) -> bool:
        if channel not in self._behind:
            try:
                channel._accept_nowait(wire, channel.single_response)
                return True
            except anyio.WouldBlock:
                pass
        return self._slow_member(channel, wire)

    def _slow_member(self, channel: Channel, wire: Any) -> bool:
        if self._slow == "close":
            self.closed_slow += 1
            self.discard(channel)
            channel.close_nowait(1013, "too slow")
            return False
        if self._slow == "drop-newest":
            self.dropped += 1
            return False
        self._keep_newest(channel, wire)
        return True

    def _keep_newest(self, channel: Channel, wire: Any) -> None:
        """drop-oldest: a short queue of our own before the channel, emptied by a task that waits like any sender."""
        waiting = self._behind.get(channel)
        if waiting is None:
            waiting = self._behind[channel] = deque()
            channel._loop.spawn(self._catch_up, channel, waiting)
        if len(waiting) >= self._backlog:
            waiting.popleft()
            self.dropped += 1
        waiting.append(wire)

    async def _catch_up(self, channel: Channel, waiting: deque[Any]) -> None:
        try:
            while waiting and await channel._turn():
                channel._accept(waiting.popleft(), channel.single_response)
        finally:
            self.dropped += len(waiting)
            del self._behind[channel]
