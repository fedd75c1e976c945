"""Our WebSocket engine beside two strangers, wsproto alone and websockets' sans-I/O protocol, on mutated streams.

All read the same bytes, ours cut anywhere and on both of its ways, with and without compression.  They must say the
same, but for what `disagreements.toml` permits, each row with its clause; what is not there fails.
"""

from __future__ import annotations

import codecs
import logging
import re
import tomllib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate as TheirDeflate
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from channelkit.wire.deflate import Agreement, Deflate, agree
from channelkit.wire.masking import unmask_python
from channelkit.wire.websocket_codec import CloseReceived, Failure, PingReceived, PongReceived, WebSocketCodec

HUGE = (1 << 63) - 2  # bytes: sizes are no matter here, limits have their own tests
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1 = 0x80, 0x40
TAIL = b"\0\0\xff\xff"

Event = tuple[Any, ...]  # ("message", data), ("ping", data), ("close", code, reason), ("fail", code) ...

# -- the three readers


def ours(pieces: Sequence[bytes], agreement: Agreement | None, fast: bool, limit: int) -> list[Event]:
    codec = WebSocketCodec(HUGE, fast=fast, deflate=agreement)
    found: list[Event] = []
    for piece in pieces:
        codec.receive(piece)
        codec.more = True
        while codec.more:
            found += map(translated, codec.events(limit))
    return found


def translated(event: Any) -> Event:
    if isinstance(event, PingReceived):
        return ("ping", event.payload)
    if isinstance(event, PongReceived):
        return ("pong", event.payload)
    if isinstance(event, CloseReceived):
        return ("close", event.code, event.reason)
    return ("fail", event.code) if isinstance(event, Failure) else ("message", event)


