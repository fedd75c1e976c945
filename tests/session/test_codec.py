"""The codec: all forms carry the same frames, cut anywhere, and foreign input can only raise BadMessage."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channelkit.errors import BadMessage, MessageTooBig
from channelkit.session import codec
from channelkit.session.frames import (
    MAX_NUMBER,
    Ack,
    Binary,
    ClientHello,
    End,
    Frame,
    Hello,
    Message,
    Numbered,
    Ping,
    Terms,
    Text,
    check_payload,
)
from channelkit.testing.strategies import BYTES, TEXTS

MAX = 1 << 20
TERMS = Terms(window=1024, window_bytes=4 << 20, max_message=MAX, ping=20.0, grace=30.0)
HELLO = Hello(7, "S", 2, TERMS, by=1, have=8)

numbers = st.integers(1, MAX_NUMBER)
texts = st.sampled_from(TEXTS) | st.text(
    st.sampled_from("\n\r\0\x1e\x85\u2028\ufeff :a") | st.characters(codec="utf-8")
)
binaries = st.sampled_from(BYTES) | st.binary(max_size=40)
messages = st.builds(Text, numbers, texts) | st.builds(Binary, numbers, binaries)
ends = st.builds(
    End, numbers, st.sampled_from((1000, 1001, 1011, 3000, 4999)), st.text(st.characters(codec="utf-8"), max_size=30)
)
frames = (
    messages | ends | st.builds(Ack, st.integers(0, MAX_NUMBER)) | st.just(Ping()) | st.just(HELLO) | st.just(Hello(3))
)
pieces = st.integers(1, 30)


def cut(wire: bytes, size: int) -> list[bytes]:
    return [wire[at : at + size] for at in range(0, len(wire), size)]


@given(frames=st.lists(frames, max_size=6), size=pieces)
def test_lines(frames: list[Frame], size: int) -> None:
    """Lines of JSON bring every frame, however the bytes are cut, and empty lines between are nothing."""
    reader = codec.LineFrames(MAX)
    wire = b"\n".join(codec.encode_line(frame) for frame in frames)
    assert [frame for piece in cut(wire, size) for frame in reader.feed(piece)] == frames
    assert reader.unfinished == 0


@given(frames=st.lists(frames, max_size=6), size=pieces)
def test_events(frames: list[Frame], size: int) -> None:
    """An event stream brings every frame but those it has no form for, however the bytes are cut."""
    reader = codec.EventFrames(MAX)
    wire = b"".join(codec.encode_event(frame, presented=5) for frame in frames)
    wanted = [frame for frame in frames if not isinstance(frame, Ack | Ping)]
    assert [frame for piece in cut(wire, size) for frame in reader.feed(piece)] == wanted


@given(frame=frames)
def test_websocket_messages(frame: Frame) -> None:
    """A WebSocket message is text for all but binary, and brings the frame."""
    message = codec.encode_websocket(frame)
    assert isinstance(message, bytes) == isinstance(frame, Binary)
    assert codec.decode_websocket(message, MAX) == frame


@given(messages=st.lists(st.builds(Text, st.just(1), texts) | st.builds(Binary, st.just(1), binaries), max_size=6))
def test_a_batch(messages: list[Message]) -> None:
    """The body of a POST brings consecutive messages and an end."""
    batch: list[Numbered] = [
        Text(n, m.text) if isinstance(m, Text) else Binary(n, m.data) for n, m in enumerate(messages, 5)
    ]
    batch.append(End(len(messages) + 5, 1000, "bye"))
    assert codec.decode_batch(b"".join(map(codec.encode_line, batch)), MAX) == batch


@given(wire=st.lists(frames, min_size=1, max_size=4), size=pieces, data=st.data())
def test_what_is_cut_off_is_not_given(wire: list[Frame], size: int, data: st.DataObject) -> None:
    """Of a stream that is cut only whole lines and whole blocks count."""
    lines = [codec.encode_line(frame) for frame in wire]
    whole = b"".join(lines)
    at = data.draw(st.integers(0, len(whole)))
    complete = sum(1 for index in range(len(lines)) if sum(map(len, lines[: index + 1])) <= at)
    reader = codec.LineFrames(MAX)
    assert [frame for piece in cut(whole[:at], size) for frame in reader.feed(piece)] == wire[:complete]
    blocks = [codec.encode_event(frame) for frame in wire if not isinstance(frame, Ack | Ping)]
    kept = [frame for frame in wire if not isinstance(frame, Ack | Ping)]
    whole = b"".join(blocks)
    at = data.draw(st.integers(0, len(whole)))
    complete = sum(1 for index in range(len(blocks)) if sum(map(len, blocks[: index + 1])) <= at)
    events = codec.EventFrames(MAX)
    assert [frame for piece in cut(whole[:at], size) for frame in events.feed(piece)] == kept[:complete]


@given(message=st.text() | st.binary())
def test_foreign_websocket_messages(message: str | bytes) -> None:
    """Whatever a peer sends is a frame, unknown, or BadMessage."""
    try:
        frame = codec.decode_websocket(message, 100)
    except BadMessage:
        return
    assert frame is None or codec.decode_websocket(codec.encode_websocket(frame), 100) == frame


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=6,
)


@given(values=st.lists(st.sampled_from("mbeaph") | json_values, max_size=5), size=pieces)
def test_foreign_lines(values: list[object], size: int) -> None:
    """The same for lines of JSON, and for lines that are none."""
    for wire in (json.dumps(values).encode() + b"\n", repr(values).encode() + b"\n"):
        reader = codec.LineFrames(100, codec.read_client_hello)
        try:
            for piece in cut(wire, size):
                reader.feed(piece)
        except BadMessage:
            continue


@given(wire=st.binary(max_size=60), size=pieces)
def test_foreign_streams(wire: bytes, size: int) -> None:
    """The same for bytes."""
    for reader in (codec.LineFrames(100), codec.EventFrames(100)):
        try:
            for piece in cut(wire, size):
                reader.feed(piece)
        except BadMessage:
            continue


def test_the_forms_on_the_wire() -> None:
    """The table of docs/protocol.md."""
    table: Sequence[tuple[Frame, bytes, str | bytes, bytes]] = [
        (Text(17, "text"), b'["m",17,"text"]\n', "m 17 text", b"data: text\nid: 17\n\n"),
        (Text(1, "a\rb"), b'["m",1,"a\\rb"]\n', "m 1 a\rb", b'event: ck-j\ndata: "a\\rb"\nid: 1\n\n'),
        (Text(2, " a\n"), b'["m",2," a\\n"]\n', "m 2  a\n", b"data:  a\ndata: \nid: 2\n\n"),
        (Binary(18, b"\0"), b'["b",18,"AA=="]\n', b"m 18 \0", b"event: ck-b\ndata: AA==\nid: 18\n\n"),
        (
            End(19, 1000, "bye"),
            b'["e",19,1000,"bye"]\n',
            "e 19 1000 bye",
            b'event: ck-end\ndata: [1000,"bye"]\nid: 19\n\n',
        ),
        (Ack(16), b'["a",16]\n', "a 16", b""),
        (Ping(), b'["p"]\n', "p", b":\n\n"),
        (Hello(3), b'["h",{"recv":3}]\n', 'h {"recv":3}', b'retry: 500\nevent: ck-hello\ndata: {"recv":3}\nid: 9\n\n'),
    ]
    for frame, line, websocket, event in table:
        assert codec.encode_line(frame) == line
        assert codec.encode_websocket(frame) == websocket
        assert codec.encode_event(frame, presented=9) == event


def test_hello_on_the_wire() -> None:
    """A whole hello has all its members, a client's only those it gives, and unknown ones are ignored."""
    assert codec.hello_members(Hello(0, "S", 1, TERMS, secret="K")) == {
        "v": 1,
        "sid": "S",
        "secret": "K",
        "a": 1,
        "recv": 0,
        "window": [1024, 4 << 20],
        "max": MAX,
        "ping": 20,
        "grace": 30,
    }
    assert codec.decode_websocket('h {"v":1}', MAX, codec.read_client_hello) == ClientHello()
    full = ClientHello(3, 4, "S", "K")
    assert codec.decode_websocket(codec.encode_websocket(full), MAX, codec.read_client_hello) == full
    assert codec.decode_line('["h",{"recv":1,"later":[]},{}]', MAX) == Hello(1)
    assert "K" not in repr(full)
    assert "K'" not in repr(Hello(0, "S", 1, TERMS, secret="K"))


