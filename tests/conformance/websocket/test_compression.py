"""permessage-deflate by RFC 7692 over raw sockets: what is agreed on, and what frames mean then, on both loops.

Its clauses are named "7692 ...".  The client is zlib itself, so that nothing of ours judges ours.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from channelkit import Channel, CloseStatus, Deflate, Group, Request, as_channel
from channelkit.config import Config
from channelkit.errors import ConfigError
from tests.conformance.websocket.rows import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
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
from tests.server.conftest import Host, Peer

frame = Peer.frame
TAIL = b"\0\0\xff\xff"
RSV1 = 0x40
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"
ALL_OURS = Deflate(threshold=1, server_max_window_bits=15, client_max_window_bits=15)
ALONE = Deflate(threshold=1, server_no_context_takeover=True, client_no_context_takeover=True)


class Client:
    """The client's side of an agreement, by zlib alone."""

    def __init__(self, answer: str | None) -> None:
        assert answer is not None
        name, *parameters = [part.strip() for part in answer.split(";")]
        assert name == "permessage-deflate"
        self.agreed = dict(part.partition("=")[::2] for part in parameters)
        assert len(self.agreed) == len(parameters)
        self._out: Any = None
        self._in: Any = None

    def deflate(self, payload: bytes) -> bytes:
        if self._out is None or "client_no_context_takeover" in self.agreed:
            bits = max(9, int(self.agreed.get("client_max_window_bits", "15")))  # zlib has no 8
            self._out = zlib.compressobj(wbits=-bits)
        data: bytes = self._out.compress(payload) + self._out.flush(zlib.Z_SYNC_FLUSH)
        return data[:-4]

    def inflate(self, received: Frame) -> Frame:
        """A frame of the server as it was before it was compressed."""
        first, payload = received
        if not first & RSV1:
            return received
        assert not payload.endswith(TAIL)
        if self._in is None or "server_no_context_takeover" in self.agreed:
            self._in = zlib.decompressobj(-int(self.agreed.get("server_max_window_bits", "15")))
        return first & ~RSV1, self._in.decompress(payload + TAIL)


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def echo_with(request: pytest.FixtureRequest) -> Iterator[Callable[[Deflate | None], Echo]]:
    """Echo servers by their options, one of each."""
    made: dict[Deflate | None, Echo] = {}

    def get(options: Deflate | None) -> Echo:
        if options not in made:
            made[options] = Echo(request.param, options)
        return made[options]

    yield get
    for echo in made.values():
        echo.close()


EchoWith = Callable[[Deflate | None], Echo]

# -- 7.1: offers

