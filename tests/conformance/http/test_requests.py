"""Requests as bytes on a socket, one row a rule: what is served, what is refused and how.

Every row is sent whole and byte by byte, with another request behind it: after a request that is served that one is
answered too; after one that is refused it never is (RFC 9112 9.6, 11.2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance.http.streams import chunked, post, request

if TYPE_CHECKING:
    from tests.server.conftest import Host, Peer

NEXT = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n"


@dataclass(frozen=True)
class Row:
    """A request, the clause it is about, and what must come of it."""

    clause: str
    raw: bytes
    status: int = 200
    seen: Mapping[str, Any] = field(default_factory=dict)  # of what the handler got
    closes: bool = False  # although it was served


def served(clause: str, raw: bytes, closes: bool = False, **seen: Any) -> Row:
    return Row(clause, raw, 200, seen, closes)


def refused(clause: str, raw: bytes, status: int = 400) -> Row:
    return Row(clause, raw, status)


REQUEST_LINE = {
    # RFC 9112 3: one SP between the parts, nothing around them
    "plain": served("9112-3-line", request(), method="GET", path="/", version="1.1"),
    "two spaces": refused("9112-3-line", request(start="GET  / HTTP/1.1")),
    "space behind": refused("9112-3-line", request(start="GET / HTTP/1.1 ")),
    "space before": refused("9112-3-line", request(start=" GET / HTTP/1.1")),
    "tab for a space": refused("9112-3-line", request(start="GET\t/ HTTP/1.1")),
    "space in the target": refused("9112-3-line", request(start="GET /a b HTTP/1.1")),
    "no version (HTTP/0.9)": refused("9112-3-line", b"GET /\r\n"),
    "method is any token": served("9110-9.1-method", request(start="x!y / HTTP/1.1"), method="x!y"),
    "method in small letters is another": served("9110-9.1-method", request(start="get / HTTP/1.1"), method="get"),
    "method no token": refused("9110-9.1-method", request(start="G@T / HTTP/1.1")),
    "no method": refused("9110-9.1-method", request(start=" / HTTP/1.1")),
    "NUL in the target": refused("9112-3-line", request(start="GET /\0 HTTP/1.1")),
    "control in the target": refused("9112-3-line", request(start="GET /\x7f HTTP/1.1")),
    "not ASCII in the target": refused("9112-2.2-octets", request(start="GET /\xe9 HTTP/1.1")),
    # RFC 9110 2.5, RFC 9112 2.3
    "1.0": served("9112-2.3-version", request(start="GET / HTTP/1.0"), closes=True, version="1.0"),
    "version 2.0": refused("9112-2.3-version", request(start="GET / HTTP/2.0"), 505),
    "HTTP/2 preface": refused("9112-2.3-version", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "version 0.9": refused("9112-2.3-version", request(start="GET / HTTP/0.9"), 505),
    "version 1.2": refused("9112-2.3-version", request(start="GET / HTTP/1.2"), 505),
    "version of two digits": refused("9112-2.3-version", request(start="GET / HTTP/1.10")),
    "version without minor": refused("9112-2.3-version", request(start="GET / HTTP/1")),
    "version in small letters": refused("9112-2.3-version", request(start="GET / http/1.1")),
    "version of another protocol": refused("9112-2.3-version", request(start="GET / RTSP/1.1")),
    # RFC 9112 2.2: line ends and empty lines
    "empty line before": served("9112-2.2-empty-line", b"\r\n" + request()),
    "two empty lines before": served("9112-2.2-empty-line", b"\r\n\r\n" + request()),
    "many empty lines before": refused("9112-2.2-empty-line", b"\r\n" * 3 + request()),
    "LF before": refused("9112-2.2-bare-lf", b"\n" + request()),
    "LF ends the request line": refused("9112-2.2-bare-lf", b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "LF ends a field": refused("9112-2.2-bare-lf", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    "LF ends the head": refused("9112-2.2-bare-lf", b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    "bare CR before": refused("9112-2.2-bare-cr", b"\r" + request()),
    "bare CR in the request line": refused("9112-2.2-bare-cr", request(start="GET /\r HTTP/1.1")),
    "bare CR in a value": refused("9112-2.2-bare-cr", request("X: a\rb")),
    "bare CR ends a value": refused("9112-2.2-bare-cr", request("X: a\r")),
    "bare CR in a name": refused("9112-2.2-bare-cr", request("X\r: a")),
    "space before the first field": refused("9112-2.2-space", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    "tab before the first field": refused("9112-2.2-space", b"GET / HTTP/1.1\r\n\tX: a\r\nHost: a\r\n\r\n"),
    "TLS": refused("9112-2.2-no-http", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n"),
    "binary": refused("9112-2.2-no-http", b"\0\1\2\3\r\n\r\n"),
    # RFC 9112 3.2: the four forms of a target
    "origin-form": served("9112-3.2.1-origin", request(start="GET /a/b?c=d HTTP/1.1"), path="/a/b", query="c=d"),
    "origin-form, two slashes": served("9112-3.2.1-origin", request(start="GET //a HTTP/1.1"), path="//a"),
    "origin-form, an URI in the query": served(
        "9112-3.2.1-origin", request(start="GET /?u=http://x/?y HTTP/1.1"), path="/", query="u=http://x/?y"
    ),
    "path without slash": refused("9112-3.2.1-origin", request(start="GET a/b HTTP/1.1")),
    "query alone": refused("9112-3.2.1-origin", request(start="GET ?a HTTP/1.1")),
    "fragment": refused("9112-3.2-target", request(start="GET /a#b HTTP/1.1")),
    "absolute-form": served(
        "9112-3.2.2-accept",
        request(start="GET http://b.c:81/d?e HTTP/1.1", host="a"),
        path="/d",
        query="e",
        headers=[["host", "b.c:81"]],
    ),
    "absolute-form, other fields stay": served(
        "9112-3.2.2-host",
        request("X: y", start="GET http://b/ HTTP/1.1"),
        headers=[["host", "b"], ["x", "y"]],
    ),
    "absolute-form, empty path": served("9112-3.2.2-accept", request(start="GET http://b HTTP/1.1"), path="/"),
    "absolute-form, query and no path": served(
        "9112-3.2.2-accept", request(start="GET http://b?c HTTP/1.1"), path="/", query="c"
    ),
    "absolute-form, scheme in capitals": served("9112-3.2.2-accept", request(start="GET HTTP://b/ HTTP/1.1"), path="/"),
    "absolute-form, IPv6": served(
        "9112-3.2.2-host", request(start="GET http://[::1]:80/ HTTP/1.1"), headers=[["host", "[::1]:80"]]
    ),
    "absolute-form in 1.0 without Host": served(
        "9112-3.2.2-host",
        request("X: y", start="GET http://b/ HTTP/1.0", host=None),
        closes=True,
        headers=[["host", "b"], ["x", "y"]],
    ),
    "absolute-form with a body": served(
        "9112-3.2.2-accept",
        request("Content-Length: 2", start="POST http://b/c HTTP/1.1", body=b"ok"),
        path="/c",
        body="ok",
    ),
    "absolute-form without Host": refused("9112-3.2-host", request(start="GET http://b/ HTTP/1.1", host=None)),
    "absolute-form, bad Host": refused("9112-3.2-host", request(start="GET http://b/ HTTP/1.1", host="a/b")),
    "absolute-form, two Hosts": refused("9112-3.2-host", request("Host: b", start="GET http://b/ HTTP/1.1")),
    "absolute-form, no host in it": refused("9110-4.2.1-host", request(start="GET http:///a HTTP/1.1")),
    "absolute-form, port and no host": refused("9110-4.2.1-host", request(start="GET http://:80/a HTTP/1.1")),
    "absolute-form, user in it": refused("9110-4.2.4-userinfo", request(start="GET http://u:p@b/ HTTP/1.1")),
    "absolute-form, bad port": refused("9112-3.2.2-accept", request(start="GET http://b:x/ HTTP/1.1")),
    "absolute-form, no slashes": refused("9112-3.2.2-accept", request(start="GET http:b HTTP/1.1")),
    "absolute-form, https": refused("9110-7.4-scheme", request(start="GET https://a/ HTTP/1.1"), 421),
    "absolute-form, ftp": refused("9110-7.4-scheme", request(start="GET ftp://a/ HTTP/1.1"), 421),
    "asterisk-form": served("9112-3.2.4-asterisk", request(start="OPTIONS * HTTP/1.1"), method="OPTIONS", path="*"),
    "asterisk-form, other method": refused("9112-3.2.4-asterisk", request(start="GET * HTTP/1.1")),
    "asterisk and more": refused("9112-3.2.4-asterisk", request(start="OPTIONS *a HTTP/1.1")),
    "OPTIONS with a path": served("9112-3.2.4-asterisk", request(start="OPTIONS /a HTTP/1.1"), path="/a"),
    "OPTIONS of a whole server by absolute-form": served(
        "9112-3.2.4-asterisk", request(start="OPTIONS http://b HTTP/1.1"), path="*", headers=[["host", "b"]]
    ),
    "CONNECT": refused("9110-9.3.6-connect", request(start="CONNECT a:443 HTTP/1.1"), 501),
    "CONNECT without a port": refused("9112-3.2.3-authority", request(start="CONNECT a HTTP/1.1")),
    "CONNECT with a path": refused("9112-3.2.3-authority", request(start="CONNECT / HTTP/1.1")),
    "authority-form, other method": refused("9112-3.2.3-authority", request(start="GET a:80 HTTP/1.1")),
}

HOST = {
    "plain": served("9112-3.2-host", request(host="a.b-c_d:8080"), headers=[["host", "a.b-c_d:8080"]]),
    "port empty": served("9112-3.2-host", request(host="a:")),
    "port with zeros": served("9112-3.2-host", request(host="a:0000000080")),
    "escape": served("9112-3.2-host", request(host="%41")),
    "IPv4": served("9112-3.2-host", request(host="127.0.0.1:80")),
    "IPv6": served("9112-3.2-host", request(host="[::1]")),
    "IPv6 with port": served("9112-3.2-host", request(host="[2001:db8::1]:80")),
    "IP of the future": served("9112-3.2-host", request(host="[v1.a:b]")),
    "1.0 without": served("9112-3.2-host", request(start="GET / HTTP/1.0", host=None), closes=True),
    "missing": refused("9112-3.2-host", request(host=None)),
    "twice": refused("9112-3.2-host", request("Host: a")),
    "twice in 1.0": refused("9112-3.2-host", request("Host: a", start="GET / HTTP/1.0")),
    "twice, different": refused("9112-3.2-host", request("hOST: b")),
    "empty": refused("9112-3.3-empty-host", request(host="")),
    "bad in 1.0": refused("9112-3.2-host", request(host="a@b", start="GET / HTTP/1.0")),
    "user": refused("9112-3.2-host", request(host="u@a")),
    "list": refused("9112-3.2-host", request(host="a, b")),
    "slash": refused("9112-3.2-host", request(host="a/b")),
    "backslash": refused("9112-3.2-host", request(host="a\\b")),
    "URI": refused("9112-3.2-host", request(host="http://a")),
    "space": refused("9112-3.2-host", request(host="a b")),
    "query": refused("9112-3.2-host", request(host="a?b")),
    "fragment": refused("9112-3.2-host", request(host="a#b")),
    "not ASCII": refused("9112-3.2-host", request(host="\xe9")),
    "bad escape": refused("9112-3.2-host", request(host="a%zz")),
    "port alone": refused("9112-3.2-host", request(host=":80")),
    "port no number": refused("9112-3.2-host", request(host="a:8x")),
    "port signed": refused("9112-3.2-host", request(host="a:+80")),
    "port too large": refused("9112-3.2-host", request(host="a:65536")),
    "port twice": refused("9112-3.2-host", request(host="a:80:80")),
    "bracket open": refused("9112-3.2-host", request(host="[::1")),
    "brackets empty": refused("9112-3.2-host", request(host="[]")),
    "brackets around a name": refused("9112-3.2-host", request(host="[abc]")),
    "brackets around IPv4": refused("9112-3.2-host", request(host="[127.0.0.1]")),
    "IPv6 malformed": refused("9112-3.2-host", request(host="[1::2::3]")),
    "IPv6 without brackets": refused("9112-3.2-host", request(host="::1")),
}

FIELDS = {
    "spaces around a value": served(
        "9110-5.5-whitespace", request("X: \t a  b \t"), headers=[["host", "a"], ["x", "a  b"]]
    ),
    "no space, no value": served("9112-5-field", request("X:", "Y:z"), headers=[["host", "a"], ["x", ""], ["y", "z"]]),
    "a name twice, in order": served(
        "9110-5.3-order", request("X: 1", "Y: 2", "x: 3"), headers=[["host", "a"], ["x", "1"], ["y", "2"], ["x", "3"]]
    ),
    "bytes beyond ASCII": served("9112-2.2-octets", request("X: \xff\x80"), headers=[["host", "a"], ["x", "\xff\x80"]]),
    "colon in a value": served("9112-5-field", request("X: a:b"), headers=[["host", "a"], ["x", "a:b"]]),
    "space before the colon": refused("9112-5.1-colon", request("X : a")),
    "tab before the colon": refused("9112-5.1-colon", request("X\t: a")),
    "no colon": refused("9112-5-field", request("Xa")),
    "no name": refused("9112-5-field", request(": a")),
    "name no token": refused("9112-5-field", request("X(y): a")),
    "name with a space": refused("9112-5-field", request("X y: a")),
    "name not ASCII": refused("9112-5-field", request("\xc4: a")),
    "folded": refused("9112-5.2-fold", request("X: a", " b")),
    "folded by tab": refused("9112-5.2-fold", request("X: a", "\tb")),
    "folded and empty": refused("9112-5.2-fold", request("X: a", " ")),
    "folded Host": refused("9112-5.2-fold", b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n"),
    "NUL in a value": refused("9110-5.5-nul", request("X: a\0b")),
    "NUL in a name": refused("9110-5.5-nul", request("X\0: a")),
    "control in a value": refused("9110-5.5-nul", request("X: a\x1fb")),
    "DEL in a value": refused("9110-5.5-nul", request("X: a\x7fb")),
    "vertical tab before a value": refused("9110-5.5-nul", request("X: \x0ba")),
}

LENGTH = {
    "none": served("9112-6.3-none", post(), body=""),
    "zero": served("9112-6.3-length", post("Content-Length: 0"), body=""),
    "three": served("9112-6.3-length", post("Content-Length: 3", body=b"abc"), body="abc"),
    "zeros before": served("9112-6.3-length", post("Content-Length: 0003", body=b"abc"), body="abc"),
    "1.0": served("9112-6.3-length", post("Content-Length: 3", body=b"abc", version="1.0"), closes=True, body="abc"),
    "GET with a body": served("9112-6.3-length", request("Content-Length: 3", body=b"abc"), body="abc"),
    "a request as the body": served(
        "9112-6.3-length", post(f"Content-Length: {len(NEXT)}", body=NEXT), body=NEXT.decode()
    ),
    "signed": refused("9112-6.3-bad-length", post("Content-Length: +3", body=b"abc")),
    "negative": refused("9112-6.3-bad-length", post("Content-Length: -3", body=b"abc")),
    "empty": refused("9112-6.3-bad-length", post("Content-Length:")),
    "hexadecimal": refused("9112-6.3-bad-length", post("Content-Length: 0x3", body=b"abc")),
    "fraction": refused("9112-6.3-bad-length", post("Content-Length: 3.0", body=b"abc")),
    "underscore": refused("9112-6.3-bad-length", post("Content-Length: 1_0", body=b"0123456789")),
    "no ASCII digit": refused("9112-6.3-bad-length", post("Content-Length: \xb3", body=b"abc")),
    "with a space": refused("9112-6.3-bad-length", post("Content-Length: 1 1", body=b"a")),
    "list": refused("9112-6.3-bad-length", post("Content-Length: 3, 3", body=b"abc")),
    "list of two": refused("9112-6.3-bad-length", post("Content-Length: 3, 4", body=b"abc")),
    "list with an empty member": refused("9112-6.3-bad-length", post("Content-Length: 3,", body=b"abc")),
    "twice": refused("9112-6.3-bad-length", post("Content-Length: 3", "Content-Length: 3", body=b"abc")),
    "twice, different": refused("9112-6.3-bad-length", post("Content-Length: 3", "content-length: 4", body=b"abc")),
    "twice, zero": refused("9112-6.3-bad-length", post("Content-Length: 0", "Content-Length: 0")),
    "too large": refused("9110-8.6-large", post("Content-Length: 8388609"), 413),
    "beyond 64 bits": refused("9110-8.6-large", post("Content-Length: 18446744073709551619", body=b"abc"), 413),
    "of a thousand digits": refused("9110-8.6-large", post("Content-Length: " + "9" * 1000), 413),
}

CODING = {
    "chunked": served("9112-6.1-chunked", chunked(b"3\r\nabc\r\n0\r\n\r\n"), body="abc"),
    "chunked in capitals": served(
        "9112-6.1-chunked", post("Transfer-Encoding: CHUNKED", body=b"1\r\na\r\n0\r\n\r\n"), body="a"
    ),
    "and a length": refused("9112-6.1-both", chunked(b"3\r\nabc\r\n0\r\n\r\n", "Content-Length: 3")),
    "and a length of zero": refused("9112-6.1-both", chunked(b"0\r\n\r\n", "Content-Length: 0")),
    "behind a length": refused(
        "9112-6.1-both", post("Content-Length: 3", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")
    ),
    "unknown and a length": refused("9112-6.1-both", post("Content-Length: 3", "Transfer-Encoding: x", body=b"abc")),
    "in 1.0": refused("9112-6.1-old", post("Transfer-Encoding: chunked", body=b"0\r\n\r\n", version="1.0")),
    "in 1.0 with a length": refused(
        "9112-6.1-old", post("Transfer-Encoding: chunked", "Content-Length: 3", body=b"abc", version="1.0")
    ),
    "identity": refused("9112-6.3-not-last", post("Transfer-Encoding: identity", body=b"abc")),
    "gzip": refused("9112-6.3-not-last", post("Transfer-Encoding: gzip", body=b"abc")),
    "empty": refused("9112-6.3-not-last", post("Transfer-Encoding:", body=b"abc")),
    "chunked, then gzip": refused("9112-6.3-not-last", post("Transfer-Encoding: chunked, gzip", body=b"abc")),
    "chunked, then identity": refused("9112-6.3-not-last", post("Transfer-Encoding: chunked, identity", body=b"abc")),
    "chunked with a parameter": refused("9112-6.3-not-last", post("Transfer-Encoding: chunked;a=b", body=b"0\r\n\r\n")),
    "xchunked": refused("9112-6.3-not-last", post("Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    "chunked quoted": refused("9112-6.3-not-last", post('Transfer-Encoding: "chunked"', body=b"0\r\n\r\n")),
    "chunked behind a no-break space": refused(
        "9112-6.3-not-last", post("Transfer-Encoding: \xa0chunked", body=b"0\r\n\r\n")
    ),
    "chunked twice": refused("9112-6.1-twice", post("Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n")),
    "chunked on two lines": refused("9112-6.1-twice", chunked(b"0\r\n\r\n", "Transfer-Encoding: chunked")),
    "gzip, then chunked": refused("9112-6.1-unknown", post("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    "identity, then chunked": refused(
        "9112-6.1-unknown", post("Transfer-Encoding: identity, chunked", body=b"0\r\n\r\n"), 501
    ),
    "gzip and chunked on two lines": refused(
        "9112-6.1-unknown", post("Transfer-Encoding: gzip", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 501
    ),
    "name with a space behind": refused(
        "9112-5.1-colon", post("Content-Length: 3", "Transfer-Encoding : chunked", body=b"abc")
    ),
    "folded": refused("9112-5.2-fold", post("Transfer-Encoding:", " chunked", body=b"0\r\n\r\n")),
}

CHUNKS = {
    "none": served("9112-7.1-chunked", chunked(b"0\r\n\r\n"), body=""),
    "several": served("9112-7.1-chunked", chunked(b"1\r\na\r\n0A\r\n0123456789\r\n0\r\n\r\n"), body="a0123456789"),
    "size in small and capital letters": served(
        "9112-7.1-chunked", chunked(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"), body="0123456789" * 2
    ),
    "line ends as data": served("9112-7.1-chunked", chunked(b"4\r\n\r\n\r\n\r\n0\r\n\r\n"), body="\r\n\r\n"),
    "zeros before the size": served("9112-7.1-chunked", chunked(b"0000000000000003\r\nabc\r\n000\r\n\r\n"), body="abc"),
    "extension": served("9112-7.1.1-ignore", chunked(b"3;a\r\nabc\r\n0\r\n\r\n"), body="abc"),
    "extensions": served("9112-7.1.1-ignore", chunked(b'3;a=b;c;d="e;\\" f"\r\nabc\r\n0;x=y\r\n\r\n'), body="abc"),
    "spaces in an extension": served("9112-7.1.1-ignore", chunked(b"3 ; a = b\t;c\r\nabc\r\n0\r\n\r\n"), body="abc"),
    "extension without a name": refused("9112-7.1.1-ignore", chunked(b"3;\r\nabc\r\n0\r\n\r\n")),
    "extension that is none": refused("9112-7.1.1-ignore", chunked(b"3;a=\x01\r\nabc\r\n0\r\n\r\n")),
    "bare CR in an extension": refused("9112-2.2-bare-cr", chunked(b"3;a\rb\r\nabc\r\n0\r\n\r\n")),
    "LF in an extension": refused("9112-2.2-bare-lf", chunked(b"3;a\nabc\r\n0\r\n\r\n")),
    "NUL in an extension": refused("9112-7.1.1-ignore", chunked(b"3;a\0\r\nabc\r\n0\r\n\r\n")),
    "size empty": refused("9112-7.1-bad", chunked(b"\r\nabc\r\n0\r\n\r\n")),
    "size signed": refused("9112-7.1-bad", chunked(b"+3\r\nabc\r\n0\r\n\r\n")),
    "size negative": refused("9112-7.1-bad", chunked(b"-3\r\nabc\r\n0\r\n\r\n")),
    "size with 0x": refused("9112-7.1-bad", chunked(b"0x3\r\nabc\r\n0\r\n\r\n")),
    "size with an underscore": refused("9112-7.1-bad", chunked(b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n")),
    "size no hex": refused("9112-7.1-bad", chunked(b"G\r\nabc\r\n0\r\n\r\n")),
    "space before the size": refused("9112-7.1-bad", chunked(b" 3\r\nabc\r\n0\r\n\r\n")),
    "space behind the size": refused("9112-7.1-bad", chunked(b"3 \r\nabc\r\n0\r\n\r\n")),
    "size line ends with LF": refused("9112-2.2-bare-lf", chunked(b"3\nabc\r\n0\r\n\r\n")),
    "size line ends with CR": refused("9112-2.2-bare-cr", chunked(b"3\rabc\r\n0\r\n\r\n")),
    "size of 64 bits": refused("9112-7.1-large", chunked(b"ffffffffffffffff\r\nabc\r\n0\r\n\r\n"), 413),
    "size beyond 64 bits": refused("9112-7.1-large", chunked(b"10000000000000003\r\nabc\r\n0\r\n\r\n")),
    "no line end behind the data": refused("9112-7.1-bad", chunked(b"3\r\nabcd\r\n0\r\n\r\n")),
    "LF behind the data": refused("9112-2.2-bare-lf", chunked(b"3\r\nabc\n0\r\n\r\n")),
    "LF LF behind the data": refused("9112-2.2-bare-lf", chunked(b"3\r\nabc\n\n0\r\n\r\n")),
    "data too short": refused("9112-7.1-bad", chunked(b"5\r\nabc\r\n0\r\n\r\n")),
    "end of LF": refused("9112-2.2-bare-lf", chunked(b"0\r\n\n")),
    "end of last chunk's line of LF": refused("9112-2.2-bare-lf", chunked(b"0\n\r\n")),
}

TRAILERS = {
    "kept apart": served(
        "9112-7.1.2-apart",
        chunked(b"3\r\nabc\r\n0\r\nX: trailer\r\nAuthorization: b\r\n\r\n", "X: header", "Trailer: X"),
        headers=[["host", "a"], ["transfer-encoding", "chunked"], ["x", "header"], ["trailer", "X"]],
        body="abc",
    ),
    "Host in them": served("9112-7.1.2-apart", chunked(b"0\r\nHost: evil\r\n\r\n"), body=""),
    "length in them": served("9112-7.1.2-apart", chunked(b"0\r\nContent-Length: 5\r\n\r\n"), body=""),
    "connection in them": served("9112-7.1.2-apart", chunked(b"0\r\nConnection: close\r\n\r\n"), body=""),
    "coding in them": served("9112-7.1.2-apart", chunked(b"0\r\nTransfer-Encoding: gzip\r\n\r\n"), body=""),
    "no field": refused("9112-5-field", chunked(b"0\r\nabc\r\n\r\n")),
    "folded": refused("9112-5.2-fold", chunked(b"0\r\nX: a\r\n b\r\n\r\n")),
    "space before the colon": refused("9112-5.1-colon", chunked(b"0\r\nX : a\r\n\r\n")),
    "with LF": refused("9112-2.2-bare-lf", chunked(b"0\r\nX: a\n\r\n")),
    "with bare CR": refused("9112-2.2-bare-cr", chunked(b"0\r\nX: a\rb\r\n\r\n")),
    "with NUL": refused("9110-5.5-nul", chunked(b"0\r\nX: \0\r\n\r\n")),
}

EXPECT = {
    "unknown": refused("9110-10.1.1-unknown", request("Expect: x"), 417),
    "unknown beside 100-continue": refused(
        "9110-10.1.1-unknown", post("Expect: 100-continue, x", "Content-Length: 1", body=b"a"), 417
    ),
    "unknown on another line": refused(
        "9110-10.1.1-unknown", post("Expect: 100-continue", "Expect: x=y", "Content-Length: 1", body=b"a"), 417
    ),
    "unknown in 1.0": served("9110-10.1.1-old", request("Expect: x", start="GET / HTTP/1.0"), closes=True),
    "100-continue without a body": served("9110-10.1.1-nobody", request("Expect: 100-continue")),
    "100-continue in 1.0": served(
        "9110-10.1.1-old",
        post("Expect: 100-continue", "Content-Length: 1", body=b"a", version="1.0"),
        closes=True,
        body="a",
    ),
    "100-continue and too large a body": refused(
        "9110-10.1.1-refuse", post("Expect: 100-continue", "Content-Length: 8388609"), 413
    ),
    "100-continue and a bad length": refused(
        "9110-10.1.1-refuse", post("Expect: 100-continue", "Content-Length: x"), 400
    ),
}

CONNECTION = {
    "close": served("9112-9.6-close", request("Connection: close"), closes=True),
    "close in capitals, in a list": served("9112-9.6-close", request("Connection: x, CLOSE"), closes=True),
    "close on another line": served("9112-9.6-close", request("Connection: x", "Connection: close"), closes=True),
    "close and keep-alive": served("9112-9.6-close", request("Connection: keep-alive, close"), closes=True),
    "empty members": served("9110-5.6.1.2-empty", request("Connection: ,, close ,"), closes=True),
    "closed is not close": served("9112-9.6-close", request("Connection: closed")),
    "1.0 keep-alive": served("9112-9.3-persist", request("Connection: Keep-Alive", start="GET / HTTP/1.0")),
    "1.0 keep-alive and close": served(
        "9112-9.3-persist", request("Connection: keep-alive, close", start="GET / HTTP/1.0"), closes=True
    ),
    "other upgrades are ignored": served(
        "9110-7.8-ignore", request("Connection: upgrade, http2-settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    ),
    "upgrade in 1.0 is ignored": served(
        "9110-7.8-old", request("Connection: upgrade", "Upgrade: h2c", start="GET / HTTP/1.0"), closes=True
    ),
}

ROWS: dict[str, Row] = {
    f"{table}: {name}": row
    for table, rows in {
        "line": REQUEST_LINE,
        "Host": HOST,
        "field": FIELDS,
        "length": LENGTH,
        "coding": CODING,
        "chunks": CHUNKS,
        "trailers": TRAILERS,
        "Expect": EXPECT,
        "Connection": CONNECTION,
    }.items()
    for name, row in rows.items()
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_a_row(mirroring: Host, row: Row) -> None:
    """What the row says comes of its request, sent whole or byte by byte."""
    for size in (len(row.raw) + len(NEXT), 1):
        peer = mirroring.connect()
        stream = row.raw + NEXT
        for place in range(0, len(stream), size):
            peer.send(stream[place : place + size])
        if row.status == 200:
            check_served(peer, row)
        else:
            check_refused(peer, row)
        peer.close()


def check_served(peer: Peer, row: Row) -> None:
    reply = peer.reply()
    assert reply.status == 200, reply
    seen = json.loads(reply.body)
    assert {name: seen[name] for name in row.seen} == row.seen
    if row.closes:
        assert reply.get("connection") == "close"
        assert peer.rest() == b""
    else:
        assert (reply.get("connection") or "keep-alive") == "keep-alive"
        assert json.loads(peer.reply().body)["path"] == "/next"


def check_refused(peer: Peer, row: Row) -> None:
    reply = peer.reply()
    assert reply.status == row.status, reply
    assert reply.get("connection") == "close"
    assert reply.get("date") is not None  # RFC 9110 6.6.1
    assert peer.rest() == b""