def test_what_is_unknown_is_ignored() -> None:
    """Frames of later versions give nothing, further members neither."""
    assert codec.decode_line('["z",1]', MAX) is None
    assert codec.decode_line('["m",1,"x",{"later":1}]', MAX) == Text(1, "x")
    assert codec.decode_websocket("zz 1", MAX) is None
    assert codec.decode_websocket(b"z 1 x", MAX) is None
    assert codec.EventFrames(MAX).feed(b"event: ck-later\ndata: 1\nid: 1\n\n") == []


WRONG_MESSAGES: tuple[str | bytes, ...] = (
    *("m 1", "m 0 x", "m 01 x", "m +1 x", "m 9007199254740992 x", "m x y", "m \u0661 x", "m 1 \ud800"),
    *("a", "a -1", "a 1 2", "e 1", "e 1 999 x", "e 1 1005 x", "e 1 1000 " + "x" * 124, b"m 1", b"m 0 x", b"m \xff x"),
    *(
        "h",
        "h []",
        'h {"recv":-1}',
        'h {"recv":true}',
        'h {"recv":1,"v":2}',
        'h {"recv":0,"a":0}',
        'h {"recv":0,"sid":""}',
    ),
    *('h {"recv":0,"window":1}', 'h {"recv":0,"window":[0,1],"max":1,"ping":1,"grace":1}'),
)


