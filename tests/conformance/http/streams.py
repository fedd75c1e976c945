"""Requests as bytes, and streams of them for property tests: well-formed, spiced with what attackers send, damaged."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


def request(*lines: str, start: str = "GET / HTTP/1.1", host: str | None = "a", body: bytes = b"") -> bytes:
    fields = ([] if host is None else [f"Host: {host}"]) + list(lines)
    return "\r\n".join([start, *fields, "", ""]).encode("latin-1") + body


def post(*lines: str, body: bytes = b"", version: str = "1.1") -> bytes:
    return request(*lines, start=f"POST / HTTP/{version}", body=body)


def chunked(body: bytes, *lines: str) -> bytes:
    return post("Transfer-Encoding: chunked", *lines, body=body)


PLAIN_METHODS = ["GET", "POST"]
PLAIN_OTHERS = ["X: a", "Y:", "Connection: keep-alive"]
PLAIN_FRAMING: dict[str, tuple[list[str], bytes]] = {
    "none": ([], b""),
    "length": (["Content-Length: 3"], b"abc"),
    "chunked": (["Transfer-Encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n"),
}
METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "get", "x!y", "CONNECT"]
TARGETS = [
    "/",
    "/a?b=c",
    "//x",
    "*",
    "http://b/c",
    "http://b",
    "HTTP://b:8?q",
    "https://b/",
    "a",
    "a:80",
    "/#f",
    "/%zz",
]
VERSIONS = ["1.0", "1.2", "2.0", "0.9"]
BEFORE = [b"\r\n", b"\r\n\r\n", b"\n", b"\r"]
HOSTS = [
    ["hOsT:a:80 "],
    ["Host: "],
    ["Host: a/b"],
    ["Host: [::1]"],
    ["Host: a, b"],
    ["Host: a", "Host: a"],
    [],
]
FRAMING = [
    "Content-Length: 3",
    "Content-Length:3 ",
    "Content-Length: +3",
    "Content-Length: 03",
    "Content-Length: 3, 3",
    "Content-Length: 3,",
    "Content-Length: 4",
    "Content-Length: 0",
    "Content-Length: 99999999999999999999",
    "Content-Length : 3",
    "Transfer-Encoding: chunked",
    "transfer-encoding:CHUNKED",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: xchunked",
]
OTHERS = [
    "X: a",
    "X:\t a\t b \t",
    "X:",
    "X: \xe9",
    "X: a\x7fb",
    "X : a",
    "X",
    " folded",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: upgrade\r\nUpgrade: h2c",
    "Expect: 100-continue",
    "Expect: x",
    "Host: b",
]
BODIES = [
    b"",
    b"abc",
    b"0\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\r\n",
    b"3;a=b\r\nabc\r\n0\r\n\r\n",
    b"3 ;a\r\nabc\r\n0\r\n\r\n",
    b"3;\r\nabc\r\n0\r\n\r\n",
    b"0003\r\nabc\r\n00\r\nT: u\r\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"28\r\n" + b"a" * 40 + b"\r\n2\r\nab\r\n0\r\n\r\n",
    b"3\nabc\n0\n\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"3 \r\nabc\r\n0\r\n\r\n",
    b"00000000000000000003\r\nabc\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    b"0\r\nContent-Length: 5\r\n\r\n",
    b"0\r\nT: a\n\r\n",
    b"1\r\nG\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
]
INSERTIONS = [
    b"",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b"\0",
    b"\x80",
    b"0",
    b";",
    b",",
    b"\x0b",
    b"chunked",
]


ASPECTS = ["method", "target", "version", "host", "framing", "others", "body", "before"]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request that is odd in up to two aspects, and in all others as a decent client would send it."""
    odd = draw(st.sets(st.sampled_from(ASPECTS), max_size=2))

    def one(aspect: str, plain: list[T], strange: list[T]) -> T:
        return draw(st.sampled_from(strange if aspect in odd else plain))

    start = f"{one('method', PLAIN_METHODS, METHODS)} {one('target', ['/', '/p?q'], TARGETS)}"
    start += f" HTTP/{one('version', ['1.1'], VERSIONS)}"
    kind = draw(st.sampled_from(["none", "length", "chunked"])) if "body" not in odd else "chunked"
    framing, body = PLAIN_FRAMING[kind]
    if "framing" in odd:
        framing = draw(st.lists(st.sampled_from(FRAMING), min_size=1, max_size=2))
    if "body" in odd:
        body = draw(st.sampled_from(BODIES))
    others = draw(st.lists(st.sampled_from(OTHERS if "others" in odd else PLAIN_OTHERS), max_size=2))
    lines = draw(st.permutations([*one("host", [["Host: a"]], HOSTS), *framing, *others]))
    return one("before", [b""], BEFORE) + request(*lines, start=start, host=None, body=body)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Up to three requests, damaged in up to three places."""
    data = bytearray(b"".join(draw(st.lists(requests(), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 2))] = draw(st.sampled_from(INSERTIONS))
    return bytes(data)


@st.composite
def cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    if draw(st.booleans()):
        return [stream[i : i + 1] for i in range(len(stream))]
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
