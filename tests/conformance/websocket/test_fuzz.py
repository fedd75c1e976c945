"""Any bytes, cut anywhere: no exception, no hang, no growth past the limits; the codec alone, and a whole server.

Deterministic in CI, longer with HYPOTHESIS_PROFILE=soak.
"""

from __future__ import annotations

import logging
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import CLIENT, Protocol, State

from channelkit import Channel, Deflate, Request, as_channel
from channelkit.testing import clock
from channelkit.testing.host import open_host, read_all
from channelkit.wire.deflate import Agreement
from channelkit.wire.websocket_codec import CloseReceived, Failure, WebSocketCodec
from tests.conformance.websocket.test_differential import (
    AGREEMENTS,
    BINARY,
    CONT,
    ITEMS,
    MUTATIONS,
    RSV1,
    TEXT,
    Message,
    cut,
    mutated,
    written,
)
from tests.server.conftest import Peer

KIB, MIB = 1024, 1 << 20
PIECES = st.lists(st.integers(0, 3000), max_size=8)

# -- the codec


@settings(max_examples=6 * settings().max_examples)
@given(
    items=ITEMS,
    junk=st.binary(max_size=60),
    changes=MUTATIONS,
    agreement=st.sampled_from(AGREEMENTS),
    places=PIECES,
    close_at=st.integers(0, 12),
    fast=st.booleans(),
    size=st.sampled_from([0, 50, 300]),
    fragments=st.integers(1, 3),
)
def test_the_codec(
    items: list[Message | bytes],
    junk: bytes,
    changes: list[tuple[int, int]],
    agreement: Agreement | None,
    places: list[int],
    close_at: int,
    fast: bool,
    size: int,
    fragments: int,
) -> None:
    """Whatever comes and whenever we close: no exception, at most one end, nothing above a limit, an end of work."""
    codec = WebSocketCodec(size, max_fragments=fragments, deflate=agreement, fast=fast)
    wire = mutated(written(items, agreement) + junk, changes)
    ends = 0
    for number, piece in enumerate(cut(wire, places)):
        if number == close_at:
            codec.close(1000)
        codec.receive(piece)
        codec.more, calls = True, 0
        while codec.more:
            calls += 1
            assert calls <= len(wire) + 1  # a frame has a byte at least
            for event in codec.events(1):
                assert not ends
                ends += isinstance(event, Failure | CloseReceived)
                assert not isinstance(event, str) or len(event.encode()) <= size
                assert not isinstance(event, bytes) or len(event) <= size
        assert codec.buffered <= size + 131


# -- memory


def client_frame(first: int, payload: bytes, fin: bool = True) -> bytes:
    return Peer.frame(first & 0x0F, payload, fin=fin, rsv=4 if first & RSV1 else 0)


