"""Requests out of bytes: the gate, the fast form, h11 behind both, and that cutting the bytes changes nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channelkit.config import Config
from channelkit.errors import BadRequest
from channelkit.wire.http1_heads import request_bytes
from channelkit.wire.http1_requests import END, RequestHead, RequestLimits, RequestReader

LIMITS = RequestLimits(max_line=200, max_head=600, max_headers=8, max_body=100)

#: What a reader made of some bytes: heads, whole bodies, ends, and the status of the refusal if there was one.
Trace = list[object]


class Recorder:
    """Pulls events as a host does, answering each request at once; joins what is left to the cut of the bytes."""

    def __init__(self, limits: RequestLimits, fast: bool) -> None:
        self.reader = RequestReader(limits, fast=fast)
        self.trace: Trace = []
        self.dead = False

    def feed(self, data: bytes) -> None:
        self.reader.feed(data)
        while not self.dead and self._pull():
            pass

    def _pull(self) -> bool:
        try:
            event = self.reader.next_event()
        except BadRequest as error:
            self.trace.append(error.status)
            self.dead = True
            return False
        if isinstance(event, bytes) and self.trace and isinstance(self.trace[-1], bytes):
            self.trace[-1] += event
        elif event is not None:
            self.trace.append(event)
        if event is END:
            self.reader.next_request()
        return event is not None


def read(*pieces: bytes, limits: RequestLimits = LIMITS, fast: bool = True) -> Trace:
    recorder = Recorder(limits, fast)
    for piece in pieces:
        recorder.feed(piece)
    return recorder.trace


def head(raw: bytes, limits: RequestLimits = LIMITS) -> RequestHead:
    event = read(raw, limits=limits)[0]
    assert isinstance(event, RequestHead)
    return event


def request(*lines: str, start: str = "GET / HTTP/1.1", host: str | None = "a", body: bytes = b"") -> bytes:
    fields = ([] if host is None else [f"Host: {host}"]) + list(lines)
    return "\r\n".join([start, *fields, "", ""]).encode("latin-1") + body


def post(*lines: str, body: bytes = b"") -> bytes:
    return request(*lines, start="POST /p HTTP/1.1", body=body)


def chunked(body: bytes) -> bytes:
    return post("Transfer-Encoding: chunked", body=body)


# -- what a good request becomes


def test_limits_are_those_of_the_config() -> None:
    """The defaults of RequestLimits are those of Config."""
    config = Config()
    for field in dataclasses.fields(RequestLimits):
        assert getattr(RequestLimits(), field.name) == getattr(config, field.name)


def test_a_simple_head_whole() -> None:
    """All attributes of a plain GET are as they were sent."""
    raw = b"GET /a?b=%20c HTTP/1.1\r\nHOST: x.y:80\r\nX-Two: \t a \xe9b \t\r\nEmpty:\r\nx-two:2\r\n\r\n"
    expected = RequestHead(
        method="GET",
        target="/a?b=%20c",
        http_version="1.1",
        headers=(("host", "x.y:80"), ("x-two", "a \xe9b"), ("empty", ""), ("x-two", "2")),
        keep_alive=True,
        expect_continue=False,
        upgrade=(),
        has_body=False,
        content_length=None,
        chunked=False,
    )
    assert read(raw) == read(raw, fast=False) == [expected, END]


@pytest.mark.parametrize(
    ("version", "lines", "keep"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: close"], False),
        ("1.1", ["Connection: foo , CLOSE"], False),
        ("1.1", ["Connection: foo", "Connection: x,close"], False),
        ("1.1", ["Connection: closed"], True),
        ("1.1", ["Connection: keep-alive, close"], False),
        ("1.0", [], False),
        ("1.0", ["Connection: Keep-Alive"], True),
        ("1.0", ["Connection: keep-alive, close"], False),
        ("1.0", ["Connection: ,"], False),
    ],
)
def test_keep_alive(version: str, lines: list[str], keep: bool) -> None:
    """The tokens of all Connection lines and the version decide whether the connection persists."""
    assert head(request(*lines, start=f"GET / HTTP/{version}")).keep_alive is keep


@pytest.mark.parametrize(
    ("version", "lines", "upgrade"),
    [
        ("1.1", ["Upgrade: WebSocket, h2c", "Connection: Keep-Alive, Upgrade"], ("websocket", "h2c")),
        ("1.1", ["Upgrade: a", "Upgrade: b", "Connection: upgrade"], ("a", "b")),
        ("1.1", ["Upgrade: websocket"], ()),
        ("1.1", ["Connection: upgrade"], ()),
        ("1.0", ["Upgrade: websocket", "Connection: upgrade"], ()),
    ],
)
def test_upgrade(version: str, lines: list[str], upgrade: tuple[str, ...]) -> None:
    """Upgrade counts only in HTTP/1.1 and only if Connection names it."""
    assert head(request(*lines, start=f"GET / HTTP/{version}")).upgrade == upgrade


@pytest.mark.parametrize(
    ("version", "value", "expected"),
    [
        ("1.1", "100-Continue", True),
        ("1.1", ", 100-continue ,", True),
        ("1.1", "", False),
        ("1.0", "100-continue", False),
        ("1.0", "x", False),
    ],
)
def test_expect(version: str, value: str, expected: bool) -> None:
    """100-continue counts only in HTTP/1.1, in any case."""
    raw = request(f"Expect: {value}", "Content-Length: 2", start=f"PUT / HTTP/{version}", body=b"ab")
    assert head(raw).expect_continue is expected
    assert read(raw)[1:] == [b"ab", END]


def test_the_authority_of_an_absolute_target_is_the_host() -> None:
    """A target in absolute-form gives its path and its authority, which stands for what Host says (RFC 9112 3.2.2)."""
    for version, host in (("1.1", "a"), ("1.0", "a"), ("1.0", None)):
        event = head(request("X: y", start=f"GET http://b:80/c?d HTTP/{version}", host=host))
        assert (event.target, event.headers) == ("/c?d", (("host", "b:80"), ("x", "y")))


@pytest.mark.parametrize("length", ["0", "00", "000000000000"])
def test_a_length_of_nothing_is_no_body(length: str) -> None:
    """Content-Length 0 in any spelling makes a request without a body."""
    event = head(post(f"Content-Length: {length}"))
    assert (event.has_body, event.content_length) == (False, 0)


def test_a_body_by_length_comes_as_it_arrives() -> None:
    """Each read's part of a body is one event, and what follows stays in the buffer."""
    reader = RequestReader(LIMITS)
    reader.feed(post("Content-Length: 6", body=b"ab"))
    event = reader.next_event()
    assert isinstance(event, RequestHead)
    assert (event.has_body, event.content_length, event.chunked) == (True, 6, False)
    assert reader.next_event() == b"ab"
    assert reader.next_event() is None
    reader.feed(b"cdefGET")
    assert reader.buffered == 7
    assert [reader.next_event(), reader.next_event(), reader.next_event()] == [b"cdef", END, None]
    assert reader.buffered == 3