def wsprotos(wire: bytes, agreement: Agreement | None) -> list[Event]:
    extensions: list[Any] = []
    if agreement is not None:
        extension = WsprotoDeflate()
        extension.finalize(agreement.answer)
        extensions = [extension]
    connection = Connection(ConnectionType.SERVER, extensions)
    connection.receive_data(wire)
    found: list[Event] = []
    parts: list[Any] = []
    for event in connection.events():
        if isinstance(event, TextMessage | BytesMessage):
            parts.append(event.data)
            if event.message_finished:
                found.append(("message", ("" if isinstance(event, TextMessage) else b"").join(parts)))
                parts = []
        elif isinstance(event, Ping):
            found.append(("ping", bytes(event.payload)))
        elif isinstance(event, Pong):
            found.append(("pong", bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            failed = connection.state is ConnectionState.OPEN
            found.append(("fail", int(event.code)) if failed else ("close", int(event.code), event.reason or ""))
            break
    return found


def websocketss(wire: bytes, agreement: Agreement | None) -> list[Event]:
    quiet = logging.getLogger("tests.quiet")
    quiet.disabled = True
    protocol = ServerProtocol(state=State.OPEN, max_size=None, logger=quiet)
    if agreement is not None:
        takeovers = (not agreement.client_takeover, not agreement.server_takeover)
        protocol.extensions = [TheirDeflate(*takeovers, agreement.client_bits, agreement.server_bits)]
    protocol.receive_data(wire)
    found: list[Event] = []
    reader = Messages()
    for event in protocol.events_received():
        assert isinstance(event, TheirFrame)
        try:
            found += reader.take(event)
        except UnicodeDecodeError:
            return [*found, ("fail", 1007)]
    if protocol.parser_exc is not None:
        assert protocol.close_sent is not None
        found.append(("fail", int(protocol.close_sent.code)))
    elif protocol.close_rcvd is not None:
        found.append(("close", int(protocol.close_rcvd.code), protocol.close_rcvd.reason))
    return found


class Messages:
    """Frames of websockets into messages: it leaves fragments and UTF-8 to the layer above."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._decoder: Any = None

    def take(self, frame: TheirFrame) -> Iterator[Event]:
        data = bytes(frame.data)
        if frame.opcode is Opcode.PING:
            yield ("ping", data)
        elif frame.opcode is Opcode.PONG:
            yield ("pong", data)
        elif frame.opcode is not Opcode.CLOSE:
            if frame.opcode is not Opcode.CONT:
                self._decoder = codecs.getincrementaldecoder("utf-8")() if frame.opcode is Opcode.TEXT else None
            self._parts.append(data if self._decoder is None else self._decoder.decode(data, frame.fin))
            if frame.fin:
                parts, self._parts = self._parts, []
                yield ("message", ("" if self._decoder is not None else b"").join(parts))


# -- what is in the bytes, by a reader of its own


def features(wire: bytes, agreement: Agreement | None) -> set[str]:
    """What a row may ask for: see disagreements.toml."""
    found: set[str] = set()
    inflater: Any = None
    is_open = compressed = False
    for first, minimal, payload, whole in frames(wire):
        opcode = first & 0x0F
        if not minimal:
            found.add("length not minimal")
        if opcode & 8:
            if is_open and opcode == CLOSE:
                found.add("close inside message")
            if is_open and compressed:
                found.add("control inside compressed")
            if opcode == CLOSE and not _is_text(payload[2:]):
                found.add("bad close reason")
            continue
        if opcode:
            compressed = bool(first & RSV1)
        is_open = not first & FIN
        if compressed and agreement is not None:
            if inflater is None or (opcode and not agreement.client_takeover):
                inflater = zlib.decompressobj(-agreement.client_bits)
            try:
                inflater.decompress(payload + (TAIL if whole and not is_open else b""))
            except zlib.error:
                found.add("bad deflate")
                break
            if inflater.eof:
                found.add("final block")
                break
    return found


def frames(wire: bytes) -> Iterator[tuple[int, bool, bytes, bool]]:
    """First byte, whether the length is minimal, the payload as far as it is here, and whether that is all of it."""
    at = 0
    while len(wire) - at >= 2:
        first, short = wire[at], wire[at + 1] & 0x7F
        long = 2 if short == 126 else 8 if short == 127 else 0
        if len(wire) - at < 2 + long:
            return
        size = int.from_bytes(wire[at + 2 : at + 2 + long]) if long else short
        start = at + 6 + long
        payload = wire[start : start + size]
        yield (
            first,
            size > (125 if long == 2 else 65535) if long else True,
            unmask_python(payload, wire[start - 4 : start]) if payload else b"",
            len(payload) == size,
        )
        at = start + size


# -- the table


@dataclass(frozen=True)
class Disagreement:
    """One row of disagreements.toml."""

    engine: str
    ours: str
    theirs: str
    clause: str
    why: str
    witness: str
    when: str = ""
    deflate: bool = False

    def permits(self, engine: str, mine: str, other: str, has: set[str]) -> bool:
        if engine != self.engine or (self.when and self.when not in has):
            return False
        return bool(re.fullmatch(self.ours, mine) and re.fullmatch(self.theirs, other))


TABLE = [
    Disagreement(**row)
    for row in tomllib.loads(Path(__file__).with_name("disagreements.toml").read_text(encoding="utf-8"))["row"]
]
READERS: dict[str, Callable[[bytes, Agreement | None], list[Event]]] = {"wsproto": wsprotos, "websockets": websocketss}


def first_difference(mine: list[Event], others: list[Event]) -> tuple[str, str] | None:
    """In the words of the table; None if there is none."""
    if mine == others:
        return None
    for one, other in zip(mine, others, strict=False):
        if one != other:
            return named(one), named(other)
    shared = min(len(mine), len(others))
    return named(*mine[shared:]), named(*others[shared:])


def named(*events: Event) -> str:
    if not events:
        return "nothing"
    kind = str(events[0][0])
    return f"{kind} {events[0][1]}" if kind in ("close", "fail") else kind


def permitted(engine: str, difference: tuple[str, str], wire: bytes, agreement: Agreement | None) -> bool:
    has = features(wire, agreement)
    return any(row.permits(engine, *difference, has) for row in TABLE)


# -- streams


def offered(*parameters: str) -> Agreement:
    made = agree(
        Deflate(server_max_window_bits=15, client_max_window_bits=15),
        [("permessage-deflate", [(name, value or None) for name, _, value in (p.partition("=") for p in parameters)])],
    )
    assert made is not None
    return made


AGREEMENTS: list[Agreement | None] = [
    None,
    offered(),
    offered("client_no_context_takeover"),
    offered("client_max_window_bits=9"),
    offered("client_max_window_bits=9", "client_no_context_takeover", "server_no_context_takeover"),
]


@dataclass(frozen=True)
class Message:
    """What a client is to send: fragments, something between them, compressed or not."""

    payload: bytes
    opcode: int = TEXT
    compress: bool = False
    cuts: tuple[int, ...] = ()
    between: bytes = b""


def frame(first: int, payload: bytes, key: bytes = b"\1\2\3\4") -> bytes:
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes((first,)) + length + key + unmask_python(payload, key)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


def written(items: Sequence[Message | bytes], agreement: Agreement | None) -> bytes:
    """The client's bytes: one compressor for all its messages, unless the agreement says otherwise."""
    wire, compressor = b"", None
    for item in items:
        if isinstance(item, bytes):
            wire += item
            continue
        payload, first = item.payload, item.opcode
        if item.compress:
            if compressor is None or agreement is None or not agreement.client_takeover:
                compressor = zlib.compressobj(wbits=-(15 if agreement is None else agreement.client_bits))
            payload = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
            first |= RSV1
        pieces = cut(payload, item.cuts)
        wire += item.between.join(
            frame((CONT if i else first) | (FIN if i == len(pieces) - 1 else 0), piece)
            for i, piece in enumerate(pieces)
        )
    return wire


TEXTS = st.text(max_size=40).map(str.encode) | st.sampled_from([b"", b"Hello" * 60, "\u20ac".encode() * 50])
PAYLOADS = TEXTS | st.binary(max_size=140)
CONTROLS = st.builds(
    lambda opcode, data: frame(FIN | opcode, data), st.sampled_from([PING, PONG]), st.binary(max_size=9)
)
MESSAGES = st.builds(
    Message,
    payload=PAYLOADS,
    opcode=st.sampled_from([TEXT, BINARY]),
    compress=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=3).map(tuple),
    between=st.just(b"") | CONTROLS,
)
CLOSES = st.builds(
    lambda code, reason: frame(FIN | CLOSE, code.to_bytes(2) + reason),
    st.sampled_from([1000, 1001, 1005, 1014, 3000, 5000]),
    PAYLOADS.filter(lambda reason: len(reason) < 124),
)
ODD = st.builds(frame, st.integers(0, 255), PAYLOADS) | st.binary(max_size=6)
ITEMS = st.lists(st.one_of(MESSAGES, MESSAGES, MESSAGES, CONTROLS, CLOSES, ODD), max_size=6)
MUTATIONS = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=2)
MANY = settings(max_examples=6 * settings().max_examples)


