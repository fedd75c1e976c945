"""`forwarded`: who the client of a proxy is, where a request or an ASGI scope tells it, and whose pages are our own."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from channelkit import ASGIHandler, Listen, Request, with_channel
from channelkit.http import Request as PlainRequest

if TYPE_CHECKING:
    from tests.server.conftest import Host

FIELDS = {
    "x-forwarded": (
        "X-Forwarded-For: 9.9.9.9, 192.0.2.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: shop.example",
    ),
    "forwarded": ('Forwarded: for=9.9.9.9, for="192.0.2.1";proto=https;host=shop.example',),
}


async def who(request: Request) -> Any:
    if request.is_websocket:
        async with with_channel(request) as channel:
            await channel.send(f"{request.client} {request.scheme} {request.host}")
        return None
    return f"{request.client} {request.scheme} {request.host} {request.headers['host']}"


@pytest.mark.parametrize("kind", FIELDS)
def test_a_trusted_proxy_is_believed(host: Host, kind: Any) -> None:
    """For each request anew, a WebSocket's too; the header fields themselves stay as they came."""
    host.serve(who, forwarded=kind, trusted_proxies=["127.0.0.1"])
    peer = host.connect()
    for _ in range(2):
        assert peer.ask("GET", "/", *FIELDS[kind]).body == b"('192.0.2.1', 0) https shop.example test"
    address = str(peer.sock.getsockname()).encode()
    assert peer.ask().body == address + b" http test test"
    peer.upgrade(*FIELDS[kind])
    assert peer.read_frame()[1] == b"('192.0.2.1', 0) https shop.example"


@pytest.mark.parametrize("kind", FIELDS)
def test_nobody_else_is(host: Host, kind: Any) -> None:
    """Not who is not named, not where the option is "ignore", and not by the fields of the other kind."""
    other: Any = "x-forwarded" if kind == "forwarded" else "forwarded"
    listen = [Listen(port=0), Listen(port=0, forwarded="ignore"), Listen(port=0, forwarded=other)]
    host.serve(who, listen=listen, forwarded=kind, trusted_proxies=["127.0.0.2"])
    for number, source in ((0, "127.0.0.1"), (1, "127.0.0.2"), (2, "127.0.0.2")):
        peer = host.connect(source=source, listener=number)
        address = str(peer.sock.getsockname()).encode()
        assert peer.ask("GET", "/", *FIELDS[kind]).body == address + b" http test test"


def test_by_a_unix_socket(host: Host, tmp_path: Path) -> None:
    """Its peer has no address, and can be trusted all the same."""
    path = str(tmp_path / "s")
    host.serve(who, listen=[Listen(unix=path)], forwarded="x-forwarded", trusted_proxies=["unix"])
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
        assert sock.recv(4096).endswith(b"('192.0.2.1', 0) http a a")


def test_what_cannot_be_read_is_ignored(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """The request is served, as the proxy's own; one line tells of it, however many there are."""
    host.serve(who, forwarded="x-forwarded", trusted_proxies=["127.0.0.1"])
    peer = host.connect()
    address = str(peer.sock.getsockname()).encode()
    for _ in range(3):
        lines = ("X-Forwarded-For: me", "X-Forwarded-Proto: https")
        assert peer.ask("GET", "/", *lines).body == address + b" http test test"
    assert host.server is not None
    assert host.server.limit_counts == {"forwarded": 3}
    (line,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "what 127.0.0.1 port" in line
    assert "told of a client is ignored: 'me' is no address" in line


def test_a_proxy_may_have_as_many_connections_as_it_likes(host: Host) -> None:
    """They are those of its clients, and not counted; others are held to `max_connections_per_address`."""
    listen = [Listen(port=0), Listen(port=0, forwarded="ignore")]
    host.serve(
        who, listen=listen, forwarded="x-forwarded", trusted_proxies=["127.0.0.2"], max_connections_per_address=1
    )
    proxies = [host.connect(source="127.0.0.2") for _ in range(3)]
    assert all(peer.ask().status == 200 for peer in proxies)
    assert host.connect().ask().status == 200
    assert host.connect().reply().status == 503
    assert host.connect(source="127.0.0.2", listener=1).ask().status == 200
    assert host.connect(source="127.0.0.2", listener=1).reply().status == 503


def test_both_protocols_together(host: Host) -> None:
    """Behind a balancer that speaks PROXY stand proxies of ours that write fields: it is they who must be trusted."""
    host.serve(who, forwarded="x-forwarded", proxy_protocol="enable", trusted_proxies=["127.0.0.1", "10.0.0.0/8"])
    for source, told in (("10.0.0.5", b"('192.0.2.1', 0) https"), ("192.0.2.5", b"('192.0.2.5', 7) http")):
        peer = host.connect()
        peer.send(f"PROXY TCP4 {source} 10.0.0.1 7 80\r\n")
        assert peer.ask("GET", "/", *FIELDS["x-forwarded"]).body.startswith(told)


def test_an_asgi_application_is_told_the_same(host: Host) -> None:
    """In its scope: client and scheme; the fields are there too, as they came."""
    scopes: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] != "lifespan"
        scopes.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})
        else:
            await receive()
            await send({"type": "websocket.close"})

    handler = ASGIHandler(application)
    host.serve(handler, forwarded="x-forwarded", trusted_proxies=["127.0.0.1"])
    peer = host.connect()
    assert peer.ask("GET", "/", *FIELDS["x-forwarded"]).status == 204
    peer.send(peer.handshake(*FIELDS["x-forwarded"]))
    assert peer.head().status == 403
    assert [(scope["client"], scope["scheme"]) for scope in scopes] == [
        (("192.0.2.1", 0), "https"),
        (("192.0.2.1", 0), "wss"),
    ]
    assert (b"x-forwarded-for", b"9.9.9.9, 192.0.2.1") in scopes[0]["headers"]


# -- whose pages are our own


@pytest.mark.parametrize(
    ("scheme", "name", "origins"),
    [
        ("http", "App.example", {"http://app.example", "https://app.example"}),
        ("https", "app.example", {"https://app.example"}),
        ("https", "app.example:443", {"https://app.example"}),
        ("https", "app.example:80", {"https://app.example:80"}),
        ("http", "app.example:80", {"http://app.example", "https://app.example:80"}),
        ("http", "[::1]:8090", {"http://[::1]:8090", "https://[::1]:8090"}),
        ("https", "", set()),
    ],
)
def test_own_origins(scheme: str, name: str, origins: set[str]) -> None:
    """Once it is known that clients come by TLS, pages that did not are strangers: anyone on the way can write them."""
    headers = (("host", name),) if name else ()
    assert PlainRequest(method="GET", target="/", raw_headers=headers, scheme=scheme).origins == origins


@pytest.mark.parametrize(
    ("origin", "lines", "status"),
    [
        ("https://test", ("X-Forwarded-Proto: https",), 101),
        ("http://test", ("X-Forwarded-Proto: https",), 403),
        ("http://test", (), 101),
        ("https://test", (), 101),
        ("https://shop.example", ("X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example"), 101),
        ("https://test", ("X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example"), 403),
        ("ftp://test", (), 403),
        ("https://test/", ("X-Forwarded-Proto: https",), 403),
    ],
)
def test_the_origin_of_a_websocket(host: Host, origin: str, lines: tuple[str, ...], status: int) -> None:
    """What a proxy tells of scheme and host is what the page's origin must be."""
    host.serve(who, forwarded="x-forwarded", trusted_proxies=["127.0.0.1"])
    peer = host.connect()
    peer.send(peer.handshake(f"Origin: {origin}", *lines))
    assert peer.head().status == status
