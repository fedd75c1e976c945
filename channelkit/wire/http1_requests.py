"""From one connection's bytes to its HTTP/1 requests: heads, body pieces, ends.  Pure; bytes in, events out.

Every byte of a head passes our own gate first, because h11 lets through what an open server must not (bare LF,
obs-fold, a Content-Length beside a Transfer-Encoding) and does not show it afterwards.  Behind the gate there are two
ways.  A head that announces nothing but itself becomes a `RequestHead` at once.  Everything else is read by an
`h11.Connection` of its own, which is fed exactly this request's bytes: what follows stays in our buffer, so that two
parsers can never disagree about where the next request begins.

The gate judges in the order of the stream (line by line, a line's length before its grammar, the meaning of the whole
last), so the verdict does not depend on how the bytes were cut into reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

import h11

from channelkit.config import KIB, MIB
from channelkit.errors import BadRequest

Fields = tuple[tuple[str, str], ...]

#: RFC 9112 2.2 wants at least one empty line before a request ignored: old clients end a body with one too many.
MAX_EMPTY_LINES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What one request may cost, in bytes: `max_line` without its CRLF, `max_head` with all of them."""

    max_line: int = 4096
    max_head: int = 64 * KIB
    max_headers: int = 100
    max_body: int = 8 * MIB


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of one request, and what it says about the rest.

    `headers` have lower-case names and stand in the order of the wire; `target` and values are latin-1 text, unchanged.
    `upgrade` has the lower-case Upgrade tokens if the Connection field carries `upgrade` too (RFC 9110 7.8).
    """

    method: str
    target: str
    http_version: str
    headers: Fields
    keep_alive: bool
    expect_continue: bool
    upgrade: tuple[str, ...]
    has_body: bool
    content_length: int | None
    chunked: bool


class RequestEnd:
    """The event after a request's last byte; `END` is the only one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "END"


END = RequestEnd()

# -- grammar (RFC 9110 5.6.2 token, 5.5 field-value; RFC 9112 3 request-line).  Heads are matched as latin-1 text.
# Possessive quantifiers, and no two neighbours that share a character: matching is linear whatever a peer sends.

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_TEXT = r"[\t\x20-\x7e\x80-\xff]*+"
_TARGET = r"[\x21-\x7e]++"

_REQUEST_LINE = re.compile(rf"{_TOKEN} {_TARGET} HTTP/([0-9]\.[0-9])\r\n")
_FIELD_LINE = re.compile(rf"{_TOKEN}:{_TEXT}\r\n")
_HEAD = re.compile(rf"({_TOKEN}) ({_TARGET}) HTTP/(1\.[01])\r\n((?:{_TOKEN}:{_TEXT}\r\n)*+)\r\n")
_FIELD = re.compile(r"([^:\r\n]++):[ \t]*+([^\r]*+)\r\n")  # only for lines that have passed the gate

# RFC 9112 7.1: at most 16 digits, for 64 bits; h11 takes 20 and then waits for ever.
_CHUNK_LINE = re.compile(rf"([0-9A-Fa-f]{{1,16}}+)(?:;{_TEXT})?\r\n")

# RFC 3986 3.2.2 host, with the zone of RFC 6874; no userinfo, never empty.  RFC 3986 3.2.3: the port may be empty.
_HOST = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]++|\[[A-Za-z0-9:.%\-_~]++\])(?::0*+([0-9]{0,5}+))?")
_CR = 13
_MAX_PORT = 65535
_MAX_DIGITS = 18  # a longer Content-Length is beyond every limit: do not make an int of it

#: The fields that decide how a request is read.
_DECISIVE = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade"})


