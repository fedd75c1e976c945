"""The PROXY protocol as a client of the server sees it, over TCP."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from channelkit import Listen, Request, with_channel
from channelkit.testing import tls

if TYPE_CHECKING:
    from tests.server.conftest import Host

V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1001 443\r\n"
V2_START = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL = V2_START + b"\x20\0\0\0"


async def who(request: Request) -> Any:
    """Who asks whom, as text or as the first message of a WebSocket."""
    text = f"{request.client} {request.server} {request.scheme} {sorted(request.headers)}"
    if request.is_websocket:
        async with with_channel(request) as channel:
            await channel.send(text)
        return None
    return text


def proxied(host: Host, **options: Any) -> Host:
    return host.serve(who, **{"proxy_protocol": "enable", "trusted_proxies": ["127.0.0.1"], **options})


def test_all_requests_of_a_connection_are_the_clients(host: Host) -> None:
    """Addresses are those of the header; header fields are as the client sent them."""
    peer = proxied(host).connect()
    peer.send(V1)
    for _ in range(2):
        body = peer.ask("GET", "/", "X-Forwarded-For: 10.0.0.1").body.decode()
        assert body == "('192.0.2.1', 1001) ('192.0.2.2', 443) http ['host', 'x-forwarded-for']"


def test_a_websocket_is_the_clients_too(host: Host) -> None:
    """Header and handshake may come in one packet."""
    peer = proxied(host).connect()
    peer.send(V1 + peer.handshake())
    assert peer.head().status == 101
    assert peer.read_frame()[1].startswith(b"('192.0.2.1', 1001) ('192.0.2.2', 443) http")


def test_a_header_may_come_byte_by_byte(host: Host) -> None:
    """Over TCP, where each is a packet of its own; the request follows likewise."""
    peer = proxied(host).connect()
    peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in V1 + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n":
        peer.send(bytes([byte]))
    assert peer.reply().body.startswith(b"('192.0.2.1', 1001)")


def test_a_second_header_is_a_bad_request(host: Host) -> None:
    """It is read once, before the first byte."""
    peer = proxied(host).connect()
    peer.send(V1 + V1)
    assert peer.reply().status == 400


@pytest.mark.parametrize("header", [V1, LOCAL])
def test_who_is_not_trusted_is_refused(host: Host, header: bytes) -> None:
    """With "optional" what he sends is HTTP, and this is none: 400.  With "enable" he is not even listened to."""
    listen = [Listen(port=0), Listen(port=0, proxy_protocol="enable")]
    proxied(host, listen=listen, proxy_protocol="optional", trusted_proxies=["127.0.0.1"])
    stranger = host.connect(source="127.0.0.2")
    stranger.send(header + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert stranger.reply().status == 400
    stranger = host.connect(source="127.0.0.2")
    assert stranger.ask().body.startswith(b"('127.0.0.2', ")
    assert host.connect(source="127.0.0.2", listener=1).rest() == b""


def test_each_listener_has_its_own_mind(host: Host, tmp_path: Path) -> None:
    """PROXY headers by the UNIX socket only, where the front server is; by TCP clients come themselves."""
    path = str(tmp_path / "s")
    trusting = Listen(unix=path, proxy_protocol="enable", trusted_proxies=["unix"])
    host.serve(who, listen=[Listen(port=0), trusting])
    assert host.connect().ask().body.startswith(b"('127.0.0.1', ")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(V1 + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"('192.0.2.1', 1001)" in sock.recv(4096)


def test_health_checks_leave_no_trace(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Connect and close, connect and reset, LOCAL and close: nothing is logged, nothing is counted, nothing is left."""
    proxied(host)
    for data, end in ((b"", "close"), (b"", "reset"), (LOCAL, "close"), (b"PROXY UNKNOWN\r\n", "close")):
        peer = host.connect()
        peer.send(data)
        getattr(peer, end)()
    assert host.connect().sock.getpeername()
    peer = host.connect()
    peer.send(LOCAL)
    assert peer.ask().body.startswith(b"('127.0.0.1', ")
    assert host.server is not None
    assert host.server.limit_counts == {}
    assert [one for one in caplog.records if one.levelname != "INFO"] == []


def test_a_flood_of_mistakes_is_one_line(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """It says from where and what."""
    proxied(host)
    for _ in range(5):
        peer = host.connect()
        peer.send(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises((ConnectionResetError, AssertionError)):
            peer.take(1)
    assert host.server is not None
    assert host.server.limit_counts == {"proxy_protocol": 5}
    (line,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "a connection from 127.0.0.1 port" in line
    assert "does not begin with a PROXY header but with b'GET / HTTP/1.1" in line


def test_the_server_stops_though_proxies_are_silent(host: Host) -> None:
    """Connections of which nobody has told yet whose they are do not hold up the end."""
    proxied(host)
    peers = [host.connect() for _ in range(3)]
    peers[0].send(b"PROXY ")
    assert host.server is not None
    reactor_has = host.core.lingering
    host.until(lambda: reactor_has() == 3)
    host.server.stop(timeout=30)
    for peer in peers[1:]:
        assert peer.rest() == b""


def test_a_proxy_that_speaks_for_itself_is_not_counted(host: Host) -> None:
    """A client at the proxy's own address is, like all others."""
    proxied(host, max_connections_per_address=1)
    checks = [host.connect() for _ in range(3)]
    for peer in checks:
        peer.send(LOCAL)
        assert peer.ask().status == 200
    for status in (200, 503):
        peer = host.connect()
        peer.send(V1.replace(b"192.0.2.1", b"127.0.0.1"))
        peer.request()
        assert peer.reply().status == status


def secure(host: Host) -> ssl.SSLSocket:
    """A connection that a proxy has introduced, and then TLS between client and server."""
    sock = socket.create_connection(("127.0.0.1", host.port), timeout=10)
    sock.sendall(V1)
    return tls.client_context().wrap_socket(sock, server_hostname="localhost")


def test_the_header_stands_before_tls(host: Host) -> None:
    """In clear, as the specification has it; what follows is the client's own TLS."""
    proxied(host, ssl=tls.server_context())
    with secure(host) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"('192.0.2.1', 1001) ('192.0.2.2', 443) https" in sock.recv(4096)


def test_header_and_client_hello_in_one_packet(host: Host) -> None:
    """Cut anywhere around the border: TLS finds its first byte."""
    proxied(host, ssl=tls.server_context())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    for cut in (len(V1) - 1, len(V1), len(V1) + 1, len(V1) + len(hello)):
        peer = host.connect()
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.send((V1 + hello)[:cut])
        peer.send((V1 + hello)[cut:])
        assert peer.take(3)[:2] == b"\x16\x03"  # a handshake record: the server's answer


def test_one_client_too_many_is_told_in_tls(host: Host) -> None:
    """It counts by whom the proxy introduces; HTTP would not be understood there."""
    proxied(host, ssl=tls.server_context(), max_connections_per_address=1)
    with secure(host), pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
        secure(host)
