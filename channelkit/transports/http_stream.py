"""The HTTP transport: one response as a channel.

The first `send` with close is an ordinary response with Content-Length; without, it opens a stream: head and first
chunk in one write, then each `send` one piece, the last one the end.  Status and headers count on the first `send`
only (http-kit).  A `framing` gives messages borders in the stream; without one the body is raw bytes.

A streamed body (a file, an iterable) is accepted by moving it into the channel: a puller task reads it under
back-pressure, and what is sent after it queues behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from channelkit._bodies import open_body
from channelkit._lifecycle import OPEN, OVER, logger
from channelkit.channel import Channel
from channelkit.errors import ConfigError
from channelkit.http import Response, check_status, has_header, header_lines, is_body, to_response, whole
from channelkit.spi import SPI_VERSION, ChannelOptions, HttpExchange, HttpWire
from channelkit.status import By, CloseStatus
from channelkit.wire import ndjson, sse
from channelkit.wire.http1_responses import check_header

if TYPE_CHECKING:
    from channelkit._loop import Timer
    from channelkit.http import Request

NOTHING_BACK = "a plain HTTP response carries nothing back: use a WebSocket, or an Endpoint, whose sessions take POSTs"
HTML = ("Content-Type", "text/html; charset=utf-8")  # http-kit's default on channels
NO_BUFFERING = (("Cache-Control", "no-store, no-transform"), ("X-Accel-Buffering", "no"))


@dataclass(frozen=True, slots=True)
class Framing:
    """How messages are told apart in a response body."""

    content_type: str
    text: Callable[[str], bytes]
    binary: Callable[[bytes], bytes]
    ping: bytes


FRAMINGS = {
    "sse": Framing("text/event-stream; charset=utf-8", sse.encode_text, sse.encode_binary, sse.COMMENT_PING),
    "ndjson": Framing("application/x-ndjson", ndjson.encode_text, ndjson.encode_binary, ndjson.PING),
}


class Piece:
    """The wire form on this transport: body bytes, and what a head would need if this were the first."""

    __slots__ = ("body", "http", "response")

    def __init__(self, http: HttpWire, response: Response | None = None, body: Any = None) -> None:
        self.http = http
        self.response = response
        self.body = body  # one that must be streamed

    def __len__(self) -> int:
        return len(self.http)


class _PullingOutbox:
    """What is unsent while a streamed body is in progress: what queued up behind it counts, and itself at least 1."""

    def __init__(self, channel: HttpStreamChannel) -> None:
        self._channel = channel

    @property
    def unsent(self) -> int:
        return self._channel._http.buffered_bytes + self._channel._pending_bytes + 1


class HttpStreamChannel(Channel):
    """A channel over one HTTP response; it sends only."""

    __slots__ = (
        "_framing",
        "_headers",
        "_http",
        "_last_piece",
        "_pending",
        "_pending_bytes",
        "_ping_timer",
        "_pulling",
        "_receive_unsupported",
        "_status",
        "_wrote",
    )

    transport = "http_stream"

    def __init__(self, request: Request, exchange: HttpExchange, options: ChannelOptions) -> None:
        super().__init__(request, exchange)
        if options.framing is not None and options.framing not in FRAMINGS:
            raise ConfigError(f"framing must be one of {', '.join(FRAMINGS)} or None, not {options.framing!r}")
        self._http = exchange
        # A handler that serves every transport waits for messages that never come; to any other it is a mistake.
        self._receive_unsupported = None if options.quiet else NOTHING_BACK
        self._framing = FRAMINGS[options.framing] if options.framing else None
        self._status = check_status(options.status)
        self._headers = header_lines(options.headers)
        self.single_response = not (options.streaming or options.framing)
        self._pulling = False
        self._pending: deque[tuple[Piece, bool]] | None = None  # what waits behind a streamed body
        self._pending_bytes = 0
        self._last_piece: tuple[int, str] | None = None  # our close, waiting behind a streamed body
        self._ping_timer: Timer | None = None
        self._wrote = False  # since the last look of the ping timer
        exchange.listener = self

    # -- hooks

    @property
    def _wire_format(self) -> Hashable | None:
        return ("http", self._framing.content_type if self._framing else None)

    def _encode(self, data: Any) -> Any:
        if self._framing is not None:
            return Piece(HttpWire(self._encode_framed(data)))
        if isinstance(data, str):
            return Piece(HttpWire(data.encode()))
        if isinstance(data, bytes):
            return Piece(HttpWire(data))
        return self._encode_response(data)

    def _encode_framed(self, data: Any) -> bytes:
        assert self._framing is not None
        if isinstance(data, str):
            return self._framing.text(data)
        if isinstance(data, bytes | bytearray | memoryview):
            return self._framing.binary(bytes(data))
        if isinstance(data, Mapping) and isinstance(data.get("body"), str | bytes):
            return self._encode_framed(data["body"])
        raise TypeError(
            f"a framed stream carries str and bytes, not {type(data).__name__}; encode it first, for instance with "
            "json.dumps"
        )

    def _encode_response(self, data: Any) -> Piece:
        response = to_response(data)
        check_status(response.status)
        for name, value in header_lines(response.headers):
            check_header(name, value)  # a bad header raises here, before anything was accepted
        if not is_body(response.body):
            raise TypeError(f"a {type(response.body).__name__} cannot be a body")
        has_head = isinstance(data, Response | Mapping)
        content = whole(response.body)
        if content is None:
            return Piece(HttpWire(b""), response if has_head else None, response.body)
        return Piece(HttpWire(content), response if has_head else None)

    def _write(self, wire: Any, last: bool) -> None:
        self._wrote = True
        if self._pulling:
            if self._pending is None:
                self._pending = deque()
            self._pending.append((wire, last))
            self._pending_bytes += len(wire)
        else:
            self._write_piece(wire, last)

    def _finish(self, code: int, reason: str) -> None:
        if self._pulling:
            if code in (1000, 1001):
                self._last_piece = (code, reason)
            else:
                self._http.abort()
        elif not self._http.started:
            self._answer_unsent(code)
        elif code in (1000, 1001):
            self._http.finish()
        else:
            self._http.abort()

    def _abort(self) -> None:
        self._http.abort()

    def _set_reading(self, on: bool) -> None:
        """Nothing is received here, so there is nothing to hold back."""

    def _ping(self, data: bytes) -> None:
        if self._framing is None:
            super()._ping(data)
        elif self._http.started and not self._pulling:
            self._http.write(HttpWire(self._framing.ping))

    # -- writing

    def _open_head(self) -> None:
        """A stream's head goes out when it is opened, so that an EventSource sees it open."""
        if self._framing is not None and not self._http.started:
            self._http.start(self._status, self._head_lines(None), None)
            self._ping_later()

    def _ping_later(self) -> None:
        self._ping_timer = self._loop.call_at(self._loop.time() + self._config.ping_interval, self._ping_if_silent)

    def _ping_if_silent(self) -> None:
        """A framed stream that says nothing for `ping_interval` pings: only a write finds out a peer that vanished."""
        if self._phase == OPEN:
            if not self._wrote and not self._outbox.unsent:
                self._ping(b"")
            self._wrote = False
            self._ping_later()

    def _end(self, status: CloseStatus, code: int, by: By, delivered: bool | None, unsent: int) -> None:
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping_timer = None
        self._ended(status, code, "", by, delivered=delivered, unsent=unsent)

    def _head_lines(self, response: Response | None) -> list[tuple[str, str]]:
        given = header_lines(response.headers) if response is not None and response.headers else []
        lines = [*given, *(one for one in self._headers if not has_header(given, one[0].lower()))]
        if self._framing is not None:
            defaults = [("Content-Type", self._framing.content_type), *NO_BUFFERING]
        elif response is None or not response.headers:
            defaults = [HTML]
        else:
            defaults = []
        return lines + [one for one in defaults if not has_header(lines, one[0].lower())]

    def _write_piece(self, piece: Piece, last: bool) -> None:
        if not self._http.started:
            status = piece.response.status if piece.response is not None else self._status
            length = len(piece.http) if last and piece.body is None else None
            if not self._http.start(status, self._head_lines(piece.response), length):
                self._end_without_body(piece)
                return
        if piece.body is not None:
            self._pull(piece.body)
        else:
            self._http.write(piece.http)

    def _end_without_body(self, piece: Piece) -> None:
        """HEAD, 204, 304: the head was all; the channel closes whatever `close_after_send` said (http-kit)."""
        if piece.body is not None:
            self._loop.spawn(_dispose, piece.body)
        self._begin_close(CloseStatus.SERVER_CLOSE, 1000, "")

    def _answer_unsent(self, code: int) -> None:
        """Closed before anything was sent: an empty response whose status says what the code says."""
        status = 204 if code == 1000 else 503 if code in (1001, 1012, 1013) else 500
        headers = [("Retry-After", "1")] if status == 503 else []
        self._http.start(status, headers, 0)
        self._http.finish()

    # -- streamed bodies

    def _pull(self, body: Any) -> None:
        self._pulling = True
        self._outbox = _PullingOutbox(self)
        self._loop.spawn(self._pull_body, body)

    async def _pull_body(self, body: Any) -> None:
        """The puller: one per channel at a time, in the server's task group."""
        try:
            async with open_body(body) as pieces:
                async for piece in pieces:
                    if self._phase == OVER:
                        return
                    self._http.write(HttpWire(piece))
                    while self._http.buffered_bytes > self._config.soft_mark and self._info is None:
                        self._http.want_room()
                        await self._wait()
        except Exception:
            logger.exception("the streamed body of %r failed; the response is aborted, not ended", self)
            self._pulled()
            self._fail(1011)
            self._http.abort()
            return
        except BaseException:
            self._http.abort()  # cancelled: half a body must not look whole
            raise
        self._pulled()
        self._go_on()

    def _pulled(self) -> None:
        self._pulling = False
        self._outbox = self._http.outbox

    def _go_on(self) -> None:
        """The body is through: write what queued up behind it, then our close if it came meanwhile."""
        while self._pending and not self._pulling:
            piece, last = self._pending.popleft()
            self._pending_bytes -= len(piece)
            self._write_piece(piece, last)
        if not self._pulling and self._last_piece is not None:
            code, reason = self._last_piece
            self._last_piece = None
            self._finish(code, reason)
        self._room()

    # -- what the exchange tells (spi.Listener)

    def room(self) -> None:
        self._room()

    def finished(self) -> None:
        self._end(CloseStatus.SERVER_CLOSE, 1000, "local", None, 0)

    def lost(self, error: Exception | None) -> None:
        self._end(CloseStatus.CLIENT_CLOSE, 1006, "peer", False, self._outbox.unsent)


async def _dispose(body: Any) -> None:
    async with open_body(body):
        pass


class HttpStreamTransport:
    """Claims every request that is no upgrade."""

    name = "http_stream"
    spi_version = SPI_VERSION

    def claims(self, request: Request) -> bool:
        return not request.is_websocket

    def open(self, exchange: HttpExchange, request: Request, options: ChannelOptions) -> Channel:
        for name, value in header_lines(options.headers):
            check_header(name, value)
        channel = HttpStreamChannel(request, exchange, options)
        channel._open_head()
        return channel
