"""The bytes of HTTP/1 responses: heads, chunks, dates.  Pure; what may be sent is checked here and nowhere else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

#: For a client that is turned away before it has asked for anything.
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
#: For a client that speaks HTTP where TLS is spoken.
PLAIN_ON_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 47\r\n\r\n"
    b"this port speaks TLS: use https:// (or wss://)\n"
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# RFC 9110 5.6.2 and 5.5.  A value may be empty and may contain tabs; obs-text is latin-1.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

# The standard library of Python 3.11 and 3.12 has the names of RFC 7231; these are those of RFC 9110 15.
_RENAMED = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
_REASONS = {int(status): status.phrase for status in HTTPStatus} | _RENAMED
del _REASONS[418]  # RFC 9110 15.5.19: unused

_REMEMBERED_VALUE = 64  # longer values are tokens and cookies: seldom twice the same, and no business of a cache


def response_head(status: int, headers: Iterable[tuple[str, str]], *, informational: bool = False) -> bytes:
    """A status line, `headers` in order and as they are spelled, and the empty line.

    Raises TypeError or ValueError, as `status_line` and `field_line` do.
    """
    return b"".join([status_line(status, informational), *[field_line(*one) for one in headers], b"\r\n"])


@lru_cache(maxsize=64, typed=True)  # typed: 200.0 is no status, though it is 200 for a dict; what raises is not kept
def status_line(status: int, informational: bool = False) -> bytes:
    """The first line of a response.  `status` is 200 to 999, or with `informational` 100 to 199.

    It says HTTP/1.1 to every client (RFC 9110 2.5: it tells what this server speaks).  Raises TypeError or ValueError.
    """
    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"a status is an int, not {type(status).__name__}")
    low, high = (100, 199) if informational else (200, 999)
    if not low <= status <= high:
        raise ValueError(f"a status here is {low} to {high}, not {status}")
    return f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n".encode("ascii")


def field_line(name: str, value: str) -> bytes:
    """One header line.  Raises TypeError or ValueError; the text names the header."""
    if type(name) is str and type(value) is str and len(value) <= _REMEMBERED_VALUE:
        return _remembered_line(name, value)
    return _checked_line(name, value)


def _checked_line(name: str, value: str) -> bytes:
    check_header(name, value)
    return f"{name}: {value}\r\n".encode("latin-1")


_remembered_line = lru_cache(maxsize=512)(_checked_line)


@lru_cache(maxsize=2)
def date_line(seconds_since_epoch: int) -> bytes:
    """The Date line of a response that is made in that second."""
    return field_line("Date", http_date(seconds_since_epoch))


def check_header(name: str, value: str) -> None:
    """Raise TypeError or ValueError, naming the header, unless it may stand in a response."""
    if not isinstance(name, str):
        raise TypeError(f"a header name is a str, not {type(name).__name__}")
    if not isinstance(value, str):
        raise TypeError(f"the value of header {name!r} is a str, not {type(value).__name__}")
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no header name: letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 5.1)")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(
            f"the value of header {name!r} has a line break, a control character or one outside latin-1 (RFC 9110 5.5)"
        )


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of a chunked body (RFC 9112 7.1); nothing for nothing, as an empty chunk is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def bodiless(status: int) -> bool:
    """Whether a response with this status has no content, whatever the handler gave (RFC 9110 6.4.1, 15.3.6)."""
    return status < 200 or status in (204, 205, 304)


def http_date(seconds_since_epoch: float) -> str:
    """A moment as an HTTP date (RFC 9110 5.6.7), such as `Sun, 06 Nov 1994 08:49:37 GMT`."""
    # Names of days and months do not depend on the locale.
    return formatdate(math.floor(seconds_since_epoch), usegmt=True)
