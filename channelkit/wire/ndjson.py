"""Messages as lines of JSON (application/x-ndjson): one line each, exactly what was sent.

    text    a JSON string
    binary  {"base64": "..."}
    ping    an empty line, which every NDJSON reader skips

JSON is written in ASCII: many clients split lines at U+2028, U+0085 and U+001E too, and find none here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Generic, TypeVar

from channelkit.errors import RemoteError

PING = b"\n"
_MAX_SHOWN = 40


def encode_text(message: str) -> bytes:
    """One line.  Raises UnicodeEncodeError, a ValueError, for a lone surrogate: no UTF-8 reader could take it."""
    return encode_json_string(message) + b"\n"


def encode_binary(message: bytes) -> bytes:
    """One line."""
    return b'{"base64": "' + base64.b64encode(message) + b'"}\n'


def encode_json_string(text: str) -> bytes:
    """`text` as a JSON string in ASCII; ValueError for a lone surrogate, which JSON would let through escaped."""
    text.encode()
    return json.dumps(text).encode("ascii")


def decode_base64(text: str) -> bytes:
    """Undo base64; ValueError for a character or a padding that does not belong."""
    return base64.b64decode(text, validate=True)


def decode_json_string(text: str) -> str:
    """Undo `encode_json_string`; ValueError for anything else."""
    value = loads(text)
    if not isinstance(value, str):
        raise ValueError(f"not a JSON string: {text[:_MAX_SHOWN]!r}")
    return whole(value)


Item = TypeVar("Item")


class LineTooLong(ValueError):
    """A line of more than the bytes its reader allows."""


class Lines(Generic[Item]):
    """Reads lines: bytes in, however cut, out comes what `decode` makes of each line, unless that is None.

    `max_line` bounds one line, its end not counted; blank lines are skipped.  A line that is too long, or that
    `decode` refuses with a ValueError or RemoteError, raises, but not before what preceded it was returned; after it
    every call raises.
    """

    __slots__ = ("_decode", "_error", "_max_line", "_rest")

    def __init__(self, decode: Callable[[str], Item | None], max_line: int | None = None) -> None:
        self._decode = decode
        self._max_line = max_line
        self._rest = bytearray()  # the line that is not at its end yet
        self._error: ValueError | RemoteError | None = None

    @property
    def unfinished(self) -> int:
        """Bytes of a line whose end has not come."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Item]:
        """Take `data`; what the lines it completes hold."""
        found: list[Item] = []
        if self._error is None:
            try:
                self._read(data, found)
            except (ValueError, RemoteError) as error:
                self._error = error
                self._rest = bytearray()
        if self._error is not None and not found:
            raise self._error
        return found

    def _read(self, data: bytes, found: list[Item]) -> None:
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._append(piece)
            line, self._rest = self._rest, bytearray()
            if line.strip():
                item = self._decode(line.decode())
                if item is not None:
                    found.append(item)
        self._append(rest)

    def _append(self, piece: bytes) -> None:
        if self._max_line is not None and len(self._rest) + len(piece) > self._max_line:
            raise LineTooLong(f"a line of more than {self._max_line} bytes")
        self._rest += piece


class LineReader(Lines[str | bytes]):
    """Undoes the encoding: bytes in, however cut, messages out; raises as `Lines` does."""

    __slots__ = ()

    def __init__(self, max_line: int | None = None) -> None:
        super().__init__(_decode, max_line)


def _decode(line: str) -> str | bytes:
    value = loads(line)
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str):
        return decode_base64(value["base64"])
    raise ValueError(f'neither a JSON string nor {{"base64": "..."}}: {line[:_MAX_SHOWN]!r}')


def loads(text: str) -> object:
    """The JSON value of `text`; ValueError if it is none, or nested beyond reason."""
    try:
        value: object = json.loads(text)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    return value


def whole(text: str) -> str:
    """`text`, unless it has a lone surrogate: JSON can escape one, a message cannot hold it."""
    text.encode()
    return text