def test_a_chunked_body_with_extensions_and_trailers() -> None:
    """Chunks are joined in order; extensions and trailers are dropped; the next request begins right behind."""
    trace = read(chunked(b"3;a=b\r\nabc\r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\nB:\r\n\r\n") + request())
    assert [type(one) for one in trace] == [RequestHead, bytes, type(END), RequestHead, type(END)]
    assert trace[1] == b"abc0123456789"
    first = trace[0]
    assert isinstance(first, RequestHead)
    assert (first.has_body, first.content_length, first.chunked) == (True, None, True)


def test_chunk_data_comes_as_it_arrives() -> None:
    """A part of a chunk is an event before the chunk is complete."""
    reader = RequestReader(LIMITS)
    reader.feed(chunked(b"5\r\nab"))
    reader.next_event()
    assert [reader.next_event(), reader.next_event(), reader.buffered] == [b"ab", None, 0]


def test_bytearray_and_memoryview_are_copied() -> None:
    """What was fed may be overwritten afterwards."""
    reader = RequestReader(LIMITS)
    shared = bytearray(request())
    reader.feed(memoryview(shared))
    shared[:] = b"x" * len(shared)
    assert isinstance(reader.next_event(), RequestHead)


# -- one request after another


def test_the_next_request_waits_for_the_response() -> None:
    """Behind END there is nothing until next_request, which may also stand for the END of a request without a body."""
    reader = RequestReader(LIMITS)
    reader.feed(request() * 3)
    for _ in range(2):
        assert isinstance(reader.next_event(), RequestHead)
        assert [reader.next_event(), reader.next_event()] == [END, None]
        reader.next_request()
    assert isinstance(reader.next_event(), RequestHead)
    reader.next_request()
    assert [reader.next_event(), reader.buffered] == [None, 0]


