"""Event streams (WHATWG HTML 9.2): messages as events, so that every text and every byte string survives.

A plain event carries a text, one `data: ` line per line of it.  CR would be taken for a line end and NUL is lost in
some parsers, so a text with one of them travels as JSON in an event named `ck-j`; bytes as base64 in `ck-b`.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

COMMENT_PING = b":\n\n"


def encode_text(text: str) -> bytes:
    """The event of a text.  ValueError for a lone surrogate, which UTF-8 cannot carry."""
    data = text.encode()
    if b"\r" in data or b"\0" in data:
        return b"event: ck-j\ndata: " + json.dumps(text).encode() + b"\n\n"
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def encode_binary(data: bytes) -> bytes:
    """The event of a byte string."""
    return b"event: ck-b\ndata: " + base64.b64encode(data) + b"\n\n"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event as an EventSource would dispatch it."""

    event: str
    data: str
    id: str


def message(event: ServerEvent) -> str | bytes:
    """The message an event carries: the inverse of the two encoders."""
    if event.event == "ck-j":
        text = json.loads(event.data)
        assert isinstance(text, str)
        return text
    if event.event == "ck-b":
        return base64.b64decode(event.data)
    return event.data


class EventStreamReader:
    """A client's parser: bytes in, events out (WHATWG HTML 9.2.6)."""

    def __init__(self) -> None:
        self._buffer = b""
        self._first = True
        self._event = ""
        self._data: list[str] = []
        self._id = ""
        self.retry: int | None = None

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that `data` completes."""
        self._buffer += data
        events: list[ServerEvent] = []
        while (line := self._next_line()) is not None:
            event = self._line(line)
            if event is not None:
                events.append(event)
        return events

    def _next_line(self) -> str | None:
        if self._first:
            if len(self._buffer) < 3 and b"\xef\xbb\xbf".startswith(self._buffer):
                return None
            self._buffer = self._buffer.removeprefix(b"\xef\xbb\xbf")
            self._first = False
        ends = [at for at in (self._buffer.find(b"\n"), self._buffer.find(b"\r")) if at >= 0]
        if not ends:
            return None
        end = min(ends)
        after = end + 1
        if self._buffer[end : end + 1] == b"\r":
            if len(self._buffer) == after:
                return None  # an LF may follow
            if self._buffer[after : after + 1] == b"\n":
                after += 1
        line, self._buffer = self._buffer[:end], self._buffer[after:]
        return line.decode("utf-8", "replace")

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)
        return None

    def _dispatch(self) -> ServerEvent | None:
        data, self._data = self._data, []
        event, self._event = self._event, ""
        if not data:
            return None
        return ServerEvent(event or "message", "\n".join(data), self._id)
