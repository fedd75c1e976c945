"""A connection that speaks TLS cannot change its process; what it says goes to the other one through a tunnel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.conftest import open_descriptors
from tests.server.pair import BIG, Pair, Session, texts, totals

if TYPE_CHECKING:
    from tests.server.conftest import Backend, Peer
    from tests.server.tls.conftest import Authority

TEXT = 1


@pytest.fixture
def pair(backend: Backend, authority: Authority) -> Iterator[Pair]:
    before = len(list(open_descriptors()))
    pair = Pair(backend)
    pair.trust = authority.trust()
    yield pair
    pair.close()
    assert len(list(open_descriptors())) == before


@pytest.fixture
def served(pair: Pair, authority: Authority) -> Pair:
    return pair.serve(ssl=authority.tls())


def tunnelled(served: Pair) -> tuple[Session, Peer]:
    """A session of the first, and a connection to the second that is the first's now."""
    session = served.session(0)
    peer = served.connect(1)
    assert session.poll(peer) == ["in 1"]
    return session, peer


def stop(served: Pair, number: int, timeout: float = 0.0) -> None:
    server = served.hosts[number].server
    assert server is not None
    server.stop(timeout)


def test_requests(served: Pair) -> None:
    """One after another, of which each is for whom it is for; the end has a close_notify."""
    session, peer = tunnelled(served)
    assert session.post(peer, 1, "hello" * 100_000).status == 200
    assert session.poll(peer) == ["in 1", "1: " + "hello" * 100_000]
    other = served.session(1)
    assert other.poll(peer) == ["in 2"]
    assert peer.ask().body == b"2"
    assert session.poll(peer)[:1] == ["in 1"]
    assert peer.ask("GET", "/", "Connection: close").body == b"1"
    assert peer.rest() == b""  # an end without close_notify would raise
    assert totals(served, "connections_total") == [1, 2]
    assert totals(served, "connections_handed_over") == [1, 2]
    served.hosts[1].until(lambda: totals(served, "connections") == [1, 1])


def test_what_is_known_of_the_connection(pair: Pair, authority: Authority) -> None:
    """Its TLS too, with the certificate the client has shown."""
    context = authority.trust()
    authority.ca.issue_cert("alice.example").configure_cert(context)
    pair.trust = context
    pair.serve(ssl=authority.tls(client_ca=authority.file))
    _, peer = tunnelled(pair)
    (_, scheme, tls), address = pair.sites[0].principals[-1], pair.sites[0].principals[-1][0]
    assert scheme == "https"
    assert address == peer.sock.getsockname()
    assert tls.version == "TLSv1.3"
    assert tls.client_certificate["subjectAltName"] == (("DNS", "alice.example"),)


def test_a_websocket(served: Pair) -> None:
    """Frames go both ways, also those that came with the handshake."""
    session = served.session(0)
    peer = served.connect(1)
    frames = peer.frame(TEXT, session.hello) + peer.frame(TEXT, b"m 1 hello")
    peer.upgrade("Sec-WebSocket-Protocol: ck.v1", path=f"{session.path}/ws", more=frames)
    assert [text[:3] for text in texts(peer, 1)] == ["h {"]
    assert texts(peer, 2) == ["m 1 in 1", "m 2 1: hello"]
    for number in range(2, 20):
        peer.send_frame(TEXT, b"m %d more" % number)
    assert texts(peer, 18)[-1].endswith("1: more")


def test_a_client_that_does_not_read(pair: Pair, authority: Authority) -> None:
    """Slows down the process behind the tunnel, and is given up in the end, there too."""
    pair.serve(ssl=authority.tls(), write_timeout=0.5)
    session = pair.session(0)
    peer = pair.connect(1, receive_buffer=4096)
    assert session.poll(peer) == ["in 1"]
    peer.request("GET", "/endless")
    pair.hosts[0].until(lambda: pair.sites[0].pulled)
    pair.hosts[0].until(lambda: totals(pair, "connections") == [1, 0])
    assert pair.sites[0].pulled < 16_000_000
    assert totals(pair, "handlers") == [0, 0]


def test_a_client_that_reads_slowly(served: Pair) -> None:
    """Gets all of it, though the tunnel has to stop in the midst."""
    session = served.session(0)
    peer = served.connect(1, receive_buffer=65536)
    assert session.poll(peer) == ["in 1"]
    peer.request("GET", "/big")
    take_over: Any = served.hosts[1].server and served.hosts[1].server._take_over
    (tunnel,) = take_over.keywords["reactor"].tunnels
    served.hosts[1].until(lambda: not tunnel._process.reading)
    assert peer.reply().body == BIG


def test_a_client_that_vanishes(served: Pair) -> None:
    """The process behind the tunnel learns of it."""
    session, peer = tunnelled(served)
    peer.request("GET", f"{session.path}/stream", session.authorization)
    peer.until(b"in 1")
    served.hosts[0].until(lambda: totals(served, "connections") == [2, 1])
    peer.reset()
    served.hosts[0].until(lambda: totals(served, "connections") == [1, 0])


def test_the_process_behind_it_stops(served: Pair) -> None:
    """Its clients learn of it as they do without a tunnel."""
    _, peer = tunnelled(served)
    stop(served, 0)
    assert peer.rest() == b""
    served.hosts[1].until(lambda: totals(served, "connections")[1] == 0)


def test_the_process_before_it_stops(served: Pair) -> None:
    """It does not wait for a tunnel that nobody ends, but for what is being said."""
    session, peer = tunnelled(served)
    idle = served.connect(1)
    assert session.poll(idle) == ["in 1"]
    peer.request("GET", f"{session.path}/stream", session.authorization)
    peer.until(b"in 1")
    server = served.hosts[1].server
    assert server is not None
    server.stop_soon(60)
    served.hosts[1].until(lambda: server.status == "stopping")
    assert json.loads(session.post(session.peer, 1, "hello").body) == {"ack": 1}
    peer.until(b"1: hello")
    assert server.join(10)
    assert idle.rest() == b""
    served.hosts[0].until(lambda: totals(served, "connections") == [1, 0])
