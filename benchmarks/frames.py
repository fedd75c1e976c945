"""The bytes of the conversations, all made before the clock starts.  Nothing here waits or touches a socket.

Python is too slow to build and to parse single messages at the rate the servers under test answer them, so a
connection's `Script` holds everything it will send and everything that must come back, as two strings of bytes that
are walked round and round; that the replies are whole, right and in order is then one comparison per read.  The
strings are told apart by what each payload begins with: three hex digits of the connection, five of the message.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import random
import struct

from benchmarks.cells import Cell

SEQUENCE = 8  # bytes at the front of each payload
SCRIPT_BYTES = 16 * 1024  # a script is about this long, and never shorter than four times what is in flight
TEXT, BINARY, CLOSE = 0x81, 0x82, 0x88  # FIN and the opcode, RFC 6455 5.2
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
KEY = base64.b64encode(b"channelkit bench")
ACCEPT = base64.b64encode(hashlib.sha1(KEY + GUID, usedforsecurity=False).digest())


class Script:
    """What one connection sends, and what must come back."""

    def __init__(self, number: int, cell: Cell) -> None:
        first = BINARY if cell.binary else TEXT
        payloads = [_payload(number, index, cell.size) for index in range(_length(cell))]
        requests = b"".join(masked(first, payload) for payload in payloads)
        replies = b"".join(plain(first, payload) for payload in payloads)
        self.request_size = len(requests) // len(payloads)
        self.reply_size = len(replies) // len(payloads)
        self.request_cycle, self.reply_cycle = len(requests), len(replies)
        # What is in flight may run over the end: the beginning stands there once more.
        self.requests = memoryview(requests + requests[: cell.in_flight * self.request_size])
        self.replies = replies + replies[: cell.in_flight * self.reply_size]

    def explain(self, at: int, data: bytes) -> str:
        """Why `data` is not what must come at byte `at` of the replies."""
        start = at - at % self.reply_size
        got = self.replies[start:at] + data
        for offset in range(0, len(got), self.reply_size):
            wanted = self.replies[start + offset : start + offset + self.reply_size]
            if not wanted.startswith(got[offset : offset + self.reply_size]):
                return self._compare(wanted, got[offset : offset + self.reply_size])
        return "more came back than was sent"

    def _compare(self, wanted: bytes, got: bytes) -> str:
        head = self.reply_size - payload_size(wanted)
        if not wanted:
            return "more came back than was sent"
        if got[:1] == bytes([CLOSE]):
            return f"the server closed it: {got[:64]!r}"
        if got[:head] != wanted[:head]:
            return f"a frame begins with {got[:head].hex(' ')}, not with {wanted[:head].hex(' ')}"
        asked, came = wanted[head : head + SEQUENCE], got[head : head + SEQUENCE]
        if came != asked[: len(came)]:
            return f"message {asked.decode()} is lost or out of order: {came!r} came in its place"
        return f"message {asked.decode()} came back corrupted"


def payload_size(frame: bytes) -> int:
    """The length an unmasked frame announces; 0 for none (RFC 6455 5.2)."""
    if len(frame) < 2:
        return 0
    short = frame[1] & 0x7F
    return short if short < 126 else int.from_bytes(frame[2:4] if short == 126 else frame[2:10])


def plain(first: int, payload: bytes) -> bytes:
    """A frame as a server sends it."""
    return _head(first, len(payload), 0) + payload


def masked(first: int, payload: bytes) -> bytes:
    """A frame as a client sends it; the key is drawn from the payload, so every run sends the same."""
    key = hashlib.blake2b(payload, digest_size=4).digest()
    stretched = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (
        _head(first, len(payload), 0x80)
        + key
        + (int.from_bytes(payload) ^ int.from_bytes(stretched)).to_bytes(len(payload))
    )


def _head(first: int, length: int, mask: int) -> bytes:
    if length < 126:
        return struct.pack("!BB", first, mask | length)
    if length < 65536:
        return struct.pack("!BBH", first, mask | 126, length)
    return struct.pack("!BBQ", first, mask | 127, length)


def _length(cell: Cell) -> int:
    return max(4 * cell.in_flight, SCRIPT_BYTES // cell.size, 16)


def _payload(number: int, index: int, size: int) -> bytes:
    sequence = b"%03x%05x" % (number, index)
    return sequence + _filler(index, size - SEQUENCE)


@functools.cache
def _filler(index: int, size: int) -> bytes:
    """ASCII, so that it is good text, and different for each message, so that a shift shows."""
    return random.Random(index).randbytes(size).hex().encode()[:size]


def upgrade(path: str, port: int) -> bytes:
    """The request that opens a WebSocket (RFC 6455 4.1)."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY.decode()}",
        "Sec-WebSocket-Version: 13",
    )
    return "\r\n".join((*lines, "", "")).encode()


def get(path: str, port: int) -> bytes:
    """A plain request."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


def header(head: bytes, name: bytes) -> bytes:
    """The value of a header field in the head of a response; empty if it is not there."""
    for line in head.split(b"\r\n")[1:]:
        field, _, value = line.partition(b":")
        if field.strip().lower() == name:
            return value.strip()
    return b""
