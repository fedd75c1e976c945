"""What a handler gives: a Response, or one of the forms it may take."""

from __future__ import annotations

import io
import pathlib
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias

from channelkit.errors import HandlerError
from channelkit.http.headers import HeaderInput

BytesLike: TypeAlias = bytes | bytearray | memoryview
Body: TypeAlias = (
    None | str | BytesLike | pathlib.Path | IO[bytes] | Iterable[str | BytesLike] | AsyncIterable[str | BytesLike]
)


@dataclass(slots=True)
class Response:
    """What a handler answers: a status, header fields, a body of any of the forms of `Body`.

    A header value may be a str, an int, a list (one line each), or None (left out).  A body that is neither text
    nor bytes is streamed under back-pressure and never read whole.
    """

    status: int = 200
    headers: HeaderInput = field(default_factory=dict)
    body: Body = None


def reject(status: int = 403, headers: HeaderInput = (), body: Body = None) -> Response:
    """A refusal, of an upgrade or any other request: `return reject(401, {"WWW-Authenticate": "Basic"})`."""
    if not 400 <= status <= 599 and not 300 <= status <= 399:
        raise ValueError(f"a refusal has a status of 300 to 599, not {status}")
    return Response(status, headers, body)


_FIELDS = frozenset({"status", "headers", "body"})


def to_response(value: Any) -> Response:
    """Turn a mapping or a bare body into a Response.  Raises TypeError or ValueError naming what is wrong."""
    if isinstance(value, Response):
        return value
    if isinstance(value, Mapping):
        return _from_mapping(value)
    if not is_body(value):
        raise TypeError(
            f"a {type(value).__name__} is no response: use Response, a mapping with status, headers, body, or a body "
            "(None, str, bytes, pathlib.Path, binary file, iterable or async iterable of str or bytes)"
        )
    return Response(body=value)


def _from_mapping(value: Mapping[Any, Any]) -> Response:
    unknown = set(value) - _FIELDS
    if unknown or not value:
        raise ValueError(f"a response mapping has any of status, headers, body; this one has {sorted(map(str, value))}")
    response = Response(value.get("status", 200), value.get("headers") or (), value.get("body"))
    if not is_body(response.body):
        raise TypeError(f"a {type(response.body).__name__} cannot be a body")
    return response


def is_body(value: Any) -> bool:
    """Whether `value` has one of the forms of `Body`."""
    if value is None or isinstance(value, str | bytes | bytearray | memoryview | pathlib.Path | io.IOBase):
        return True
    if isinstance(value, Mapping | int | float):
        return False
    return hasattr(value, "__iter__") or hasattr(value, "__aiter__") or hasattr(value, "read")


def whole(body: Any) -> bytes | None:
    """The bytes of a body that is already in memory; None for one that must be streamed.

    Raises ValueError for text that UTF-8 cannot carry (a lone surrogate).
    """
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes):
        return body
    if isinstance(body, bytearray | memoryview):
        return bytes(body)
    return None


def check_status(status: object) -> int:
    """The status of a final response, or a TypeError or HandlerError that says what is wrong with it."""
    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"a status is an int, not {type(status).__name__}")
    if not 200 <= status <= 999:
        raise HandlerError(f"status {status} is no final response (RFC 9110 15); use 200 to 599")
    return status
