"""Our HTTP framing beside h11 and httptools: the same requests out of the same bytes, or a reason with a clause.

Streams of requests, well-formed and spiced with what attackers send, are cut anywhere and given to three parsers.
Where a parser finds another request than ours does, or refuses what ours takes, a row of PERMITTED must explain it:
it names the clause and recognises the bytes.  A disagreement no row explains is a failure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channelkit.errors import BadRequest
from channelkit.wire.http1_heads import RequestHead, RequestLimits
from channelkit.wire.http1_requests import END, RequestReader
from tests.conformance.http.streams import chunked, cut, post, request, streams

Fields = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Message:
    """One request as a parser understood it."""

    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    body: bytes


@dataclass
class Reading:
    """What a parser made of a stream."""

    messages: list[Message]
    refused: bool = False
    starts: tuple[int, ...] = ()  # where in the stream each message began, and where the next would; ours only


# -- the three parsers


def ours(pieces: Sequence[bytes], *, fast: bool = True) -> Reading:
    reader = RequestReader(RequestLimits(), fast=fast)
    reading = Reading([])
    starts = [0]
    head: RequestHead | None = None
    body = b""
    fed = 0
    for piece in pieces:
        reader.feed(piece)
        fed += len(piece)
        while True:
            try:
                event = reader.next_event()
            except BadRequest:
                return Reading(reading.messages, True, tuple(starts))
            if event is None:
                break
            if isinstance(event, RequestHead):
                head, body = event, b""
            elif isinstance(event, bytes):
                body += event
            elif event is END:
                assert head is not None
                reading.messages.append(as_message(head, body))
                starts.append(fed - reader.buffered)
                if not head.keep_alive:
                    return Reading(reading.messages, False, tuple(starts))
                reader.next_request()
    reading.starts = tuple(starts)
    return reading


def as_message(head: RequestHead, body: bytes) -> Message:
    fields = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers)
    return Message(head.method.encode(), head.target.encode(), head.http_version.encode(), fields, body)


def by_h11(stream: bytes) -> Reading:
    """A fresh connection for each request: what h11 says of the connection's life is not the question here."""
    reading = Reading([])
    while stream:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(stream)
        try:
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                return reading
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += event.data
            if not isinstance(event, h11.EndOfMessage):
                return reading
        except h11.RemoteProtocolError:
            reading.refused = True
            return reading
        fields = tuple((bytes(name), bytes(value)) for name, value in request.headers)
        reading.messages.append(Message(request.method, request.target, request.http_version, fields, body))
        stream = bytes(connection.trailing_data[0])
    return reading


class Llhttp:
    """What httptools calls."""

    def __init__(self) -> None:
        self.reading = Reading([])
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.in_trailers = False

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_trailers:
            self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.in_trailers = True

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        line = (self.parser.get_method(), self.target, self.parser.get_http_version().encode())
        self.reading.messages.append(Message(*line, tuple(self.fields), self.body))


def by_httptools(stream: bytes) -> Reading:
    engine = Llhttp()
    try:
        engine.parser.feed_data(stream)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        engine.reading.refused = True
    return engine.reading


PARSERS: dict[str, Callable[[bytes], Reading]] = {"h11": by_h11, "httptools": by_httptools}


# -- where they may disagree


@dataclass(frozen=True)
class Permitted:
    """A disagreement that has a reason: `kind` says what we are beside these parsers; `pattern` recognises it."""

    clause: str
    parsers: tuple[str, ...]
    kind: Literal["stricter", "laxer", "other"]
    pattern: re.Pattern[bytes]
    example: bytes


H11, LLHTTP, BOTH = ("h11",), ("httptools",), ("h11", "httptools")


#: What stands before the place in question, inside the head of one request.
LINES = rb"(?:[^\r\n]+\r\n)*?"
HEAD = rb"(?is)\A(?:\r\n)*" + LINES
#: The same inside a chunked body: anywhere behind the head.
BODY = rb"(?is)\A.*?transfer-encoding:.*?\r\n\r\n.*?"


def stricter(clause: str, parsers: tuple[str, ...], pattern: bytes, example: bytes) -> Permitted:
    return Permitted(clause, parsers, "stricter", re.compile(pattern), example)


def laxer(clause: str, parsers: tuple[str, ...], pattern: bytes, example: bytes) -> Permitted:
    return Permitted(clause, parsers, "laxer", re.compile(pattern), example)


H2C = ("Connection: upgrade", "Upgrade: h2c")
FRAMED = rb"(?:content-length|transfer-encoding):"
UPGRADE = HEAD + rb"(?:upgrade:" + LINES + FRAMED + rb"|" + FRAMED + LINES + rb"upgrade:)"