@pytest.mark.parametrize("message", WRONG_MESSAGES)
def test_malformed_websocket_messages(message: str | bytes) -> None:
    """A message that is wrong raises BadMessage with the close code the peer is told."""
    with pytest.raises(BadMessage) as caught:
        codec.decode_websocket(message, MAX)
    assert caught.value.close_code == (1007 if message == "m 1 \ud800" else 1008)


WRONG_LINES = (
    *("1", "{}", "[]", "[1]", "nope", "[" * 100_000, '["m"]', '["m",1]', '["m","1","x"]', '["m",1.0,"x"]'),
    *('["m",true,"x"]', '["m",1,2]', '["m",NaN,"x"]', '["m",1,"\\ud800"]', '["m",' + "9" * 10_000 + ',"x"]'),
    *('["b",1,"A"]', '["b",1,"AA==\\n"]', '["e",1,1000]', '["e",1,"1000",""]', '["a",-1]'),
)


@pytest.mark.parametrize("line", WRONG_LINES, ids=lambda line: line[:20])
def test_malformed_lines(line: str) -> None:
    """A line that is wrong raises BadMessage, behind what came before it, and then always."""
    reader = codec.LineFrames(MAX)
    assert reader.feed(b'["a",1]\n' + line.encode() + b'\n["a",2]\n') == [Ack(1)]
    for _ in range(2):
        with pytest.raises(BadMessage):
            reader.feed(b'["a",3]\n')


def test_malformed_batches() -> None:
    """A batch must be whole lines of consecutive numbers with nothing behind its end; the error says which rule."""
    for body, told in (
        (b'["m",1,"a"]\n["m",3,"b"]\n', "follow one another"),
        (b'["m",1,"a"]\n["m",1,"a"]\n', "follow one another"),
        (b'["e",1,1000,""]\n["m",2,"a"]\n', "nothing may follow"),
        (b'["m",1,"a"]', "does not end with LF"),
        (b'["m",1,"a"]\nnope\n', "not JSON"),
        (b"\xff\n", "UTF-8"),
    ):
        with pytest.raises(BadMessage, match=told):
            codec.decode_batch(body, MAX)
    assert codec.decode_batch(b"", MAX) == []
    assert codec.decode_batch(b'["p"]\n["z"]\n["m",4,"a"]\n\n', MAX) == [Text(4, "a")]