def deflated(payload: bytes, level: int = 9) -> bytes:
    compressor = zlib.compressobj(level, wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def in_fragments(opcode: int, data: bytes, size: int) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    last = len(pieces) - 1
    return b"".join(client_frame(CONT if i else opcode | RSV1, piece, i == last) for i, piece in enumerate(pieces))


BOMBS: dict[str, bytes] = {
    "zeros": client_frame(BINARY | RSV1, deflated(bytes(200 * MIB))),
    "text": client_frame(TEXT | RSV1, deflated(b"x" * (100 * MIB))),
    "in fragments": in_fragments(BINARY, deflated(bytes(100 * MIB)), 50),
    "many that are just small enough": client_frame(BINARY | RSV1, deflated(bytes(256 * KIB))) * 50,
    "final blocks": client_frame(TEXT | RSV1, b"\x03\x00" * 100_000),
    "empty blocks": client_frame(BINARY | RSV1, b"\0\0\0\xff\xff" * 50_000),
    "empty fragments": client_frame(TEXT, b"", False) + client_frame(CONT, b"", False) * 5_000,
    "announced": b"\x82\xff\x3f" + bytes(11) + bytes(MIB),
    "announced, compressed": b"\xc2\xff\x3f" + bytes(11) + bytes(MIB),
}


@pytest.mark.parametrize("step", [1000, 256 * KIB])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, step: int) -> None:
    """What is small on the wire stays small: a few times the largest message at most, of any number of them."""
    largest = 256 * KIB
    codec = WebSocketCodec(largest, deflate=AGREEMENTS[1])
    bomb = BOMBS[name]
    tracemalloc.start()
    try:
        for at in range(0, len(bomb), step):
            codec.receive(bomb[at : at + step])
            codec.more = True
            while codec.more:
                codec.events(1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * largest + 2 * step + 100 * KIB


# -- a whole server


def echo(request: Request) -> Channel:
    return as_channel(request, on_receive=lambda channel, message: channel.send_nowait(message))


async def serve_bytes(pieces: Sequence[bytes], agreement: Agreement | None, fin: bool) -> bytes:
    """What a server with an echo says to these frames, until it ends or has nothing more to say."""

    async def handler(request: Request) -> Channel:
        return echo(request)

    options = None if agreement is None else Deflate(threshold=1, client_max_window_bits=15)
    offer = () if agreement is None else (f"Sec-WebSocket-Extensions: {agreement.answer}",)
    async with open_host(handler, compression=options, max_ws=1000, max_fragments=5, max_inbox=3) as host:
        stream = host.connect()
        await stream.send(Peer.handshake(*offer))
        for piece in pieces:
            await stream.send(piece)
        await anyio.sleep(0.1)
        if fin:
            stream.half_close()
        else:
            await stream.send(Peer.frame(8, b"\x03\xe8"))
        received = await read_all(stream)
        await anyio.sleep(5)
        assert not host.core.connections
        return received


@pytest.mark.parametrize("backend", clock.BACKENDS)
@given(
    items=ITEMS,
    changes=MUTATIONS,
    agreement=st.sampled_from(AGREEMENTS),
    places=PIECES,
    fin=st.booleans(),
    randomness=st.random_module(),
)
def test_a_server(
    backend: clock.Backend,
    items: list[Message | bytes],
    changes: list[tuple[int, int]],
    agreement: Agreement | None,
    places: list[int],
    fin: bool,
    randomness: Any,
) -> None:
    """Whatever a client says, the server says what a client understands, ends the connection, and logs no error."""
    wire = mutated(written(items, agreement), changes)
    errors = Errors()
    logger = logging.getLogger("channelkit")
    logger.addHandler(errors)
    try:
        received = clock.run(serve_bytes, cut(wire, places), agreement, fin, backend=backend, max_ticks=20_000)
    finally:
        logger.removeHandler(errors)
    assert errors.seen == []
    understood(received, agreement)


class Errors(logging.Handler):
    """What was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


def understood(received: bytes, agreement: Agreement | None) -> None:
    """Everything behind the 101 is frames that websockets' client takes, and a close frame only at their end."""
    head, _, frames = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    client = Protocol(CLIENT, state=State.OPEN, max_size=None)
    if agreement is not None:
        assert b"\r\nSec-WebSocket-Extensions: permessage-deflate" in head
        lone = b"server_no_context_takeover" in head
        client.extensions = [PerMessageDeflate(lone, False, 15, 15)]
    client.receive_data(frames)
    assert client.parser_exc is None
    firsts = [first for first, *_ in server_frames(frames)]
    assert len(firsts) == len(client.events_received())
    assert 0x88 not in firsts[:-1]


def server_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """First byte and payload of each frame, unmasked, down to the last byte."""
    at = 0
    while at < len(data):
        first, size = data[at : at + 2]
        assert size <= 126  # larger ones are not said here
        start = at + (4 if size == 126 else 2)
        size = int.from_bytes(data[at + 2 : start]) if size == 126 else size
        assert start + size <= len(data)
        yield first, data[start : start + size]
        at = start + size
