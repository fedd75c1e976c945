"""One WebSocket of an ASGI host: first its handshake, answered like any request, then the open WebSocket.

Frames, pings and the close handshake are the host's.  What the host does not tell is not told: who closed when a
socket just dropped, and whether the client has read our last messages.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

import anyio

from channelkit._deadline import Deadline
from channelkit._lifecycle import logger
from channelkit.asgi.hosted.http_exchange import FINISHED, OVER, STARTED, WAITING, AsgiHttpExchange
from channelkit.asgi.hosted.scope import Message, has_denial, header_pairs
from channelkit.errors import BadRequest, HandlerError, NotAvailable
from channelkit.spi import HttpWire, WebSocketExchange, WebSocketListener

if TYPE_CHECKING:
    from channelkit.channel import Channel

FRAME_HEADER = 2  # bytes that a message counts besides its own: none weighs nothing
_HANDSHAKE = frozenset({b"sec-websocket-accept", b"sec-websocket-protocol", b"sec-websocket-extensions"})

_REFUSE = {"type": "websocket.close"}  # before accepting it is a refusal with 403

WAY_FOR_CLOSE = 0.5  # seconds in which nothing is read, while the host takes our close

ABNORMAL = 1006  # nobody said goodbye (RFC 6455 7.4.1)
NO_STATUS = 1005
SERVICE_RESTART = 1012  # what a host says that is stopping


class AsgiHandshake(AsgiHttpExchange):
    """Seam 2 over an ASGI `websocket` scope, until it is accepted; afterwards it passes on to the `AsgiWebSocket`."""

    __slots__ = ("_refused", "websocket")

    prefix = "websocket.http.response"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.websocket: AsgiWebSocket | None = None
        self._refused = False  # the host took no response of ours
        self.body.end()  # a handshake has none

    def start(self, status: int, headers: Iterable[tuple[str, str]], length: int | None) -> bool:
        if has_denial(self.scope) or self._state != WAITING:
            return super().start(status, headers, length)
        if status != 403:
            logger.warning("the ASGI host knows no responses to a WebSocket handshake: 403 instead of %d", status)
        self._state = STARTED
        self._no_body = True
        return False

    def write(self, wire: HttpWire) -> None:
        if has_denial(self.scope):
            super().write(wire)

    def finish(self) -> None:
        if has_denial(self.scope):
            super().finish()
        elif self._state == STARTED:
            self._state = FINISHED
            self.queue.put(_REFUSE, FRAME_HEADER)

    def upgrade(self, subprotocol: str | None, headers: Iterable[tuple[str, str]]) -> WebSocketExchange:
        if self.gone:
            raise BadRequest(400, "the client went away before its handshake was answered")
        if self._state != WAITING:
            raise HandlerError("the response has begun already; a request has one answer")
        pairs = [pair for pair in header_pairs(headers) if pair[0] not in _HANDSHAKE]
        self._state = FINISHED
        accept = {"type": "websocket.accept", "subprotocol": subprotocol, "headers": pairs}
        self.queue.put(accept, FRAME_HEADER)
        self.websocket = AsgiWebSocket(self)
        return self.websocket

    def channel_made(self, channel: Channel) -> None:
        if self.websocket is None:
            super().channel_made(channel)
        else:
            self.channel = channel
            self._work()

    # -- what the outbox and the host tell

    def handed(self, message: Message) -> None:
        if self.websocket is not None:
            self.websocket.handed(message)
        elif message["type"] == "websocket.close":
            self._complete()
        else:
            super().handed(message)

    def lost(self, error: Exception | None) -> None:
        if self.websocket is None:
            super().lost(error)
        elif self._state != OVER:
            self.end()
            self.websocket.lost(error)

    def failed(self, error: Exception) -> None:
        current = self.queue.current
        gone = isinstance(error, OSError)
        if self.websocket is not None and gone and self._state != OVER:
            self.websocket.cannot_send()
        elif self.websocket is None and not gone and not self._refused and _is_denial(current):
            logger.warning("the ASGI host announces websocket.http.response and does not take it: answered 403")
            self._refused = True
            self._state = FINISHED
            self.queue.replace(_REFUSE, FRAME_HEADER)
        else:
            super().failed(error)

    def end(self, lingering: bool = False) -> None:
        """The WebSocket has ended: so may the request's task; `lingering`: when the client has answered."""
        self._state = OVER
        self._lingering = lingering
        self._settle()
        self._read_on.wake()

    def _holding_back(self) -> bool:
        return self.websocket is not None and self.websocket.paused

    def _received(self, message: Message) -> bool:
        kind = message["type"]
        if self.websocket is not None and kind == "websocket.receive":
            text = message.get("text")
            self.websocket.received(text if text is not None else bytes(message["bytes"]))
        elif kind == "websocket.disconnect":
            code = message.get("code")
            self._disconnected(NO_STATUS if code is None else code, message.get("reason") or "")
            return False
        return True

    def _disconnected(self, code: int, reason: str) -> None:
        if self.websocket is None:
            self.lost(None)
        elif self._state != OVER:
            self.websocket.disconnected(code, reason)

    def read_on(self) -> None:
        self._read_on.wake()

    def give_way(self) -> None:
        """Leave the host's `receive` for as long as it takes our close: granian does not take it meanwhile."""
        if self._reading is not None:
            self._reading.cancel()

    async def _gave_way(self) -> None:
        # Not for ever: other hosts finish a close only while what the client sends is taken from them.
        with anyio.move_on_after(WAY_FOR_CLOSE):
            while self._state != OVER:
                await self._read_on.park()

    def going_away(self, now: bool) -> None:
        if self.websocket is not None:
            self.websocket.listener.going_away(now)
        else:
            super().going_away(now)


