"""The WebSocket codec from outside: what bytes mean, at any cut, on both ways, and beside plain wsproto."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from channelkit.wire.masking import unmask, unmask_python
from channelkit.wire.websocket_codec import (
    CloseReceived,
    Failure,
    FrameEvent,
    PingReceived,
    PongReceived,
    WebSocketCodec,
)

KEY = b"\x37\xfa\x21\x3d"  # the key of RFC 6455 5.7
MAX = 1 << 20
EURO = "\u20ac".encode()
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80


def length_bytes(size: int, mask_bit: int = 0x80) -> bytes:
    """The second byte of a frame and what follows it before the key, in the shortest form."""
    if size < 126:
        return bytes((mask_bit | size,))
    if size < 65536:
        return bytes((mask_bit | 126,)) + size.to_bytes(2)
    return bytes((mask_bit | 127,)) + size.to_bytes(8)


def frame(first: int, payload: bytes = b"", key: bytes = KEY) -> bytes:
    """One masked frame, as a client sends it."""
    return bytes((first,)) + length_bytes(len(payload)) + key + unmask_python(payload, key)


def text(message: str) -> bytes:
    return frame(FIN | TEXT, message.encode())


def binary(message: bytes) -> bytes:
    return frame(FIN | BINARY, message)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(FIN | CLOSE, code.to_bytes(2) + reason)


def drain(codec: WebSocketCodec, limit: int = 64) -> list[FrameEvent]:
    """All events that are there, each call keeping to its limit."""
    found: list[FrameEvent] = []
    while True:
        events = codec.events(limit)
        assert len(events) <= limit
        found += events
        if not codec.more:
            return found


def run(pieces: Sequence[bytes], codec: WebSocketCodec, limit: int = 64) -> list[FrameEvent]:
    found: list[FrameEvent] = []
    for piece in pieces:
        codec.receive(memoryview(bytearray(piece)))
        found += drain(codec, limit)
    return found


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


def codes(events: Sequence[FrameEvent]) -> list[object]:
    """Events to compare: of a Failure the code only."""
    return [event.code if isinstance(event, Failure) else event for event in events]


MAKERS: dict[str, Callable[[int], WebSocketCodec]] = {
    "fast": lambda size: WebSocketCodec(size, unmask=unmask),
    "fast-python": lambda size: WebSocketCodec(size, unmask=unmask_python),
    "slow": lambda size: WebSocketCodec(size, fast=False),
}
EACH_WAY = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)

# -- messages and control frames


@EACH_WAY
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 1000, 65535, 65536, 100_001])
def test_sizes(make: Callable[[int], WebSocketCodec], size: int) -> None:
    """Messages of every form of length arrive whole, as str and as bytes, exactly."""
    message = "\u20ac" * (size // 3) + "x" * (size % 3)
    data = bytes(i % 251 for i in range(size))
    events = run([text(message) + binary(data)], make(MAX))
    assert events == [message, data]
    assert [type(event) for event in events] == [str, bytes]


EXCHANGE = (
    text("Hello \u20ac")
    + frame(TEXT, b"frag" + EURO[:1])
    + frame(FIN | PING, b"between")
    + frame(CONTINUATION, b"")
    + frame(CONTINUATION, EURO[1:2])
    + frame(FIN | CONTINUATION, EURO[2:] + b"!")
    + text("")
    + binary(b"")
    + frame(FIN | PONG, b"alone")
    + frame(BINARY, b"\xff\x00")
    + frame(FIN | CONTINUATION, b"\xfe")
    + binary(bytes(range(130)))
    + text("n\u00e4chste " * 20)
    + frame(FIN | PING)
    + close(1000, b"bye")
    + text("never")
)
EXCHANGE_EVENTS: list[FrameEvent] = [
    "Hello \u20ac",
    PingReceived(b"between"),
    "frag\u20ac!",
    "",
    b"",
    PongReceived(b"alone"),
    b"\xff\x00\xfe",
    bytes(range(130)),
    "n\u00e4chste " * 20,
    PingReceived(b""),
    CloseReceived(1000, "bye"),
]


@EACH_WAY
def test_a_recorded_exchange_at_every_cut(make: Callable[[int], WebSocketCodec]) -> None:
    """An exchange of every kind of frame means the same wherever the network cuts it."""
    for place in range(len(EXCHANGE) + 1):
        assert run([EXCHANGE[:place], EXCHANGE[place:]], make(MAX)) == EXCHANGE_EVENTS
    for size in (1, 2, 7):
        codec = make(MAX)
        pieces = [EXCHANGE[at : at + size] for at in range(0, len(EXCHANGE), size)]
        assert run(pieces, codec) == EXCHANGE_EVENTS
        assert codec.buffered == 0


@EACH_WAY
def test_a_close_inside_a_fragmented_message(make: Callable[[int], WebSocketCodec]) -> None:
    """A close frame between fragments is a close, not a violation, and the message is dropped."""
    events = run([frame(TEXT, b"half" + EURO[:1]) + close(1000)], make(MAX))
    assert events == [CloseReceived(1000, "")]


@EACH_WAY
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_close_codes(make: Callable[[int], WebSocketCodec], code: int) -> None:
    """Every code a peer may send arrives with its reason, is echoed, and ends everything."""
    codec = make(MAX)
    wire = close(code, "weil \u20ac".encode())
    assert run(cut(wire + text("late"), [3, 9]), codec) == [CloseReceived(code, "weil \u20ac")]
    assert codec.reply(CloseReceived(code, "weil \u20ac")) == b"\x88\x0a" + code.to_bytes(2) + "weil \u20ac".encode()
    assert run([text("later")], codec) == []
    assert (codec.buffered, codec.more) == (0, False)


@EACH_WAY
def test_an_empty_close(make: Callable[[int], WebSocketCodec]) -> None:
    """A close frame without a code is 1005 here and is answered by one without a code."""
    codec = make(MAX)
    assert run([frame(FIN | CLOSE)], codec) == [CloseReceived(1005, "")]
    assert codec.reply(CloseReceived(1005, "")) == b"\x88\x00"


# -- violations

NO_MASK = b"\x81\x05Hello"
LONG_CONTROL = bytes((FIN | PING, 0xFE, 0, 126)) + KEY + bytes(126)
OPEN_TEXT = frame(TEXT, b"open")


@dataclass(frozen=True)
class Violation:
    name: str
    wire: bytes
    code: int


VIOLATIONS = [
    Violation("unmasked text", NO_MASK, 1002),
    Violation("unmasked, header only", b"\x82\x7e", 1002),
    Violation("unmasked ping", b"\x89\x00", 1002),
    *(Violation(f"RSV {bit:#x}", frame(FIN | bit | TEXT, b"x"), 1002) for bit in (0x40, 0x20, 0x10)),
    *(Violation(f"RSV {bit:#x} of a ping", frame(FIN | bit | PING), 1002) for bit in (0x40, 0x20, 0x10)),
    *(Violation(f"opcode {opcode:#x}", frame(FIN | opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    *(Violation(f"fragmented control {opcode:#x}", frame(opcode, b""), 1002) for opcode in (CLOSE, PING, PONG)),
    Violation("long ping", LONG_CONTROL, 1002),
    Violation("long ping, header only", LONG_CONTROL[:2], 1002),
    Violation("long close", bytes((FIN | CLOSE, 0xFF)), 1002),
    Violation("continuation of nothing", frame(FIN | CONTINUATION, b"x"), 1002),
    Violation("continuation of nothing, header only", frame(CONTINUATION, b"x")[:2], 1002),
    Violation("continuation after a whole message", text("whole") + frame(FIN | CONTINUATION), 1002),
    Violation("text inside a message", OPEN_TEXT + text("new"), 1002),
    Violation("binary inside a message", OPEN_TEXT + frame(BINARY, b"new"), 1002),
    Violation("16-bit length of 125", b"\x81\xfe\x00\x7d" + KEY + bytes(125), 1002),
    Violation("16-bit length of 0", b"\x82\xfe\x00\x00", 1002),
    Violation("64-bit length of 65535", b"\x82\xff" + (65535).to_bytes(8) + KEY, 1002),
    Violation("64-bit length with top bit", b"\x82\xff" + (1 << 63).to_bytes(8), 1002),
    Violation("close of one byte", frame(FIN | CLOSE, b"\x03"), 1002),
    *(
        Violation(f"close code {code}", close(code), 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ),
    Violation("close reason not UTF-8", close(1000, b"\xff"), 1007),
    Violation("close reason not UTF-8, code 1014", close(1014, b"\xff"), 1007),
    Violation("close reason cut in a character", close(1000, EURO[:2]), 1007),
    Violation("text not UTF-8", frame(FIN | TEXT, b"a\xffb"), 1007),
    Violation("text ends in a character", frame(FIN | TEXT, b"a" + EURO[:2]), 1007),
    Violation("text of a surrogate", frame(FIN | TEXT, b"\xed\xa0\x80"), 1007),
    Violation("text overlong", frame(FIN | TEXT, b"\xc0\xaf"), 1007),
    Violation("text beyond U+10FFFF", frame(FIN | TEXT, b"\xf4\x90\x80\x80"), 1007),
    Violation("fragments not UTF-8", frame(TEXT, EURO[:1]) + frame(CONTINUATION, b"x"), 1007),
    Violation("fragments end in a character", frame(TEXT, EURO[:1]) + frame(FIN | CONTINUATION, EURO[1:2]), 1007),
    Violation("bad UTF-8 in half a frame", frame(FIN | TEXT, b"\xff" + bytes(50))[:7], 1007),
    Violation("bad UTF-8 in half a large frame", frame(FIN | TEXT, b"\xff" + bytes(70_000))[:15], 1007),
    Violation("too big by one", binary(bytes(MAX + 1)), 1009),
    Violation("too big, length only", b"\x82" + length_bytes(MAX + 1), 1009),
    Violation("2**62", b"\x81\xff" + (1 << 62).to_bytes(8), 1009),
    Violation("2**63 - 1", b"\x82\xff" + (2**63 - 1).to_bytes(8), 1009),
    Violation("too big together", frame(TEXT, b"x" * MAX) + frame(FIN | CONTINUATION, b"x")[:2], 1009),
]


@EACH_WAY
@pytest.mark.parametrize("case", VIOLATIONS, ids=lambda case: case.name)
def test_violations(make: Callable[[int], WebSocketCodec], case: Violation) -> None:
    """Each violation has its code, once, after the messages before it, and nothing after it counts or is kept."""
    before = text("before") + binary(b"before")
    found = run([before + case.wire, text("after")], codec := make(MAX))
    messages = [event for event in found if not isinstance(event, Failure)]
    assert messages[:2] == ["before", b"before"]
    assert "after" not in messages
    assert codes(found)[len(messages) :] == [case.code]
    assert run([frame(FIN | PING), b"\xff" * 10_000], codec) == []
    assert codec.buffered == 0


@EACH_WAY
@pytest.mark.parametrize("case", [case for case in VIOLATIONS if len(case.wire) < 200], ids=lambda case: case.name)
def test_violations_byte_by_byte(make: Callable[[int], WebSocketCodec], case: Violation) -> None:
    """A violation is the same one when its bytes come one at a time."""
    found = run([case.wire[at : at + 1] for at in range(len(case.wire))], make(MAX))
    assert codes(found)[-1] == case.code


@EACH_WAY
def test_the_largest_message(make: Callable[[int], WebSocketCodec]) -> None:
    """Exactly `max_message` bytes are accepted, in one frame or in several, and control frames do not count."""
    parts = frame(TEXT, b"x" * 60) + frame(FIN | PING, bytes(125)) + frame(FIN | CONTINUATION, b"x" * 40)
    found = run([text("x" * 100) + parts + binary(bytes(100)) + text("x" * 101)], make(100))
    assert codes(found) == ["x" * 100, PingReceived(bytes(125)), "x" * 100, bytes(100), 1009]


@EACH_WAY
def test_a_failure_is_told_by_its_code_alone(make: Callable[[int], WebSocketCodec]) -> None:
    """The close frame for a violation carries the code; what happened is for the log."""
    codec = make(MAX)
    (failure,) = run([NO_MASK], codec)
    assert isinstance(failure, Failure)
    assert failure.detail
    assert codec.fail(failure) == b"\x88\x02\x03\xea"


# -- limits


@EACH_WAY
def test_the_limit(make: Callable[[int], WebSocketCodec]) -> None:
    """No call gives more than its limit, `more` says so, and the rest comes with the next."""
    codec = make(MAX)
    codec.receive(b"".join(text(str(i)) for i in range(150)))
    counts = []
    found: list[FrameEvent] = []
    codec.more = True
    while codec.more:
        events = codec.events(64)
        counts.append(len(events))
        found += events
    assert counts == [64, 64, 22]
    assert found == [str(i) for i in range(150)]
    codec.receive(b"".join(text(str(i)) for i in range(64)))
    assert (len(codec.events(64)), codec.more) == (64, False)


@EACH_WAY
def test_receive_between_limited_calls(make: Callable[[int], WebSocketCodec]) -> None:
    """Bytes that arrive while earlier frames are still waiting keep their place."""
    codec = make(MAX)
    codec.receive(text("1") + text("2") + text("3")[:4])
    assert codec.events(1) == ["1"]
    assert codec.more
    codec.receive(text("3")[4:] + text("4"))
    assert codec.events(1) == ["2"]
    assert drain(codec, 1) == ["3", "4"]


@EACH_WAY
def test_frames_without_events_count(make: Callable[[int], WebSocketCodec]) -> None:
    """A read full of empty fragments is worked off in bounded turns that may give nothing."""
    codec = make(MAX)
    codec.receive(frame(TEXT) + frame(CONTINUATION) * 100 + frame(FIN | CONTINUATION, b"end"))
    assert (codec.events(64), codec.more) == ([], True)
    assert (codec.events(64), codec.more) == (["end"], False)


def test_an_incomplete_binary_frame_is_held_as_it_is() -> None:
    """A binary frame of the fast kind waits whole, up to its last byte."""
    codec = WebSocketCodec(MAX)
    wire = binary(bytes(60_000))
    for at in range(0, len(wire) - 1, 1000):
        codec.receive(wire[at : min(at + 1000, len(wire) - 1)])
        assert codec.events() == []
    assert codec.buffered == len(wire) - 1
    codec.receive(wire[-1:])
    assert codec.events() == [bytes(60_000)]
    assert codec.buffered == 0


@EACH_WAY
@pytest.mark.parametrize("wire", [frame(FIN | TEXT, b"x" * 60_000), binary(bytes(70_000))], ids=["text", "large"])
def test_other_incomplete_frames_are_parsed_as_they_come(make: Callable[[int], WebSocketCodec], wire: bytes) -> None:
    """Of text, and of binary frames too large for the fast kind, no unparsed byte is held."""
    codec = make(MAX)
    codec.receive(wire[:50_000])
    assert codec.events() == []
    assert codec.buffered == 0
    assert len(run([wire[50_000:]], codec)) == 1


# -- memory


def grown(action: Callable[[], object]) -> int:
    """Bytes that are allocated more after `action`, its result held."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = action()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    del result
    return after - before


