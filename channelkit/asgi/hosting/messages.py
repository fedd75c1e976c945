"""What an application hands to `send`, read field by field; what is wrong is named.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]


def message_type(message: Any) -> str:
    """The type of a message.  Raises TypeError if it is none."""
    if not isinstance(message, Mapping):
        raise TypeError(f"an ASGI message is a dict, not {type(message).__name__}")
    kind = message.get("type")
    if not isinstance(kind, str):
        raise TypeError(f"an ASGI message has a 'type', a str; this one has {kind!r}")
    return kind


def unexpected(kind: str, *expected: str, after: str) -> RuntimeError:
    """The error for a message that may not come now."""
    if not expected:
        return RuntimeError(f"unexpected ASGI message {kind!r} {after}: nothing may follow")
    wanted = " or ".join(map(repr, expected))
    return RuntimeError(f"unexpected ASGI message {kind!r} {after}: expected {wanted}")


def status_of(message: Message) -> int:
    """The status of a response.  What it may be is the exchange's to say."""
    if "status" not in message:
        raise ValueError(f"{message['type']!r} has no 'status'")
    status = message["status"]
    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"the 'status' of {message['type']!r} is an int, not {type(status).__name__}")
    return int(status)  # an http.HTTPStatus is an int


def headers_of(message: Message) -> list[tuple[str, str]]:
    """The header lines, as text of latin-1."""
    lines: list[tuple[str, str]] = []
    headers: Iterable[Any] = message.get("headers") or ()
    for pair in headers:
        try:
            name, value = pair
        except (TypeError, ValueError):
            raise TypeError(f"'headers' of {message['type']!r} are pairs of bytes, not {pair!r}") from None
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise TypeError(f"a header name and its value are bytes in ASGI, not {name!r}: {value!r}")
        lines.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))
    return lines


def content_length(lines: Iterable[tuple[str, str]]) -> int | None:
    """The Content-Length among header lines, None if there is none."""
    values = {value for name, value in lines if name.lower() == "content-length"}
    if not values:
        return None
    value = values.pop()
    if values or not value.isascii() or not value.isdigit():
        raise ValueError(f"Content-Length is one whole number, not {', '.join(sorted({value, *values}))!r}")
    return int(value)


def bytes_of(message: Message, field: str) -> bytes:
    """The bytes of a field; none if it is not there."""
    value = message.get(field, b"")
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"{field!r} of {message['type']!r} is bytes, not {type(value).__name__}")


def payload_of(message: Message) -> str | bytes:
    """What a `websocket.send` sends: exactly one of 'text' and 'bytes' is there and not None."""
    text, data = message.get("text"), message.get("bytes")
    if (text is None) == (data is None):
        raise ValueError("'websocket.send' has exactly one of 'text' and 'bytes'")
    if text is None:
        return bytes_of(message, "bytes")
    if not isinstance(text, str):
        raise TypeError(f"'text' of 'websocket.send' is a str, not {type(text).__name__}")
    return text
