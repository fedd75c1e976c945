"""Messages as server-sent events (WHATWG HTML 9.2): exactly what was sent, and plain text for every EventSource.

    text                    one `data: ` line for each of its lines: `event.data` of a plain EventSource
    text with CR or NUL     event `ck-j`, a JSON string: a data line cannot hold CR, and NUL does not pass everywhere
    binary                  event `ck-b`, base64
    ping                    a comment

Each message is one whole event, so a ping may stand between any two.
"""

from __future__ import annotations

import base64
import codecs
import re
from dataclasses import dataclass

from channelkit.wire.ndjson import decode_base64, decode_json_string, encode_json_string

COMMENT_PING = b":\n\n"
JSON_EVENT = "ck-j"
BINARY_EVENT = "ck-b"
_LINE_END = re.compile(r"\r\n|\r|\n")  # not str.splitlines, which also cuts at U+2028, U+0085 and others
_DIGITS = re.compile(r"[0-9]+")


def encode_text(message: str) -> bytes:
    """One event.  Raises UnicodeEncodeError, a ValueError, for a lone surrogate: the stream is UTF-8."""
    return text_fields(message) + b"\n"


def encode_binary(message: bytes) -> bytes:
    """One event."""
    return binary_fields(message) + b"\n"


def text_fields(message: str) -> bytes:
    """The lines of an event that say `message`, without the empty line that ends it; raises as `encode_text`."""
    if "\r" in message or "\0" in message:
        return b"event: ck-j\ndata: " + encode_json_string(message) + b"\n"
    # Always one space behind the colon: a reader takes off one, so a text that begins with a space keeps its own.
    return b"data: " + message.encode().replace(b"\n", b"\ndata: ") + b"\n"


def binary_fields(message: bytes) -> bytes:
    """The same for a binary message."""
    return b"event: ck-b\ndata: " + base64.b64encode(message) + b"\n"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event as an EventSource dispatches it; `id` is the last id seen so far."""

    event: str
    data: str
    id: str


def message(event: ServerEvent) -> str | bytes:
    """The message that became this event; ValueError if `encode_text` and `encode_binary` make none like it."""
    if event.event == JSON_EVENT:
        return decode_json_string(event.data)
    if event.event == BINARY_EVENT:
        return decode_base64(event.data)
    return event.data


class EventTooLong(ValueError):
    """An event of more than the characters its reader allows."""


class EventStreamReader:
    """Reads an event stream as the standard says a browser does: bytes in, however cut, events out.

    `retry` is the reconnection time in milliseconds the server asked for last, `last_event_id` what a reconnecting
    client would tell.  An event the stream ends inside of is never given.  `max_event` bounds the characters of one
    event's lines; more raises EventTooLong, and whoever reads on has himself to blame.
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_decoder",
        "_event",
        "_held",
        "_id",
        "_line",
        "_max_event",
        "last_event_id",
        "retry",
    )

    def __init__(self, max_event: int | None = None) -> None:
        self._max_event = max_event
        self._held = 0  # characters of the event that is not at its end yet
        self.retry: int | None = None
        self.last_event_id = ""
        # "UTF-8 decode" of the Encoding standard: one BOM at the start is taken off, what is wrong becomes U+FFFD.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._after_cr = False  # the last text ended in CR: a LF that comes next belongs to it
        self._line: list[str] = []  # pieces of the line that is not at its end yet
        self._event = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Take `data`; the events it completes."""
        text = self._decoder.decode(data)
        if text and self._after_cr:
            self._after_cr = False
            text = text.removeprefix("\n")
        found: list[ServerEvent] = []
        if not text:
            return found
        self._after_cr = text.endswith("\r")
        *ended, rest = _LINE_END.split(text)
        for piece in ended:
            self._hold(piece)
            self._line.append(piece)
            self._take_line("".join(self._line), found)
            self._line.clear()
        if rest:
            self._hold(rest)
            self._line.append(rest)
        return found

    def _hold(self, piece: str) -> None:
        self._held += len(piece)
        if self._max_event is not None and self._held > self._max_event:
            raise EventTooLong(f"an event of more than {self._max_event} characters")

    message = staticmethod(message)

    def _take_line(self, line: str, found: list[ServerEvent]) -> None:
        """WHATWG HTML 9.2.6: an empty line dispatches, one that begins with a colon is a comment."""
        if not line:
            self._dispatch(found)
            return
        field, _, value = line.partition(":")
        self._take_field(field, value.removeprefix(" "))

    def _take_field(self, field: str, value: str) -> None:
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and _DIGITS.fullmatch(value):
            self.retry = int(value[:18])  # a number no timer takes is still a number, and cheap

    def _dispatch(self, found: list[ServerEvent]) -> None:
        self.last_event_id = self._id
        if self._data:
            found.append(ServerEvent(self._event or "message", "\n".join(self._data), self._id))
        self._event = ""
        self._data = []
        self._held = 0