@EACH_WAY
def test_an_idle_codec_is_tiny(make: Callable[[int], WebSocketCodec]) -> None:
    """Between messages a codec holds neither a wsproto object nor a buffer, whatever it saw."""

    def used() -> WebSocketCodec:
        codec = make(MAX)
        run([EXCHANGE[: -len(close(1000, b"bye") + text("never"))]], codec)
        return codec

    used()  # what Python and wsproto build once
    assert grown(lambda: [used() for _ in range(50)]) < 50 * 300


@EACH_WAY
def test_tiny_fragments_cost_what_they_carry(make: Callable[[int], WebSocketCodec]) -> None:
    """Thousands of tiny and empty fragments hold no more memory than their bytes and a constant."""
    codec = make(MAX)
    pair = frame(CONTINUATION, "\u00e9".encode()) + frame(CONTINUATION)
    run([frame(TEXT) + pair], codec)
    assert grown(lambda: run([pair * 100] * 20, codec)) < 2 * 2 * 2000 + 1000
    assert run([frame(FIN | CONTINUATION)], codec) == ["\u00e9" * 2001]


def test_a_partial_frame_does_not_hold_a_large_read() -> None:
    """What is left of a large read is copied out of it."""
    codec = WebSocketCodec(MAX)

    def large_read() -> None:
        run([text("x" * 60_000) + text("partial")[:5]], codec)

    assert grown(large_read) < 10_000  # what it must not keep is five times that
    assert codec.buffered == 5