class _LineGate:
    """Checks a head, or a trailer section, line by line as it arrives.  Every byte is looked at once."""

    __slots__ = ("_count", "_limits", "_searched", "_start")

    def __init__(self, limits: RequestLimits, *, trailers: bool = False) -> None:
        self._limits = limits
        self._count = 1 if trailers else 0  # lines that have passed; the request line is number 0
        self._start = 0  # of the line that is not complete yet
        self._searched = 0

    def scan(self, buffer: bytearray) -> int:
        """The size of the section at the front of `buffer` with its empty line, or 0 if more bytes are needed."""
        while (end := buffer.find(b"\n", self._searched)) >= 0:
            start, after = self._start, end + 1
            self._check_size(end - start - (end > start and buffer[end - 1] == _CR), after)
            line = str(buffer[start:after], "latin-1")
            if line == "\r\n":
                return after
            self._check_line(line)
            self._count += 1
            self._start = self._searched = after
        size = self._searched = len(buffer)
        if size > self._start:
            self._check_size(size - self._start - (buffer[-1] == _CR), size)  # too long is known before the end
        return 0

    def _check_size(self, line: int, section: int) -> None:
        if line > self._limits.max_line or section > self._limits.max_head:
            if self._count == 0:
                raise BadRequest(414, "the request line is too long")  # RFC 9112 3
            raise BadRequest(431, "a header line or the whole head is too large")  # RFC 6585 5

    def _check_line(self, line: str) -> None:
        if self._count == 0:
            match = _REQUEST_LINE.fullmatch(line)
            if match is None:
                raise BadRequest(400, "malformed request line")
            if match[1] not in ("1.0", "1.1"):
                raise BadRequest(505, f"HTTP version {match[1]}")
            return
        if self._count > self._limits.max_headers:
            raise BadRequest(431, "too many header lines")
        if _FIELD_LINE.fullmatch(line) is None:
            # RFC 9112 5.2: a folded line, which begins with white space, may be refused.
            what = "folded" if line[0] in " \t" else "malformed"
            raise BadRequest(400, f"{what} header line")


class _ChunkGate:
    """Walks the frame of a chunked body (RFC 9112 7.1): h11 gets whole elements and nothing behind the last one."""

    __slots__ = ("_due", "_left", "_limits", "_searched", "_trailers")

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._left = limits.max_body
        self._due = 0  # of the present chunk's data and the CRLF behind it
        self._searched = 0
        self._trailers: _LineGate | None = None

    def take(self, buffer: bytearray) -> int:
        """How many bytes at the front of `buffer` h11 may have now; 0 if more bytes are needed."""
        if self._trailers is not None:
            return self._trailers.scan(buffer)
        if not self._due:
            return self._size_line(buffer)
        size = min(self._due, len(buffer))
        self._due -= size
        return size

    def _size_line(self, buffer: bytearray) -> int:
        end = buffer.find(b"\n", self._searched)
        if (len(buffer) if end < 0 else end) > self._limits.max_line + 1:
            raise BadRequest(400, "a chunk-size line is too long")
        if end < 0:
            self._searched = len(buffer)
            return 0
        match = _CHUNK_LINE.fullmatch(str(buffer[: end + 1], "latin-1"))
        if match is None:
            raise BadRequest(400, "malformed chunk-size line")
        self._begin(int(match[1], 16))
        return end + 1

    def _begin(self, size: int) -> None:
        self._searched = 0
        if size > self._left:
            raise BadRequest(413, "a chunked body is too large")
        self._left -= size
        if size:
            self._due = size + 2
        else:
            self._trailers = _LineGate(self._limits, trailers=True)


class _H11Request:
    """One request in the hands of an `h11.Connection` of its own."""

    __slots__ = ("_chunks", "_connection", "_remaining")

    def __init__(self, head: RequestHead, limits: RequestLimits) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.max_head)
        self._chunks = _ChunkGate(limits) if head.chunked else None
        self._remaining = head.content_length or 0

    def read_head(self, raw: bytes, head: RequestHead) -> RequestHead:
        """`head` as h11 reads it from `raw`."""
        self._connection.receive_data(raw)
        request = self._next()
        assert isinstance(request, h11.Request)  # the gate lets whole heads through only
        return replace(
            head,
            method=request.method.decode("latin-1"),
            target=request.target.decode("latin-1"),
            http_version=request.http_version.decode("latin-1"),
            headers=tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]),
        )

    def read_body(self, buffer: bytearray) -> bytes | RequestEnd | None:
        """The next piece of the body, as far as it is in `buffer`."""
        while True:
            event = self._next()
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage):
                return END  # with any trailers: nobody asked for them
            size = self._take(buffer)
            if not size:
                return None
            self._connection.receive_data(bytes(buffer[:size]))
            del buffer[:size]

    def _take(self, buffer: bytearray) -> int:
        if self._chunks is not None:
            return self._chunks.take(buffer)
        size = min(self._remaining, len(buffer))
        self._remaining -= size
        return size

    def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequest(error.error_status_hint or 400, str(error)) from error


