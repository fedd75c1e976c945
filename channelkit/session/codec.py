"""The one codec of CK/1: every frame in every form, and back (docs/protocol.md, "Frames").

    form                     out                   in
    line of JSON (NDJSON)    encode_line           LineFrames (a client's stream), decode_batch (a POST)
    WebSocket message        encode_websocket      decode_websocket
    block of SSE             encode_event          EventFrames
    body of one message      -                     decode_body
    answers of a request     encode_answer         decode_answer

A client and a server read all frames alike but `h`, so the readers take `hello`, which says whose hello is expected.
Foreign input raises `BadMessage` or `MessageTooBig` and nothing else, after what preceded it was given.  Unknown
frames give None; unknown members are ignored.  Lengths are judged before anything is decoded or kept.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from channelkit.errors import BadMessage, MessageTooBig
from channelkit.session.frames import (
    MAX_NUMBER,
    VERSION,
    Ack,
    Binary,
    ClientHello,
    End,
    Frame,
    Hello,
    Message,
    Numbered,
    Ping,
    Terms,
    Text,
    may_end,
)
from channelkit.wire import ndjson, sse

#: What an EventSource waits before it comes again.  Below 500 two of three browser engines loop hundreds of times a
#: second when the stream ends at once.
RETRY_MS = 500
#: What it waits after a refusal that will pass.
REFUSED_RETRY_MS = 5000
SSE_PING = sse.COMMENT_PING

_decimal = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII).fullmatch
_SHOWN = 40
_BOUNDED = 2**31  # hello's counts and sizes: more is nobody's memory


def line_limit(max_message: int) -> int:
    """The longest line, and the largest body of a POST: JSON may escape one byte as six."""
    return 6 * max_message + 1024


def parse_number(text: str, what: str, least: int = 0) -> int:
    """The decimal number `text`, from `least` to 2**53 - 1, without sign, blank or leading zero."""
    if _decimal(text):
        value = int(text)
        if least <= value <= MAX_NUMBER:
            return value
    raise BadMessage(f"{what} must be a decimal number from {least} to 2^53-1, not {text[:_SHOWN]!r}")


#: A form that many share, of a message to which each of them gives a number of its own: what stands before it, and
#: what behind.
Halves = tuple[bytes, bytes]


def around(halves: Halves, n: int) -> bytes:
    """The form of message `n`."""
    return b"%b%d%b" % (halves[0], n, halves[1])


# -- hello -------------------------------------------------------------------------------------------------------------


def hello_members(hello: Hello) -> dict[str, object]:
    """The JSON object of a server's hello."""
    members: dict[str, object] = {"v": VERSION}
    if hello.sid is not None:
        members["sid"] = hello.sid
    if hello.secret is not None:
        members["secret"] = hello.secret
    if hello.a is not None:
        members["a"] = hello.a
    if hello.by is not None:
        members["by"] = hello.by
    members["recv"] = hello.recv
    if hello.have is not None:
        members["have"] = hello.have
    if (terms := hello.terms) is not None:
        members |= {"window": [terms.window, terms.window_bytes], "max": terms.max_message}
        members |= {"ping": _short(terms.ping), "grace": _short(terms.grace)}
    return {"recv": hello.recv} if hello == Hello(hello.recv) else members


def client_hello_members(hello: ClientHello) -> dict[str, object]:
    """The JSON object of a client's hello."""
    given = {"sid": hello.sid, "secret": hello.secret}
    named: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    return {"v": VERSION, **named, "a": hello.a, "recv": hello.recv}


def read_server_hello(value: object) -> Hello:
    """A server's hello from its JSON value."""
    members = _hello(value)
    recv = _number(members.get("recv"), "recv", 0)
    terms = None
    if "window" in members:
        window = members["window"]
        if not isinstance(window, list) or len(window) < 2:
            raise BadMessage("hello: window must be [messages, bytes]")
        terms = Terms(
            window=_count(window[0], "window"),
            window_bytes=_count(window[1], "window"),
            max_message=_count(members.get("max"), "max"),
            ping=_seconds(members.get("ping"), "ping"),
            grace=_seconds(members.get("grace"), "grace"),
        )
    a, by = (_number(members[name], name, 1) if name in members else None for name in ("a", "by"))
    have = _number(members["have"], "have", 0) if "have" in members else None
    return Hello(recv, _optional_text(members, "sid"), a, terms, by, have, _optional_text(members, "secret"))


