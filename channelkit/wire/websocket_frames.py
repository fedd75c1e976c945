"""What one WebSocket frame is, server side (RFC 6455 5.2): the rules of its header, and the bytes of our own.

Pure functions of one frame.  What frames mean together (messages, states, limits) is `websocket_codec`.
"""

from __future__ import annotations

from collections.abc import Sequence

from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Ping, Pong
from wsproto.frame_protocol import CloseReason

from channelkit.status import check_close

FIN = 0x80
RSV1 = 0x40
RESERVED = 0x70
CONTROL = 0x08
FIN_TEXT, FIN_BINARY, FIN_CLOSE, FIN_PONG = 0x81, 0x82, 0x88, 0x8A
MAX_CONTROL = 125  # RFC 6455 5.5
_CONTINUATION = 0x0
_MESSAGES = frozenset({0x1, 0x2})
_OPCODES = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})

# -- a client's frames


def head_size(second: int) -> int:
    """Bytes before the payload of a masked frame (RFC 6455 5.2): two, the longer length, the key."""
    short = second & 0x7F
    return 6 if short < 126 else 8 if short == 126 else 14


def header_fault(first: int, second: int, message_open: bool, compression: bool) -> str | None:
    """What the first two bytes of a frame do wrong, if anything; `compression`: permessage-deflate was agreed on."""
    opcode = first & 0x0F
    if first & RESERVED and not (compression and first & RESERVED == RSV1 and opcode in _MESSAGES):
        return "a reserved bit is set"  # RFC 6455 5.2; RFC 7692 6.1: RSV1 of a message's first frame is the exception
    if opcode not in _OPCODES:
        return f"unknown opcode {opcode:#x}"
    if not second & 0x80:
        return "a client's frame without a mask"  # RFC 6455 5.1
    if opcode & CONTROL:
        return _control_fault(first, second)
    if message_open and opcode != _CONTINUATION:
        return "a new message inside a fragmented one"  # RFC 6455 5.4
    if not message_open and opcode == _CONTINUATION:
        return "a continuation of nothing"  # RFC 6455 5.4
    return None


def _control_fault(first: int, second: int) -> str | None:
    """RFC 6455 5.5."""
    if not first & FIN:
        return "a fragmented control frame"
    if second & 0x7F > MAX_CONTROL:
        return f"a control frame of more than {MAX_CONTROL} bytes"
    return None


def size_fault(size: int, head: int) -> str | None:
    """RFC 6455 5.2: the shortest form, and the top bit of 64 clear."""
    if (head == 8 and size <= MAX_CONTROL) or (head == 14 and size <= 0xFFFF):
        return "a length that is not in its shortest form"
    if size >> 63:
        return "a length of more than 63 bits"
    return None


def close_code(first: int, frame: bytes) -> int | None:
    """The code in a whole masked control frame, if it is a close frame that has one."""
    if first != FIN_CLOSE or len(frame) < 8:
        return None
    return (frame[6] ^ frame[2]) << 8 | frame[7] ^ frame[3]


def with_code(frame: bytes, difference: int) -> bytes:
    """The same close frame with some low bits of its code turned over: the mask is an XOR, so it does not matter."""
    return frame[:7] + bytes((frame[7] ^ difference,)) + frame[8:]


# -- our frames


def _heads(first: int) -> Sequence[bytes]:
    return tuple(bytes((first, size)) for size in range(MAX_CONTROL + 1))


_TEXT_HEADS = _heads(FIN_TEXT)
_BINARY_HEADS = _heads(FIN_BINARY)
# A connection that only ever serializes pings and pongs keeps no state, so one serves all.
_SERIALIZER = Connection(ConnectionType.SERVER)


def text_frame(message: str) -> bytes:
    """One text frame.  Raises UnicodeEncodeError, a ValueError, for a lone surrogate: UTF-8 has no form for it."""
    payload = message.encode()
    size = len(payload)
    return (_TEXT_HEADS[size] if size <= MAX_CONTROL else _long_head(FIN_TEXT, size)) + payload


def binary_frame(message: bytes | bytearray | memoryview) -> bytes:
    """One binary frame."""
    payload = message if type(message) is bytes else memoryview(message).tobytes()
    size = len(payload)
    return (_BINARY_HEADS[size] if size <= MAX_CONTROL else _long_head(FIN_BINARY, size)) + payload


def payload_of(frame: bytes) -> memoryview:
    """The payload of a frame that `text_frame` or `binary_frame` made."""
    short = frame[1]
    return memoryview(frame)[2 if short <= MAX_CONTROL else 4 if short == 126 else 10 :]


def data_frame(first: int, payload: bytes) -> bytes:
    """A frame of any payload, behind this first byte."""
    size = len(payload)
    return (bytes((first, size)) if size <= MAX_CONTROL else _long_head(first, size)) + payload


def _long_head(first: int, size: int) -> bytes:
    if size <= 0xFFFF:
        return bytes((first, 126)) + size.to_bytes(2)
    return bytes((first, 127)) + size.to_bytes(8)


def control_frame(event: Ping | Pong) -> bytes:
    """A ping or pong frame.  ValueError above 125 bytes (RFC 6455 5.5)."""
    size = len(event.payload)
    if size > MAX_CONTROL:
        raise ValueError(f"a ping or pong carries at most {MAX_CONTROL} bytes, not {size} (RFC 6455 5.5)")
    return bytes(_SERIALIZER.send(event))


def close_frame(code: int | None, reason: str) -> bytes:
    """A close frame, with no payload for None.  ValueError for a code or reason that may not be sent."""
    if code is not None:
        check_close(code, reason)
    elif reason:
        raise ValueError("a close reason needs a close code before it (RFC 6455 5.5.1)")
    event = CloseConnection(CloseReason.NO_STATUS_RCVD if code is None else code, reason)
    return bytes(Connection(ConnectionType.SERVER).send(event))