ANY = Deflate(threshold=1, server_max_window_bits=15, client_max_window_bits=15)
SMALL = Deflate(server_max_window_bits=10, client_max_window_bits=11)
AGREED: list[tuple[str, str, Deflate | None, str | None]] = [
    ("7692 5 answer", "permessage-deflate", ANY, "permessage-deflate"),
    ("7692 5 answer", "permessage-deflate", None, None),
    ("7692 5 answer", "x-other", ANY, None),
    ("7692 5 answer", "", ANY, None),
    ("7692 5 first good", "permessage-deflate; x=1, permessage-deflate", ANY, "permessage-deflate"),
    (
        "7692 5 first good",
        "x-other, permessage-deflate; server_no_context_takeover, permessage-deflate",
        ANY,
        "permessage-deflate; server_no_context_takeover",
    ),
    ("7692 7.1 unknown parameter", "permessage-deflate; foo", ANY, None),
    ("7692 7.1 unknown parameter", "permessage-deflate; foo=1", ANY, None),
    ("7692 7.1 unknown parameter", "permessage-deflate; Server_No_Context_Takeover", ANY, None),
    *(
        ("7692 7.1 twice", f"permessage-deflate; {one}; {one}", ANY, None)
        for one in (
            *("server_no_context_takeover", "client_no_context_takeover"),
            *("server_max_window_bits=10", "client_max_window_bits", "client_max_window_bits=10"),
        )
    ),
    ("7692 7.1.1 flags", "permessage-deflate; server_no_context_takeover=1", ANY, None),
    ("7692 7.1.1 flags", 'permessage-deflate; client_no_context_takeover="true"', ANY, None),
    (
        "7692 7.1.1.1 server_no_context_takeover",
        "permessage-deflate; server_no_context_takeover",
        ANY,
        "permessage-deflate; server_no_context_takeover",
    ),
    (
        "7692 7.1.1.2 client_no_context_takeover",
        "permessage-deflate; client_no_context_takeover",
        ANY,
        "permessage-deflate; client_no_context_takeover",
    ),
    (
        "7692 7.1.1.2 client_no_context_takeover",
        "permessage-deflate",
        ALONE,
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12",
    ),
    *(
        (
            "7692 7.1.2.1 server_max_window_bits",
            f"permessage-deflate; server_max_window_bits={bits}",
            ANY,
            f"permessage-deflate; server_max_window_bits={bits}" if bits < 15 else "permessage-deflate",
        )
        for bits in range(9, 16)
    ),
    (
        "7692 7.1.2.1 server_max_window_bits",
        'permessage-deflate; server_max_window_bits="10"',
        ANY,
        "permessage-deflate; server_max_window_bits=10",
    ),
    (
        "7692 7.1.2.1 server_max_window_bits",
        "permessage-deflate; server_max_window_bits=12",
        SMALL,
        "permessage-deflate; server_max_window_bits=10",
    ),
    ("7692 7.1.2.1 server_max_window_bits", "permessage-deflate; server_max_window_bits=8", ANY, None),  # zlib cannot
    ("7692 7.1.2.1 server_max_window_bits", "permessage-deflate; server_max_window_bits", ANY, None),
    *(
        ("7692 7.1.2 window values", f"permessage-deflate; {which}={value}", ANY, None)
        for which in ("server_max_window_bits", "client_max_window_bits")
        for value in ("7", "16", "08", "010", "0", "abc", "10.0", "1e1", "+10", "-9", "99999999999999999999")
    ),
    (
        "7692 7.1.2.2 client_max_window_bits",
        "permessage-deflate",
        SMALL,
        "permessage-deflate; server_max_window_bits=10",
    ),
    (
        "7692 7.1.2.2 client_max_window_bits",
        "permessage-deflate; client_max_window_bits",
        SMALL,
        "permessage-deflate; server_max_window_bits=10; client_max_window_bits=11",
    ),
    *(
        (
            "7692 7.1.2.2 client_max_window_bits",
            f"permessage-deflate; client_max_window_bits={bits}",
            SMALL,
            f"permessage-deflate; server_max_window_bits=10; client_max_window_bits={min(bits, 11)}",
        )
        for bits in range(8, 16)
    ),
]


@pytest.mark.parametrize(("clause", "offer", "options", "answer"), AGREED, ids=[f"{a[0]}-{a[1]}" for a in AGREED])
def test_offer(echo_with: EchoWith, clause: str, offer: str, options: Deflate | None, answer: str | None) -> None:
    """A good offer is answered by what is agreed on, a bad one by nothing, and the handshake goes on either way."""
    echo = echo_with(options)
    peer, path = echo.connect()
    reply = peer.upgrade(f"Sec-WebSocket-Extensions: {offer}", path=path, more=peer.frame(TEXT, b"early"))
    assert reply.getlist("sec-websocket-extensions") == ([] if answer is None else [answer])
    first, payload = peer.read_frame()
    assert ((first & RSV1) == 0) or answer is not None
    assert (first & RSV1) or payload == b"early"
    if answer is None:
        peer.send_frame(TEXT, b"x", rsv=4)
        assert peer.read_frame() == closed(1002)
    echo.let_go()


# -- 6 and 7.2: frames.  Our own answers are plain here: what is asked is what the client's frames mean.

PLAIN = Deflate(threshold=1 << 30, client_max_window_bits=15, server_max_window_bits=15)
HELLO = bytes.fromhex("f248cdc9c90700")  # RFC 7692 7.2.3.1
BYE = frame(CLOSE, code(1000))
PROTOCOL = (CloseStatus.PROTOCOL_ERROR, 1002)


def z(payload: bytes, opcode: int = TEXT, fin: bool = True) -> bytes:
    """A frame that says its payload is compressed."""
    return frame(opcode, payload, fin=fin, rsv=4)


def deflated(payload: bytes, level: int = 6) -> bytes:
    return Client("permessage-deflate").deflate(payload) if level == 6 else _stored(payload)


