"""Response heads, chunks and dates as bytes."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channelkit.wire.http1_responses import (
    LAST_CHUNK,
    bodiless,
    check_header,
    chunk,
    date_line,
    http_date,
    response_head,
)


def test_a_head_keeps_order_and_casing() -> None:
    """Lines stand in the caller's order and spelling, repeated ones too, values as latin-1."""
    headers = [("X-b", "1"), ("ETag", '"\xe9"'), ("x-B", "2"), ("Empty", ""), ("Long", "y" * 500)]
    expected = b'HTTP/1.1 200 OK\r\nX-b: 1\r\nETag: "\xe9"\r\nx-B: 2\r\nEmpty: \r\nLong: ' + b"y" * 500 + b"\r\n\r\n"
    assert response_head(200, headers) == expected
    assert response_head(200, iter(headers)) == expected


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (204, b"204 No Content"),
        (304, b"304 Not Modified"),
        (404, b"404 Not Found"),
        (413, b"413 Content Too Large"),
        (414, b"414 URI Too Long"),
        (416, b"416 Range Not Satisfiable"),
        (418, b"418 "),
        (422, b"422 Unprocessable Content"),
        (426, b"426 Upgrade Required"),
        (431, b"431 Request Header Fields Too Large"),
        (503, b"503 Service Unavailable"),
        (599, b"599 "),
        (999, b"999 "),
    ],
)
def test_reason_phrases(status: int, line: bytes) -> None:
    """Reasons are the names of RFC 9110, empty for a status that has none; the space before them stays."""
    assert response_head(status, []) == b"HTTP/1.1 " + line + b"\r\n\r\n"


def test_an_informational_head() -> None:
    """101 is written when the caller says that it means an interim response."""
    assert response_head(101, [("Upgrade", "websocket")], informational=True) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("status", "informational"),
    [(101, False), (100, False), (199, False), (0, False), (-200, False), (1000, False), (99, True), (200, True)],
)
def test_statuses_that_are_refused(status: int, informational: bool) -> None:
    """A status outside its range is a ValueError that names it."""
    with pytest.raises(ValueError, match=str(status)):
        response_head(status, [], informational=informational)


@pytest.mark.parametrize("status", ["200", 200.0, None, True])
def test_statuses_of_a_wrong_type(status: object) -> None:
    """A status is an int and nothing that looks like one, also behind one that is."""
    response_head(200, [])
    with pytest.raises(TypeError, match="status"):
        response_head(status, [])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "A b", "A:", "A\r\n", "A\n", "\xc4", "A\0", "(a)"])
def test_bad_names(name: str) -> None:
    """A name that is no token is a ValueError that shows it."""
    with pytest.raises(ValueError, match="is no header name") as caught:
        response_head(200, [(name, "x")])
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("long", ["", "y" * 100], ids=["short", "long"])
@pytest.mark.parametrize("value", ["a\r\nB: c", "a\n", "a\r", "\0", "\x1b", "\x7f", "\u20ac", "\ud800"])
def test_bad_values(value: str, long: str) -> None:
    """A value that would split the response or cannot be sent is a ValueError naming the header, each time."""
    for _ in range(2):
        with pytest.raises(ValueError, match="X-Bad"):
            response_head(200, [("X-Bad", long + value)])


@pytest.mark.parametrize(
    ("name", "value"), [(b"A", "b"), ("A", b"b"), ("A", 1), ("A", None), ("A", ["b"]), (["A"], "b")]
)
def test_headers_of_a_wrong_type(name: object, value: object) -> None:
    """Names and values are str; anything else is a TypeError."""
    with pytest.raises(TypeError, match="header"):
        response_head(200, [(name, value)])  # type: ignore[list-item]


def test_a_str_of_another_class() -> None:
    """A subclass of str is a str, whatever else it thinks it is."""

    class Text(str):
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]

    assert response_head(200, [("A", Text("b"))]) == b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"


def test_check_header() -> None:
    """A good header passes, with tabs, spaces and latin-1 in its value."""
    check_header("X-A!", "")
    check_header("x", "a\tb \xff")


def test_chunks() -> None:
    """A chunk has its size in hex; nothing makes no chunk, for an empty one would be the last."""
    assert chunk(b"a" * 26) == b"1a\r\n" + b"a" * 26 + b"\r\n"
    assert chunk(b"") == b""
    assert LAST_CHUNK == b"0\r\n\r\n"


def test_bodiless() -> None:
    """1xx, 204, 205 and 304 have no content."""
    assert [status for status in range(100, 600) if bodiless(status)] == [*range(100, 200), 204, 205, 304]


def test_http_date() -> None:
    """A date has the form of RFC 9110, whole seconds counted down, and changes with the second."""
    assert http_date(784111777) == http_date(784111777.999) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(784111778) == "Sun, 06 Nov 1994 08:49:38 GMT"
    assert http_date(0) == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert date_line(784111777) == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    assert date_line(784111778) == b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"


NAMES = st.text("aB1-_.!~", min_size=1, max_size=8).map(lambda name: f"X{name}")
VALUES = st.text(st.characters(max_codepoint=255).filter(lambda c: c in "\t " or c.isprintable()), max_size=20)


@given(st.integers(200, 599), st.lists(st.tuples(NAMES, VALUES.filter(lambda v: v == v.strip())), max_size=5))
@settings(deadline=None)
def test_h11_reads_what_we_write(status: int, headers: list[tuple[str, str]]) -> None:
    """h11 as a client finds the status and every header that was given."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response_head(status, headers))
    event = client.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == status
    assert list(event.headers) == [(n.lower().encode(), v.encode("latin-1")) for n, v in headers]


@given(st.lists(st.binary(max_size=20), max_size=5))
@settings(deadline=None)
def test_h11_joins_our_chunks(pieces: list[bytes]) -> None:
    """h11 as a client reads the same body and its end, empty pieces among the others or not."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response_head(200, [("Transfer-Encoding", "chunked")]))
    client.receive_data(b"".join(map(chunk, pieces)) + LAST_CHUNK)
    assert isinstance(client.next_event(), h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert body == b"".join(pieces)
