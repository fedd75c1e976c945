"""The codec of the browser's module reads and writes what the Python codec does, and refuses what it refuses."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channelkit.errors import BadMessage
from channelkit.session import codec
from channelkit.session.frames import MAX_NUMBER, Ack, Binary, End, Frame, Hello, Ping, Terms, Text
from channelkit.session.refusals import read_close_reason
from channelkit.testing.strategies import BYTES, TEXTS

sys.path.insert(0, str(Path(__file__).parent))

import node

pytestmark = pytest.mark.skipif(node.NODE is None, reason=node.MISSING)

MAX = 1000
TERMS = Terms(window=1024, window_bytes=4 << 20, max_message=MAX, ping=20.0, grace=0.5)
HELLOS = (Hello(3), Hello(7, "S", 2, TERMS, by=1, have=8), Hello(0, "S" * 22, 1, TERMS, secret="K"))

numbers = st.sampled_from((1, 2, 10, MAX_NUMBER)) | st.integers(1, MAX_NUMBER)
texts = st.sampled_from(TEXTS) | st.text(
    st.sampled_from("\n\r\0\x1e\x85\u2028\ufeff :a") | st.characters(codec="utf-8"), max_size=40
)
binaries = st.sampled_from(BYTES) | st.binary(max_size=40)
reasons = st.text(st.characters(codec="utf-8"), max_size=30)
frames = st.one_of(
    st.builds(Text, numbers, texts),
    st.builds(Binary, numbers, binaries),
    st.builds(End, numbers, st.sampled_from((1000, 1001, 1011, 3000, 4999)), reasons),
    st.builds(Ack, st.integers(0, MAX_NUMBER)),
    st.just(Ping()),
    st.sampled_from(HELLOS),
)


@pytest.fixture(scope="module")
def twin() -> Iterator[node.Program]:
    """The codec in JavaScript."""
    with node.program("codec.mjs") as program:
        yield program


def plain(frame: Frame) -> list[Any]:
    """A frame as the program writes it down."""
    if isinstance(frame, Text):
        return ["m", frame.n, frame.text, frame.size]
    if isinstance(frame, Binary):
        return ["b", frame.n, wire_of(frame.data), frame.size]
    if isinstance(frame, End):
        return ["e", frame.n, frame.code, frame.reason]
    if isinstance(frame, Ack):
        return ["a", frame.n]
    if isinstance(frame, Ping):
        return ["p"]
    assert isinstance(frame, Hello)
    return ["h", plain_hello(frame)]


def plain_hello(hello: Hello) -> dict[str, Any]:
    terms = hello.terms
    members = {name: getattr(hello, name) for name in ("recv", "sid", "secret", "a", "by", "have")}
    if terms is None:
        return {**members, "terms": None}
    sizes = {"window": terms.window, "windowBytes": terms.window_bytes, "max": terms.max_message}
    return {**members, "terms": {**sizes, "ping": terms.ping, "grace": terms.grace}}


def wire_of(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


def theirs(twin: node.Program, form: str, wire: bytes | str, size: int = 1 << 20, most: int = MAX) -> Any:
    sent = wire if isinstance(wire, str) else wire_of(wire)
    return twin.ask({"read": form, "wire": sent, "size": size, "max": most})


def ours(form: str, wire: bytes | str, size: int = 1 << 20, most: int = MAX) -> Any:
    """What the Python codec makes of the same."""
    found: list[Frame] = []
    wrong = False
    try:
        if form == "websocket":
            frame = codec.decode_websocket(wire, most)
            found += [] if frame is None else [frame]
        else:
            assert isinstance(wire, bytes)
            reader = codec.LineFrames(most) if form == "lines" else codec.EventFrames(most)
            for at in range(0, len(wire), size):
                found += reader.feed(wire[at : at + size])
            reader.feed(b"")  # what was wrong is told by the next call if frames came before it
    except BadMessage:
        wrong = True
    return {"frames": [plain(frame) for frame in found], "wrong": wrong}


@given(wire=st.lists(frames, max_size=5), size=st.integers(1, 30), cut=st.integers(0, 20))
@settings(max_examples=80)
def test_streams(twin: node.Program, wire: list[Frame], size: int, cut: int) -> None:
    """Lines and events, however cut; what is cut off at the end is not given."""
    for form, encode in (("lines", codec.encode_line), ("events", codec.encode_event)):
        whole = b"".join(encode(frame) for frame in wire)
        whole = whole[: len(whole) - cut] if cut < len(whole) else whole
        assert theirs(twin, form, whole, size) == ours(form, whole, size)


@given(frame=frames)
@settings(max_examples=80)
def test_both_write_the_same(twin: node.Program, frame: Frame) -> None:
    """Messages of a WebSocket are equal to the byte; lines are read by Python as what they were."""
    message = codec.encode_websocket(frame)
    assert theirs(twin, "websocket", message) == ours("websocket", message)
    if isinstance(frame, Hello):
        return
    kind, *rest = plain(frame)
    written = twin.ask({"write": ["m" if kind == "b" else kind, *rest]})
    assert written["websocket"] == (message if isinstance(message, str) else wire_of(message))
    if written["line"] is not None:
        assert codec.LineFrames(MAX).feed(written["line"].encode()) == [frame]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(("m", "", "\ud800", "AA==", "AA=", 1.5, 2**53)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(("recv", "v", "a", "x")), inner),
    max_leaves=6,
)
lines = st.lists(st.sampled_from("mbeaph") | st.integers(-1, 3) | values, max_size=5).map(json.dumps)
hellos = st.fixed_dictionaries(
    {"recv": st.sampled_from((0, 1, 2**53, -1, "1", None))},
    optional={
        "v": st.sampled_from((1, 2, None, True, "1")),
        "sid": st.sampled_from(("S", "", None, 1, "é", "x" * 513)),
        "secret": st.sampled_from(("K", None)),
        "a": st.sampled_from((1, 0, None)),
        "by": st.sampled_from((1, 0, None)),
        "have": st.sampled_from((0, 5, None, -1)),
        "window": st.sampled_from(([4, 40], [4], [0, 4], [4, 2**32], 4, None)),
        "max": st.sampled_from((20, 0, None)),
        "ping": st.sampled_from((20, 0.5, 0, True, None)),
        "grace": st.sampled_from((30, -1, "30")),
        "z": st.just([]),
    },
).map(lambda members: json.dumps(["h", members]))
messages = st.one_of(
    st.text(st.sampled_from("mbeaph 0123é\ud800\n"), max_size=12).filter(lambda text: "\ud800" not in text),
    st.sampled_from(
        ("m 1 x", "m 01 x", "m 1", "m", "e 1 1000", "e 1 999 x", "e 1 1000 a b", "a -1", "a 9007199254740992")
    ),
    st.binary(max_size=8),
    st.sampled_from((b"m 1 x", b"m 1", b"m", b"m 0 x", b"x", b"m  x", b"m " + b"1" * 50 + b" x")),
)


@given(wire=st.lists(lines | hellos | st.text('[]",m1 \u00a0', max_size=6), max_size=3), size=st.integers(1, 9))
@settings(max_examples=150)
def test_foreign_lines(twin: node.Program, wire: list[str], size: int) -> None:
    """What is no frame is refused by both, at the same place; what is unknown is skipped by both."""
    whole = "".join(f"{line}\n" for line in wire).encode("utf-8", "surrogatepass")
    assert theirs(twin, "lines", whole, size) == ours("lines", whole, size)


@given(message=messages)
@settings(max_examples=150)
def test_foreign_messages(twin: node.Program, message: str | bytes) -> None:
    """The same for messages of a WebSocket."""
    assert theirs(twin, "websocket", message) == ours("websocket", message)


fields = st.sampled_from(
    (
        "data: x",
        "data:",
        "data",
        "data:  y",
        "id: 1",
        "id: 01",
        "id",
        "id: 1\x00",
        "event: ck-b",
        "event: ck-j",
        "event: z",
        'data: "a\\r"',
        "data: AA==",
        "event: ck-end",
        'data: [1000,"bye"]',
        "data: [1]",
        "retry: 5",
        ": c",
        "",
        "",
        "",
        "\ufeff",
        "é",
        "event: ck-hello",
        'data: {"recv":1}',
    )
)
ends = st.sampled_from(("\n", "\n", "\r\n", "\r"))


@given(
    wire=st.lists(st.tuples(fields, ends), max_size=14), size=st.integers(1, 9), bom=st.booleans(), bad=st.booleans()
)
@settings(max_examples=150)
def test_foreign_events(twin: node.Program, wire: list[tuple[str, str]], size: int, bom: bool, bad: bool) -> None:
    """The same for streams of events, whatever ends their lines."""
    text = "".join(field + end for field, end in wire)
    whole = (b"\xef\xbb\xbf" if bom else b"") + text.encode() + (b"data: \xff\xc3\n\n" if bad else b"")
    assert theirs(twin, "events", whole, size) == ours("events", whole, size)


def test_limits(twin: node.Program) -> None:
    """A message of exactly the limit passes and one byte more is refused, on both sides."""
    for frame in (
        Text(1, "x" * 90),
        Text(1, "é" * 45),
        Text(1, "x" * 91),
        Text(1, "é" * 46),
        Binary(1, bytes(90)),
        Binary(1, bytes(91)),
    ):
        message = codec.encode_websocket(frame)
        assert theirs(twin, "websocket", message, most=90) == ours("websocket", message, most=90)
        for form, encode in (("lines", codec.encode_line), ("events", codec.encode_event)):
            assert theirs(twin, form, encode(frame), most=90) == ours(form, encode(frame), most=90)
    for form in ("lines", "events"):
        for over in (0, 1):
            wire = b"x" * (codec.line_limit(90) + over)
            assert theirs(twin, form, wire, most=90)["wrong"] == (over == 1)


def test_answers(twin: node.Program) -> None:
    """A body that is none of ours says nothing; a close reason is a code and perhaps a number."""
    for body in (
        b'{"ack":4}',
        codec.encode_answer(4, "gap", "why"),
        b"<html>",
        b"[]",
        b'{"ack":-1,"code":3}',
        b'{"ack":true}',
        b"null",
    ):
        code, ack = codec.decode_answer(body)
        assert twin.ask({"answer": body.decode()}) == {"code": code, "ack": ack}
    for reason in ("gap", "gap 4", "gap x", "gap 4 5", "", "lost " + "9" * 17):
        code, ack = read_close_reason(reason)
        assert twin.ask({"closed": reason}) == {"code": code, "ack": ack}