# -- what a head that has passed the gate means


def _fields(block: str) -> Fields:
    pairs = _FIELD.findall(block)
    if " \r\n" in block or "\t\r\n" in block:  # hardly ever; one look costs less than a strip for each
        return tuple([(name.lower(), value.rstrip(" \t")) for name, value in pairs])
    return tuple([(name.lower(), value) for name, value in pairs])


def _judge(method: str, target: str, version: str, fields: Fields, limits: RequestLimits) -> tuple[RequestHead, bool]:
    """The head, and whether it announces nothing but itself.  Raises BadRequest."""
    seen: dict[str, str] = {}
    for name, value in fields:
        if name in _DECISIVE:
            # RFC 9110 5.3: lines of one name are one list.  A list is no Host, no length and no coding: two fail below.
            seen[name] = f"{seen[name]}, {value}" if name in seen else value
    host = seen.get("host")
    if host is not None:
        _check_host(host)
    elif version == "1.1":
        raise BadRequest(400, "no Host field")  # RFC 9112 3.2
    if len(seen) == 1 and host is not None:
        return RequestHead(method, target, version, fields, version == "1.1", False, (), False, None, False), True
    chunked = _is_chunked(seen, version)
    length = _content_length(seen, limits)
    tokens = _tokens(seen.get("connection", ""))
    modern = version == "1.1"
    head = RequestHead(
        method=method,
        target=target,
        http_version=version,
        headers=fields,
        keep_alive="close" not in tokens and (modern or "keep-alive" in tokens),  # RFC 9112 9.3
        # RFC 9110 10.1.1 and 7.8: neither Expect nor Upgrade means anything in HTTP/1.0.
        expect_continue=modern and "100-continue" in _tokens(seen.get("expect", "")),
        upgrade=_tokens(seen.get("upgrade", "")) if modern and "upgrade" in tokens else (),
        has_body=chunked or bool(length),
        content_length=length,
        chunked=chunked,
    )
    # A zero of many digits is h11's to judge, so that both ways give one answer.
    simple = not chunked and seen.get("content-length", "0") == "0" and "expect" not in seen and "upgrade" not in seen
    return head, simple


@lru_cache(maxsize=256)  # a server has few names; what is wrong raises, and that is not kept
def _check_host(host: str) -> None:
    match = _HOST.fullmatch(host)
    if match is None or int(match[1] or 0) > _MAX_PORT:
        raise BadRequest(400, "invalid Host field")


def _is_chunked(seen: dict[str, str], version: str) -> bool:
    coding = seen.get("transfer-encoding")
    if coding is None:
        return False
    # RFC 9112 6.1: both of these are how requests are smuggled past a proxy that reads them differently.
    if version == "1.0":
        raise BadRequest(400, "Transfer-Encoding in an HTTP/1.0 request")
    if "content-length" in seen:
        raise BadRequest(400, "both Content-Length and Transfer-Encoding")
    if coding.lower() != "chunked":
        raise BadRequest(501, "a transfer coding other than chunked")
    return True


def _content_length(seen: dict[str, str], limits: RequestLimits) -> int | None:
    value = seen.get("content-length")
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        raise BadRequest(400, "invalid or repeated Content-Length")  # RFC 9112 6.3
    digits = value.lstrip("0") or "0"
    if len(digits) > _MAX_DIGITS or int(digits) > limits.max_body:
        raise BadRequest(413, "the body is too large")
    return int(digits)


def _tokens(value: str) -> tuple[str, ...]:
    """The members of a comma-separated list in lower case, without the empty ones (RFC 9110 5.6.1.2)."""
    if not value:
        return ()
    return tuple([one for part in value.lower().split(",") if (one := part.strip(" \t"))])


def _split_head(text: str) -> tuple[str, str, str, Fields]:
    """The parts of a head that has passed the gate line by line."""
    request_line, *lines = text[:-4].split("\r\n")
    method, target, version = request_line.split(" ")
    pairs = [line.partition(":") for line in lines]
    return method, target, version[5:], tuple([(name.lower(), value.strip(" \t")) for name, _, value in pairs])