def test_next_request_needs_a_request_that_is_read() -> None:
    """next_request and take_rest before a request's end are mistakes of the caller."""
    reader = RequestReader(LIMITS)
    for data in (b"", post("Content-Length: 1")):
        reader.feed(data)
        reader.next_event()
        with pytest.raises(RuntimeError):
            reader.next_request()
        with pytest.raises(RuntimeError):
            reader.take_rest()


@pytest.mark.parametrize("take_end", [True, False])
def test_take_rest_is_what_follows_the_request(take_end: bool) -> None:
    """The bytes behind an upgrade request are handed over whole, and the reader is done."""
    reader = RequestReader(LIMITS)
    reader.feed(request("Upgrade: websocket", "Connection: upgrade") + b"\x81\x00")
    reader.next_event()
    if take_end:
        reader.next_event()
    assert reader.take_rest() == b"\x81\x00"
    reader.feed(request())
    assert [reader.next_event(), reader.buffered, reader.in_head] == [None, 0, False]


def test_in_head() -> None:
    """A head has begun with its first byte, not with an empty line, and is over when it is complete."""
    reader = RequestReader(LIMITS)
    seen = []
    for data in (b"", b"\r", b"\n", b"G", b"ET / HTTP/1.1\r\nHost: a\r\n\r", b"\n"):
        reader.feed(data)
        reader.next_event()
        seen.append(reader.in_head)
    assert seen == [False, False, False, True, True, False]


def test_empty_lines_before_a_request_are_ignored() -> None:
    """One or two empty lines before each request do no harm."""
    simple = read(request())
    assert read(b"\r\n" + request() + b"\r\n\r\n" + request()) == simple + simple


def test_dead_after_an_error() -> None:
    """A bad request raises the same again for ever, and what is fed afterwards is dropped."""
    reader = RequestReader(LIMITS)
    reader.feed(b"bad\r\n")
    with pytest.raises(BadRequest) as first:
        reader.next_event()
    for _ in range(3):
        reader.feed(request())
        with pytest.raises(BadRequest) as again:
            reader.next_event()
        assert again.value is first.value
    assert len(again.traceback) <= len(first.traceback)
    assert (reader.buffered, reader.in_head) == (0, False)


# -- what is refused

LONG = "x" * 201


def sized_head(size: int) -> bytes:
    """A good request whose head has `size` bytes, no line of it too long."""
    lines = ["A: " + "x" * 190, "B: " + "x" * 190, "C: "]
    return request(*lines[:2], lines[2] + "x" * (size - len(request(*lines))))


