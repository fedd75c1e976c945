"""The one codec: every frame in every form and back, cut anywhere; what is malformed is named."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channelkit.errors import BadMessage, MessageTooBig
from channelkit.session.codec import (
    EventFrames,
    LineFrames,
    decode_batch,
    decode_body,
    decode_websocket,
    encode_event,
    encode_line,
    encode_websocket,
    read_client_hello,
)
from channelkit.session.frames import Ack, Binary, End, Frame, Hello, Numbered, Ping, Terms, Text
from channelkit.testing.strategies import BYTES, TEXTS

MAX = 1 << 16

texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
binaries = st.sampled_from(BYTES) | st.binary(max_size=40)
numbers = st.integers(1, 2**53 - 1)
codes = st.sampled_from((1000, 1001, 1011, 3000, 4999))
messages: st.SearchStrategy[Numbered] = st.builds(Text, numbers, texts) | st.builds(Binary, numbers, binaries)
ends = st.builds(End, numbers, codes, st.sampled_from(("", "bye", "\u00e9", 'a "b" \n c')))
terms = st.builds(
    Terms,
    window=st.integers(1, 5000),
    window_bytes=st.integers(1, 1 << 30),
    max_message=st.integers(1, 1 << 30),
    ping=st.sampled_from((1, 20, 0.5)),
    grace=st.sampled_from((30, 0.25)),
)
hellos = st.builds(Hello, st.integers(0, 2**53 - 1), st.just("S" * 22), numbers, terms) | st.builds(Hello, numbers)
frames: st.SearchStrategy[Frame] = (
    messages | ends | st.builds(Ack, st.integers(0, 2**53 - 1)) | st.just(Ping()) | hellos
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces."""
    borders = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(borders)]


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_lines(given_frames: list[Frame], places: list[int]) -> None:
    """Lines of JSON, cut anywhere: the same frames, and a last line without its end is never given."""
    reader = LineFrames(MAX)
    data = b"".join(map(encode_line, given_frames))
    assert [frame for piece in cut(data + b'["m",1,"cu', places) for frame in reader.feed(piece)] == given_frames
    assert reader.unfinished


@given(frames)
def test_websocket(frame: Frame) -> None:
    """WebSocket messages: the same frame."""
    assert decode_websocket(encode_websocket(frame), MAX) == frame


@given(st.lists(messages | ends, max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_events(given_frames: list[Numbered], places: list[int]) -> None:
    """Blocks of SSE, cut anywhere: the same messages under the same numbers, by the id of the block."""
    reader = EventFrames(MAX)
    data = b"".join(map(encode_event, given_frames))
    found = [frame for piece in cut(data + b"data: cut", places) for frame in reader.feed(piece)]
    assert found == given_frames


@given(texts, binaries, numbers)
def test_all_forms_carry_the_same(text: str, data: bytes, n: int) -> None:
    """A message is the same whichever way it goes: line, batch, bare body, WebSocket, event."""
    for frame, kind in ((Text(n, text), "text/plain"), (Binary(n, data), "application/octet-stream")):
        body = text.encode() if isinstance(frame, Text) else data
        assert decode_body(kind, body, n, MAX) == frame
        assert decode_batch(encode_line(frame), MAX) == [frame]
        assert decode_websocket(encode_websocket(frame), MAX) == frame
        assert EventFrames(MAX).feed(encode_event(frame)) == [frame]


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_foreign_bytes_raise_one_kind_of_error(data: bytes) -> None:
    """Whatever comes: frames, or BadMessage with a text."""
    for decode in (
        lambda: decode_batch(data + b"\n", MAX),
        lambda: decode_websocket(data, MAX, read_client_hello),
        lambda: decode_websocket(data.decode(errors="replace"), MAX, read_client_hello),
        lambda: EventFrames(MAX).feed(data),
        lambda: LineFrames(MAX).feed(data),
    ):
        raised: BadMessage | None = None
        try:
            decode()
        except BadMessage as error:
            raised = error
        assert raised is None or (raised.detail and raised.status in (400, 413))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("m x y", "number must be a decimal number"),
        ("m 01 y", "number must be a decimal number"),
        ("m 1", "frame 'm' is"),
        ("a -1", "ack must be a decimal number"),
        ("m 9007199254740992 x", "number must be a decimal number"),
        ("e 1 1006 no", "code"),
        (b"m 1", "binary frame is 'm number bytes'"),
        ("h []", "hello must be a JSON object"),
        ('h {"v":2}', "version 2"),
        ('h {"v":1,"a":true}', "a must be"),
        ('h {"v":1,"secret":""}', "secret must be"),
    ],
)
def test_what_is_wrong_is_named(message: str | bytes, said: str) -> None:
    """The text of the error says which part, and what it takes."""
    with pytest.raises(BadMessage) as raised:
        decode_websocket(message, MAX, read_client_hello)
    assert said in raised.value.detail


def test_unknown_frames_and_members_are_ignored() -> None:
    """A later version may say more."""
    assert decode_websocket("z 1 2 3", MAX) is None
    assert LineFrames(MAX).feed(b'["zz",1]\n["a",3,"more"]\n\n') == [Ack(3)]
    assert read_client_hello({"v": 1, "colour": "red"}).a == 1


def test_sizes_are_judged_before_they_are_kept() -> None:
    """A line, a message and a body beyond the limit: 413 or 1009, and the frames before are given."""
    reader = LineFrames(10)
    assert reader.feed(b'["a",1]\n' + b"x" * 5000) == [Ack(1)]
    with pytest.raises(MessageTooBig):
        reader.feed(b"y")
    with pytest.raises(MessageTooBig) as raised:
        decode_websocket("m 1 12345678901", 10)
    assert (raised.value.status, raised.value.close_code) == (413, 1009)
    with pytest.raises(MessageTooBig):
        decode_body("text/plain", b"12345678901", 1, 10)
    with pytest.raises(BadMessage, match="needs its number"):
        decode_body("text/plain", b"1", None, 10)