def test_frames_already_taken_are_not_held() -> None:
    """A buffer that is refilled as fast as it is emptied, and so never empty, does not grow."""
    codec = WebSocketCodec(MAX)
    many = text("x" * 94) * 64
    codec.receive(many * 2)

    def refill() -> None:
        for _ in range(40):
            codec.events(64)
            codec.receive(many)

    refill()
    assert codec.buffered == 2 * len(many)
    assert grown(refill) < 4 * len(many)


@EACH_WAY
def test_closing_lets_go_of_what_was_open(make: Callable[[int], WebSocketCodec]) -> None:
    """Neither a half message nor a half frame is held once we have closed."""

    def closing() -> list[WebSocketCodec]:
        codecs = [make(MAX), make(MAX)]
        for codec, first in zip(codecs, (BINARY, FIN | BINARY), strict=True):
            run([frame(first, bytes(50_000))[:-1]], codec)
            codec.close(1000)
            assert run([b""], codec) == []
        return codecs

    closing()
    assert grown(closing) < 10_000  # what it must not keep is five times that


@EACH_WAY
def test_a_dead_codec_keeps_nothing(make: Callable[[int], WebSocketCodec]) -> None:
    """After a violation nothing is kept, neither what follows it nor the message it broke."""

    def broken() -> WebSocketCodec:
        codec = make(MAX)
        run([frame(BINARY, bytes(50_000)) + NO_MASK + bytes(50_000), bytes(50_000)], codec)
        return codec

    broken()
    assert grown(broken) < 10_000  # what it must not keep is five times that