def read_client_hello(value: object) -> ClientHello:
    """A client's hello from its JSON value."""
    members = _hello(value)
    if "v" not in members:
        raise BadMessage("hello: v is missing")
    return ClientHello(
        a=_number(members.get("a", 1), "a", 1),
        recv=_number(members.get("recv", 0), "recv", 0),
        sid=_optional_text(members, "sid"),
        secret=_optional_text(members, "secret"),
    )


ReadHello = Callable[[object], Hello | ClientHello]


def _hello(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadMessage("hello must be a JSON object")
    version = value.get("v", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise BadMessage(f"hello: version {str(version)[:_SHOWN]} is not spoken here, only {VERSION}")
    return value


def _optional_text(members: dict[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.isascii() or not 0 < len(value) <= 512:
        raise BadMessage(f"hello: {name} must be an ASCII string of 1 to 512 characters")
    return value


def _seconds(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e9:
        raise BadMessage(f"hello: {what} must be seconds above 0")
    return value


def _count(value: object, what: str) -> int:
    number = _number(value, what, 1)
    if number > _BOUNDED:
        raise BadMessage(f"hello: {what} is beyond reason")
    return number


def _short(seconds: float) -> float:
    return int(seconds) if seconds == int(seconds) else seconds


# -- lines of JSON -----------------------------------------------------------------------------------------------------


def line_halves(payload: str | bytes) -> Halves:
    """A message's line, before and behind its number."""
    if isinstance(payload, str):
        return b'["m",', b",%b]\n" % ndjson.encode_json_string(payload)
    return b'["b",', b',"%b"]\n' % base64.b64encode(payload)


def encode_line(frame: Frame) -> bytes:
    """`frame` as a line, its LF included."""
    if isinstance(frame, Message):
        return around(line_halves(frame.payload), frame.n)
    if isinstance(frame, End):
        return b'["e",%d,%d,%b]\n' % (frame.n, frame.code, ndjson.encode_json_string(frame.reason))
    if isinstance(frame, Ack):
        return b'["a",%d]\n' % frame.n
    if isinstance(frame, Ping):
        return b'["p"]\n'
    return b'["h",%b]\n' % _hello_json(frame)


def decode_line(line: str, max_message: int, hello: ReadHello = read_server_hello) -> Frame | None:
    """The frame of one line without its LF; None for a frame this version does not know."""
    values = _json(line)
    if not isinstance(values, list) or not values or not isinstance(values[0], str):
        raise BadMessage(f"a frame is a JSON array that begins with its kind, not {line[:_SHOWN]!r}")
    known = _LINE_KINDS.get(values[0])
    if known is None:
        return None
    least, decode = known
    if len(values) < least:
        raise BadMessage(f"frame {values[0]!r} has too few members: {line[:_SHOWN]!r}")
    return decode(values, max_message, hello)


def _line_text(values: list[Any], max_message: int, hello: ReadHello) -> Frame:
    return Text(_number(values[1], "number", 1), _text(values[2], max_message))


def _line_binary(values: list[Any], max_message: int, hello: ReadHello) -> Frame:
    return Binary(_number(values[1], "number", 1), _bytes(values[2], max_message))


def _line_end(values: list[Any], max_message: int, hello: ReadHello) -> Frame:
    return _end(_number(values[1], "number", 1), values[2], values[3])


_LINE_KINDS: dict[str, tuple[int, Callable[[list[Any], int, ReadHello], Frame]]] = {
    "m": (3, _line_text),
    "b": (3, _line_binary),
    "e": (4, _line_end),
    "a": (2, lambda values, max_message, hello: Ack(_number(values[1], "ack", 0))),
    "p": (1, lambda values, max_message, hello: Ping()),
    "h": (2, lambda values, max_message, hello: hello(values[1])),
}


class LineFrames:
    """Reads a stream or body of lines: bytes in, however cut, frames out.

    What is wrong raises BadMessage or MessageTooBig, after the frames before it were given, and then always.  A last
    line without LF is never given.
    """

    __slots__ = ("_lines",)

    def __init__(self, max_message: int, hello: ReadHello = read_server_hello) -> None:
        self._lines: ndjson.Lines[Frame] = ndjson.Lines(
            lambda line: decode_line(line, max_message, hello), line_limit(max_message)
        )

    @property
    def unfinished(self) -> int:
        """Bytes of a line whose LF has not come."""
        return self._lines.unfinished

    def feed(self, data: bytes) -> list[Frame]:
        """Take `data`; the frames it completes."""
        try:
            return self._lines.feed(data)
        except ndjson.LineTooLong as error:
            raise MessageTooBig(str(error)) from None
        except ValueError as error:  # UTF-8
            raise BadMessage(f"a line is not UTF-8: {error}") from None


def decode_batch(body: bytes, max_message: int) -> list[Numbered]:
    """The messages, and perhaps the end, of a POST's body of lines; their numbers follow one another.

    A body is whole when this is called, so a last line without LF is an error and not a cut: the client is told.
    """
    if len(body) > line_limit(max_message):
        raise MessageTooBig(f"a body of {len(body)} bytes; at most {line_limit(max_message)} are taken at once")
    reader = LineFrames(max_message)
    frames = reader.feed(body)
    reader.feed(b"")  # an error that came behind good lines
    if reader.unfinished:
        raise BadMessage("the last line does not end with LF")
    return check_consecutive(frame for frame in frames if isinstance(frame, Numbered))


def check_consecutive(frames: Iterable[Numbered]) -> list[Numbered]:
    """`frames` as a list; BadMessage unless each number is the one before plus 1 and nothing follows an end."""
    batch: list[Numbered] = []
    for frame in frames:
        if batch and frame.n != batch[-1].n + 1:
            raise BadMessage(f"numbers in a batch must follow one another: {frame.n} after {batch[-1].n}")
        if batch and isinstance(batch[-1], End):
            raise BadMessage("nothing may follow an end")
        batch.append(frame)
    return batch


def decode_body(content_type: str, body: bytes, n: int | None, max_message: int) -> Numbered:
    """The one message of a POST that is no batch: octet-stream is binary, anything else text."""
    if n is None:
        raise BadMessage(
            "a message needs its number: ?n=1 for the first, one more for each; repeat it to send it again"
        )
    if len(body) > max_message:
        raise MessageTooBig(f"a message of {len(body)} bytes; at most {max_message} are taken")
    if media_type(content_type) == "application/octet-stream":
        return Binary(n, body)
    try:
        return Text(n, body.decode())
    except UnicodeDecodeError as error:
        raise BadMessage(f"the body is not UTF-8 ({error.reason}); send bytes as application/octet-stream") from None


def media_type(content_type: str) -> str:
    """The type of a Content-Type field, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


# -- WebSocket messages ------------------------------------------------------------------------------------------------


def encode_websocket(frame: Frame) -> str | bytes:
    """`frame` as a WebSocket message: bytes for binary, str for all others."""
    if isinstance(frame, Text):
        return f"m {frame.n} {frame.text}"
    if isinstance(frame, Binary):
        return b"m %d %b" % (frame.n, frame.data)
    if isinstance(frame, End):
        return f"e {frame.n} {frame.code} {frame.reason}"
    if isinstance(frame, Ack):
        return f"a {frame.n}"
    if isinstance(frame, Ping):
        return "p"
    return f"h {_hello_json(frame).decode('ascii')}"


def decode_websocket(message: str | bytes, max_message: int, hello: ReadHello = read_server_hello) -> Frame | None:
    """The frame of one WebSocket message; None for a frame this version does not know."""
    if isinstance(message, bytes):
        return _decode_binary(message, max_message)
    if message.startswith("m ") or message == "m":
        parts = message.split(" ", 2)
        if len(parts) < 3:
            raise BadMessage(f"frame 'm' is 'm number text', not {message[:_SHOWN]!r}")
        return Text(parse_number(parts[1], "number", 1), _text(parts[2], max_message))
    kind, _, rest = message.partition(" ")
    if kind == "a":
        return Ack(parse_number(rest, "ack"))
    if kind == "p":
        return Ping()
    if kind == "e":
        parts = rest.split(" ", 2)
        if len(parts) < 2:
            raise BadMessage(f"frame 'e' is 'e number code reason', not {message[:_SHOWN]!r}")
        number, code, *reason = parts
        return _end(parse_number(number, "number", 1), parse_number(code, "code"), reason[0] if reason else "")
    if kind == "h":
        return hello(_json(rest))
    return None


def _decode_binary(message: bytes, max_message: int) -> Frame | None:
    kind, _, rest = message.partition(b" ")
    if kind != b"m":
        return None
    number, space, data = rest.partition(b" ")
    if not space:
        raise BadMessage("a binary frame is 'm number bytes'")
    if len(data) > max_message:
        raise MessageTooBig(f"a message of {len(data)} bytes; at most {max_message} are taken")
    return Binary(parse_number(number[:_SHOWN].decode("latin-1"), "number", 1), data)


# -- server-sent events ------------------------------------------------------------------------------------------------


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
    return b"retry: %d\nevent: ck-hello\ndata: %b\nid: %d\n\n" % (RETRY_MS, _hello_json(frame), presented)


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
            return read_server_hello(_json(event.data))
        if event.event == "ck-end":
            values = _json(event.data)
            if not isinstance(values, list) or len(values) < 2:
                raise BadMessage("the data of ck-end is [code, reason]")
            return _end(parse_number(event.id, "id", 1), values[0], values[1])
        if event.event not in ("message", sse.JSON_EVENT, sse.BINARY_EVENT):
            return None
        n = parse_number(event.id, "id", 1)
        if event.event == sse.BINARY_EVENT:
            return Binary(n, _bytes(event.data, self._max_message))
        text = event.data if event.event == "message" else _json(event.data)
        return Text(n, _text(text, self._max_message))


# -- answers -----------------------------------------------------------------------------------------------------------


def encode_answer(ack: int | None, code: str | None = None, reason: str = "") -> bytes:
    """The JSON body of a POST's answer, or of a refusal if there is a `code`."""
    members: dict[str, object] = {} if code is None else {"code": code, "reason": reason}
    if ack is not None:
        members["ack"] = ack
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def decode_answer(body: bytes) -> tuple[str | None, int | None]:
    """`code` and `ack` of an answer.  A body that is none (a proxy's page, a cut one) gives None for both."""
    try:
        value = ndjson.loads(body.decode())
    except ValueError:
        return None, None
    if not isinstance(value, dict):
        return None, None
    code, ack = value.get("code"), value.get("ack")
    return (code if isinstance(code, str) else None), (ack if _is_number(ack, 0) else None)


# -- what all forms share ----------------------------------------------------------------------------------------------


def _hello_json(hello: Hello | ClientHello) -> bytes:
    members = hello_members(hello) if isinstance(hello, Hello) else client_hello_members(hello)
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def _json(text: str) -> object:
    try:
        return ndjson.loads(text)
    except ValueError as error:
        raise BadMessage(f"not JSON: {str(error)[:_SHOWN]}") from None  # never the text: a hello holds a secret


def _is_number(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_NUMBER


def _number(value: object, what: str, least: int) -> int:
    if isinstance(value, int) and _is_number(value, least):
        return value
    raise BadMessage(f"{what} must be a whole number from {least} to 2^53-1, not {str(value)[:_SHOWN]}")


def _text(value: object, max_message: int) -> str:
    if not isinstance(value, str):
        raise BadMessage("a text must be a JSON string")
    if len(value) > max_message or (not value.isascii() and _utf8_size(value) > max_message):
        raise MessageTooBig(f"a text of more than {max_message} bytes")
    return value


def _utf8_size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise BadMessage("a text with a lone surrogate", close_code=1007) from None


def _bytes(value: object, max_message: int) -> bytes:
    if not isinstance(value, str):
        raise BadMessage("binary data must be a string of base64")
    if len(value) > 4 * (max_message // 3 + 1):
        raise MessageTooBig(f"a message of more than {max_message} bytes")
    try:
        data = ndjson.decode_base64(value)
    except ValueError as error:
        raise BadMessage(f"not base64: {error}") from None
    if len(data) > max_message:
        raise MessageTooBig(f"a message of more than {max_message} bytes")
    return data


def _end(n: int, code: object, reason: object) -> End:
    if not isinstance(code, int) or not isinstance(reason, str) or not may_end(code, reason):
        raise BadMessage(f"an end needs a close code and a reason as RFC 6455 has them, not {str(code)[:_SHOWN]}")
    return End(n, code, reason)
