"""The opening handshake by RFC 6455 4, 9.1 and 11.3: what is accepted, with which answer, and what is refused how."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from channelkit import Request, as_channel, reject
from channelkit.channel import Channel
from tests.conformance.websocket.rows import CLOSE, FIN, TEXT, Echo, closed, code
from tests.server.conftest import Host, Peer, Reply

GOOD = (
    "Host: test",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


@dataclass(frozen=True)
class Row:
    """One opening handshake: lines that take the place of those of the same name, and what is answered."""

    clause: str
    name: str
    lines: tuple[str, ...] = ()
    status: int = 101
    first: str = "GET {path} HTTP/1.1"
    without: str = ""  # a field that is left out

    def request(self, path: str) -> bytes:
        names = {line.split(":", 1)[0].lower() for line in self.lines} | {self.without.lower()}
        kept = [line for line in GOOD if line.split(":", 1)[0].lower() not in names]
        return "\r\n".join([self.first.format(path=path), *kept, *self.lines, "", ""]).encode("latin-1")


KEY = "Sec-WebSocket-Key: "
ROWS = [
    Row("4.2.1 request line", "GET"),
    Row("4.2.1 request line", "POST", status=405, first="POST {path} HTTP/1.1", lines=("Content-Length: 0",)),
    Row("4.2.1 request line", "HEAD", status=405, first="HEAD {path} HTTP/1.1"),
    Row("4.2.1 request line", "PUT", status=405, first="PUT {path} HTTP/1.1", lines=("Content-Length: 0",)),
    Row("4.2.1 request line", "OPTIONS", status=405, first="OPTIONS {path} HTTP/1.1"),
    Row("4.2.1 request line", "HTTP/1.0", status=400, first="GET {path} HTTP/1.0"),
    Row("4.2.1 request line", "an absolute URI", first="GET http://test{path} HTTP/1.1"),
    Row("4.2.1 request line", "with a body", ("Content-Length: 5",), 400),
    Row("4.2.1 request line", "with a chunked body", ("Transfer-Encoding: chunked",), 400),
    Row("4.2.1 Host", "none", status=400, without="Host"),
    Row("4.2.1 Host", "two", ("Host: test", "Host: test"), 400),
    Row("4.2.1 Upgrade", "in capitals", ("Upgrade: WEBSOCKET",)),
    Row("4.2.1 Upgrade", "among others", ("Upgrade: h2c, WebSocket",)),
    Row("4.2.1 Upgrade", "in a second line", ("Upgrade: h2c", "Upgrade: websocket")),
    Row("4.2.1 Upgrade", "none: a plain request", status=200, without="Upgrade"),
    Row("4.2.1 Upgrade", "to something else: a plain request", ("Upgrade: h2c",), 200),
    Row("4.2.1 Upgrade", "a longer word: a plain request", ("Upgrade: websockets",), 200),
    Row("4.2.1 Connection", "among others", ("Connection: keep-alive, UPGRADE",)),
    Row("4.2.1 Connection", "none", status=400, without="Connection"),
    Row("4.2.1 Connection", "keep-alive", ("Connection: keep-alive",), 400),
    Row("4.2.1 key", "none", status=400, without="Sec-WebSocket-Key"),
    Row("4.2.1 key", "empty", (KEY,), 400),
    Row("4.2.1 key", "15 bytes", (KEY + "AAAAAAAAAAAAAAAAAAAA",), 400),
    Row("4.2.1 key", "17 bytes", (KEY + "AAAAAAAAAAAAAAAAAAAAAAA=",), 400),
    Row("4.2.1 key", "no base64", (KEY + "!" * 22 + "==",), 400),
    Row("4.2.1 key", "base64 for URLs", (KEY + "A-_AAAAAAAAAAAAAAAAAAA==",), 400),
    Row("11.3.1 key once", "twice", (KEY + "dGhlIHNhbXBsZSBub25jZQ==",) * 2, 400),
    Row("4.2.1 version", "none", status=400, without="Sec-WebSocket-Version"),
    Row("4.2.2 version", "8", ("Sec-WebSocket-Version: 8",), 426),
    Row("4.2.2 version", "0", ("Sec-WebSocket-Version: 0",), 426),
    Row("4.2.2 version", "14", ("Sec-WebSocket-Version: 14",), 426),
    Row("4.2.2 version", "013", ("Sec-WebSocket-Version: 013",), 426),
    Row("4.2.2 version", "no number", ("Sec-WebSocket-Version: thirteen",), 426),
    Row("11.3.5 version once", "twice", ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"), 426),
    Row("11.3.5 version once", "a list", ("Sec-WebSocket-Version: 13, 8",), 426),
    Row("4.2.2 origin", "none: no browser"),
    Row("4.2.2 origin", "the server's own", ("Origin: http://test",)),
    Row("4.2.2 origin", "another", ("Origin: http://elsewhere.example",), 403),
    Row("4.2.2 origin", "null", ("Origin: null",), 403),
    Row("4.2.2 origin", "no URL", ("Origin: http://[",), 403),
    Row("4.2.2 origin", "the own with another port", ("Origin: http://test:81",), 403),
    Row("9.1 grammar", "unknown extensions", ('Sec-WebSocket-Extensions: x-one; a="b";c, two;d=e',)),
    Row("9.1 grammar", "in two lines", ("Sec-WebSocket-Extensions: one", "Sec-WebSocket-Extensions: two;x")),
    Row("9.1 grammar", "empty members", ("Sec-WebSocket-Extensions: , one,,two ,",)),
    Row("9.1 grammar", "a quoted token with an escape", ('Sec-WebSocket-Extensions: one; a="\\b"',)),
    *(
        Row("9.1 grammar", f"malformed: {value}", (f"Sec-WebSocket-Extensions: {value}",), 400)
        for value in (
            "one;",
            "one two",
            "one;a b",
            "=b",
            "one=b",
            "one;a=",
            "one;a=b=c",
            'one;a="b',
            'one;a="b"c',
            "one;;a",
            "(one)",
        )
    ),
    Row("9.1 quoted token", "with a space", ('Sec-WebSocket-Extensions: one; a="b c"',), 400),
    Row("9.1 quoted token", "empty", ('Sec-WebSocket-Extensions: one; a=""',), 400),
    Row("9.1 quoted token", "with a comma", ('Sec-WebSocket-Extensions: one; a="b,c"',), 400),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.clause}-{row.name}".replace(" ", "-"))
def test_handshake(echo: Echo, row: Row) -> None:
    """A good handshake is answered 101 and serves; a bad one gets its status and the end, frames behind it nothing."""
    peer, path = echo.connect()
    early = peer.frame(TEXT, b"early") if row.status != 200 else b""
    peer.send(row.request(path) + early)
    reply = peer.head()
    assert reply.status == row.status
    if row.status == 101:
        answered(reply)
        assert peer.read_frame() == (FIN | TEXT, b"early")
    elif row.status == 200:
        assert reply.get("sec-websocket-accept") is None
    else:
        refused(reply, peer)
        assert path not in echo.ends
    echo.let_go()


def answered(reply: Reply) -> None:
    """RFC 6455 4.2.2 5: what the 101 must carry, each once, and nothing that was not offered."""
    assert reply.get("upgrade") == "websocket"
    assert reply.get("connection") == "Upgrade"
    assert reply.get("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert reply.getlist("sec-websocket-protocol") == reply.getlist("sec-websocket-extensions") == []


def refused(reply: Reply, peer: Peer) -> None:
    """RFC 6455 4.2.2, 4.4; RFC 9110 15.5.6, 15.5.22: what must stand beside the status; then the connection ends."""
    assert reply.get("sec-websocket-version") == ("13" if reply.status == 426 else None)
    assert reply.get("upgrade") == ("websocket" if reply.status == 426 else None)
    assert reply.get("allow") == ("GET" if reply.status == 405 else None)
    assert reply.get("sec-websocket-accept") is None
    assert "close" in (reply.get("connection") or "")
    peer.rest()


# -- subprotocols, resources

SUBPROTOCOLS: list[tuple[str, tuple[str, ...], str | None]] = [
    ("none offered", (), None),
    ("the server's first", ("Sec-WebSocket-Protocol: b, a",), "a"),
    ("in two lines", ("Sec-WebSocket-Protocol: x", "Sec-WebSocket-Protocol: b"), "b"),
    ("none in common", ("Sec-WebSocket-Protocol: x, y",), None),
    ("another case", ("Sec-WebSocket-Protocol: A",), None),
    ("empty", ("Sec-WebSocket-Protocol: ",), None),
    ("a token among what is none", ("Sec-WebSocket-Protocol: (, b, \xe9",), "b"),
]


@pytest.mark.parametrize(("name", "lines", "agreed"), SUBPROTOCOLS, ids=[one[0] for one in SUBPROTOCOLS])
def test_subprotocol(host: Host, name: str, lines: tuple[str, ...], agreed: str | None) -> None:
    """RFC 6455 4.2.2 and 11.3.4: one that both know, once; or no such line, which is not an empty one."""

    async def handler(request: Request) -> Channel:
        return as_channel(request, subprotocols=["a", "b"])

    peer = host.serve(handler).connect()
    peer.send("\r\n".join(["GET / HTTP/1.1", *GOOD, *lines, "", ""]).encode("latin-1"))
    reply = peer.head()
    assert reply.status == 101
    assert reply.getlist("sec-websocket-protocol") == ([] if agreed is None else [agreed])


def test_a_resource_that_is_not_there(host: Host) -> None:
    """RFC 6455 4.2.2 4: a service that is not available is answered by an HTTP error, and the handshake is over."""

    async def handler(request: Request) -> object:
        return reject(404) if request.path == "/none" else as_channel(request)

    peer = host.serve(handler).connect()
    peer.send(peer.handshake(path="/none") + peer.frame(CLOSE, code(1000)))
    reply = peer.reply()
    assert (reply.status, reply.get("sec-websocket-accept")) == (404, None)
    assert peer.rest() == b""
    other = host.connect()
    other.upgrade(path="/", more=other.frame(CLOSE, code(1000)))
    assert other.read_frame() == closed(1000)
