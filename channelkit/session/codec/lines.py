"""Frames as lines of JSON (NDJSON): a stream of them, and the body of a POST."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any

from channelkit.errors import BadMessage, MessageTooBig
from channelkit.session.codec.halves import Halves, around
from channelkit.session.codec.hello import ReadHello, hello_json, read_server_hello
from channelkit.session.codec.values import SHOWN, line_limit, read_bytes, read_count, read_end, read_json, read_text
from channelkit.session.frames import Ack, Binary, End, Frame, Message, Numbered, Ping, Text
from channelkit.wire import ndjson


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
    return b'["h",%b]\n' % hello_json(frame)


def decode_line(line: str, max_message: int, hello: ReadHello = read_server_hello) -> Frame | None:
    """The frame of one line without its LF; None for a frame this version does not know."""
    values = read_json(line)
    if not isinstance(values, list) or not values or not isinstance(values[0], str):
        raise BadMessage(f"a frame is a JSON array that begins with its kind, not {line[:SHOWN]!r}")
    known = _LINE_KINDS.get(values[0])
    if known is None:
        return None
    least, decode = known
    if len(values) < least:
        raise BadMessage(f"frame {values[0]!r} has too few members: {line[:SHOWN]!r}")
    return decode(values, max_message, hello)


def _line_text(values: list[Any], max_message: int, hello: ReadHello) -> Frame:
    return Text(read_count(values[1], "number", 1), read_text(values[2], max_message))


def _line_binary(values: list[Any], max_message: int, hello: ReadHello) -> Frame:
    return Binary(read_count(values[1], "number", 1), read_bytes(values[2], max_message))


def _line_end(values: list[Any], max_message: int, hello: ReadHello) -> Frame:
    return read_end(read_count(values[1], "number", 1), values[2], values[3])


_LINE_KINDS: dict[str, tuple[int, Callable[[list[Any], int, ReadHello], Frame]]] = {
    "m": (3, _line_text),
    "b": (3, _line_binary),
    "e": (4, _line_end),
    "a": (2, lambda values, max_message, hello: Ack(read_count(values[1], "ack", 0))),
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
