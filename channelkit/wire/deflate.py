"""permessage-deflate (RFC 7692): options, what is agreed on in the handshake, and both directions of it.

Pure: zlib and wsproto's extension seam, no socket.  `Inflate` is ours because wsproto's own inflates without a bound
and takes a control frame between two fragments for the end of the message.

One connection's contexts are the price of compression, so each has a switch: a smaller window, or none that outlives
its message ("no context takeover").  docs/websocket.md has the arithmetic.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

from channelkit.errors import ConfigError
from channelkit.wire.websocket_frames import RSV1, binary_frame, data_frame, payload_of, text_frame

NAME = "permessage-deflate"
TAIL = b"\x00\x00\xff\xff"  # RFC 7692 7.2.1: what every flush ends with, and no message carries
LARGEST = 15  # window bits: 32 KiB
MAX_FINAL_BLOCKS = 64  # of one message; each costs a new context, and no compressor writes more than one

Offer = tuple[str, Sequence[tuple[str, str | None]]]  # an extension's name and its parameters, as the client sent them


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """How a server compresses WebSocket messages: `run_server(handler, compression=Deflate(...))`.

    Raises ConfigError for a value that cannot work.
    """

    threshold: int = 128  # bytes of payload from which a message is compressed; smaller ones hardly shrink
    level: int = 6  # of zlib, 0 to 9; its own default
    memory_level: int = 5  # of zlib, 1 to 9; 5 halves the memory of zlib's 8 and costs some 3 % of ratio
    server_max_window_bits: int = 12  # our window, 9 to 15: 4 KiB hold a typical message and the one before
    client_max_window_bits: int = 12  # the client's, 8 to 15; a client that does not offer to be limited uses 15
    server_no_context_takeover: bool = False  # True: no memory between messages, a group compresses once for all
    client_no_context_takeover: bool = False  # True: the client's messages stand alone, no memory between them

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
        for name in ("server_no_context_takeover", "client_no_context_takeover"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, not {getattr(self, name)!r}")


_RANGES = (
    ("threshold", 1, 1 << 62),  # from 1: an empty message has no compressed form that is shorter
    ("level", 0, 9),
    ("memory_level", 1, 9),
    ("server_max_window_bits", 9, LARGEST),  # zlib's deflate cannot do 8
    ("client_max_window_bits", 8, LARGEST),
)

# -- the handshake (RFC 7692 7.1)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides of one connection keep to."""

    options: Deflate
    server_bits: int
    client_bits: int
    server_takeover: bool
    client_takeover: bool
    answer: str  # the value of our Sec-WebSocket-Extensions


def agree(options: Deflate | None, offers: Iterable[Offer]) -> Agreement | None:
    """The first of a client's offers that is right and that we can keep, or None: the handshake goes on without.

    RFC 7692 7.1: an offer with a parameter that is unknown, comes twice, or has a wrong value, must be declined.
    """
    if options is None:
        return None
    for name, parameters in offers:
        if name == NAME and (wanted := _read(parameters)) is not None:
            agreement = _accept(options, wanted)
            if agreement is not None:
                return agreement
    return None


_FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
_WINDOWS = ("server_max_window_bits", "client_max_window_bits")
_BITS = {str(bits): bits for bits in range(8, LARGEST + 1)}  # RFC 7692 7.1.2: decimal, no leading zero


def _read(parameters: Sequence[tuple[str, str | None]]) -> dict[str, int] | None:
    """An offer's parameters, a flag as 1, None if one of them makes it invalid."""
    wanted: dict[str, int] = {}
    for name, value in parameters:
        if name in wanted:
            return None
        if name in _FLAGS and value is None:
            wanted[name] = 1
        elif name in _WINDOWS and value in _BITS:
            wanted[name] = _BITS[value]
        elif name == "client_max_window_bits" and value is None:  # RFC 7692 7.1.2.2: "you may limit me"
            wanted[name] = LARGEST
        else:
            return None
    return wanted


def _accept(options: Deflate, wanted: dict[str, int]) -> Agreement | None:
    server_bits = min(options.server_max_window_bits, wanted.get("server_max_window_bits", LARGEST))
    if server_bits < 9:
        return None  # zlib cannot: https://github.com/madler/zlib/issues/171
    limited = wanted.get("client_max_window_bits")  # RFC 7692 7.1.2.2: not offered, it must not be asked for
    client_bits = LARGEST if limited is None else min(options.client_max_window_bits, limited)
    server_alone = options.server_no_context_takeover or "server_no_context_takeover" in wanted
    client_alone = options.client_no_context_takeover or "client_no_context_takeover" in wanted
    answer = [NAME]
    if server_alone:
        answer.append("server_no_context_takeover")
    if client_alone:
        answer.append("client_no_context_takeover")
    if server_bits < LARGEST:
        answer.append(f"server_max_window_bits={server_bits}")
    if client_bits < LARGEST:
        answer.append(f"client_max_window_bits={client_bits}")
    return Agreement(options, server_bits, client_bits, not server_alone, not client_alone, "; ".join(answer))


# -- from the client