def _is_denial(message: Message | None) -> bool:
    return message is not None and message["type"].startswith(AsgiHandshake.prefix)


class _Wire:
    """The wire form of one message: what the host gets, and what it weighs."""

    __slots__ = ("_size", "key", "payload")

    def __init__(self, key: str, payload: str | bytes, size: int) -> None:
        self.key = key
        self.payload = payload
        self._size = size + FRAME_HEADER

    def __len__(self) -> int:
        return self._size


class AsgiWebSocket(WebSocketExchange):
    """Seam 2 over an accepted ASGI WebSocket."""

    __slots__ = ("_close_deadline", "_close_sent", "_handshake", "_wants_room", "paused", "queue")

    wire_format: Hashable = ("websocket", "asgi")
    listener: WebSocketListener

    def __init__(self, handshake: AsgiHandshake) -> None:
        self.loop = handshake.loop
        self.config = handshake.config
        self.host = handshake.host
        self.outbox = self.queue = handshake.queue
        self.write = self._write
        self.paused = False
        self._handshake = handshake
        self._wants_room = False
        self._close_sent = False
        self._close_deadline = Deadline(self.loop, self._late)

    # -- spi.Exchange

    def want_room(self) -> None:
        self._wants_room = True

    def flush(self) -> None:
        """The writer hands over as fast as the host takes."""

    def set_reading(self, on: bool) -> None:
        self.paused = not on
        self._handshake.read_on()

    def abort(self) -> None:
        self._handshake.abort()

    # -- spi.WebSocketExchange

    @staticmethod
    def text(message: str) -> _Wire:
        """Raises ValueError for text that UTF-8 cannot carry."""
        return _Wire("text", message, len(message) if message.isascii() else len(message.encode()))

    @staticmethod
    def binary(message: bytes) -> _Wire:
        return _Wire("bytes", message, len(message))

    def _write(self, wire: _Wire) -> None:
        self.queue.put({"type": "websocket.send", wire.key: wire.payload}, len(wire))

    def ping(self, data: bytes) -> None:
        raise NotAvailable("ASGI has no pings for applications: the host sends its own (see its options)")

    def close(self, code: int, reason: str) -> None:
        if not self._close_sent:
            self._close_sent = True
            self.queue.put({"type": "websocket.close", "code": code, "reason": reason}, FRAME_HEADER)
            self._close_deadline.set(self.config.close_timeout)
            self._handshake.give_way()
            self.set_reading(True)  # what still arrives is discarded, and the host may go on

    # -- what the handshake passes on

    def handed(self, message: Message) -> None:
        if message["type"] == "websocket.close":
            self._end(lingering=True)
            self.listener.finished()
        elif self._wants_room:
            self._wants_room = False
            self.listener.room()

    def received(self, message: str | bytes) -> None:
        if self._close_sent:
            return
        size = len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
        if size > self.config.max_ws:
            detail = f"a message of {size} bytes, where max_ws is {self.config.max_ws}"
            self.listener.failed(1009, detail)
            self.close(1009, "")
        else:
            self.listener.received(message)

    def disconnected(self, code: int, reason: str) -> None:
        """The host's word on how it ended."""
        if self._close_sent and self.queue.unsent:
            current = self.queue.current
            if current is not None and current["type"] == "websocket.close":
                return  # hosts say so while they take our close: `handed` is next
        if code == SERVICE_RESTART:
            self.listener.going_away(True)  # no client says that: the host is stopping
        elif code != ABNORMAL and not self._close_sent:
            self.listener.closed_by_peer(code, reason)
            self._end()
            if self.queue.unsent:
                self.listener.lost(None)
            else:
                self.listener.finished()
            return
        self.lost(None)

    def cannot_send(self) -> None:
        """The host says that the client is gone.  How it went, and what it said before, comes by `receive`."""
        self.queue.close()
        self._close_deadline.set(self.config.close_timeout)

    def _late(self) -> None:
        """No answer to our close, or no word on how the client went; but a receiver that is slow gets its time."""
        if self.paused:
            self._close_deadline.set(self.config.close_timeout)
        else:
            self.abort()

    def lost(self, error: Exception | None) -> None:
        self._end()
        self.listener.lost(error)

    def _end(self, lingering: bool = False) -> None:
        self._close_deadline.cancel()
        self._handshake.end(lingering)
