"""Server-sent events: round trips of everything, and the standard's own examples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channelkit.wire import sse
from channelkit.wire.sse import EventStreamReader, ServerEvent

Message = str | bytes

ALL_BYTES = bytes(range(256))
ODD_TEXTS = [
    *("", "\n", "\n\n", "\r", "\r\n", "\0", "\x1e", "\x85", "\u2028", "\ufeff", " ", "  a", ":", "data: x", "a\n"),
    *("\na", "event: ck-b", "id: 1\n\nretry: 5", "\U0001f600", '"\\u0000"\0'),
]
TEXTS = st.text(st.sampled_from([*"\n\r\0\x1e\x85\u2028\ufeff :a"]) | st.characters(exclude_categories=["Cs"]))
MESSAGES = st.lists(TEXTS | st.binary())


def encode(message: Message) -> bytes:
    return sse.encode_text(message) if isinstance(message, str) else sse.encode_binary(message)


def read(wire: bytes, size: int = 1) -> list[ServerEvent]:
    """Read `wire` in pieces of `size` bytes."""
    reader = EventStreamReader()
    return [event for at in range(0, len(wire), size) for event in reader.feed(wire[at : at + size])]


def messages_of(wire: bytes, size: int) -> list[Message]:
    return [sse.message(event) for event in read(wire, size)]


@given(messages=MESSAGES, size=st.integers(1, 40))
def test_round_trip(messages: list[Message], size: int) -> None:
    """Any messages with pings between come back the same, in order, however the bytes are cut."""
    wire = b"".join(encode(message) + sse.COMMENT_PING for message in messages)
    assert messages_of(wire, size) == messages


@pytest.mark.parametrize("message", [*ODD_TEXTS, "x" * 1_000_000, "\r\n" * 1000, b"", ALL_BYTES, ALL_BYTES * 4000])
def test_round_trip_of_odd_and_big_messages(message: Message) -> None:
    """Each message is one event and comes back the same, also as the first of a stream."""
    assert messages_of(encode(message), 4096) == [message]


def test_the_form_on_the_wire() -> None:
    """Plain text is plain data, and only what data lines cannot hold has an event name."""
    assert sse.encode_text("") == b"data: \n\n"
    assert sse.encode_text(" a\nb\n") == b"data:  a\ndata: b\ndata: \n\n"
    assert sse.encode_text("a\r\u20ac") == b'event: ck-j\ndata: "a\\r\\u20ac"\n\n'
    assert sse.encode_text("\0") == b'event: ck-j\ndata: "\\u0000"\n\n'
    assert sse.encode_binary(b"\x00\xff") == b"event: ck-b\ndata: AP8=\n\n"
    assert read(sse.COMMENT_PING) == []


@pytest.mark.parametrize("text", ["a\ud800", "\r\udfff"])
def test_lone_surrogates_are_refused(text: str) -> None:
    """A text that has no UTF-8 form raises ValueError in both forms of text."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        sse.encode_text(text)


@pytest.mark.parametrize(
    "event",
    [
        ServerEvent("ck-j", "1", ""),
        ServerEvent("ck-j", "nonsense", ""),
        ServerEvent("ck-j", '"\\ud800"', ""),
        ServerEvent("ck-j", "[" * 100_000, ""),
        ServerEvent("ck-b", "A", ""),
        ServerEvent("ck-b", "AAA\n=", ""),
        ServerEvent("ck-b", "é", ""),
    ],
    ids=lambda event: f"{event.event} {event.data[:10]!r}",
)
def test_a_wrong_event(event: ServerEvent) -> None:
    """An event of our names that we would never write raises ValueError."""
    with pytest.raises(ValueError, match=r"."):
        sse.message(event)


CASES: list[tuple[str, list[tuple[str, str, str]]]] = [
    # WHATWG HTML 9.2.6, its own examples
    ("data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
    (
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [("message", "first event", "1"), ("message", "second event", ""), ("message", " third event", "")],
    ),
    ("data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
    ("data:test\n\ndata: test\n\n", [("message", "test", ""), ("message", "test", "")]),
    # names, ids, and what is ignored
    ("event: add\ndata: 1\n\ndata: 2\n\n", [("add", "1", ""), ("message", "2", "")]),
    ("event: lost\n\ndata: 1\n\n", [("message", "1", "")]),
    ("id: 7\n\ndata: 1\n\n", [("message", "1", "7")]),
    ("id: 7\ndata: 1\n\nid: \0\ndata: 2\n\n", [("message", "1", "7"), ("message", "2", "7")]),
    ("DATA: 1\nfoo: 2\nda ta: 3\n data: 4\n\n", []),
    ("data: a:b: c\n\n", [("message", "a:b: c", "")]),
    ("\ufeffdata: 1\n\n", [("message", "1", "")]),
    ("\ufeff\ufeffdata: 1\n\n", []),
    ("data: \u2028\x85\x0b\x1c\n\n", [("message", "\u2028\x85\x0b\x1c", "")]),
    ("data: unfinished\n", []),
]


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
@pytest.mark.parametrize(("stream", "expected"), CASES)
def test_the_standard(stream: str, expected: list[tuple[str, str, str]], line_end: str) -> None:
    """Streams mean what the standard says, with each line end and at every cut."""
    wire = stream.replace("\n", line_end).encode()
    wanted = [ServerEvent(*fields) for fields in expected]
    for size in range(1, len(wire) + 1):
        assert read(wire, size) == wanted


def test_mixed_line_ends() -> None:
    """CR, LF and CRLF may be mixed, and a CRLF cut in two is still one line end."""
    wire = b"data: 1\r\ndata: 2\rdata: 3\n\r\ndata: 4\r\r\n"
    for size in range(1, len(wire) + 1):
        assert [event.data for event in read(wire, size)] == ["1\n2\n3", "4"]


def test_bytes_that_are_not_utf8() -> None:
    """What is not UTF-8 becomes U+FFFD, as in a browser, and a character cut in two does not."""
    wire = b"data: \xff\xe2\x82\n\ndata: \xe2\x82\xac\n\n"
    for size in range(1, len(wire) + 1):
        assert [event.data for event in read(wire, size)] == ["\ufffd\ufffd", "\u20ac"]


def test_retry_and_last_event_id() -> None:
    """A reconnection time of digits is kept, any other ignored; an id counts once its event is over."""
    reader = EventStreamReader()
    reader.feed(b"retry: 1500\nretry: 1s\nretry: \nid: 9\n")
    assert (reader.retry, reader.last_event_id) == (1500, "")
    reader.feed(b"retry: " + b"9" * 10_000 + b"\n\n")
    assert (reader.retry, reader.last_event_id) == (10**18 - 1, "9")