# -- after our close


@EACH_WAY
def test_after_our_close(make: Callable[[int], WebSocketCodec]) -> None:
    """Data and pings are skipped until the peer's close frame arrives; whole messages are counted, pongs are told."""
    wire = (
        frame(FIN | CONTINUATION, EURO[1:])
        + text("data")
        + frame(FIN | PING, b"?")
        + frame(FIN | PONG, b"told")
        + frame(FIN | TEXT, b"\xff not looked at")
        + frame(BINARY, bytes(3000))
        + frame(FIN | CONTINUATION, bytes(3000))
        + close(1014, b"done")
        + text("never")
    )
    for size in (1, 5, len(wire)):
        codec = make(2000)
        assert run([frame(TEXT, b"open" + EURO[:1])], codec) == []
        assert codec.close(1000, "bye") == b"\x88\x05\x03\xe8bye"
        pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
        assert run(pieces, codec) == [PongReceived(b"told"), CloseReceived(1014, "done")]
        assert (codec.buffered, codec.skipped) == (0, 4)


@EACH_WAY
@pytest.mark.parametrize("first", [FIN | TEXT, FIN | BINARY])
@pytest.mark.parametrize("place", [3, 8, 20, 1003])
def test_our_close_inside_a_frame(make: Callable[[int], WebSocketCodec], first: int, place: int) -> None:
    """A frame that was under way when we closed is skipped to its end, wherever it stood."""
    codec = make(MAX)
    wire = frame(first, b"x" * 1000)
    assert run([wire[:place]], codec) == []
    codec.close(1001)
    assert run([wire[place:], close(1001)], codec) == [CloseReceived(1001, "")]