# -- the reader

_HEAD_STATE, _BODY_STATE, _ENDING, _ENDED, _GONE = range(5)


class RequestReader:
    """Reads one connection's requests, one after another, and owns the bytes that are not read yet.

    `feed` bytes, then call `next_event` until it returns None.  Each request is a `RequestHead`, its body as `bytes`
    in whatever pieces arrive, and `END`; then nothing more until `next_request`.  `next_event` raises BadRequest for
    bytes that make no request, and from then on always: nothing behind them may be answered (RFC 9112 11.2).
    `fast=False` sends every request through h11; the events are the same.
    """

    __slots__ = ("_buffer", "_empty_lines", "_error", "_fast", "_gate", "_h11", "_limits", "_quick", "_state")

    def __init__(self, limits: RequestLimits, *, fast: bool = True) -> None:
        self._limits = limits
        self._fast = fast
        self._quick = min(limits.max_line, limits.max_head)  # in a head of this size no limit on bytes can be passed
        self._buffer = bytearray()
        self._state = _HEAD_STATE
        self._empty_lines = 0
        self._gate: _LineGate | None = None
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
        try:
            return self._step()
        except BadRequest as error:
            self._error = error
            self._leave()
            raise

    def next_request(self) -> None:
        """The response to the request that was read is complete: go on with the next one.

        RuntimeError if that request's body has not been read to its `END`.
        """
        if self._state in (_HEAD_STATE, _BODY_STATE):
            raise RuntimeError("next_request() before the END of the present request")
        if self._state != _GONE:
            self._state = _HEAD_STATE
            self._empty_lines = 0

    def take_rest(self) -> bytes:
        """Everything behind the present request, which an upgrade hands to another protocol; this reader is done.

        RuntimeError if the present request has not been read to its end.
        """
        if self._state not in (_ENDING, _ENDED):
            raise RuntimeError("take_rest() before the end of the present request")
        rest = bytes(self._buffer)
        self._leave()
        return rest

    def _step(self) -> RequestHead | bytes | RequestEnd | None:
        state = self._state
        if state == _HEAD_STATE:
            return self._next_head()
        if state == _BODY_STATE:
            return self._next_piece()
        if state == _ENDING:
            self._state = _ENDED
            return END
        if self._error is not None:
            raise self._error.with_traceback(None)  # or each time would make it longer
        return None

    def _leave(self) -> None:
        self._state = _GONE
        self._buffer = bytearray()
        self._gate = self._h11 = None

    # -- heads

    def _next_head(self) -> RequestHead | None:
        buffer = self._buffer
        if not buffer or (buffer[0] == _CR and not self._skip_empty_lines()):
            return None
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
        match = _HEAD.fullmatch(str(buffer if whole else buffer[:size], "latin-1"))
        if match is None:
            return None  # the gate finds out which line is wrong
        method, target, version, block = match.groups()
        fields = _fields(block)
        if len(fields) > self._limits.max_headers:
            return None
        head, simple = _judge(method, target, version, fields, self._limits)
        if not simple:
            return None
        del buffer[:size]
        self._state = _ENDING
        return head

    def _checked_head(self) -> RequestHead | None:
        buffer = self._buffer
        if self._gate is None:
            self._gate = _LineGate(self._limits)
        size = self._gate.scan(buffer)
        if not size:
            return None
        raw = bytes(buffer[:size])
        del buffer[:size]
        self._gate = None
        head, simple = _judge(*_split_head(raw.decode("latin-1")), self._limits)
        if not (simple and self._fast):
            head = self._begin_h11(raw, head)
        self._state = _BODY_STATE if head.has_body else _ENDING
        return head

    def _begin_h11(self, raw: bytes, head: RequestHead) -> RequestHead:
        request = _H11Request(head, self._limits)
        head = request.read_head(raw, head)
        if head.has_body:
            self._h11 = request
        return head

    # -- bodies

    def _next_piece(self) -> bytes | RequestEnd | None:
        assert self._h11 is not None
        event = self._h11.read_body(self._buffer)
        if event is END:
            self._h11 = None
            self._state = _ENDED
        return event
