"""NDJSON: one message a line.  A text is a JSON string, a byte string `{"base64": "..."}`; an empty line is a ping."""

from __future__ import annotations

import base64
import json

PING = b"\n"


def encode_text(text: str) -> bytes:
    """The line of a text.  ValueError for a lone surrogate, which UTF-8 cannot carry."""
    return json.dumps(text, ensure_ascii=False).encode() + b"\n"


def encode_binary(data: bytes) -> bytes:
    """The line of a byte string."""
    return b'{"base64": "' + base64.b64encode(data) + b'"}\n'


class LineReader:
    """A client's parser: bytes in, messages out."""

    def __init__(self, max_line: int = 16 * 1024 * 1024) -> None:
        self._buffer = b""
        self._max_line = max_line

    def feed(self, data: bytes) -> list[str | bytes]:
        """The messages that `data` completes.  ValueError for a line that is no message or too long."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > self._max_line:
            raise ValueError(f"a line is longer than {self._max_line} bytes")
        return [_message(line) for line in lines if line]


def _message(line: bytes) -> str | bytes:
    value = json.loads(line)
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("base64"), str):
        return base64.b64decode(value["base64"], validate=True)
    raise ValueError("a line is neither a string nor an object with base64")
