"""The abstract Channel: its public face, with every promise of docs/guarantees written once.

A transport subclasses it and supplies hooks: `_encode`, `_write`, `_finish`, `_abort` and, where they differ from
the plain exchange, `_outbox`, `_set_reading`, `_wire_format`, `_ping`.  It calls up `_received`, `_pinged`, `_room`
and `_ended`.  Everything else is final.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from channelkit._access_log import access, log_channel, path_of
from channelkit._incoming import Callback, Incoming
from channelkit._lifecycle import NEW, OPEN
from channelkit.errors import NotAvailable
from channelkit.status import CloseInfo, CloseStatus, check_close
from channelkit.sync.channel import SyncChannel, view

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """A channel's numbers at one moment.  Sizes in bytes, the rest counts."""

    accepted: int
    received: int
    unread: int
    buffered_bytes: int
    inbox_messages: int
    inbox_bytes: int
    waiting_senders: int
    reading: bool


class Channel(Incoming):
    """One way to talk to one client, whatever carries it.

    All methods belong to the loop's own thread; other threads use `sync`.  `send` may be called by any number of tasks
    at once, `receive` by one.  Waiting in any of them flushes what this channel has written.
    """

    __slots__ = ("__weakref__",)

    #: The transport's registered name, such as "websocket".
    transport: ClassVar[str]
    is_websocket: ClassVar[bool] = False

    def __repr__(self) -> str:
        state = self._info if self._info is not None else ("new", "open", "closing", "over")[self._phase]
        return f"<{self.transport} channel of {self.request.method} {path_of(self.request.raw_path)}, {state}>"

    # -- state

    @property
    def is_open(self) -> bool:
        """Whether `send` can still be accepted; once False, False for ever."""
        return self._phase == OPEN

    @property
    def attached(self) -> bool:
        """Whether a connection carries it now: while open always, but for a session."""
        return self.is_open

    @property
    def session_id(self) -> str | None:
        """The public id of a session; None for a channel that ends with its connection."""
        return None

    @property
    def principal(self) -> Any:
        """Who it is by the `authenticate` of the `Endpoint`; None without."""
        return self.request.principal

    @property
    def close_info(self) -> CloseInfo | None:
        """Who ended the channel, how, and what was left; None until the end is complete."""
        return self._info

    @property
    def buffered_bytes(self) -> int:
        """Bytes accepted and not yet handed to the kernel or host; a streamed body in progress counts at least 1."""
        return self._outbox.unsent

    @property
    def sync(self) -> SyncChannel:
        """The blocking view of this channel, for any thread but the loop's own; one channel has one."""
        return self._sync or view(self)

    def statistics(self) -> ChannelStatistics:
        """The channel's numbers now."""
        return ChannelStatistics(
            accepted=self._accepted,
            received=self._received_count,
            unread=self._unread,
            buffered_bytes=self._outbox.unsent,
            inbox_messages=len(self._inbox or ()),
            inbox_bytes=self._waiting_bytes,
            waiting_senders=len(self._senders or ()),
            reading=self._reading,
        )

    def on_attach(self, callback: Callable[[], Any]) -> Callable[[], Any]:
        """Call `callback()` each time a connection carries the session again, after an on_detach; also a decorator.

        A channel that ends with its connection is never detached, so nobody is called there.
        """
        self._check_thread()
        return callback

    def on_detach(self, callback: Callable[[], Any]) -> Callable[[], Any]:
        """Call `callback()` when no connection carries the session, and none is about to; also a decorator.

        Between two polls, and between two responses of a stream that is rotated, `poll_gap` passes first.  A channel
        that ends with its connection has only `on_close`.
        """
        self._check_thread()
        return callback

    def _account(self, info: CloseInfo) -> None:
        """It is over: its numbers join those of the host, and one line tells why."""
        meters = self._loop.meters
        if self not in meters.channels:
            return  # it never opened
        meters.channels.discard(self)
        meters.closes[info.status.value] += 1
        meters.messages_sent += self._accepted
        meters.messages_received += self._received_count
        if access.isEnabledFor(logging.INFO):
            log_channel(self, info, self._loop.time() - self._opened_at)

    # -- closing

    def close_nowait(self, code: int = 1000, reason: str = "") -> bool:
        """Close the channel: all that was accepted is sent, then the end.  True if this call closed it.

        Messages not yet received are dropped and counted.  Raises ValueError for a code or reason that may not be
        sent (RFC 6455 7.4); nothing happens then.
        """
        self._check_thread()
        check_close(code, reason)
        return self._begin_close(CloseStatus.SERVER_CLOSE, code, reason)

    async def close(self, code: int = 1000, reason: str = "") -> bool:
        """Close the channel and wait until the wire is done, at most `close_timeout` or `write_timeout` seconds.

        True if this call closed it.  Cancelled while waiting, the close goes on by itself.  May be called by any
        task, inside callbacks too: it waits for the wire, never for callbacks.  Raises as `close_nowait`.
        """
        closed = self.close_nowait(code, reason)
        await self.wait_closed()
        return closed

    aclose = close

    async def wait_closed(self) -> CloseInfo:
        """Wait until the channel is over, whoever ends it; callbacks may still be running then."""
        self._check_thread()
        await self._loop.checkpoint()
        while self._info is None:
            await self._wait()
        return self._info

    async def flush(self) -> bool:
        """Wait until all that was accepted was handed to the kernel or host.

        False if the channel ended with something unsent.  Cancelling it changes nothing.
        """
        self._check_thread()
        await self._loop.checkpoint()
        self._exchange.flush()
        while self._info is None and self._outbox.unsent:
            self._exchange.want_room()
            await self._wait()
        return self._info is None or self._info.unsent == 0

    def going_away(self, now: bool) -> None:
        """The host stops (spi.Listener): close with 1001; a single answer still owed may come until `now`."""
        if now or not self.single_response:
            self._begin_close(CloseStatus.SERVER_CLOSE, 1001, "")

    # -- pings

    def ping(self, data: bytes = b"") -> bool:
        """Send a ping (RFC 6455 5.5.2; a comment on an event stream).  False if the channel is closed.

        Raises ValueError for more than 125 bytes, LocalError where the transport has no pings.
        """
        self._check_thread()
        if len(data) > 125:
            raise ValueError(f"a ping carries at most 125 bytes (RFC 6455 5.5), not {len(data)}")
        if self._phase != OPEN:
            return False
        self._ping(bytes(data))
        return True

    def _ping(self, data: bytes) -> None:
        """Hook: send a ping."""
        raise NotAvailable(f"a {self.transport} channel without framing has no pings; use framing='sse' or 'ndjson'")

    # -- opening, by handlers.py

    def _open(
        self,
        *,
        on_open: Callback | None = None,
        on_receive: Callback | None = None,
        on_ping: Callback | None = None,
        on_close: Callback | None = None,
        holding: bool = False,
    ) -> None:
        """Register the callbacks, each with the channel as first argument, and open."""
        assert self._phase == NEW
        if on_receive is not None and self._receive_unsupported is None:
            self._on_receive = partial(on_receive, self)
        if on_ping is not None:
            self._on_ping = partial(on_ping, self)
        if on_close is not None:
            self._close_listeners = [partial(on_close, self)]
        self._start(partial(on_open, self) if on_open is not None else None, holding)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close(1000)
        else:
            self._failed_by(error)
