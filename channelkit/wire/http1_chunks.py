"""The frame of a chunked body (RFC 9112 7.1): sizes, extensions, trailers.  Pure.

Whoever decodes the body gets chunks that cannot be misread: sizes without extensions, data, and no trailers.
"""

from __future__ import annotations

import re

from channelkit.errors import BadRequest
from channelkit.wire.http1_heads import TOKEN, LineGate, RequestLimits

# RFC 9112 7.1: at most 16 digits, for 64 bits; h11 takes 20 and then waits for ever.
# RFC 9112 7.1.1: white space around the parts of an extension is bad, and must be parsed (RFC 9110 5.6.3).
_QUOTED = r'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_EXTENSION = rf"[ \t]*+;[ \t]*+{TOKEN}(?:[ \t]*+=[ \t]*+(?:{TOKEN}|{_QUOTED}))?"
_SIZE_LINE = re.compile(rf"([0-9A-Fa-f]{{1,16}}+)((?:{_EXTENSION})*+)\r\n")

_END = b"\r\n"


class ChunkGate:
    """Walks a chunked body as it arrives and gives the same body in its plainest form."""

    __slots__ = ("_due", "_extensions", "_left", "_limits", "_searched", "_trailers")

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._left = limits.max_body
        self._extensions = limits.max_head  # bytes of them this body may still bring
        self._due = 0  # of the present chunk's data and the CRLF behind it
        self._searched = 0
        self._trailers: LineGate | None = None

    def take(self, buffer: bytearray) -> bytes:
        """Take what is complete from the front of `buffer`; empty if more bytes are needed.  Raises BadRequest."""
        if self._trailers is not None:
            return self._end(buffer, self._trailers)
        if not self._due:
            return self._size_line(buffer)
        piece = bytes(buffer[: self._due])
        del buffer[: self._due]
        self._due -= len(piece)
        return piece

    def _end(self, buffer: bytearray, trailers: LineGate) -> bytes:
        """Trailer fields are checked like a head, and nobody gets them (RFC 9112 7.1.2)."""
        size = trailers.scan(buffer)
        del buffer[:size]
        return _END if size else b""

    def _size_line(self, buffer: bytearray) -> bytes:
        end = buffer.find(b"\n", self._searched)
        if (len(buffer) if end < 0 else end) > self._limits.max_line + 1:
            raise BadRequest(400, "a chunk-size line is too long", limit="max_line")
        if end < 0:
            self._searched = len(buffer)
            return b""
        match = _SIZE_LINE.fullmatch(str(buffer[: end + 1], "latin-1"))
        if match is None:
            raise BadRequest(400, "malformed chunk-size line")
        del buffer[: end + 1]
        digits, extensions = match.groups()
        self._extensions -= len(extensions)
        if self._extensions < 0:
            raise BadRequest(413, "too many chunk extensions", limit="max_head")  # RFC 9112 7.1.1
        self._begin(int(digits, 16))
        return f"{digits}\r\n".encode("ascii")

    def _begin(self, size: int) -> None:
        self._searched = 0
        if size > self._left:
            raise BadRequest(413, "a chunked body is too large", limit="max_body")
        self._left -= size
        if size:
            self._due = size + 2
        else:
            self._trailers = LineGate(self._limits, trailers=True)
