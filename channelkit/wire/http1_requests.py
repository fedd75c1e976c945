"""From one connection's bytes to its HTTP/1 requests: heads, body pieces, ends.  Pure; bytes in, events out.

Every byte of a head passes our own gate first (`http1_heads`), because h11 lets through what an open server must not
(bare LF, obs-fold, a Content-Length beside a Transfer-Encoding) and does not show it afterwards.  Behind the gate there
are two ways.  A head that announces nothing but itself becomes a `RequestHead` at once.  Everything else is read by an
`h11.Connection` of its own, which is fed exactly this request's bytes: what follows stays in our buffer, so that two
parsers can never disagree about where the next request begins.  Nor about the head: if they do, it is refused.
"""

from __future__ import annotations

import h11

from channelkit.errors import BadRequest
from channelkit.wire.client_hello import HANDSHAKE
from channelkit.wire.http1_chunks import ChunkGate
from channelkit.wire.http1_heads import (
    Fields,
    LineGate,
    Parts,
    RequestHead,
    RequestLimits,
    judge,
    match_simple,
    split_head,
)

__all__ = ["END", "Fields", "RequestEnd", "RequestHead", "RequestLimits", "RequestReader"]

#: RFC 9112 2.2 wants at least one empty line before a request ignored: old clients end a body with one too many.
MAX_EMPTY_LINES = 2

_CR = 13