def test_limits() -> None:
    """A message of exactly the limit passes in every form and one byte more is refused, as are lines and bodies."""
    for text in ("x" * 90, "\u00e9" * 45):
        assert codec.decode_websocket(f"m 1 {text}", 90) == Text(1, text)
        assert codec.LineFrames(90).feed(codec.encode_line(Text(1, text))) == [Text(1, text)]
        assert codec.EventFrames(90).feed(codec.encode_event(Text(1, text))) == [Text(1, text)]
        assert codec.decode_body("text/plain", text.encode(), 1, 90) == Text(1, text)
    for frame in (Text(1, "x" * 91), Text(1, "\u00e9" * 46), Binary(1, bytes(91))):
        with pytest.raises(MessageTooBig):
            codec.decode_websocket(codec.encode_websocket(frame), 90)
        with pytest.raises(MessageTooBig):
            codec.LineFrames(90).feed(codec.encode_line(frame))
        with pytest.raises(MessageTooBig):
            codec.EventFrames(90).feed(codec.encode_event(frame))
    with pytest.raises(MessageTooBig):
        codec.decode_body("", bytes(91), 1, 90)
    with pytest.raises(MessageTooBig):
        codec.decode_batch(b" " * (codec.line_limit(90) + 1), 90)
    for reader in (codec.LineFrames(90), codec.EventFrames(90)):
        with pytest.raises(MessageTooBig):
            reader.feed(b"x" * (codec.line_limit(90) + 1))
    worst = Text(MAX_NUMBER, "\0" * 90)
    assert len(codec.encode_line(worst)) <= codec.line_limit(90)


def test_bodies_of_one_message() -> None:
    """octet-stream is binary, anything else text; the number is required and the error says how to give it."""
    assert codec.decode_body("application/octet-stream", b"\xff", 3, MAX) == Binary(3, b"\xff")
    assert codec.decode_body("Application/Octet-Stream; x=y", b"", 3, MAX) == Binary(3, b"")
    assert codec.decode_body("application/x-www-form-urlencoded", b"hi", 1, MAX) == Text(1, "hi")
    with pytest.raises(BadMessage, match=r"\?n=1"):
        codec.decode_body("", b"hi", None, MAX)
    with pytest.raises(BadMessage, match="UTF-8"):
        codec.decode_body("", b"\xff", 1, MAX)


def test_answers() -> None:
    """Answers are JSON, and a body that is none of ours says nothing."""
    assert codec.encode_answer(4) == b'{"ack":4}'
    assert codec.decode_answer(codec.encode_answer(4, "gap", "why")) == ("gap", 4)
    for foreign in (b"<html>", b"\xff", b"[]", b'{"ack":-1,"code":3}', b'{"ack":true}'):
        assert codec.decode_answer(foreign) == (None, None)


def test_an_error_never_shows_a_secret() -> None:
    """A hello that is not JSON, or malformed, is not quoted in the error."""
    for message in (
        'h {"v":1,"secret":"hunter2"',
        'h {"v":2,"secret":"hunter2"}',
        'h {"v":1,"a":0,"secret":"hunter2"}',
    ):
        with pytest.raises(BadMessage) as caught:
            codec.decode_websocket(message, MAX, codec.read_client_hello)
        assert "hunter2" not in str(caught.value)


def test_payloads_of_our_own_side() -> None:
    """What cannot be carried raises before it has a number."""
    assert (check_payload("\u00e9", 2), check_payload(b"ab", 2)) == (2, 2)
    with pytest.raises(TypeError):
        check_payload(bytearray(b"x"), 2)
    for wrong in ("\ud800", "abc", b"abc"):
        with pytest.raises(ValueError, match=r"."):
            check_payload(wrong, 2)
