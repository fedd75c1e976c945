"""The head of one HTTP/1 request: its grammar, its limits, and what it says about the rest.  Pure.

`LineGate` looks at every byte as it arrives, in the order of the stream (a line's length before its grammar), and
`judge` at the meaning of a head that is whole.  So a verdict does not depend on how the bytes were cut into reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from channelkit.config import KIB, MIB
from channelkit.errors import BadRequest
from channelkit.wire.http1_targets import check_host, read_target

Fields = tuple[tuple[str, str], ...]
#: Method, target, version and fields, as they were written.
Parts = tuple[str, str, str, Fields]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What one request may cost, in bytes: `max_line` without its CRLF, `max_head` with all of them."""

    max_line: int = 4096
    max_head: int = 64 * KIB
    max_headers: int = 100
    max_body: int = 8 * MIB


@dataclass(slots=True)
class RequestHead:
    """The head of one request, and what it says about the rest.

    `target` is in origin-form, or `*`: of a target in absolute-form the authority has become the Host field
    (RFC 9112 3.2.2).  `headers` have lower-case names and stand in the order of the wire; values are latin-1 text.
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


# -- grammar (RFC 9110 5.6.2 token, 5.5 field-value; RFC 9112 3 request-line).  Heads are matched as latin-1 text.
# Possessive quantifiers, and no two neighbours that share a character: matching is linear whatever a peer sends.

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_TEXT = r"[\t\x20-\x7e\x80-\xff]*+"

_REQUEST_LINE = re.compile(rf"{TOKEN} [\x21-\x7e]++ HTTP/([0-9]\.[0-9])\r\n")
_FIELD_LINE = re.compile(rf"{TOKEN}:{_TEXT}\r\n")
_FIELD = re.compile(r"([^:\r\n]++):[ \t]*+([^\r]*+)\r\n")  # only for lines that have passed the gate
# A whole head with a target in origin-form, which is what nearly all requests have: see `match_simple`.
_HEAD = re.compile(rf"(?!CONNECT )({TOKEN}) (/[\x21\x22\x24-\x7e]*+) HTTP/(1\.[01])\r\n((?:{TOKEN}:{_TEXT}\r\n)*+)\r\n")

_CR = 13
_MAX_DIGITS = 18  # a longer Content-Length is beyond every limit: do not make an int of it

#: The fields that decide how a request is read.
_DECISIVE = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade"})


class LineGate:
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
                raise BadRequest(414, "the request line is too long", limit="max_line")  # RFC 9112 3
            limit = "max_line" if line > self._limits.max_line else "max_head"
            raise BadRequest(431, "a header line or the whole head is too large", limit=limit)  # RFC 6585 5

    def _check_line(self, line: str) -> None:
        if self._count == 0:
            match = _REQUEST_LINE.fullmatch(line)
            if match is None:
                raise BadRequest(400, "malformed request line")
            if match[1] not in ("1.0", "1.1"):
                raise BadRequest(505, f"HTTP version {match[1]}")
            return
        if self._count > self._limits.max_headers:
            raise BadRequest(431, "too many header lines", limit="max_headers")
        if _FIELD_LINE.fullmatch(line) is None:
            # RFC 9112 5.2: a folded line, which begins with white space, may be refused.
            what = "folded" if line[0] in " \t" else "malformed"
            raise BadRequest(400, f"{what} header line")


def match_simple(text: str) -> Parts | None:
    """The parts of a whole head with a target in origin-form, in one match; None if it is not that."""
    match = _HEAD.fullmatch(text)
    if match is None:
        return None
    method, target, version, block = match.groups()
    return method, target, version, _fields(block)


def _fields(block: str) -> Fields:
    pairs = _FIELD.findall(block)
    if " \r\n" in block or "\t\r\n" in block:  # hardly ever; one look costs less than a strip for each
        return tuple([(name.lower(), value.rstrip(" \t")) for name, value in pairs])
    return tuple([(name.lower(), value) for name, value in pairs])


def split_head(text: str) -> Parts:
    """The parts of a head that has passed the gate line by line."""
    request_line, *lines = text[:-4].split("\r\n")
    method, target, version = request_line.split(" ")
    pairs = [line.partition(":") for line in lines]
    return method, target, version[5:], tuple([(name.lower(), value.strip(" \t")) for name, _, value in pairs])


# -- what a head that has passed the gate means


def judge(parts: Parts, limits: RequestLimits, scheme: str = "http") -> tuple[RequestHead, bool]:
    """The head, and whether it announces nothing but itself.  Raises BadRequest."""
    method, target, version, fields = parts
    seen: dict[str, str] = {}
    for name, value in fields:
        if name in _DECISIVE:
            # RFC 9110 5.3: lines of one name are one list.  A list is no Host and no length: those fail below.
            seen[name] = f"{seen[name]}, {value}" if name in seen else value
    host = seen.get("host")
    if host is not None:
        check_host(host)
    elif version == "1.1":
        raise BadRequest(400, "no Host field")  # RFC 9112 3.2
    if target[0] != "/" or "#" in target or method == "CONNECT":
        target, authority = read_target(method, target, scheme)
        if authority is not None:
            fields = _with_host(fields, authority)
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
        expect_continue=modern and _expects_continue(seen),
        upgrade=_tokens(seen.get("upgrade", "")) if modern and "upgrade" in tokens else (),
        has_body=chunked or bool(length),
        content_length=length,
        chunked=chunked,
    )
    # A zero of many digits is h11's to judge, so that both ways give one answer.
    simple = not chunked and seen.get("content-length", "0") == "0" and "expect" not in seen and "upgrade" not in seen
    return head, simple


def _with_host(fields: Fields, authority: str) -> Fields:
    """RFC 9112 3.2.2: the authority of a target in absolute-form stands for whatever the Host field says."""
    if any(name == "host" for name, _ in fields):
        return tuple([(name, authority if name == "host" else value) for name, value in fields])
    return (("host", authority), *fields)


def _is_chunked(seen: dict[str, str], version: str) -> bool:
    coding = seen.get("transfer-encoding")
    if coding is None:
        return False
    # RFC 9112 6.1: both of these are how requests are smuggled past a proxy that reads them differently.
    if version == "1.0":
        raise BadRequest(400, "Transfer-Encoding in an HTTP/1.0 request")
    if "content-length" in seen:
        raise BadRequest(400, "both Content-Length and Transfer-Encoding")
    coding = coding.lower()
    if coding == "chunked":
        return True
    *inner, last = [one.strip(" \t") for one in coding.split(",")]
    if last != "chunked" or "chunked" in inner:
        # RFC 9112 6.3 (4) and 6.1: there is no telling where such a body ends.
        raise BadRequest(400, "chunked is not the last transfer coding, or not the only time")
    raise BadRequest(501, "a transfer coding other than chunked")


def _content_length(seen: dict[str, str], limits: RequestLimits) -> int | None:
    value = seen.get("content-length")
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        raise BadRequest(400, "invalid or repeated Content-Length")  # RFC 9112 6.3
    digits = value.lstrip("0") or "0"
    if len(digits) > _MAX_DIGITS or int(digits) > limits.max_body:
        raise BadRequest(413, "the body is too large", limit="max_body")
    return int(digits)


def _expects_continue(seen: dict[str, str]) -> bool:
    expected = _tokens(seen.get("expect", ""))
    if any(one != "100-continue" for one in expected):
        raise BadRequest(417, "an expectation other than 100-continue")  # RFC 9110 10.1.1
    return bool(expected)


def _tokens(value: str) -> tuple[str, ...]:
    """The members of a comma-separated list in lower case, without the empty ones (RFC 9110 5.6.1.2)."""
    if not value:
        return ()
    return tuple([one for part in value.lower().split(",") if (one := part.strip(" \t"))])


# -- a request that another reader is to read again

_FRAMING = ("content-length", "transfer-encoding", "expect")


def request_bytes(head: RequestHead, body: bytes) -> bytes:
    """A request that was read whole, as bytes that read as the same one; its body is framed by Content-Length."""
    lines = [f"{head.method} {head.target} HTTP/{head.http_version}"]
    lines += [f"{name}: {value}" for name, value in head.headers if name not in _FRAMING]
    if head.has_body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