class RequestEnd:
    """The event after a request's last byte; `END` is the only one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "END"


END = RequestEnd()


class _H11Request:
    """One request in the hands of an `h11.Connection` of its own."""

    __slots__ = ("_chunks", "_connection", "_remaining")

    def __init__(self, head: RequestHead, limits: RequestLimits) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.max_head)
        self._chunks = ChunkGate(limits) if head.chunked else None
        self._remaining = head.content_length or 0

    def read_head(self, raw: bytes, parts: Parts) -> None:
        """Have h11 read a head.  Raises BadRequest if it refuses it, or reads something else than `parts`."""
        self._connection.receive_data(raw)
        event = self._next()
        assert isinstance(event, h11.Request)  # the gate lets whole heads through only
        method, target, version, fields = parts
        line = (event.method, event.target, event.http_version)
        same = line == (method.encode("latin-1"), target.encode("latin-1"), version.encode("latin-1"))
        if not same or list(event.headers) != [_as_h11_has_it(name, value) for name, value in fields]:
            raise BadRequest(400, "a head that can be read in two ways")

    def read_body(self, buffer: bytearray) -> bytes | RequestEnd | None:
        """The next piece of the body, as far as it is in `buffer`."""
        while True:
            event = self._next()
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage):
                return END
            piece = self._take(buffer)
            if not piece:
                return None
            self._connection.receive_data(piece)

    def _take(self, buffer: bytearray) -> bytes:
        if self._chunks is not None:
            return self._chunks.take(buffer)
        piece = bytes(buffer[: self._remaining])
        del buffer[: self._remaining]
        self._remaining -= len(piece)
        return piece

    def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequest(error.error_status_hint or 400, str(error)) from error


def _as_h11_has_it(name: str, value: str) -> tuple[bytes, bytes]:
    if name == "transfer-encoding":
        value = value.lower()
    return name.encode("latin-1"), value.encode("latin-1")


# -- the reader

_HEAD_STATE, _BODY_STATE, _ENDING, _ENDED, _GONE = range(5)


class RequestReader:
    """Reads one connection's requests, one after another, and owns the bytes that are not read yet.

    `feed` bytes, then call `next_event` until it returns None.  Each request is a `RequestHead`, its body as `bytes`
    in whatever pieces arrive, and `END`; then nothing more until `next_request`.  `next_event` raises BadRequest for
    bytes that make no request, and from then on always: nothing behind them may be answered (RFC 9112 11.2).
    `fast=False` sends every request through h11; the events are the same.  `scheme` is "https" behind TLS.
    """

    __slots__ = (
        "_buffer",
        "_empty_lines",
        "_error",
        "_fast",
        "_gate",
        "_h11",
        "_limits",
        "_quick",
        "_scheme",
        "_state",
    )

    def __init__(self, limits: RequestLimits, *, fast: bool = True, scheme: str = "http") -> None:
        self._limits = limits
        self._scheme = scheme
        self._fast = fast
        self._quick = min(limits.max_line, limits.max_head)  # in a head of this size no limit on bytes can be passed
        self._buffer = bytearray()
        self._state = _HEAD_STATE
        self._empty_lines = 0
        self._gate: LineGate | None = None
        self._h11: _H11Request | None = None
        self._error: BadRequest | None = None

    @property
    def buffered(self) -> int:
        """How many bytes have been fed and not been read."""
        return len(self._buffer)

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and is not complete; empty lines before it do not count."""
        return self._state == _HEAD_STATE and bytes(self._buffer[:3]) not in (b"", b"\r", b"\r\n")

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Append what the connection read; it is copied.  Ignored once nothing can be read any more."""
        if self._state != _GONE:
            self._buffer += data

    def next_event(self) -> RequestHead | bytes | RequestEnd | None:
        """The next event, or None if it needs more bytes or `next_request`.  Raises BadRequest."""
        state = self._state
        try:
            if state == _HEAD_STATE:
                return self._next_head()
            if state == _BODY_STATE:
                return self._next_piece()
        except BadRequest as error:
            self._error = error
            self._leave()
            raise
        if state == _ENDING:
            self._state = _ENDED
            return END
        if self._error is not None:
            raise self._error.with_traceback(None)  # or each time would make it longer
        return None

    def next_request(self) -> bool:
        """The response to the request that was read is complete: go on with the next one; is some of it here?

        RuntimeError if that request's body has not been read to its `END`.
        """
        if self._state in (_HEAD_STATE, _BODY_STATE):
            raise RuntimeError("next_request() before the END of the present request")
        if self._state != _GONE:
            self._state = _HEAD_STATE
            self._empty_lines = 0
        return bool(self._buffer)

    def take_rest(self) -> bytes:
        """Everything behind the present request, which an upgrade hands to another protocol; this reader is done.

        RuntimeError if the present request has not been read to its end.
        """
        if self._state not in (_ENDING, _ENDED):
            raise RuntimeError("take_rest() before the end of the present request")
        rest = bytes(self._buffer)
        self._leave()
        return rest

    def _leave(self) -> None:
        self._state = _GONE
        self._buffer = bytearray()
        self._gate = self._h11 = None

    # -- heads

    def _next_head(self) -> RequestHead | None:
        buffer = self._buffer
        if not buffer or (buffer[0] == _CR and not self._skip_empty_lines()):
            return None
        if buffer[0] == HANDSHAKE:  # said at once: its end would never come
            raise BadRequest(400, "a TLS handshake on a port that speaks plain HTTP (ssl= makes it speak TLS)")
        if self._fast and self._gate is None:
            head = self._quick_head()
            if head is not None:
                return head
        return self._checked_head()

    def _skip_empty_lines(self) -> bool:
        """Whether a head begins behind the empty lines."""
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):
            if self._empty_lines == MAX_EMPTY_LINES:
                raise BadRequest(400, "too many empty lines before a request")
            self._empty_lines += 1
            del buffer[:2]
        return bytes(buffer[:2]) not in (b"", b"\r")

    def _quick_head(self) -> RequestHead | None:
        """A whole, short, simple head in one match; None, and nothing is changed, if it is not that."""
        buffer = self._buffer
        size = buffer.find(b"\r\n\r\n", 0, self._quick) + 4
        if size < 4:
            return None
        whole = size == len(buffer)
        parts = match_simple(str(buffer if whole else buffer[:size], "latin-1"))
        if parts is None or len(parts[3]) > self._limits.max_headers:
            return None  # the gate finds out which line is wrong
        head, simple = judge(parts, self._limits, self._scheme)
        if not simple:
            return None
        del buffer[:size]
        self._state = _ENDING
        return head

    def _checked_head(self) -> RequestHead | None:
        buffer = self._buffer
        if self._gate is None:
            self._gate = LineGate(self._limits)
        size = self._gate.scan(buffer)
        if not size:
            return None
        raw = bytes(buffer[:size])
        del buffer[:size]
        self._gate = None
        parts = split_head(raw.decode("latin-1"))
        head, simple = judge(parts, self._limits, self._scheme)
        if not (simple and self._fast):
            self._begin_h11(raw, parts, head)
        self._state = _BODY_STATE if head.has_body else _ENDING
        return head

    def _begin_h11(self, raw: bytes, parts: Parts, head: RequestHead) -> None:
        request = _H11Request(head, self._limits)
        request.read_head(raw, parts)
        if head.has_body:
            self._h11 = request

    # -- bodies

    def _next_piece(self) -> bytes | RequestEnd | None:
        assert self._h11 is not None
        event = self._h11.read_body(self._buffer)
        if event is END:
            self._h11 = None
            self._state = _ENDED
        return event
