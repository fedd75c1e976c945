"""Frames as messages of a WebSocket."""

from __future__ import annotations

from channelkit.errors import BadMessage, MessageTooBig
from channelkit.session.codec.hello import ReadHello, hello_json, read_server_hello
from channelkit.session.codec.values import SHOWN, parse_number, read_end, read_json, read_text
from channelkit.session.frames import Ack, Binary, End, Frame, Ping, Text


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
    return f"h {hello_json(frame).decode('ascii')}"


def decode_websocket(message: str | bytes, max_message: int, hello: ReadHello = read_server_hello) -> Frame | None:
    """The frame of one WebSocket message; None for a frame this version does not know."""
    if isinstance(message, bytes):
        return _decode_binary(message, max_message)
    if message.startswith("m ") or message == "m":
        parts = message.split(" ", 2)
        if len(parts) < 3:
            raise BadMessage(f"frame 'm' is 'm number text', not {message[:SHOWN]!r}")
        return Text(parse_number(parts[1], "number", 1), read_text(parts[2], max_message))
    kind, _, rest = message.partition(" ")
    if kind == "a":
        return Ack(parse_number(rest, "ack"))
    if kind == "p":
        return Ping()
    if kind == "e":
        parts = rest.split(" ", 2)
        if len(parts) < 2:
            raise BadMessage(f"frame 'e' is 'e number code reason', not {message[:SHOWN]!r}")
        number, code, *reason = parts
        return read_end(parse_number(number, "number", 1), parse_number(code, "code"), reason[0] if reason else "")
    if kind == "h":
        return hello(read_json(rest))
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
    return Binary(parse_number(number[:SHOWN].decode("latin-1"), "number", 1), data)