def _stored(payload: bytes) -> bytes:
    compressor = zlib.compressobj(0, wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def text(payload: bytes) -> Frame:
    return FIN | TEXT, payload


def chopped(data: bytes, size: int, opcode: int = TEXT, between: bytes = b"") -> bytes:
    """A compressed message in fragments, RSV1 on the first alone, with something between them."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return between.join(
        frame(CONT if i else opcode, piece, fin=i == len(pieces) - 1, rsv=0 if i else 4)
        for i, piece in enumerate(pieces)
    )


EURO = "\u20ac".encode()
NOISE = random.Random(1).randbytes(5000)
FRAMES = [
    Row("7692 7.2.3.1 example", "one frame", z(HELLO), (text(b"Hello"),)),
    Row("7692 7.2.3.1 example", "two fragments", chopped(HELLO, 3), (text(b"Hello"),)),
    Row(
        "7692 7.2.3.2 window shared",
        "the second refers to the first",
        z(HELLO) + z(bytes.fromhex("f200110000")),
        (text(b"Hello"),) * 2,
    ),
    Row("7692 7.2.3.3 stored", "no compression", z(bytes.fromhex("000500faff48656c6c6f00")), (text(b"Hello"),)),
    Row("7692 7.2.3.4 final block", "BFINAL", z(bytes.fromhex("f348cdc9c9070000")), (text(b"Hello"),)),
    Row(
        "7692 7.2.3.4 final block",
        "and another message",
        z(bytes.fromhex("f348cdc9c9070000")) * 3,
        (text(b"Hello"),) * 3,
    ),
    Row(
        "7692 7.2.3.4 final block", "two streams", z(bytes.fromhex("f348cdc9c90700") * 2 + b"\0"), (text(b"Hello" * 2),)
    ),
    Row(
        "7692 7.2.3.5 two blocks",
        "in one message",
        z(bytes.fromhex("f248050000 00ffff cac9c90700".replace(" ", ""))),
        (text(b"Hello"),),
    ),
    Row("7692 7.2.3.6 empty", "one byte", z(b"\0"), (text(b""),)),
    Row("7692 7.2.3.6 empty", "no byte at all", z(b""), (text(b""),)),
    Row(
        "7692 6.2 uncompressed",
        "among compressed",
        z(HELLO) + frame(TEXT, b"plain") + z(HELLO),
        (text(b"Hello"), text(b"plain"), text(b"Hello")),
    ),
    Row("7692 6.2 uncompressed", "fragmented", frame(TEXT, b"pl", fin=False) + frame(CONT, b"ain"), (text(b"plain"),)),
    Row("7692 6.1 fragments", "one byte each", chopped(deflated(b"Hello" * 50), 1), (text(b"Hello" * 50),)),
    Row(
        "7692 6.1 fragments",
        "empty ones",
        z(b"", fin=False) + frame(CONT, b"", fin=False) + frame(CONT, HELLO),
        (text(b"Hello"),),
    ),
    Row(
        "7692 6.1 control between",
        "pings between all fragments",
        chopped(deflated(b"Hello" * 9), 2, between=frame(PING, b"p")),
        (*((FIN | PONG, b"p"),) * (-(-len(deflated(b"Hello" * 9)) // 2) - 1), text(b"Hello" * 9)),
    ),
    Row(
        "7692 6.1 control between",
        "pings between the fragments of binary",
        chopped(deflated(NOISE), 1000, BINARY, frame(PING)),
        (*((FIN | PONG, b""),) * 5, (FIN | BINARY, NOISE)),
    ),
    Row("7692 6.1 control between", "close", z(HELLO[:3], fin=False) + BYE, (closed(1000),)),
    Row("7692 7.2.2 inflate", "exactly max_ws", z(deflated(b"x" * MAX), BINARY), ((FIN | BINARY, b"x" * MAX),)),
    Row(
        "7692 7.2.2 inflate",
        "max_ws of noise",
        z(deflated(random.Random(2).randbytes(MAX)), BINARY),
        ((FIN | BINARY, random.Random(2).randbytes(MAX)),),
    ),
    Row("7692 7.2.2 inflate", "max_ws stored", z(deflated(b"y" * MAX, 0), BINARY), ((FIN | BINARY, b"y" * MAX),)),
    # -- what fails
    *(
        Row(
            "7692 6.1 RSV1",
            f"of opcode {opcode}",
            frame(TEXT, b"a") + frame(opcode, code(1000), rsv=4),
            (text(b"a"), closed(1002)),
            PROTOCOL,
        )
        for opcode in (PING, PONG, CLOSE)
    ),
    Row(
        "7692 6.1 RSV1",
        "of a continuation",
        z(HELLO[:3], fin=False) + frame(CONT, HELLO[3:], rsv=4),
        (closed(1002),),
        PROTOCOL,
    ),
    Row(
        "7692 6.1 RSV1",
        "of a continuation of plain text",
        frame(TEXT, b"a", fin=False) + frame(CONT, HELLO, rsv=4),
        (closed(1002),),
        PROTOCOL,
    ),
    *(
        Row("7692 6.1 RSV1", f"with RSV {rsv}", frame(TEXT, HELLO, rsv=rsv), (closed(1002),), PROTOCOL)
        for rsv in (1, 2, 3, 5, 6, 7)
    ),
    *(
        Row(
            "7692 7.2.2 inflate",
            f"no DEFLATE data: {data!r}",
            z(HELLO) + z(data, opcode),
            (text(b"Hello"), closed(1007)),
        )
        for opcode, data in ((TEXT, b"\xff" * 9), (BINARY, b"\x07"), (TEXT, b"\0\1\0\0\0"), (BINARY, NOISE))
    ),
    Row(
        "8.1 UTF-8",
        "compressed, not UTF-8",
        z(deflated(b"\xff")),
        (closed(1007),),
        (CloseStatus.INVALID_PAYLOAD_DATA, 1007),
    ),
    Row("8.1 UTF-8", "compressed, cut in a character", z(deflated(EURO[:2])), (closed(1007),)),
    Row(
        "8.1 UTF-8",
        "compressed, a character over two fragments",
        z(deflated(EURO)[:3], fin=False) + frame(CONT, deflated(EURO)[3:]),
        (text(EURO),),
    ),
    Row("8.1 UTF-8 at once", "inside a compressed frame", z(deflated(b"\xff\xff" + NOISE))[:300], (closed(1007),)),
    Row(
        "8.1 UTF-8 at once", "in a compressed fragment", z(deflated(b"\xff" + NOISE)[:3000], fin=False), (closed(1007),)
    ),
    Row(
        "10.4 limits",
        "inflates to one byte too many",
        z(deflated(b"x" * (MAX + 1)), BINARY),
        (closed(1009),),
        (CloseStatus.MESSAGE_TOO_BIG, 1009),
    ),
    Row("10.4 limits", "a bomb", z(HELLO) + z(deflated(b"x" * (200 * MAX)), BINARY), (text(b"Hello"), closed(1009))),
    Row("10.4 limits", "a bomb in fragments", chopped(deflated(b"x" * (50 * MAX)), 999, BINARY), (closed(1009),)),
    Row(
        "10.4 limits",
        "announces more than any compressor needs",
        bytes((0xC2, 0xFF)) + (MAX * 5 // 4).to_bytes(8),
        (closed(1009),),
    ),
    Row("10.4 limits", "plain, announces one too many", bytes((0x82, 0xFF)) + (MAX + 1).to_bytes(8), (closed(1009),)),
    Row("10.4 limits", "of final blocks", z(b"\x03\x00" * 200), (closed(1008),), (CloseStatus.POLICY_VIOLATION, 1008)),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", FRAMES, ids=ids)
def test_frame(echo_with: EchoWith, row: Row, way: str) -> None:
    """What a client's frames mean once compression was agreed on."""
    play(echo_with(PLAIN), row, way, OFFER)


# -- both ways, every kind of agreement (Autobahn 12 and 13)

SIZES = (16, 64, 127, 256, 1024, 4096, 8192, 32768, 65536, 131072)
KINDS: dict[str, tuple[Deflate, str]] = {
    "all we can": (ALL_OURS, ""),
    "our default": (Deflate(), "; client_max_window_bits"),
    "no takeover": (ALONE, ""),
    "server alone": (ALL_OURS, "; server_no_context_takeover"),
    "client alone": (ALL_OURS, "; client_no_context_takeover"),
    "smallest windows": (ALL_OURS, "; server_max_window_bits=9; client_max_window_bits=9"),
    "smallest, alone": (ALONE, "; server_max_window_bits=9; client_max_window_bits=8"),
    "level 1, memory 1": (Deflate(threshold=1, level=1, memory_level=1), ""),
    "level 0": (Deflate(threshold=1, level=0), ""),
}
WORDS = ["channel", "\u03ba\u1f79\u03c3\u03bc\u03b5", "{", '"key":', "0123456789", "\U0001f600", "\r\n"]


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways(echo_with: EchoWith, kind: str) -> None:
    """Messages of many sizes, with much and with nothing to compress, whole and in fragments: each comes back."""
    options, parameters = KINDS[kind]
    echo = echo_with(options)
    peer, path = echo.connect()
    client = Client(peer.upgrade(OFFER + parameters, path=path).get("sec-websocket-extensions"))
    dice = random.Random(kind)
    compressed = 0
    for size in SIZES * 2:
        words = "".join(dice.choice(WORDS) for _ in range(size // 6)).encode()
        for opcode, payload in ((TEXT, words), (BINARY, dice.randbytes(size)), (BINARY, bytes(size))):
            data = client.deflate(payload)
            step = dice.choice([len(data), max(1, len(data) // 3)])
            peer.send(chopped(data, step, opcode, dice.choice([b"", peer.frame(PONG)])))
            received = peer.read_frame()
            compressed += bool(received[0] & RSV1)
            assert client.inflate(received) == (FIN | opcode, payload)
            peer.send_frame(opcode, payload[:100].decode(errors="ignore").encode() if opcode == TEXT else payload[:100])
            plain = client.inflate(peer.read_frame())
            assert plain[0] == FIN | opcode
    assert compressed >= 20  # else nothing was tried
    peer.send(BYE)
    assert peer.read_frame() == closed(1000)
    assert peer.rest() == b""
    echo.let_go()


def test_small_messages_are_not_compressed(echo_with: EchoWith) -> None:
    """Below the threshold a frame is plain; from it on it is compressed, and pings, pongs and closes never are."""
    echo = echo_with(Deflate(threshold=50))
    peer, path = echo.connect()
    client = Client(peer.upgrade(OFFER, path=path).get("sec-websocket-extensions"))
    peer.send_frame(TEXT, b"x" * 49)
    peer.send_frame(TEXT, b"x" * 50)
    peer.send_frame(PING, b"x" * 100)
    peer.send_frame(CLOSE, code(1000, b"x" * 100))
    assert peer.read_frame() == text(b"x" * 49)
    first, payload = peer.read_frame()
    assert (first, len(payload) < 20) == (FIN | RSV1 | TEXT, True)
    assert client.inflate((first, payload)) == text(b"x" * 50)
    assert peer.read_frame() == (FIN | PONG, b"x" * 100)
    assert peer.read_frame() == closed(1000, b"x" * 100)
    echo.let_go()


def test_a_group_of_all_kinds(host: Host) -> None:
    """Each member gets every message by its own agreement; those that agreed on no takeover alike share the bytes."""
    group = Group()

    async def handler(request: Request) -> Channel:
        return as_channel(request, on_open=group.add)

    host.serve(handler, compression=Deflate(threshold=10))
    lone = "; server_no_context_takeover"
    offers = [None, "", "", lone, lone, lone + "; server_max_window_bits=9"]
    members: list[tuple[Peer, Client | None]] = []
    for offer in offers:
        peer = host.connect()
        reply = peer.upgrade(*([] if offer is None else [OFFER + offer]))
        members.append((peer, None if offer is None else Client(reply.get("sec-websocket-extensions"))))
        host.until(lambda: len(group) == len(members))
    for number in range(5):
        message = f"{number} is a message for all, for all, for all"
        assert host.call(group.send_nowait, message) == len(offers)
        seen: list[bytes] = []
        for peer, client in members:
            first, payload = peer.read_frame()
            seen.append(payload)
            assert (first, payload) == text(message.encode()) if client is None else first == FIN | RSV1 | TEXT
            if client is not None:
                assert client.inflate((first, payload)) == text(message.encode())
        assert seen[1] == seen[2]  # what they got before was the same
        assert seen[3] == seen[4]
        assert number == 0 or len(seen[1]) < len(seen[3]) < len(seen[0])
    formats = [host.call(lambda channel=channel: channel._wire_format) for channel in group]
    assert formats[0] == formats[1] == formats[2] != formats[3] == formats[4] != formats[5]


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0},
        {"level": 10},
        {"memory_level": 0},
        {"server_max_window_bits": 8},
        {"client_max_window_bits": 16},
        {"level": True},
        {"server_no_context_takeover": 1},
        {"client_no_context_takeover": "no"},
    ],
    ids=str,
)
def test_options_that_cannot_work(wrong: dict[str, Any]) -> None:
    """A wrong option is told by its name, before anything is served."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Deflate(**wrong)


@pytest.mark.parametrize("wrong", ["gzip", True, 5, {"level": 1}])
def test_compression_that_does_not_exist(wrong: Any) -> None:
    """`compression` is "deflate", a Deflate or None."""
    with pytest.raises(ConfigError, match="compression must be one of 'deflate', None"):
        Config(compression=wrong)


def test_what_compression_means() -> None:
    """ "deflate" stands for the default Deflate."""
    assert Config().deflate is None
    assert Config(compression="deflate").deflate == Deflate()
    assert Config(compression=ALONE).deflate is ALONE