@EACH_WAY
def test_skipped_data_is_not_kept(make: Callable[[int], WebSocketCodec]) -> None:
    """While closing, a frame of any announced size passes without being held."""
    codec = make(MAX)
    codec.close(None)
    assert run([b"\x82\xff" + (1 << 62).to_bytes(8) + KEY], codec) == []
    assert grown(lambda: run([bytes(50_000)] * 10, codec)) < 10_000  # what it must not keep is five times that
    assert codec.buffered == 0


@EACH_WAY
@pytest.mark.parametrize("wire", [NO_MASK, frame(FIN | 0x40 | TEXT), frame(FIN | CONTINUATION), close(999)])
def test_violations_after_our_close(make: Callable[[int], WebSocketCodec], wire: bytes) -> None:
    """A peer that breaks the framing while we wait for its close frame is done."""
    codec = make(MAX)
    codec.close(1000)
    assert codes(run([text("skipped") + wire + close(1000)], codec)) == [1002]


def test_frames_skipped_after_our_close_count() -> None:
    """Skipping is bounded by the limit too."""
    codec = WebSocketCodec(MAX)
    codec.close(1000)
    codec.receive(text("x") * 100 + close(1000))
    assert (codec.events(64), codec.more) == ([], True)
    assert (codec.events(64), codec.more) == ([CloseReceived(1000, "")], False)