def mutated(wire: bytes, changes: Sequence[tuple[int, int]]) -> bytes:
    data = bytearray(wire)
    for place, value in changes:
        if data:
            data[place % len(data)] = value
    return bytes(data)


@pytest.mark.parametrize("engine", READERS)
@MANY
@given(
    items=ITEMS,
    changes=MUTATIONS,
    agreement=st.sampled_from(AGREEMENTS),
    places=st.lists(st.integers(0, 3000), max_size=6),
    fast=st.booleans(),
    limit=st.integers(1, 4),
)
def test_beside_a_stranger(
    engine: str,
    items: list[Message | bytes],
    changes: list[tuple[int, int]],
    agreement: Agreement | None,
    places: list[int],
    fast: bool,
    limit: int,
) -> None:
    """The same bytes mean the same to us and to others, or a row of the table says why not."""
    wire = mutated(written(items, agreement), changes)
    mine = ours(cut(wire, places), agreement, fast, limit)
    others = READERS[engine](wire, agreement)
    difference = first_difference(mine, others)
    assert difference is None or permitted(engine, difference, wire, agreement), (mine, others, wire.hex())


@MANY
@given(
    items=ITEMS,
    changes=MUTATIONS,
    agreement=st.sampled_from(AGREEMENTS),
    places=st.lists(st.integers(0, 3000), max_size=6),
    limit=st.integers(1, 4),
)
def test_fast_and_slow(
    items: list[Message | bytes],
    changes: list[tuple[int, int]],
    agreement: Agreement | None,
    places: list[int],
    limit: int,
) -> None:
    """Our two ways say the same, wherever the bytes are cut, also between compressed messages."""
    wire = mutated(written(items, agreement), changes)
    assert ours(cut(wire, places), agreement, True, limit) == ours([wire], agreement, False, 64)


@MANY
@given(items=st.lists(MESSAGES, max_size=5), agreement=st.sampled_from(AGREEMENTS))
def test_every_message_arrives(items: list[Message], agreement: Agreement | None) -> None:
    """What a right client sends is what we read, compressed or not."""
    right = [item for item in items if agreement is not None or not item.compress]
    right = [item for item in right if item.opcode == BINARY or _is_text(item.payload)]
    mine = ours([written(right, agreement)], agreement, True, 64)
    expected = [item.payload.decode() if item.opcode == TEXT else item.payload for item in right]
    assert [event[1] for event in mine if event[0] == "message"] == expected
    assert "fail" not in [event[0] for event in mine]


def _is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.engine}-{row.clause}-{row.ours}")
def test_every_row_is_needed(row: Disagreement) -> None:
    """Each row's witness shows the disagreement it permits, and no other row permits it."""
    wire = bytes.fromhex(row.witness)
    agreement = AGREEMENTS[1] if row.deflate else None
    difference = first_difference(ours([wire], agreement, True, 64), READERS[row.engine](wire, agreement))
    assert difference is not None
    has = features(wire, agreement)
    assert [one for one in TABLE if one.permits(row.engine, *difference, has)] == [row]
