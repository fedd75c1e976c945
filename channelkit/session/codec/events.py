"""Frames as server-sent events."""

from __future__ import annotations

from channelkit.errors import BadMessage, MessageTooBig
from channelkit.session.codec.halves import Halves, around
from channelkit.session.codec.hello import hello_json, read_server_hello
from channelkit.session.codec.values import line_limit, parse_number, read_bytes, read_end, read_json, read_text
from channelkit.session.frames import Ack, Binary, End, Frame, Message, Ping, Text
from channelkit.wire import ndjson, sse

#: What an EventSource waits before it comes again.  Below 500 two of three browser engines loop hundreds of times a
#: second when the stream ends at once.
RETRY_MS = 500
#: What it waits after a refusal that will pass.
REFUSED_RETRY_MS = 5000
SSE_PING = sse.COMMENT_PING


def event_halves(payload: str | bytes) -> Halves:
    """A message's block, before and behind its number."""
    fields = sse.text_fields(payload) if isinstance(payload, str) else sse.binary_fields(payload)
    return fields + b"id: ", b"\n\n"


def encode_event(frame: Frame, presented: int = 0) -> bytes:
    """`frame` as a block of an event stream; an acknowledgement has no form there and gives b"".

    Every block has an id, so that `Last-Event-ID` is the acknowledgement; hello's is the number the client presented.
    It carries data, since two browser engines ignore the id of a block without.
    """
    if isinstance(frame, Message):
        return around(event_halves(frame.payload), frame.n)
    if isinstance(frame, End):
        reason = ndjson.encode_json_string(frame.reason)
        return b"event: ck-end\ndata: [%d,%b]\nid: %d\n\n" % (frame.code, reason, frame.n)
    if isinstance(frame, Ping):
        return SSE_PING
    if isinstance(frame, Ack):
        return b""
    return b"retry: %d\nevent: ck-hello\ndata: %b\nid: %d\n\n" % (RETRY_MS, hello_json(frame), presented)


def encode_event_refusal(code: str, presented: int) -> bytes:
    """The whole stream of a refusal that will pass: an EventSource comes again later, presenting what it had."""
    data = ndjson.encode_json_string(code)
    return b"retry: %d\nevent: ck-refused\ndata: %b\nid: %d\n\n" % (REFUSED_RETRY_MS, data, presented)


class EventFrames:
    """Reads an event stream into frames, as WHATWG HTML 9.2 says a browser does: bytes in, however cut, frames out.

    Events of unknown kinds are skipped.  An event the stream ends inside of is never given.  What is wrong raises
    BadMessage or MessageTooBig, after the frames before it were given, and then always.
    """

    __slots__ = ("_error", "_max_message", "_reader")

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._reader = sse.EventStreamReader(line_limit(max_message))
        self._error: BadMessage | None = None

    @property
    def retry(self) -> int | None:
        """The milliseconds the server asked to wait before the next attach."""
        return self._reader.retry

    def feed(self, data: bytes) -> list[Frame]:
        """Take `data`; the frames it completes."""
        found: list[Frame] = []
        if self._error is None:
            try:
                for event in self._reader.feed(data):
                    frame = self._decode(event)
                    if frame is not None:
                        found.append(frame)
            except sse.EventTooLong as error:
                self._error = MessageTooBig(str(error))
            except BadMessage as error:
                self._error = error
        if self._error is not None and not found:
            raise self._error
        return found

    def _decode(self, event: sse.ServerEvent) -> Frame | None:
        if event.event == "ck-hello":
            return read_server_hello(read_json(event.data))
        if event.event == "ck-end":
            values = read_json(event.data)
            if not isinstance(values, list) or len(values) < 2:
                raise BadMessage("the data of ck-end is [code, reason]")
            return read_end(parse_number(event.id, "id", 1), values[0], values[1])
        if event.event not in ("message", sse.JSON_EVENT, sse.BINARY_EVENT):
            return None
        n = parse_number(event.id, "id", 1)
        if event.event == sse.BINARY_EVENT:
            return Binary(n, read_bytes(event.data, self._max_message))
        text = event.data if event.event == "message" else read_json(event.data)
        return Text(n, read_text(text, self._max_message))
