"""Frames, messages and closing handshakes by RFC 6455 5 to 8: each row is played in three ways, on both loops.

The rows follow the cases of the Autobahn test suite (its numbers stand in the comments), and are strict about codes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from channelkit import CloseStatus
from tests.conformance.websocket.rows import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    FRAGMENTS,
    MAX,
    PING,
    PONG,
    TEXT,
    WAYS,
    Echo,
    Frame,
    Row,
    closed,
    code,
    ids,
    play,
)
from tests.server.conftest import MASK, Peer

frame = Peer.frame
PROTOCOL = (CloseStatus.PROTOCOL_ERROR, 1002)
PAYLOAD = (CloseStatus.INVALID_PAYLOAD_DATA, 1007)
TOO_BIG = (CloseStatus.MESSAGE_TOO_BIG, 1009)
POLICY = (CloseStatus.POLICY_VIOLATION, 1008)
EURO = "\u20ac".encode()
KUHN = "\u03ba\u1f79\u03c3\u03bc\u03b5".encode()  # the Greek word of Markus Kuhn's UTF-8 test, and of Autobahn's


def text(payload: bytes) -> Frame:
    return FIN | TEXT, payload


def binary(payload: bytes) -> Frame:
    return FIN | BINARY, payload


def fragments(opcode: int, payload: bytes, size: int, between: bytes = b"") -> bytes:
    """A message in fragments of `size` bytes, with something between them."""
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    last = len(pieces) - 1
    return between.join(frame(CONT if i else opcode, piece, fin=i == last) for i, piece in enumerate(pieces))


def raw(first: int, second: int, rest: bytes = b"") -> bytes:
    """A frame with the header bytes as given."""
    return bytes((first, second)) + rest


BYE = frame(CLOSE, code(1000))
BEFORE = frame(TEXT, b"before")


def failing(clause: str, name: str, send: bytes, number: int, told: tuple[CloseStatus, int]) -> Iterator[Row]:
    """What fails the connection: alone, and behind a message that must still come back."""
    yield Row(clause, name, send, (closed(number),), told)
    yield Row(clause, f"{name}, behind a message", BEFORE + send, (text(b"before"), closed(number)), told)


def broken(clause: str, name: str, send: bytes) -> Iterator[Row]:
    return failing(clause, name, send, 1002, PROTOCOL)


# -- 5.2: frames of every size and opcode (Autobahn 1, 9)

SIZES = [
    *(
        Row("5.2 length", f"{kind(b'')[0]:#x} of {size}", frame(opcode, b"*" * size), (kind(b"*" * size),))
        for opcode, kind in ((TEXT, text), (BINARY, binary))
        for size in (0, 1, 125, 126, 127, 128, 65535, 65536)
    ),
    Row("5.2 length", "1 MiB", frame(BINARY, b"\xfe" * MAX), (binary(b"\xfe" * MAX),)),
    Row("5.2 length", "many small", frame(TEXT, b"x" * 20) * 300, (text(b"x" * 20),) * 300),
]

# -- 5.2 and 5.1: headers that no client may send (Autobahn 3, 4)

RESERVED = [
    row
    for rsv in range(1, 8)
    for opcode in (TEXT, BINARY, PING, PONG, CLOSE)
    for row in broken("5.2 RSV", f"RSV {rsv} of opcode {opcode}", frame(opcode, code(1000), rsv=rsv))
]
OPCODES = [
    row
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    for payload in (b"", b"reserved")
    for row in broken("5.2 opcode", f"{opcode} with {len(payload)}", frame(opcode, payload) + frame(PING))
]
LENGTHS = [
    *broken("5.2 minimal length", "16 bits for 125", raw(0x82, 0xFE, b"\0\x7d" + MASK + b"x" * 125)),
    *broken("5.2 minimal length", "16 bits for 0", raw(0x81, 0xFE, b"\0\0" + MASK)),
    *broken("5.2 minimal length", "64 bits for 65535", raw(0x82, 0xFF, (65535).to_bytes(8))),
    *broken("5.2 minimal length", "64 bits for 0", raw(0x81, 0xFF, bytes(8))),
    *broken("5.2 63 bits", "top bit", raw(0x82, 0xFF, (1 << 63).to_bytes(8))),
    *broken("5.2 63 bits", "all bits", raw(0x82, 0xFF, b"\xff" * 8)),
]
MASKS = [
    *broken("5.1 masked", "text", b"\x81\x05Hello"),
    *broken("5.1 masked", "empty", b"\x82\x00"),
    *broken("5.1 masked", "ping", b"\x89\x00"),
    *broken("5.1 masked", "close", b"\x88\x02" + code(1000)),
    *broken("5.1 masked", "continuation", frame(TEXT, b"a", fin=False) + b"\x80\x01b"),
    *broken("5.1 masked", "header of a large one", b"\x82\x7f"),
    Row("5.3 mask", "the key of zeros", raw(0x81, 0x85, bytes(4) + b"Hello"), (text(b"Hello"),)),
    Row("5.3 mask", "the RFC's example (5.7)", bytes.fromhex("818537fa213d7f9f4d5158"), (text(b"Hello"),)),
    Row("5.3 mask", "another key each", raw(0x82, 0x81, b"\1\2\3\4\1") * 2, (binary(b"\0"),) * 2),
]

# -- 5.5: control frames (Autobahn 2, 5.1, 5.2)

CONTROLS = [
    *(
        Row("5.5.2 pong", f"to {payload[:9]!r} of {len(payload)}", frame(PING, payload), ((FIN | PONG, payload),))
        for payload in (b"", b"Hello", b"\0\xff\xfe\xfd\xfc\xfb\0\xff", b"\xfe" * 125)
    ),
    Row(
        "5.5.2 pong",
        "to ten pings",
        b"".join(frame(PING, b"%d" % i) for i in range(10)),
        tuple((FIN | PONG, b"%d" % i) for i in range(10)),
    ),
    Row("5.5.2 pong", "ping, then close", frame(PING, b"p") + BYE, ((FIN | PONG, b"p"), closed(1000))),
    Row("5.5.2 pong", "ping, then a violation", frame(PING, b"p") + b"\x83\x80", ((FIN | PONG, b"p"), closed(1002))),
    Row("5.5.3 unsolicited pong", "empty", frame(PONG)),
    Row("5.5.3 unsolicited pong", "with a payload", frame(PONG, b"unasked")),
    Row("5.5.3 unsolicited pong", "then a ping", frame(PONG, b"un") + frame(PING, b"p"), ((FIN | PONG, b"p"),)),
    *(
        row
        for opcode in (PING, PONG, CLOSE)
        for row in (
            *broken("5.5 control length", f"{opcode} of 126", frame(opcode, b"\xfe" * 126)),
            *broken("5.5 control length", f"header of {opcode} in 64 bits", raw(FIN | opcode, 0xFF)),
            *broken("5.5 control fragment", f"{opcode}", frame(opcode, b"frag", fin=False)),
            *broken("5.5 control fragment", f"{opcode}, continued", frame(opcode, fin=False) + frame(CONT, b"x")),
        )
    ),
]

# -- 5.4: fragments (Autobahn 5)

PING_BETWEEN = frame(PING, b"between")
PONG_BETWEEN = (FIN | PONG, b"between")
FRAGMENTED = [
    Row("5.4 fragments", "two", fragments(TEXT, b"fragment1fragment2", 9), (text(b"fragment1fragment2"),)),
    Row("5.4 fragments", "binary, one byte each", fragments(BINARY, bytes(range(99)), 1), (binary(bytes(range(99))),)),
    Row("5.4 fragments", "all empty", frame(TEXT, fin=False) + frame(CONT, fin=False) + frame(CONT), (text(b""),)),
    Row(
        "5.4 fragments",
        "empty around a full one",
        frame(TEXT, fin=False) + frame(CONT, b"middle", fin=False) + frame(CONT),
        (text(b"middle"),),
    ),
    Row(
        "5.4 fragments",
        "as many as there may be",
        frame(TEXT, b"x", fin=False) + frame(CONT, b"x", fin=False) * (FRAGMENTS - 2) + frame(CONT, b"x"),
        (text(b"x" * FRAGMENTS),),
    ),
    Row(
        "5.4 control between",
        "ping",
        fragments(TEXT, b"fragment1fragment2", 9, PING_BETWEEN),
        (PONG_BETWEEN, text(b"fragment1fragment2")),
    ),
    Row(
        "5.4 control between",
        "five fragments, pings between all",
        fragments(TEXT, b"fragment1" * 5, 9, PING_BETWEEN),
        (*(PONG_BETWEEN,) * 4, text(b"fragment1" * 5)),
    ),
    Row(
        "5.4 control between",
        "inside a character",
        frame(TEXT, EURO[:1], fin=False) + PING_BETWEEN + frame(CONT, EURO[1:]),
        (PONG_BETWEEN, text(EURO)),
    ),
    Row("5.4 control between", "pong", fragments(BINARY, b"abcd", 2, frame(PONG)), (binary(b"abcd"),)),
    *broken("5.4 continuation", "final, of nothing", frame(CONT, b"nothing") + frame(TEXT, b"Hello")),
    *broken("5.4 continuation", "not final, of nothing", frame(CONT, b"nothing", fin=False) + frame(TEXT, b"Hello")),
    *broken("5.4 continuation", "its header alone", frame(CONT, b"nothing")[:2]),
    Row(
        "5.4 continuation",
        "behind a whole fragmented message",
        fragments(TEXT, b"ab", 1) + frame(CONT, b"c", fin=False) + frame(TEXT, b"Hello"),
        (text(b"ab"), closed(1002)),
        PROTOCOL,
    ),
    *broken("5.4 interleaved", "text in text", frame(TEXT, b"one", fin=False) + frame(TEXT, b"two")),
    *broken("5.4 interleaved", "binary in text", frame(TEXT, b"one", fin=False) + frame(BINARY, b"two", fin=False)),
    *broken("5.4 interleaved", "text in binary", frame(BINARY, b"one", fin=False) + frame(TEXT, b"two")),
]

# -- 8.1 and 5.6: UTF-8 (Autobahn 6)

VALID = [
    b"",
    KUHN,
    "Hello-\u00b5@\u00df\u00f6\u00e4\u00fc\u00e0\u00e1-UTF-8!!".encode(),
    b"\0",
    *(bytes.fromhex(point) for point in ("7f", "c280", "dfbf", "e0a080", "ed9fbf", "ee8080", "efbfbd", "efbfbf")),
    *(bytes.fromhex(point) for point in ("f0908080", "f48fbfbf", "efbfbe", "f09fbfbe", "f48fbfbe")),
]
INVALID = [
    bytes.fromhex(sequence)
    for sequence in (
        *("80", "bf", "8080", "80bf80bf", "c0", "c020", "c1bf", "df", "dfdf", "e0", "e08080", "e09fbf", "ef", "efbf"),
        *("f0", "f0808080", "f08fbfbf", "f4908080", "f5808080", "f8888080808080"[:10], "fc8480808080", "fe", "ff"),
        *("feff", "c0af", "e080af", "f08080af", "eda080", "edbfbf", "edad80edb080", "edafbfedbfbf", "f7bfbfbf"),
    )
]
UTF8 = [
    *(Row("5.6 UTF-8", f"valid {part!r}", frame(TEXT, part), (text(part),)) for part in VALID),
    *(
        Row("5.6 UTF-8", f"valid, split after each byte: {part!r}", fragments(TEXT, part, 1), (text(part),))
        for part in VALID
        if part
    ),
    *(row for part in INVALID for row in failing("8.1 UTF-8", f"{part!r}", frame(TEXT, KUHN + part), 1007, PAYLOAD)),
    *(
        Row(
            "8.1 UTF-8", f"{part!r} in fragments of one byte", fragments(TEXT, KUHN + part, 1), (closed(1007),), PAYLOAD
        )
        for part in INVALID
    ),
    Row("8.1 UTF-8", "bad bytes in binary are fine", frame(BINARY, b"\xff\xc0"), (binary(b"\xff\xc0"),)),
    # fail-fast (6.4): nothing behind the first bad byte is waited for
    Row("8.1 UTF-8 at once", "in a fragment", frame(TEXT, KUHN + b"\xf4\x90", fin=False), (closed(1007),), PAYLOAD),
    Row(
        "8.1 UTF-8 at once",
        "in the second fragment",
        frame(TEXT, KUHN, fin=False) + frame(CONT, b"\xf4\x90\x80\x80edited", fin=False),
        (closed(1007),),
        PAYLOAD,
    ),
    Row("8.1 UTF-8 at once", "inside a frame", frame(TEXT, KUHN + b"\xf4\x90" + bytes(9000))[:30], (closed(1007),)),
    Row("8.1 UTF-8 at once", "inside a large frame", frame(TEXT, b"\xff" + bytes(99_999))[:16], (closed(1007),)),
]

# -- 5.5.1, 7: closing (Autobahn 7)

VALID_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
INVALID_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
CLOSES = [
    Row("5.5.1 reply", "empty", frame(CLOSE), (closed(None),), (CloseStatus.NO_STATUS_RECEIVED, 1005)),
    Row("5.5.1 reply", "code", BYE, (closed(1000),), (CloseStatus.NORMAL, 1000)),
    Row("5.5.1 reply", "reason", frame(CLOSE, code(1000, b"Hello")), (closed(1000, b"Hello"),)),
    Row("5.5.1 reply", "longest reason", frame(CLOSE, code(1000, b"*" * 123)), (closed(1000, b"*" * 123),)),
    *(
        Row("7.4 codes", f"{number}", frame(CLOSE, code(number, KUHN)), (closed(number, KUHN),))
        for number in VALID_CODES
    ),
    *(
        row
        for number in INVALID_CODES
        for row in broken("7.4 codes", f"{number} may not be sent", frame(CLOSE, code(number, b"why")))
    ),
    *broken("5.5.1 close body", "one byte", frame(CLOSE, b"\x03")),
    *broken("5.5 control length", "a reason of 124 bytes", frame(CLOSE, code(1000, b"*" * 124))),
    *failing("5.5.1 close reason", "no UTF-8", frame(CLOSE, code(1000, KUHN + b"\xed\xa0\x80")), 1007, PAYLOAD),
    *failing("5.5.1 close reason", "cut inside a character", frame(CLOSE, code(3000, EURO[:2])), 1007, PAYLOAD),
    Row("7.1.1 close TCP", "message, then close", frame(TEXT, b"Hello") + BYE, (text(b"Hello"), closed(1000))),
    Row("5.5.1 after close", "a second close", BYE + BYE, (closed(1000),)),
    Row("5.5.1 after close", "ping", BYE + frame(PING, b"late"), (closed(1000),)),
    Row("5.5.1 after close", "text", BYE + frame(TEXT, b"late"), (closed(1000),)),
    Row("5.5.1 after close", "what would be a violation", BYE + b"\xff\xff" + bytes(99), (closed(1000),)),
    Row(
        "5.5.1 after close",
        "256 KiB, close, ping",
        frame(TEXT, b"*" * (1 << 18)) + BYE + frame(PING),
        (text(b"*" * (1 << 18)), closed(1000)),
    ),
    Row(
        "5.4 control between",
        "close inside a fragmented message",
        frame(TEXT, b"fragment1", fin=False) + BYE + frame(CONT, b"fragment2"),
        (closed(1000),),
        (CloseStatus.NORMAL, 1000),
    ),
]

# -- 7.1.7: a failed connection is not listened to

FAILED = [
    Row("7.1.7 fail", "messages behind it", b"\x83\x80" + MASK + frame(TEXT, b"late") * 3, (closed(1002),)),
    Row("7.1.7 fail", "a close behind it is not answered", b"\x83\x80" + MASK + BYE, (closed(1002),)),
    Row("7.1.7 fail", "a ping behind it is not answered", b"\x83\x80" + MASK + frame(PING), (closed(1002),)),
]

# -- 10.4: limits, from the header

LIMITED = [
    *failing("10.4 limits", "one byte too big", frame(BINARY, b"x" * (MAX + 1))[:14], 1009, TOO_BIG),
    *failing("10.4 limits", "2**62 announced", raw(0x82, 0xFF, (1 << 62).to_bytes(8)), 1009, TOO_BIG),
    *failing("10.4 limits", "2**63 - 1 announced", raw(0x81, 0xFF, (2**63 - 1).to_bytes(8)), 1009, TOO_BIG),
    *failing(
        "10.4 limits",
        "too big together",
        frame(TEXT, b"x" * MAX, fin=False) + frame(CONT, b"x", fin=False)[:2],
        1009,
        TOO_BIG,
    ),
    *failing(
        "10.4 limits",
        "too many fragments",
        frame(TEXT, fin=False) + frame(CONT, fin=False) * FRAGMENTS,
        1008,
        POLICY,
    ),
]

ROWS = [
    *(*SIZES, *RESERVED, *OPCODES, *LENGTHS, *MASKS, *CONTROLS),
    *(*FRAGMENTED, *UTF8, *CLOSES, *FAILED, *LIMITED),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_row(echo: Echo, row: Row, way: str) -> None:
    """What the clause demands comes back, in this order and nothing else, and TCP ends where it must."""
    play(echo, row, way)