def test_close_with_frames_still_buffered() -> None:
    """What was received and not yet taken when we close is skipped."""
    codec = WebSocketCodec(MAX)
    codec.receive(text("1") + text("2") + close(1000))
    assert codec.events(1) == ["1"]
    codec.close(1000)
    assert drain(codec) == [CloseReceived(1000, "")]


# -- encoding


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 70_000])
def test_encoding(size: int) -> None:
    """Text and binary are one final unmasked frame each, with the shortest form of the length."""
    codec = WebSocketCodec(MAX)
    payload = b"z" * size
    assert codec.text(payload.decode()) == b"\x81" + length_bytes(size, 0) + payload
    for kind in (bytes, bytearray, memoryview):
        wire = codec.binary(kind(payload))
        assert type(wire) is bytes
        assert wire == b"\x82" + length_bytes(size, 0) + payload


@given(message=st.text() | st.binary())
def test_a_client_reads_what_we_encode(message: str | bytes) -> None:
    """A client gets each message back exactly."""
    codec = WebSocketCodec(MAX)
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(codec.text(message) if isinstance(message, str) else codec.binary(message))
    (event,) = client.events()
    assert isinstance(event, TextMessage | BytesMessage)
    assert event.message_finished
    assert event.data == message


def test_wider_items() -> None:
    """A memoryview counts in bytes, not in items."""
    words = memoryview(b"\1\2\3\4").cast("H")
    assert WebSocketCodec(MAX).binary(words) == b"\x82\x04\1\2\3\4"


def test_control_frames() -> None:
    """Pings and pongs carry up to 125 bytes, and none goes out once closing has begun."""
    codec = WebSocketCodec(MAX)
    assert codec.ping() == b"\x89\x00"
    assert codec.ping(b"p" * 125) == b"\x89\x7d" + b"p" * 125
    assert codec.pong(b"q") == b"\x8a\x01q"
    for encode in (codec.ping, codec.pong):
        with pytest.raises(ValueError, match="at most 125 bytes, not 126"):
            encode(bytes(126))
    codec.close(1000)
    assert (codec.ping(b"p"), codec.pong(b"q")) == (b"", b"")


@pytest.mark.parametrize(
    ("code", "reason", "wire"),
    [
        (None, "", b"\x88\x00"),
        (1000, "", b"\x88\x02\x03\xe8"),
        (1014, "g", b"\x88\x03\x03\xf6g"),
        (4999, "\u20ac" * 41, b"\x88\x7d\x13\x87" + EURO * 41),
    ],
)
def test_close_frames(code: int | None, reason: str, wire: bytes) -> None:
    """A close frame carries the code and the whole reason, or nothing."""
    assert WebSocketCodec(MAX).close(code, reason) == wire


@pytest.mark.parametrize(
    ("code", "reason"), [(999, ""), (1005, ""), (1006, ""), (1000, "x" * 124), (1000, "\ud800"), (None, "why")]
)
def test_a_close_that_may_not_be_sent(code: int | None, reason: str) -> None:
    """A wrong code or reason raises ValueError, and the codec goes on as if nothing had been said."""
    codec = WebSocketCodec(MAX)
    with pytest.raises(ValueError, match=r"."):
        codec.close(code, reason)
    assert run([text("still here")], codec) == ["still here"]