PERMITTED = {
    # the request line
    "a line ends with LF alone": stricter(
        "RFC 9112 2.2", H11, HEAD + rb"[^\r\n]*\n", b"GET / HTTP/1.1\nHost: a\r\n\r\n"
    ),
    "bare CR or LF, or many empty lines before a request": stricter(
        "RFC 9112 2.2", LLHTTP, rb"\A(?!(?:\r\n){0,2}[!-~])[\r\n]", b"\n" + request()
    ),
    "an empty line before a request": laxer("RFC 9112 2.2", H11, rb"\A\r\n", b"\r\n" + request()),
    "spaces in the request line": stricter("RFC 9112 3", LLHTTP, rb"\A\S+ {2,}", request(start="GET  / HTTP/1.1")),
    "no version": stricter("RFC 9112 3", LLHTTP, rb"\A(?:\r\n)*[!-~]+ +[^ \r\n]*\r\n", request(start="GET /")),
    "any token is a method": laxer("RFC 9110 9.1", LLHTTP, rb"\A(?:\r\n)*[!-~]+ ", request(start="x-y / HTTP/1.1")),
    "another version": stricter(
        "RFC 9110 2.5", BOTH, rb"\A[^\r\n]* HTTP/(?!1\.[01]\r)\d\.\d", request(start="GET / HTTP/2.0")
    ),
    "CONNECT": stricter("RFC 9110 9.3.6", BOTH, rb"\A(?:\r\n)*CONNECT ", request(start="CONNECT a:1 HTTP/1.1")),
    "a target in no form": stricter(
        "RFC 9112 3.2", BOTH, rb"\A(?:\r\n)*[!-~]+ (?:[^/ ]|/[^ ]*#)", request(start="GET * HTTP/1.1")
    ),
    # fields
    "a folded line": stricter("RFC 9112 5.2", H11, HEAD + rb"[ \t]", request("X: a", " b")),
    "a control character in a value": stricter(
        "RFC 9110 5.5", H11, HEAD + rb"[^\r\n:]+:[^\r\n]*[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]", request("X: a\x7f")
    ),
    "no Host": stricter("RFC 9112 3.2", LLHTTP, rb"(?is)\A(?:\r\n)*(?!" + LINES + rb"host:)", request(host=None)),
    "two Hosts": stricter("RFC 9112 3.2", LLHTTP, HEAD + rb"host:" + LINES + rb"host:", request("Host: b")),
    "a Host that is none": stricter(
        "RFC 9112 3.2", BOTH, HEAD + rb"host:[ \t]*(?![a-z0-9.\-]+(?::\d{0,5})?[ \t]*\r\n)", request(host="a/b")
    ),
    "an unknown expectation": stricter(
        "RFC 9110 10.1.1", BOTH, HEAD + rb"expect:(?![ \t]*100-continue[ \t]*\r\n)", request("Expect: x")
    ),
    # framing
    "a length and a coding": stricter(
        "RFC 9112 6.1",
        H11,
        rb"(?is)\A(?=(?:\r\n)*" + LINES + rb"content-length:)(?:\r\n)*" + LINES + rb"transfer-encoding:",
        post("Content-Length: 3", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    "a coding in HTTP/1.0": stricter(
        "RFC 9112 6.1",
        BOTH,
        rb"(?is)\A(?:\r\n)*[^\r\n]*HTTP/1\.0\r\n" + LINES + rb"transfer-encoding:",
        post("Transfer-Encoding: chunked", version="1.0", body=b"0\r\n\r\n"),
    ),
    "a length twice or in a list": stricter(
        "RFC 9112 6.3",
        H11,
        HEAD + rb"content-length:(?:[^\r\n]*,|" + LINES + rb"content-length:)",
        post("Content-Length: 3, 3", body=b"abc"),
    ),
    "a length with many zeros": stricter(
        "RFC 9110 8.6",
        LLHTTP,
        HEAD + rb"content-length:[ \t]*0{15}",
        post("Content-Length: " + "0" * 30 + "3", body=b"abc"),
    ),
    "a coding before chunked": stricter(
        "RFC 9112 6.1",
        LLHTTP,
        HEAD + rb"transfer-encoding:[^\r\n]*,",
        post("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    ),
    # llhttp leaves what follows a request for another protocol to that protocol, its body included; we ignore h2c
    "a body behind an Upgrade": Permitted(
        "RFC 9110 7.8", LLHTTP, "other", re.compile(UPGRADE), post(*H2C, "Content-Length: 3", body=b"abc")
    ),
    "a malformed body behind an Upgrade": stricter(
        "RFC 9110 7.8", LLHTTP, UPGRADE, post(*H2C, "Transfer-Encoding: chunked", body=b"x\r\n")
    ),
    # chunks
    "space behind a chunk size": stricter("RFC 9112 7.1", H11, BODY + rb"[0-9a-f][ \t]+\r\n", chunked(b"0 \r\n\r\n")),
    "an extension that is none": stricter("RFC 9112 7.1.1", H11, BODY + rb"[0-9a-f][^\r\n]*;", chunked(b"0;\r\n\r\n")),
    "white space in an extension": laxer("RFC 9110 5.6.3", BOTH, BODY + rb"[0-9a-f][ \t;]", chunked(b"0 ;a\r\n\r\n")),
    "a chunk size of many digits": stricter(
        "RFC 9112 7.1", BOTH, BODY + rb"[0-9a-f]{17}", chunked(b"0" * 18 + b"\r\n\r\n")
    ),
    "a trailer line that ends with LF": stricter(
        "RFC 9112 2.2", H11, BODY + rb"(?<!\r)\n", chunked(b"0\r\nX: a\n\r\n")
    ),
    "a folded trailer": stricter("RFC 9112 5.2", H11, BODY + rb"\n[ \t]", chunked(b"0\r\nX: a\r\n b\r\n\r\n")),
    "a control character in a trailer": stricter(
        "RFC 9110 5.5", H11, BODY + rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]", chunked(b"0\r\nX: a\x7f\r\n\r\n")
    ),
    "framing fields in trailers": laxer(
        "RFC 9112 7.1.2",
        BOTH,
        BODY + rb"0+(?:[ \t]*;[^\r\n]*)?\r\n.*?(?:content-length|transfer-encoding):",
        chunked(b"0\r\nContent-Length: x\r\n\r\n"),
    ),
}


def disagreement(stream: bytes, mine: Reading, other: Reading) -> tuple[str, bytes] | None:
    """What we are beside the other parser, and the bytes of the request about which; None if the two agree.

    A parser may refuse sooner than another that still waits for the end of the same head: neither has a request then.
    """
    theirs = [as_served(one) for one in other.messages]
    for number in range(max(len(mine.messages), len(theirs))):
        about = stream[mine.starts[min(number, len(mine.starts) - 1)] :]
        if number >= len(mine.messages):
            if mine.refused:
                return "stricter", about
            # Behind a request that closes the connection there is no other.
            return None if number and not persists(mine.messages[-1]) else ("other", about)
        if number >= len(theirs):
            if other.refused:
                return "laxer", about
            return None if switches(mine.messages[:number]) else ("other", about)
        if theirs[number] != mine.messages[number]:
            return "other", about
    return None


def persists(message: Message) -> bool:
    options = field(message, b"connection").lower()
    return b"close" not in options and (message.version == b"1.1" or b"keep-alive" in options)


def switches(messages: list[Message]) -> bool:
    """llhttp stops behind a request that asks for another protocol."""
    return bool(messages) and bool(field(messages[-1], b"upgrade"))


def field(message: Message, name: bytes) -> bytes:
    return b",".join(value for key, value in message.fields if key == name)


def as_served(message: Message) -> Message:
    """What another parser found, with what a server makes of it: white space off, absolute-form resolved."""
    fields = [(name, value.strip(b" \t")) for name, value in message.fields]
    fields = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in fields]
    target = message.target
    absolute = re.fullmatch(rb"(?i)http://([^/?]+)([^?]*)(\?.*)?", target)
    if absolute is not None:  # RFC 9112 3.2.2
        authority, path, query = absolute.groups(b"")
        target = (path or (b"*" if message.method == b"OPTIONS" and not query else b"/")) + query
        if not any(name == b"host" for name, _ in fields):
            fields.insert(0, (b"host", authority))
        fields = [(name, authority if name == b"host" else value) for name, value in fields]
    return Message(message.method, target, message.version, tuple(fields), message.body)


def lower_codings(reading: Reading) -> Reading:
    """h11 writes codings in small letters."""
    messages = [as_served(one) for one in reading.messages]
    return Reading(messages, reading.refused, reading.starts)


def reasons(parser: str, kind: str, about: bytes) -> list[str]:
    """The rows that explain a disagreement."""
    return [
        name
        for name, row in PERMITTED.items()
        if parser in row.parsers and row.kind == kind and row.pattern.search(about)
    ]


@pytest.mark.parametrize("name", PERMITTED)
def test_each_row_is_a_disagreement(name: str) -> None:
    """What the table permits happens, with exactly these parsers; a row that has become idle is to be removed."""
    row = PERMITTED[name]
    for parser, parse in PARSERS.items():
        found = disagreement(row.example, lower_codings(ours([row.example])), parse(row.example))
        if parser in row.parsers:
            assert found is not None
            assert name in reasons(parser, *found)
        else:
            assert found is None or name not in reasons(parser, *found)


MORE = settings(max_examples=4 * settings().max_examples)  # these cost little


@pytest.mark.parametrize("parser", PARSERS)
@MORE
@given(streams())
def test_no_disagreement_without_a_reason(parser: str, stream: bytes) -> None:
    """Our reading and the other's are the same, or a row says why they need not be."""
    found = disagreement(stream, lower_codings(ours([stream])), PARSERS[parser](stream))
    if found is not None:
        assert reasons(parser, *found), f"{found[0]} than {parser} about {found[1]!r}"


@MORE
@given(st.data(), streams())
def test_cuts_and_the_fast_path_change_nothing(data: st.DataObject, stream: bytes) -> None:
    """The same bytes cut anywhere, with the fast path on or off, are the same requests and the same refusal."""
    whole = ours([stream])
    pieces = data.draw(cut(stream))
    for fast in (True, False):
        read = ours(pieces, fast=fast)
        assert (read.messages, read.refused) == (whole.messages, whole.refused)