def largest_deflated(size: int) -> int:
    """No more bytes than this does zlib need for `size` bytes, whatever they are (zlib's own deflateBound)."""
    return size + (size + 7 >> 3) + (size + 63 >> 6) + 16


class Inflate(Extension):
    """The client's direction, as an extension of wsproto; it lives as long as the connection.

    No message is inflated beyond `max_message` bytes: one more fails it with 1009, and that one is all that is made.
    """

    name = NAME

    def __init__(self, agreement: Agreement, max_message: int) -> None:
        self.compressed = False  # the message that is open, or was last
        self.fault = ""  # what was wrong, when something was
        self._bits = -agreement.client_bits
        self._takeover = agreement.client_takeover
        self._max = max_message
        self._size = 0  # bytes of the message that have come out
        self._final_blocks = 0
        self._data = False  # the frame at hand is of the message, not one between its fragments
        self._zlib: Any = None  # zlib's decompressobj has no public type

    def allow(self, size: int) -> None:
        """Messages may have `size` bytes, if they may not have more already."""
        self._max = max(self._max, size)

    def forget(self) -> None:
        """Nothing will be inflated any more."""
        self._zlib = None

    # -- wsproto's seam

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool | str:
        return False  # a server's side makes none

    def frame_inbound_header(
        self, proto: object, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Called again for each read while a header is incomplete, so it only notes what the header says."""
        self._data = not opcode.iscontrol()
        if not self._data or opcode is Opcode.CONTINUATION:
            return RsvBits(False, False, False)  # RFC 7692 6: RSV1 only on a message's first frame
        self.compressed = rsv.rsv1
        self._size = self._final_blocks = 0
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(self, proto: object, data: bytes) -> bytes | CloseReason:
        if not self._data or not self.compressed:
            return data
        return self._inflate(data)

    def frame_inbound_complete(self, proto: object, fin: bool) -> bytes | CloseReason | None:
        if not self._data or not fin or not self.compressed:
            return None
        rest = self._inflate(TAIL)
        if not self._takeover:
            self._zlib = None
        return rest

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        pieces: list[bytes] = []
        while data:
            if self._zlib is None:
                self._zlib = zlib.decompressobj(self._bits)
            try:
                piece = self._zlib.decompress(data, self._max + 1 - self._size)
            except zlib.error as error:
                return self._failed(CloseReason.INVALID_FRAME_PAYLOAD_DATA, str(error))
            pieces.append(piece)
            self._size += len(piece)
            if self._size > self._max:
                return self._failed(CloseReason.MESSAGE_TOO_BIG, f"a message of more than {self._max} bytes, inflated")
            if not self._zlib.eof:
                break
            # RFC 7692 7.2.1: a block may be the final one of its stream; what follows starts a new one.
            data, self._zlib = self._zlib.unused_data, None
            self._final_blocks += 1
            if self._final_blocks > MAX_FINAL_BLOCKS:
                return self._failed(CloseReason.POLICY_VIOLATION, f"more than {MAX_FINAL_BLOCKS} final blocks")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _failed(self, code: CloseReason, fault: str) -> CloseReason:
        self._zlib = None
        self.fault = fault
        return code


# -- to the client


class LoneDeflate:
    """Our direction without context takeover: each message stands alone, so equal agreements share the bytes."""

    __slots__ = ("_options", "_settings", "wire_format")

    def __init__(self, agreement: Agreement) -> None:
        options = self._options = agreement.options
        self._settings = (options.level, zlib.DEFLATED, -agreement.server_bits, options.memory_level)
        self.wire_format = ("websocket", "deflate", *self._settings, options.threshold)

    def text(self, message: str) -> bytes:
        """One text frame, compressed where that makes it shorter."""
        return self._shorter(text_frame(message))

    def binary(self, message: bytes | bytearray | memoryview) -> bytes:
        """One binary frame, compressed where that makes it shorter."""
        return self._shorter(binary_frame(message))

    def _shorter(self, frame: bytes) -> bytes:
        payload = payload_of(frame)
        if len(payload) < self._options.threshold:
            return frame
        data = _deflated(zlib.compressobj(*self._settings), payload)
        return data_frame(frame[0] | RSV1, data) if len(data) < len(payload) else frame


class ContextDeflate:
    """Our direction with context takeover: a message may refer to those before it, so frames must go out in order."""

    __slots__ = ("_agreement", "_zlib")

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._zlib: Any = None  # made for the first message that is worth it

    def frame(self, frame: bytes) -> bytes:
        """What is to be sent for a plain text or binary frame: itself, or compressed; from then on only that."""
        payload = payload_of(frame)
        options = self._agreement.options
        if len(payload) < options.threshold:
            return frame
        if self._zlib is None:
            bits = -self._agreement.server_bits
            self._zlib = zlib.compressobj(options.level, zlib.DEFLATED, bits, options.memory_level)
        return data_frame(frame[0] | RSV1, _deflated(self._zlib, payload))


def _deflated(compressor: Any, payload: memoryview) -> bytes:
    """RFC 7692 7.2.1: flushed to a byte border, without the tail that says so."""
    data: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data[: -len(TAIL)]