def test_lone_surrogates_are_refused() -> None:
    """A text that has no UTF-8 form raises ValueError."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        WebSocketCodec(MAX).text("a\ud800")


# -- any bytes

MANY = settings(max_examples=6 * settings().max_examples)  # cheap, and the codec's best proof
KEYS = st.binary(min_size=4, max_size=4)
PAYLOADS = st.binary(max_size=140) | st.text(max_size=60).map(str.encode)
FIRST_BYTES = st.sampled_from(
    [FIN | TEXT, FIN | BINARY, TEXT, BINARY, CONTINUATION, FIN | CONTINUATION, FIN | PING, FIN | PONG]
)
CLOSES = st.builds(
    lambda code, reason, key: frame(FIN | CLOSE, code.to_bytes(2) + reason, key),
    st.sampled_from([1000, 1001, 1005, 1012, 3000, 5000]),
    PAYLOADS.filter(lambda reason: len(reason) < 124),
    KEYS,
)
FRAMES = st.builds(frame, FIRST_BYTES, PAYLOADS, KEYS)
FRAGMENTED = st.builds(
    lambda payload, places, first, between: between.join(
        frame(
            (first if i == 0 else CONTINUATION) | (FIN if i == len(places) else 0),
            piece,
        )
        for i, piece in enumerate(cut(payload, places))
    ),
    PAYLOADS,
    st.lists(st.integers(0, 200), max_size=3),
    st.sampled_from([TEXT, BINARY]),
    st.sampled_from([b"", frame(FIN | PING, b"!")]),
)
STREAMS = st.lists(FRAMES | FRAGMENTED | CLOSES | st.binary(max_size=5), max_size=6).map(b"".join)
CUTS = st.lists(st.integers(0, 2000), max_size=8)


def mutated(data: bytes, place: int, value: int) -> bytes:
    if not data:
        return data
    place %= len(data)
    return data[:place] + bytes((value,)) + data[place + 1 :]


WIRES = STREAMS | st.builds(mutated, STREAMS, st.integers(0, 5000), st.integers(0, 255))
VALID_WIRES = st.lists(st.builds(frame, st.sampled_from([FIN | TEXT, FIN | BINARY]), PAYLOADS, KEYS) | FRAGMENTED).map(
    b"".join
)


@MANY
@given(wire=WIRES | VALID_WIRES, places=CUTS, limit=st.integers(1, 5), size=st.sampled_from([100, MAX]))
def test_all_ways_are_equal(wire: bytes, places: list[int], limit: int, size: int) -> None:
    """The same bytes mean the same on the fast way and the slow one, at any cut and any limit."""
    whole = codes(run([wire], MAKERS["slow"](size)))
    for make in MAKERS.values():
        codec = make(size)
        assert codes(run(cut(wire, places), codec, limit)) == whole


def wsproto_events(wire: bytes) -> list[object]:
    """What plain wsproto makes of the bytes, in our words, up to the first end."""
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(wire)
    found: list[object] = []
    strings: list[str] = []
    chunks: list[bytes] = []
    for event in connection.events():
        if isinstance(event, TextMessage):
            strings.append(event.data)
            if event.message_finished:
                found.append("".join(strings))
                strings.clear()
        elif isinstance(event, BytesMessage):
            chunks.append(bytes(event.data))
            if event.message_finished:
                found.append(b"".join(chunks))
                chunks.clear()
        elif isinstance(event, Ping):
            found.append(PingReceived(bytes(event.payload)))
        elif isinstance(event, Pong):
            found.append(PongReceived(bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            failed = connection.state is ConnectionState.OPEN
            found.append(int(event.code) if failed else CloseReceived(int(event.code), event.reason or ""))
            break
    return found


@MANY
@given(wire=WIRES | VALID_WIRES, places=CUTS)
def test_plain_wsproto_agrees(wire: bytes, places: list[int]) -> None:
    """Without a limit of size both say the same; of a wrong header we may only speak before wsproto has it whole."""
    ours = codes(run(cut(wire, places), WebSocketCodec(2**63)))
    if any(isinstance(event, CloseReceived) and event.code == 1014 for event in ours):
        ours[-1] = 1002  # wsproto does not know this code
    theirs = wsproto_events(wire)
    if ours != theirs:
        assert ours == [*theirs, 1002]
        assert ours == wsproto_events(wire + bytes(14))


@MANY
@given(
    steps=st.lists(st.binary(max_size=60) | WIRES | st.integers(1, 4) | st.none(), max_size=12),
    size=st.integers(0, 300),
    fast=st.booleans(),
)
def test_bytes_never_raise(steps: list[bytes | int | None], size: int, fast: bool) -> None:
    """Whatever a peer sends and whenever we close: no exception, at most one end, and nothing held without reason."""
    codec = WebSocketCodec(size, fast=fast)
    found: list[FrameEvent] = []
    for step in steps:
        if step is None:
            codec.close(1000)
        elif isinstance(step, int):
            found += codec.events(step)
        else:
            codec.receive(step)
    found += drain(codec)
    ends = [event for event in found if isinstance(event, Failure | CloseReceived)]
    assert ends == found[len(found) - len(ends) :]
    assert len(ends) <= 1
    assert codec.buffered <= max(size + 14, 131)
    for event in ends:
        assert codec.fail(event) if isinstance(event, Failure) else codec.reply(event)
