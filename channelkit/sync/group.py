"""The blocking view of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from channelkit._threads.crossing import LoopEnded, ask
from channelkit.sync.channel import SyncChannel

if TYPE_CHECKING:
    from channelkit.channel import Channel
    from channelkit.group import Group


class SyncGroup:
    """The blocking view of a `Group`: `group.sync`.  Members may be given as either face of a channel."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def __repr__(self) -> str:
        return f"<blocking view of {self._group!r}>"

    def __len__(self) -> int:
        return len(self._group)

    def __contains__(self, channel: object) -> bool:
        return _plain(channel) in self._group

    def __iter__(self) -> Iterator[SyncChannel]:
        """Iterate over the members there are now."""
        return iter([channel.sync for channel in self._group])

    @property
    def dropped(self) -> int:
        """As `Group.dropped`."""
        return self._group.dropped

    @property
    def closed_slow(self) -> int:
        """As `Group.closed_slow`."""
        return self._group.closed_slow

    def add(self, channel: SyncChannel | Channel) -> None:
        """Make `channel` a member; it leaves by itself when it is over.  Adding a closed one does nothing."""
        self._on_loop_of(_plain(channel), self._group.add, _plain(channel))

    def discard(self, channel: SyncChannel | Channel) -> None:
        """Let `channel` leave; nothing happens if it is no member."""
        self._on_loop_of(_plain(channel), self._group.discard, _plain(channel))

    def send_nowait(self, message: Any, *, exclude: SyncChannel | Channel | None = None) -> int:
        """Send `message` to every member but `exclude`; how many accepted it.  Waits for the loop's turn only.

        Raises TypeError or ValueError if a member's transport cannot carry `message`.
        """
        send = partial(self._group.send_nowait, message, exclude=_plain(exclude))
        member = next(iter(self._group), None)  # any one tells which loop the group is on
        sent: int = 0 if member is None else self._on_loop_of(member, send) or 0
        return sent

    #: A group never waits for a member, so both are the same here.
    send = send_nowait

    def _on_loop_of(self, channel: Channel, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return ask(channel._loop, function, *args)
        except LoopEnded:
            return None  # the channel is over, and no member of anything


def _plain(channel: Any) -> Any:
    return channel._channel if isinstance(channel, SyncChannel) else channel
