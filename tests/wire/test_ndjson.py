"""NDJSON: round trips of everything, and lines that are wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channelkit.wire import ndjson

Message = str | bytes

ALL_BYTES = bytes(range(256))
ODD_TEXTS = ["", "\n", "\r", "\r\n", "\0", "\x1e", "\x85", "\u2028", "\u2029", "\ufeff", " ", '"', "\\", "\U0001f600"]
TEXTS = st.text(st.sampled_from([*"".join(ODD_TEXTS), "a"]) | st.characters(exclude_categories=["Cs"]))
MESSAGES = st.lists(TEXTS | st.binary())


def encode(message: Message) -> bytes:
    return ndjson.encode_text(message) if isinstance(message, str) else ndjson.encode_binary(message)


def read(wire: bytes, size: int, max_line: int | None = None) -> list[Message]:
    """Read `wire` in pieces of `size` bytes."""
    reader = ndjson.LineReader(max_line)
    return [message for at in range(0, len(wire), size) for message in reader.feed(wire[at : at + size])]


@given(messages=MESSAGES, size=st.integers(1, 40))
def test_round_trip(messages: list[Message], size: int) -> None:
    """Any messages with pings between come back the same, in order, however the bytes are cut."""
    wire = b"".join(encode(message) + ndjson.PING for message in messages)
    assert read(wire, size) == messages


@pytest.mark.parametrize("message", [*ODD_TEXTS, "x" * 1_000_000, "\r\n" * 1000, b"", ALL_BYTES, ALL_BYTES * 4000])
def test_round_trip_of_odd_and_big_messages(message: Message) -> None:
    """Each message is exactly one ASCII line by anybody's idea of a line, and comes back the same."""
    wire = encode(message)
    assert wire.endswith(b"\n")
    assert len(wire.decode("ascii").splitlines()) == 1
    assert read(wire, 4096) == [message]


def test_the_form_on_the_wire() -> None:
    """Text is a JSON string, binary an object of one key, and a ping an empty line."""
    assert ndjson.encode_text('a"\n') == b'"a\\"\\n"\n'
    assert ndjson.encode_binary(b"\x00\xff") == b'{"base64": "AP8="}\n'
    assert ndjson.PING == b"\n"
    assert json.loads(ndjson.encode_binary(b"")) == {"base64": ""}


def test_lone_surrogates_are_refused() -> None:
    """A text that has no UTF-8 form raises ValueError instead of leaving as an escape nobody can read."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        ndjson.encode_text("a\ud800")


@pytest.mark.parametrize(
    "line",
    [
        b"1",
        b"null",
        b"[]",
        b"{}",
        b"nonsense",
        b'"open',
        b'"a" "b"',
        b'{"base64": 1}',
        b'{"base64": "A"}',
        b'{"base64": "AA==\\u00e9"}',
        b'{"base64": "A A="}',
        b'{"base64": "", "more": 1}',
        b'"\\ud800"',
        b'"\xff"',
        b"[" * 100_000,
        b"9" * 10_000,
    ],
    ids=lambda line: repr(line[:20]),
)
def test_a_wrong_line(line: bytes) -> None:
    """A line that is no message raises ValueError after what came before it was returned, and then always."""
    reader = ndjson.LineReader()
    assert reader.feed(b'"before"\n' + line + b'\n"after"\n') == ["before"]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"."):
            reader.feed(b'"after"\n')


def test_a_wrong_line_alone() -> None:
    """With nothing before it a wrong line raises at once."""
    with pytest.raises(ValueError, match="neither a JSON string"):
        ndjson.LineReader().feed(b"17\n")


def test_lines_of_other_writers() -> None:
    """CRLF, blanks around a value, plain UTF-8 and an unfinished last line are all taken as JSON takes them."""
    reader = ndjson.LineReader()
    assert reader.feed(' "é"\r\n\r\n   \n{ "base64":"AA==" }\n"rest'.encode()) == ["é", b"\0"]
    assert reader.feed(b'"\n') == ["rest"]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_max_line(size: int) -> None:
    """A line of exactly `max_line` bytes is read and one byte more raises, with its end in sight or not."""
    assert read(b'"12345678"\n' * 3, size, max_line=10) == ["12345678"] * 3
    for wire in (b'"123456789"\n', b'"1234567890', b" " * 11):
        with pytest.raises(ValueError, match="a line of more than 10 bytes"):
            read(wire, size, max_line=10)