MALFORMED = {
    # the request line (RFC 9112 3)
    "no version": (b"GET /\r\nHost: a\r\n\r\n", 400),
    "two spaces": (request(start="GET  / HTTP/1.1"), 400),
    "space behind": (request(start="GET / HTTP/1.1 "), 400),
    "space before": (request(start=" GET / HTTP/1.1"), 400),
    "space in target": (request(start="GET /a b HTTP/1.1"), 400),
    "tab": (request(start="GET\t/ HTTP/1.1"), 400),
    "no target": (request(start="GET  HTTP/1.1"), 400),
    "method no token": (request(start="G@T / HTTP/1.1"), 400),
    "control in target": (request(start="GET /\x01 HTTP/1.1"), 400),
    "NUL in target": (request(start="GET /\0 HTTP/1.1"), 400),
    "DEL in target": (request(start="GET /\x7f HTTP/1.1"), 400),
    "non-ASCII target": (request(start="GET /\xe9 HTTP/1.1"), 400),
    "HTTP/2.0": (request(start="GET / HTTP/2.0"), 505),
    "HTTP/1.2": (request(start="GET / HTTP/1.2"), 505),
    "HTTP/0.9": (request(start="GET / HTTP/0.9"), 505),
    "HTTP/1.10": (request(start="GET / HTTP/1.10"), 400),
    "HTTP/1": (request(start="GET / HTTP/1"), 400),
    "http/1.1": (request(start="GET / http/1.1"), 400),
    "PRI": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "PROXY": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + request(), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),
    "three empty lines": (b"\r\n\r\n\r\n" + request(), 400),
    "empty line of LF": (b"\n" + request(), 400),
    "CR before": (b"\r" + request(), 400),
    # line ends (RFC 9112 2.2)
    "LF behind the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "LF only": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "LF behind a header": (b"GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n", 400),
    "LF as empty line": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "CR in the request line": (b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CR in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nB: c\rd\r\n\r\n", 400),
    "CR CR LF": (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
    # header lines (RFC 9112 5)
    "folded": (request("A: b", " c"), 400),
    "folded by tab": (request("A: b", "\tc"), 400),
    "folded at once": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "no colon": (request("Abc"), 400),
    "no name": (request(": b"), 400),
    "space before the colon": (request("A : b"), 400),
    "name no token": (request("A(b): c"), 400),
    "name not ASCII": (request("\xc4: c"), 400),
    "NUL in a value": (request("A: b\0c"), 400),
    "control in a value": (request("A: b\x1fc"), 400),
    "DEL in a value": (request("A: b\x7fc"), 400),
    "vertical tab around a value": (request("A: \x0bb"), 400),
    # Host (RFC 9112 3.2)
    "no Host": (request(host=None), 400),
    "empty Host": (request(host=""), 400),
    "two Hosts": (request("Host: a"), 400),
    "two Hosts in 1.0": (request("Host: a", start="GET / HTTP/1.0"), 400),
    "bad Host in 1.0": (request(host="a@b", start="GET / HTTP/1.0"), 400),
    "user in Host": (request(host="u@a"), 400),
    "slash in Host": (request(host="a/b"), 400),
    "backslash in Host": (request(host="a\\b"), 400),
    "space in Host": (request(host="a b"), 400),
    "tab in Host": (request(host="a\tb"), 400),
    "query in Host": (request(host="a?b"), 400),
    "port without host": (request(host=":80"), 400),
    "port too large": (request(host="a:65536"), 400),
    "port much too large": (request(host="a:" + "9" * 100), 400),
    "port no number": (request(host="a:8x"), 400),
    "port signed": (request(host="a:+80"), 400),
    "open bracket": (request(host="[::1"), 400),
    "empty brackets": (request(host="[]"), 400),
    "bare IPv6": (request(host="::1"), 400),
    "IPv6 with a zone": (request(host="[fe80::1%25eth0]"), 400),
    "IPv6 that is none": (request(host="[1::2::3]"), 400),
    "broken escape in Host": (request(host="a%4"), 400),
    # the length (RFC 9112 6)
    "length signed": (post("Content-Length: +1"), 400),
    "length negative": (post("Content-Length: -1"), 400),
    "length empty": (post("Content-Length:"), 400),
    "length hex": (post("Content-Length: 0x1"), 400),
    "length superscript": (post("Content-Length: \xb2"), 400),
    "length with a space": (post("Content-Length: 1 1"), 400),
    "length a list": (post("Content-Length: 3, 3"), 400),
    "length twice": (post("Content-Length: 3", "Content-Length: 3"), 400),
    "lengths that differ": (post("Content-Length: 3", "Content-Length: 4"), 400),
    "length zero twice": (post("Content-Length: 0", "content-length: 0"), 400),
    "length too large": (post("Content-Length: 101"), 413),
    "length huge": (post("Content-Length: " + "9" * 150), 413),
    "length of many zeros": (post("Content-Length: " + "0" * 150), 400),
    "length and coding": (post("Content-Length: 3", "Transfer-Encoding: chunked"), 400),
    "coding and length": (post("Transfer-Encoding: chunked", "Content-Length: 0"), 400),
    "coding unknown and length": (post("Transfer-Encoding: gzip", "Content-Length: 0"), 400),
    "coding unknown": (post("Transfer-Encoding: gzip"), 400),
    "codings": (post("Transfer-Encoding: gzip, chunked"), 501),
    "coding twice": (post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
    "coding identity": (post("Transfer-Encoding: identity"), 400),
    "coding empty": (post("Transfer-Encoding:"), 400),
    "coding with a parameter": (post("Transfer-Encoding: chunked;a=b"), 400),
    "coding with a vertical tab": (post("Transfer-Encoding: \x0bchunked"), 400),
    "coding with a no-break space": (post("Transfer-Encoding: \xa0chunked"), 400),
    "coding in 1.0": (request("Transfer-Encoding: chunked", start="POST / HTTP/1.0"), 400),
    # targets (RFC 9112 3.2)
    "target without a slash": (request(start="GET a HTTP/1.1"), 400),
    "target with a fragment": (request(start="GET /a#b HTTP/1.1"), 400),
    "star for GET": (request(start="GET * HTTP/1.1"), 400),
    "CONNECT": (request(start="CONNECT a:443 HTTP/1.1"), 501),
    "CONNECT to a path": (request(start="CONNECT /a HTTP/1.1"), 400),
    "CONNECT without a port": (request(start="CONNECT a: HTTP/1.1"), 400),
    "CONNECT to port 0": (request(start="CONNECT a:0 HTTP/1.1"), 400),
    "CONNECT to too high a port": (request(start="CONNECT a:65536 HTTP/1.1"), 400),
    "absolute target of another scheme": (request(start="GET https://a/ HTTP/1.1"), 421),
    "absolute target without a host": (request(start="GET http:///a HTTP/1.1"), 400),
    "expectation unknown": (post("Expect: x"), 417),
    # sizes (RFC 9112 3, RFC 6585 5), complete
    "request line too long": (request(start="GET /" + LONG + " HTTP/1.1"), 414),
    "header line too long": (request("A: " + LONG), 431),
    "too many headers": (request(*["A: b"] * 8), 431),
    "head too large": (request(*["A: " + "x" * 190] * 4), 431),
    "head too large by one byte": (sized_head(601), 431),
    # the same, before the end is there
    "request line too long so far": (b"GET /" + LONG.encode(), 414),
    "request line of zeros": (b"\0" * 202, 414),
    "header line too long so far": (b"GET / HTTP/1.1\r\nA:" + LONG.encode(), 431),
    "too many headers so far": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 9, 431),
    "head too large so far": (b"GET / HTTP/1.1\r\n" + (b"A: " + b"x" * 190 + b"\r\n") * 3, 431),
    # before the end, what can be known
    "request line malformed so far": (b"GET /\r\n", 400),
    "header line malformed so far": (b"GET / HTTP/1.1\r\nAbc\r\n", 400),
}

BAD_BODIES = {
    # chunks (RFC 9112 7.1)
    "size empty": (b"\r\n", 400),
    "size signed": (b"+3\r\nabc\r\n0\r\n\r\n", 400),
    "size negative": (b"-3\r\n", 400),
    "size of 0x": (b"0x3\r\nabc\r\n", 400),
    "size with an underscore": (b"1_0\r\n", 400),
    "space before the size": (b" 3\r\nabc\r\n", 400),
    "space behind the size": (b"3 \r\nabc\r\n", 400),
    "size line ends with LF": (b"3\nabc\r\n", 400),
    "CR in an extension": (b"3;a\rb\r\nabc\r\n", 400),
    "LF in an extension": (b"3;a\nb\r\nabc\r\n", 400),
    "NUL in an extension": (b"3;a\0\r\nabc\r\n", 400),
    "seventeen digits": (b"00000000000000003\r\nabc\r\n", 400),
    "sixteen digits": (b"ffffffffffffffff\r\n", 413),
    "extension without a name": (b"3;\r\nabc\r\n", 400),
    "extension with an open quote": (b'3;a="b\r\nabc\r\n', 400),
    "extensions too long together": ((b"1;" + b"a" * 190 + b"\r\nx\r\n") * 4, 413),
    "endless size line": (b"3;" + b"a" * 200, 400),
    "long size line": (b"3;" + b"a" * 199 + b"\r\nabc\r\n", 400),
    "chunk too large": (b"65\r\n", 413),
    "chunks too large": (b"32\r\n" + b"a" * 50 + b"\r\n33\r\n", 413),
    "no CRLF behind a chunk": (b"3\r\nabcd\r\n0\r\n\r\n", 400),
    "LF behind a chunk": (b"3\r\nabc\n0\r\n\r\n", 400),
    # trailers
    "trailer without colon": (b"0\r\nabc\r\n\r\n", 400),
    "trailer folded": (b"0\r\nA: b\r\n c\r\n\r\n", 400),
    "trailer with LF": (b"0\r\nA: b\n\r\n", 400),
    "trailer end of LF": (b"0\r\n\n", 400),
    "space before the colon of a trailer": (b"0\r\nA : b\r\n\r\n", 400),
    "trailer too long": (b"0\r\nA: " + LONG.encode(), 431),
    "trailers too many": (b"0\r\n" + b"A: b\r\n" * 9, 431),
    "trailers too large": (b"0\r\n" + (b"A: " + b"x" * 190 + b"\r\n") * 4, 431),
}


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
@pytest.mark.parametrize(("raw", "status"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_heads(raw: bytes, status: int, fast: bool) -> None:
    """Each rule for heads has its status, whole or byte by byte, by both ways, and also behind a good request."""
    assert read(raw, fast=fast) == [status]
    assert read(*[raw[i : i + 1] for i in range(len(raw))], fast=fast) == [status]
    good = read(request())
    assert read(request() + raw, fast=fast) == [*good, status]


@pytest.mark.parametrize(("body", "status"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_malformed_chunked_bodies(body: bytes, status: int) -> None:
    """Each rule for chunked bodies has its status, whole or byte by byte."""
    raw = chunked(body)
    trace = read(raw)
    assert isinstance(trace[0], RequestHead)
    assert trace[-1] == status
    assert read(*[raw[i : i + 1] for i in range(len(raw))]) == trace


def test_a_length_of_thousands_of_digits() -> None:
    """A Content-Length longer than Python makes an int of is too large like any other."""
    assert read(post("Content-Length: " + "9" * 5000), limits=RequestLimits(max_line=10000)) == [413]


GOOD = {
    "method any token": request(start="x!y / HTTP/1.1"),
    "target star": request(start="OPTIONS * HTTP/1.1"),
    "target absolute": request(start="GET http://a/b HTTP/1.1"),
    "target absolute of a server": request(start="OPTIONS http://a HTTP/1.1"),
    "target absolute in 1.0": request(start="GET HTTP://a?b HTTP/1.0", host=None),
    "1.0 without Host": request(host=None, start="GET / HTTP/1.0"),
    "1.0 with Host": request(start="GET / HTTP/1.0"),
    "Host with port": request(host="a.b-c_d:65535"),
    "Host with zeros before the port": request(host="a:0000000080"),
    "Host with empty port": request(host="a:"),
    "Host IPv6": request(host="[::1]"),
    "Host IPv6 with port": request(host="[fe80::1.2.3.4]:8080"),
    "Host of the future": request(host="[v1f.a:b]"),
    "Host with an escape": request(host="%c3%a4"),
    "longest request line": request(start="GET /" + "x" * 186 + " HTTP/1.1"),
    "longest header line": request("A: " + "x" * 197),
    "as many headers as may be": request(*["A: b"] * 7),
    "as large a head as may be": sized_head(600),
    "coding in capitals": post("Transfer-Encoding: Chunked", body=b"1\r\na\r\n0\r\n\r\n"),
    "as long a body as may be": post("Content-Length: 100", body=b"a" * 100),
    "as many chunks as may be": chunked(b"32\r\n" + b"a" * 50 + b"\r\n32\r\n" + b"b" * 50 + b"\r\n0\r\n\r\n"),
    "no chunk at all": chunked(b"0\r\n\r\n"),
    "sixteen digits of size": chunked(b"0000000000000003\r\nabc\r\n0000\r\n\r\n"),
    "longest size line": chunked(b"3;" + b"a" * 198 + b"\r\nabc\r\n0\r\n\r\n"),
    "extensions": chunked(b'1 ; a\t=\tb;c="\\";" ;d\r\nx\r\n0;e\r\n\r\n'),
    "length in a trailer": chunked(b"0\r\nContent-Length: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
    "as many trailers as may be": chunked(b"0\r\n" + b"A: b\r\n" * 8 + b"\r\n"),
    "length with zeros": post("Content-Length: 0003", body=b"abc"),
    "upgrade": request("Upgrade: websocket", "Connection: Upgrade"),
    "1.0 with a body": request("Content-Length: 3", start="POST / HTTP/1.0", body=b"abc"),
}


@pytest.mark.parametrize("raw", GOOD.values(), ids=GOOD.keys())
def test_good_requests_at_every_split(raw: bytes) -> None:
    """Requests at the edge of every rule are read alike by both ways, cut in two anywhere or into single bytes."""
    whole = read(raw)
    assert whole[-1] is END
    assert read(raw, fast=False) == whole
    for fast in (True, False):
        assert read(*[raw[i : i + 1] for i in range(len(raw))], fast=fast) == whole
    for i in range(len(raw)):
        assert read(raw[:i], raw[i:]) == whole


def test_a_pipelined_stream_at_every_split() -> None:
    """A connection with every kind of request, and a bad one last, reads alike wherever it is cut."""
    stream = b"".join(
        [
            request("Accept: */*"),
            post("Content-Length: 5", body=b"hello"),
            b"\r\n",
            chunked(b"3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: u\r\n\r\n"),
            request("Expect: 100-continue", "Content-Length: 1", start="PUT / HTTP/1.1", body=b"x"),
            request(start="GET /last HTTP/1.0"),
            b"GET / HTTP/1.1\r\nHost: a\r\nBad header\r\n\r\n",
        ]
    )
    whole = read(stream)
    assert [one for one in whole if isinstance(one, bytes | int)] == [b"hello", b"abcde", b"x", 400]
    for i in range(len(stream)):
        assert read(stream[:i], stream[i:]) == whole


# -- properties

TOKEN = st.text("ABcd-_!7", min_size=1, max_size=6)
VALUE = st.text("ab ,\t\xe9;:=", max_size=12)
SPACE = st.sampled_from(["", " ", "\t", "  "])
PLAIN_FIELD = st.builds(lambda name, left, value, right: f"X{name}:{left}{value}{right}", TOKEN, SPACE, VALUE, SPACE)
KNOWN_FIELD = st.sampled_from(
    [
        "Connection: close",
        "connection: Keep-Alive, upgrade",
        "Upgrade: WebSocket",
        "Expect: 100-continue",
        "CONTENT-LENGTH: 0",
        "Cookie: a=b; c=d",
    ]
)
CHUNKS = st.lists(st.binary(min_size=1, max_size=9), max_size=4)


def in_chunks(chunks: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in chunks) + b"0\r\n\r\n"


@st.composite
def valid_requests(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(PLAIN_FIELD | KNOWN_FIELD, max_size=5, unique_by=lambda line: line.partition(":")[0].lower()))
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "x-y", "OPTIONS"]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.0"]))
    body = b""
    if not any(line.lower().startswith("content-length") for line in lines):
        kind = draw(st.sampled_from(["none", "length", "chunked"]))
        if kind == "length":
            body = draw(st.binary(max_size=30))
            lines.append(f"Content-Length: {len(body)}")
        elif kind == "chunked" and version == "1.1":
            body = in_chunks(draw(CHUNKS))
            lines.append("transfer-encoding: chunked")
    targets = ["/", "/a?b", "http://c/d?e", "/%20~!", *(["*"] if method == "OPTIONS" else [])]
    target = draw(st.sampled_from(targets))
    return request(*lines, start=f"{method} {target} HTTP/{version}", body=body)


@st.composite
def cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


@st.composite
def mutated(draw: st.DrawFn, stream: bytes) -> bytes:
    data = bytearray(stream)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        new = draw(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b":", b"\0", b"\x80", b"0"]))
        data[place : place + draw(st.integers(0, 2))] = new
    return bytes(data)


@given(st.data(), st.lists(valid_requests(), min_size=1, max_size=4))
@settings(deadline=None)
def test_fast_and_slow_are_equal_at_any_chunking(data: st.DataObject, requests: list[bytes]) -> None:
    """For valid streams of requests the fast form, h11 alone, and any cut of the bytes give the same events."""
    stream = b"".join(requests)
    whole = read(stream, limits=RequestLimits())
    assert whole.count(END) == len(requests)
    for fast in (True, False):
        assert read(*data.draw(cut(stream)), limits=RequestLimits(), fast=fast) == whole


@given(st.data(), st.lists(valid_requests(), min_size=1, max_size=3))
@settings(deadline=None)
def test_mutated_streams_only_ever_raise_bad_request(data: st.DataObject, requests: list[bytes]) -> None:
    """Damaged streams end in BadRequest or wait, and both ways and every cut agree on all that came before."""
    stream = data.draw(mutated(b"".join(requests)))
    limits = data.draw(st.sampled_from([LIMITS, RequestLimits(), RequestLimits(max_line=40, max_head=30)]))
    whole = read(stream, limits=limits)
    for fast in (True, False):
        assert read(*data.draw(cut(stream)), limits=limits, fast=fast) == whole


@given(valid_requests(), valid_requests())
@settings(deadline=None)
def test_a_request_that_is_written_again_is_the_same(raw: bytes, following: bytes) -> None:
    """Whatever framed its body and however its fields were spelled; and what follows begins where it began."""
    first, *_ = trace = read(raw)
    assert isinstance(first, RequestHead)
    body = b"".join(event for event in trace if isinstance(event, bytes))
    again, *rest = read(request_bytes(first, body) + following)
    assert isinstance(again, RequestHead)
    assert plain(again) == plain(first)
    assert again.has_body == bool(body)
    assert rest == [*([body] if body else []), END, *read(following)]


def plain(head: RequestHead) -> Any:
    """All of a head but what frames its body."""
    framing = ("content-length", "transfer-encoding", "expect")
    fields = [field for field in head.headers if field[0] not in framing]
    return head.method, head.target, head.http_version, fields, head.keep_alive, head.upgrade


@given(st.data(), st.binary(max_size=60), st.sampled_from([b"", b"GET / HTTP/1.1\r\n", chunked(b"")]))
@settings(deadline=None)
def test_random_bytes_only_ever_raise_bad_request(data: st.DataObject, noise: bytes, before: bytes) -> None:
    """Arbitrary bytes, from the start, inside a head or inside a body, end in BadRequest or wait, however cut."""
    stream = before + noise
    assert read(*data.draw(cut(stream)), fast=False) == read(stream)


def by_h11_alone(raw: bytes) -> list[Any]:
    """What a plain h11 connection makes of one request."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    start = connection.next_event()
    assert isinstance(start, h11.Request)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return [start.method, start.target, start.http_version, list(start.headers), body, connection.trailing_data[0]]


@given(valid_requests(), st.binary(max_size=5))
@settings(deadline=None)
def test_valid_requests_are_read_as_plain_h11_reads_them(raw: bytes, rest: bytes) -> None:
    """A valid request has the parts that h11 alone finds, up to the same last byte."""
    reader = RequestReader(RequestLimits())
    reader.feed(raw + rest)
    event = reader.next_event()
    assert isinstance(event, RequestHead)
    body = b""
    while isinstance(piece := reader.next_event(), bytes):
        body += piece
    assert piece is END
    fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in event.headers]
    line = [event.method.encode(), event.target.encode(), event.http_version.encode()]
    method, target, version, seen, *others = by_h11_alone(raw + rest)
    if target == b"http://c/d?e":  # RFC 9112 3.2.2
        target = b"/d?e"
        seen = [(name, b"c" if name == b"host" else value) for name, value in seen]
    assert [*line, fields, body, reader.take_rest()] == [method, target, version, seen, *others]


# -- which way a request takes


@pytest.mark.parametrize(
    ("raw", "fast", "connections"),
    [
        (request("Accept: a", "Connection: close"), True, 0),
        (post("Content-Length: 0"), True, 0),
        (request("A: " + "x" * 190, "B: " + "x" * 190), True, 0),
        (request() * 3, False, 3),
        (request("Upgrade: h2c") * 2, True, 2),
        (request("Expect: 100-continue"), True, 1),
        (request(start="GET http://b/ HTTP/1.1"), True, 0),
        (post("Content-Length: 1", body=b"a"), True, 1),
        (chunked(b"0\r\n\r\n") + request(), True, 1),
    ],
)
def test_only_simple_requests_pass_by_h11(
    monkeypatch: pytest.MonkeyPatch, raw: bytes, fast: bool, connections: int
) -> None:
    """A request that announces nothing but itself needs no h11 connection, every other one gets its own."""
    made = []

    class Connection(h11.Connection):
        def __init__(self, our_role: type[h11.SERVER], max_incomplete_event_size: int) -> None:
            made.append(self)
            super().__init__(our_role, max_incomplete_event_size)

    monkeypatch.setattr(h11, "Connection", Connection)
    read(raw, fast=fast)
    assert len(made) == connections


# -- cost


class CountingBuffer(bytearray):
    """Counts the bytes that `find` is asked to look at."""

    looked_at = 0

    def find(self, sub: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        last = len(self) if end is None else min(end, len(self))
        self.looked_at += max(0, last - start)
        return super().find(sub, start, last)


@pytest.mark.parametrize(
    "raw",
    [request(*[f"Header-{i}: " + "x" * 400 for i in range(90)]), chunked(b"1;" + b"x" * 4000)],
    ids=["head", "chunk-size line"],
)
def test_byte_by_byte_is_linear(raw: bytes) -> None:
    """However slowly a big head or a long chunk-size line arrives, its bytes are searched once, not again with each."""
    reader = RequestReader(RequestLimits())
    buffer = reader._buffer = CountingBuffer()
    for i in range(len(raw)):
        reader.feed(raw[i : i + 1])
        reader.next_event()
    assert buffer.looked_at <= 3 * len(raw)
