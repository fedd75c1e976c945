"""One WebSocket connection of our server: the exchange below a WebSocket channel, and the engine on its link.

The codec (`wire.websocket_frames`) turns bytes into messages and back; here is what happens when: pongs, the close
handshake (RFC 6455 7), pings for liveness, and what each end of the link means.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from secrets import token_bytes
from typing import TYPE_CHECKING

from channelkit._deadline import Deadline
from channelkit.spi import WebSocketExchange, WebSocketListener
from channelkit.wire.deflate import Agreement, ContextDeflate, LoneDeflate
from channelkit.wire.websocket_codec import (
    CloseReceived,
    Failure,
    PingReceived,
    PongReceived,
    WebSocketCodec,
)
from channelkit.wire.websocket_frames import binary_frame, text_frame

if TYPE_CHECKING:
    from channelkit.server.core import ServerCore
    from channelkit.server.pump.link import Link

MESSAGES_PER_TURN = 64
PLAIN: Hashable = ("websocket", "frames")
_LIMITS = {1008: "max_fragments", 1009: "max_ws"}  # what fails with these codes

Event = str | bytes | PingReceived | PongReceived | CloseReceived | Failure


def _messages(events: list[Event] | None) -> int:
    return sum(type(event) is str or type(event) is bytes for event in events or ())


class WebSocketConnection(WebSocketExchange):
    """Seam 2 over one upgraded connection."""

    __slots__ = (
        "_all_read",
        "_begun",
        "_close_sent",
        "_codec",
        "_core",
        "_deadline",
        "_eof",
        "_heard_at",
        "_held",
        "_link",
        "_over",
        "_paused",
        "_pinged",
        "_question",
        "binary",
        "text",
        "wire_format",
    )

    listener: WebSocketListener

    def __init__(self, core: ServerCore, link: Link, deflate: Agreement | None) -> None:
        self._core = core
        self._link = self.outbox = link
        self.write = link.write
        self.loop = core.loop
        self.config = config = link.config
        self.host = core
        self._codec = WebSocketCodec(config.max_ws, max_fragments=config.max_fragments, deflate=deflate)
        self.text, self.binary, self.wire_format = text_frame, binary_frame, PLAIN
        if deflate is not None:
            self._compress(deflate)
        self._held: list[Event] | None = None  # parsed, waiting until reading goes on
        self._heard_at = -math.inf
        self._begun = False  # on_open has had its turn, frames may be handled
        self._paused = False
        self._eof = False  # the client's FIN was read before its handshake was answered
        self._pinged = False
        self._over = False  # the listener has had its last call, or must hear no more messages
        self._close_sent: int | None = None
        self._question: bytes | None = None  # in the ping before our close frame
        self._all_read = False  # the peer has answered it: it has read all that we sent
        self._deadline = Deadline(core.loop, self._expired)
        self._deadline.set(config.ping_interval)
        core.connections.add(self)

    def _compress(self, deflate: Agreement) -> None:
        """With context takeover frames are compressed as they go out, since each may refer to those before it.

        Without it they are compressed when they are encoded, once for all members of a group that agreed on the same.
        """
        if deflate.server_takeover:
            link, compress = self._link, ContextDeflate(deflate).frame
            self.write = lambda frame: link.write(compress(frame))
        else:
            lone = LoneDeflate(deflate)
            self.text, self.binary, self.wire_format = lone.text, lone.binary, lone.wire_format

    def allow(self, size: int) -> None:
        self._codec.allow(size)

    def begin(self, rest: bytes, eof: bool) -> None:
        """Go on where HTTP stopped; `rest` came in the same packets as the handshake."""
        if rest:
            self._codec.receive(rest)
        if eof:
            self._eof = True
            self._deadline.set(self.config.half_closed_timeout)
        # One turn later than the channel's on_open, so that the first frames find what all others find.
        self.loop.call_soon(self.loop.call_soon, self._begin_later)

    def _begin_later(self) -> None:
        self._begun = True
        if self.resume():
            self.loop.call_soon(self._begin_later)

    # -- spi.Exchange

    def want_room(self) -> None:
        self._link.notify = True

    def flush(self) -> None:
        self._link.flush()

    def set_reading(self, on: bool) -> None:
        if on == (not self._paused):
            return
        self._paused = not on
        if self._over:
            return
        self._link.set_reading(on)  # the link calls `resume` for what is buffered here

    def abort(self) -> None:
        self._link.abort()

    # -- spi.WebSocketExchange

    @property
    def unread(self) -> int:
        return _messages(self._held) + self._codec.skipped

    @property
    def heard_at(self) -> float:
        return self._heard_at

    def ping(self, data: bytes) -> None:
        self._link.write(self._codec.ping(data))

    def close(self, code: int, reason: str) -> None:
        if self._over or self._close_sent is not None:
            return
        self._close_sent = code
        # A close frame that comes back with our code may be an answer or have crossed ours; a pong to this cannot.
        self._question = token_bytes(4)
        self._link.write(self._codec.ping(self._question) + self._codec.close(code, reason))
        self._deadline.set(self.config.close_timeout)
        self.set_reading(True)  # for the reply; what else arrives is discarded

    # -- engine: what the link tells

    def data_received(self, data: memoryview) -> bool:
        self._codec.receive(data)
        return self._deliver()

    def resume(self) -> bool:
        more = self._deliver()
        if self._eof and not (more or self._paused or self._over):
            self.eof_received()
        return more

    def _deliver(self) -> bool:
        """Hand over what is parsed; True if more is buffered than one turn may take."""
        if self._paused or self._over or not self._begun:
            return False
        if self._held is not None:
            events, self._held = self._held, None
            more = True
        else:
            events = self._codec.events(MESSAGES_PER_TURN)
            more = self._codec.more
            if not events:
                self._heard_at = self.loop.time()
        received = self.listener.received
        remaining = iter(events)
        for event in remaining:
            if type(event) is str or type(event) is bytes:
                received(event)
            else:
                self._control(event)
            if self._paused or self._over:
                self._hold(list(remaining))
                return False
        return more

    def _hold(self, events: list[Event]) -> None:
        """Reading was switched off among these: they wait in order, but pings already read are answered now."""
        if self._over:
            return
        held: list[Event] = []
        for event in events:
            if isinstance(event, PingReceived):
                self._control(event)
            else:
                held.append(event)
        self._held = held or None

    def _control(self, event: Event) -> None:
        if isinstance(event, PingReceived):
            if self._close_sent is None:
                self._pong(event.payload)
        elif isinstance(event, PongReceived):
            self._ponged(event.payload)
        elif isinstance(event, CloseReceived):
            self._close_received(event)
        elif isinstance(event, Failure):
            self._failed(event)

    def _pong(self, payload: bytes) -> None:
        """Answer at once, before the application hears of it; but not into a full outbox (RFC 6455 5.5.3)."""
        if self._link.unsent <= self.config.soft_mark:
            self._link.write(self._codec.pong(payload))
        self.listener.pinged(payload)

    def _close_received(self, event: CloseReceived) -> None:
        if self._close_sent is None:
            self._link.write(self._codec.reply(event))
            self.listener.closed_by_peer(event.code, event.reason)
        elif self._all_read:
            self._over = True
            self.listener.confirmed()
        self._finish()

    def _failed(self, event: Failure) -> None:
        if event.code in _LIMITS:
            self.loop.tally.hit(_LIMITS[event.code], event.detail)
        if self._close_sent is None:
            self._link.write(self._codec.fail(event))
            self.listener.failed(event.code, event.detail)
        self._finish()

    def _finish(self) -> None:
        """The frames are done: let go of TCP, within `close_timeout` whatever the peer does."""
        self._deadline.set(self.config.close_timeout)
        self._close_sent = self._close_sent or 0
        self._link.finish()

    def eof_received(self) -> None:
        """TCP ended without a close frame: nobody said goodbye (RFC 6455 7.1.5: 1006).

        What was written in this turn still leaves if it can, for a peer that only ended its own direction.
        """
        if self._over or self._close_sent == 0:
            return
        self._link.flush()
        if self._link.unsent or self._close_sent is not None:
            self._link.abort()
        else:
            self._finish()

    def wrote(self) -> None:
        if not self._over:
            self.listener.room()

    def connection_lost(self, error: Exception | None) -> None:
        self._deadline.cancel()
        self._core.ended(self)
        if self._over:
            return
        self._over = True
        if error is None:
            self.listener.finished()
        else:
            self.listener.lost(error)

    # -- liveness

    def _expired(self) -> None:
        """Silence for `ping_interval`: ping.  Still silence for `pong_timeout`: gone.  Any byte is life."""
        link = self._link
        if self._close_sent is not None:
            self.loop.tally.hit("close_timeout", "a close frame was not answered")
            link.abort()
        elif self._eof:
            link.abort()
        elif self._paused or link.alive:
            link.alive = self._pinged = False
            self._deadline.set(self.config.ping_interval)
        elif self._pinged:
            self.loop.tally.hit("pong_timeout", "a ping was not answered")
            link.abort()
        else:
            self._pinged = True
            link.write(self._codec.ping(b""))
            self._deadline.set(self.config.pong_timeout)

    def _ponged(self, payload: bytes) -> None:
        """The silence that follows is counted from here, or pings would be `pong_timeout` further apart."""
        if self._close_sent is not None:
            self._all_read = self._all_read or payload == self._question
        elif self._pinged:
            self._link.alive = self._pinged = False
            self._deadline.set(self.config.ping_interval)

    # -- drain

    def going_away(self, now: bool) -> None:
        if not self._over:
            self.listener.going_away(now)
