"""The blocking view of a channel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from channelkit._lifecycle import OPEN
from channelkit._threads.crossing import MUST_WAIT, LoopEnded, ask, wait_for
from channelkit._threads.plain import BodyOnWorkers, messages_on_worker, on_worker
from channelkit.errors import ChannelClosed
from channelkit.status import CloseInfo, CloseStatus
from channelkit.sync.request import SyncRequest

if TYPE_CHECKING:
    from types import TracebackType

    from channelkit._loop import Loop
    from channelkit.channel import Channel, ChannelStatistics

T = TypeVar("T")

_making = threading.RLock()  # a signal's handler may ask for a view too


class SyncChannel:
    """The blocking view of a `Channel`: `channel.sync`, and what a `def` handler's `as_channel` and callbacks give.

    One channel has one such view, so that it may be a member of sets.  Calls of several threads are served in the
    order in which the loop hears of them, each thread's in its own order.  After the server's end every call that has
    to ask raises ChannelClosed.  What is interrupted (KeyboardInterrupt in the main thread) is called off: a message
    it was about to receive stays for the next receiver; one it was sending may have been accepted.
    """

    __slots__ = ("__weakref__", "_channel", "_loop", "_request")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop: Loop = channel._loop
        self._request: SyncRequest | None = None

    def __repr__(self) -> str:
        return f"<blocking view of {self._channel!r}>"

    # -- known without asking

    @property
    def channel(self) -> Channel:
        """The loop's own object, for code on the loop."""
        return self._channel

    @property
    def request(self) -> SyncRequest:
        """The request this channel was made from."""
        if self._request is None:
            self._request = SyncRequest(self._channel.request)
        return self._request

    @property
    def transport(self) -> str:
        """As `Channel.transport`."""
        return self._channel.transport

    @property
    def is_websocket(self) -> bool:
        """As `Channel.is_websocket`."""
        return self._channel.is_websocket

    @property
    def single_response(self) -> bool:
        """As `Channel.single_response`."""
        return self._channel.single_response

    @property
    def subprotocol(self) -> str | None:
        """The WebSocket subprotocol that was agreed on, None if none."""
        return getattr(self._channel, "subprotocol", None)

    @property
    def session_id(self) -> str | None:
        """As `Channel.session_id`."""
        return self._channel.session_id

    @property
    def principal(self) -> Any:
        """As `Channel.principal`."""
        return self._channel.principal

    @property
    def is_open(self) -> bool:
        """Whether `send` could be accepted a moment ago; once False, False for ever."""
        return self._channel.is_open

    @property
    def close_info(self) -> CloseInfo | None:
        """As `Channel.close_info`."""
        return self._channel.close_info

    @property
    def buffered_bytes(self) -> int:
        """As `Channel.buffered_bytes`, a moment ago."""
        return self._channel.buffered_bytes

    # -- sending

    def send(self, data: Any, close_after_send: bool | None = None, *, timeout: float | None = None) -> bool:
        """Send `data`, waiting for room as `Channel.send` does; True once accepted, False if the channel is closed.

        Any number of threads may send at once; each one's messages keep their order.  Raises TypeError or ValueError
        if `data` cannot be carried, TimeoutError after `timeout` seconds without room: nothing was accepted then.
        An iterable sent as the body of an HTTP response is iterated on a worker.
        """
        channel = self._channel
        wire: Any = None
        last = False

        def begin() -> Any:
            nonlocal wire, last
            wire = channel._encode(self._body(data))
            last = channel.single_response if close_after_send is None else close_after_send
            if channel._phase != OPEN:
                return False
            if channel._senders or channel._outbox.unsent > channel._config.soft_mark:
                return MUST_WAIT
            channel._accept(wire, last)
            return True

        async def go_on() -> bool:
            if not await channel._turn():
                return False
            channel._accept(wire, last)
            return True

        accepted: bool = self._wait("send", begin, go_on, timeout=timeout)
        return accepted

    def send_nowait(self, data: Any, close_after_send: bool | None = None) -> bool:
        """Send `data` without waiting for room: True if accepted, False if closed.  As `Channel.send_nowait`.

        Waits for the loop's next turn, not for the peer.  Raises anyio.WouldBlock above the hard mark.
        """
        return self._ask(lambda: self._channel.send_nowait(self._body(data), close_after_send))

    def flush(self, *, timeout: float | None = None) -> bool:
        """Wait until all that was accepted was handed to the kernel or host; False if something never will be.

        Raises TimeoutError after `timeout` seconds; nothing has changed then.
        """
        channel = self._channel

        def begin() -> Any:
            channel._exchange.flush()
            if channel._info is not None:
                return channel._info.unsent == 0
            return MUST_WAIT if channel._outbox.unsent else True

        flushed: bool = self._wait("flush", begin, channel.flush, timeout=timeout)
        return flushed

    def ping(self, data: bytes = b"") -> bool:
        """Send a ping; False if the channel is closed.  Errors as of `Channel.ping`."""
        return self._ask(lambda: self._channel.ping(data))

    # -- receiving

    def receive(self, timeout: float | None = None) -> Any:
        """Wait for the next message: text as str, binary as bytes.

        One thread or task at a time: anyio.BusyResourceError for a second.  Raises TimeoutError after `timeout`
        seconds (0: only what has arrived), having taken nothing; ChannelClosed after the end, when all that arrived
        before it has been taken; ReceiveUnsupported where nothing can arrive.
        """
        channel = self._channel

        def begin() -> Any:
            if (message := channel._receive_now()) is None and timeout is not None and timeout <= 0:
                raise TimeoutError("no message has arrived")
            return MUST_WAIT if message is None else message

        return self._wait("receive", begin, channel.receive, timeout=timeout, give_back=channel._put_back)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over messages until the end; the channel's `close_info` tells which."""
        return self

    def __next__(self) -> Any:
        try:
            return self.receive()
        except ChannelClosed:
            raise StopIteration from None

    # -- callbacks, each on a worker of the channel's server, in order, one at a time

    def on_receive(self, callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Call `callback(message)` on a worker for each message.  As `Channel.on_receive`; also a decorator."""
        call = messages_on_worker(self._channel, callback)
        self._ask(lambda: self._channel.on_receive(call))
        return callback

    def on_ping(self, callback: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """Call `callback(data)` on a worker for each ping of the peer.  Also a decorator."""
        call = on_worker(self._channel, callback, must=True)
        self._ask(lambda: self._channel.on_ping(call))
        return callback

    def on_close(self, callback: Callable[[CloseStatus], Any]) -> Callable[[CloseStatus], Any]:
        """Call `callback(status)` on a worker, once, after the last message's callback.  Also a decorator."""
        call = on_worker(self._channel, callback, must=True)
        self._ask(lambda: self._channel.on_close(call))
        return callback

    # -- the end

    def close(self, code: int = 1000, reason: str = "") -> bool:
        """Close, and wait until the wire is done, at most `close_timeout` or `write_timeout` seconds.

        True if this call closed it.  May be called in callbacks too.  Raises ValueError as `Channel.close_nowait`.
        """
        channel = self._channel
        closed = False

        def begin() -> Any:
            nonlocal closed
            closed = channel.close_nowait(code, reason) or closed
            return MUST_WAIT if channel._info is None else None

        self._wait("close", begin, channel.wait_closed)
        return closed

    def close_nowait(self, code: int = 1000, reason: str = "") -> bool:
        """Close without waiting for the wire.  As `Channel.close_nowait`."""
        return self._ask(lambda: self._channel.close_nowait(code, reason))

    def wait_closed(self, *, timeout: float | None = None) -> CloseInfo:
        """Wait until the channel is over, whoever ends it.  Raises TimeoutError after `timeout` seconds."""
        channel = self._channel
        if channel._info is not None:
            return channel._info
        info: CloseInfo = self._wait(
            "wait_closed", lambda: channel._info or MUST_WAIT, channel.wait_closed, timeout=timeout
        )
        return info

    def statistics(self) -> ChannelStatistics:
        """As `Channel.statistics`."""
        return self._ask(self._channel.statistics)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close(1000)
            else:
                self._ask(partial(self._channel._failed_by, error))
        except ChannelClosed:
            pass  # by the server's end

    # -- into the loop

    def _body(self, data: Any) -> Any:
        return BodyOnWorkers.of(data, self._channel._exchange.host.workers)

    def _ask(self, function: Callable[[], T]) -> T:
        try:
            return ask(self._loop, function)
        except LoopEnded:
            raise ChannelClosed(self._last_info()) from None

    def _wait(
        self,
        name: str,
        begin: Callable[[], Any],
        go_on: Callable[[], Coroutine[Any, Any, Any]],
        *,
        timeout: float | None = None,
        give_back: Callable[[Any], None] | None = None,
    ) -> Any:
        no_room = partial(self._channel._fail, 1013)
        try:
            return wait_for(
                self._loop, f"channel.{name}", begin, go_on, timeout=timeout, give_back=give_back, no_room=no_room
            )
        except LoopEnded:
            raise ChannelClosed(self._last_info()) from None

    def _last_info(self) -> CloseInfo:
        return self._channel._info or CloseInfo(CloseStatus.SERVER_CLOSE, 1001, "", "local", False, 0, 0)


def view(channel: Channel) -> SyncChannel:
    """The one blocking view of `channel`."""
    with _making:
        if channel._sync is None:
            made = SyncChannel(channel)
            channel._sync = channel._sync or made
        return channel._sync
