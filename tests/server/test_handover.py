"""A connection that one process accepts and another serves: here two servers of one process, each with its mailbox."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from channelkit import CloseStatus, SessionConfig
from channelkit._handover import Handover, Introduction
from channelkit.workers.neighbours import INLINE, Neighbours, collect, mailbox, post
from tests.server.conftest import open_descriptors
from tests.server.pair import BIG, Pair, Session, texts, totals

if TYPE_CHECKING:
    from tests.server.conftest import Backend

TEXT = 1
CLOSE = 8


@pytest.fixture
def pair(backend: Backend) -> Iterator[Pair]:
    before = len(list(open_descriptors()))
    pair = Pair(backend)
    yield pair
    pair.close()
    assert len(list(open_descriptors())) == before


@pytest.fixture
def served(pair: Pair) -> Pair:
    return pair.serve()


# -- what is asked


def test_a_poll_and_a_post_that_meet_the_other(served: Pair) -> None:
    """The connection goes to the server that has the session, and stays there until it is needed elsewhere."""
    session = served.session(0)
    peer = served.connect(1)
    assert session.poll(peer) == ["in 1"]
    assert json.loads(session.post(peer, 1, "hello").body) == {"ack": 1}
    assert session.poll(peer) == ["in 1", "1: hello"]
    assert peer.ask().body == b"1"
    other = served.session(1)
    assert other.poll(peer) == ["in 2"]
    assert peer.ask().body == b"2"
    assert totals(served, "connections_handed_over") == [1, 1]
    assert totals(served, "connections_total") == [1, 2]
    assert sum(totals(served, "requests")) == 12
    assert totals(served, "connections") == [1, 2]  # where they are now


def test_what_stands_behind_the_request(served: Pair) -> None:
    """Pipelined requests go along, and are answered in their order."""
    session = served.session(0)
    peer = served.connect(1)
    peer.send(
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        f"GET {session.path}/poll?wait=0 HTTP/1.1\r\nHost: a\r\n{session.authorization}\r\n\r\n"
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT"
    )
    assert peer.reply().body == b"2"
    assert b'"in 1"' in peer.reply().body
    assert peer.reply().body == b"1"
    peer.send("TP/1.1\r\nHost: a\r\n\r\n")
    assert peer.reply().body == b"1"


def test_answers_that_were_not_taken_yet(pair: Pair) -> None:
    """What the client has still to read of an earlier answer comes before the answer of the other server."""
    served = pair.serve(soft_mark=30_000_000, hard_mark=60_000_000)  # else the next request waits for it
    session = served.session(0)
    peer = served.connect(1, receive_buffer=4096)
    peer.request("GET", "/big")
    served.hosts[1].until(lambda: totals(served, "handlers")[1] == 0 and totals(served, "responses")[1])
    peer.request("GET", f"{session.path}/poll?wait=0", session.authorization)
    served.hosts[1].until(lambda: totals(served, "connections_handed_over")[1])
    assert peer.reply().body == BIG
    assert b'"in 1"' in peer.reply().body


def test_a_body_in_pieces(served: Pair) -> None:
    """Chunked, waiting for 100 (Continue), and larger than a mailbox takes: it arrives whole."""
    session = served.session(0)
    peer = served.connect(1)
    peer.send(
        f"POST {session.path}?n=1 HTTP/1.1\r\nHost: a\r\n{session.authorization}\r\nContent-Type: text/plain\r\n"
        "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    )
    assert peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    text = "ä" * INLINE
    for piece in (text[:100], text[100:]):
        data = piece.encode()
        peer.send(b"%x\r\n" % len(data) + data + b"\r\n")
    peer.send(b"0\r\n\r\n")
    assert json.loads(peer.reply().body) == {"ack": 1}
    assert session.poll(peer) == ["in 1", f"1: {text}"]


def test_a_body_that_is_too_large(pair: Pair) -> None:
    """Is refused where it came, as it would be there."""
    pair.serve(SessionConfig(max_message=1000))
    session = pair.session(0)
    here, there = (session.post(pair.connect(number), 1, "x" * 20_000) for number in range(2))
    assert (here.status, here.body) == (there.status, there.body)
    assert there.status == 413
    assert totals(pair, "connections_handed_over") == [0, 0]


def test_a_client_that_leaves_before_its_body_is_there(served: Pair) -> None:
    """Nothing is handed over, and nothing stays."""
    session = served.session(0)
    peer = served.connect(1)
    peer.send(f"POST {session.path}?n=1 HTTP/1.1\r\nHost: a\r\n{session.authorization}\r\nContent-Length: 9\r\n\r\nx")
    served.hosts[1].until(lambda: totals(served, "handlers")[1] == 1)
    peer.reset()
    served.hosts[1].until(lambda: totals(served, "handlers")[1] == 0)
    assert totals(served, "connections_handed_over") == [0, 0]
    assert session.poll(session.peer) == ["in 1"]


def test_a_stream(served: Pair) -> None:
    """It begins at the other server, and the uplink beside it finds its way too."""
    session = served.session(0)
    peer, uplink = served.connect(1), served.connect(1)
    peer.request("GET", f"{session.path}/stream", session.authorization)
    assert peer.head().status == 200
    assert b'"in 1"' in peer.until(b'in 1"]\n')
    assert session.post(uplink, 1, "hello").status == 200
    peer.until(b'["m",2,"1: hello"]\n')


def test_a_websocket(served: Pair) -> None:
    """The handshake goes over with the frames that came behind it."""
    session = served.session(0)
    peer = served.connect(1)
    peer.upgrade(
        "Sec-WebSocket-Protocol: ck.v1",
        path=f"{session.path}/ws",
        more=peer.frame(TEXT, session.hello) + peer.frame(TEXT, b"m 1 hello"),
    )
    assert [text[:3] for text in texts(peer, 1)] == ["h {"]
    assert texts(peer, 2) == ["m 1 in 1", "m 2 1: hello"]


def test_a_session_is_ended_by_whoever_asks(served: Pair) -> None:
    session = served.session(0)
    assert served.connect(1).ask("DELETE", session.path, session.authorization).status == 204
    assert served.hosts[0].until(lambda: served.sites[0].ends) == [CloseStatus.CLIENT_CLOSE]


# -- what cannot be had


def test_sessions_that_nobody_has(served: Pair) -> None:
    """Of this server, of the other, of one that there never was: one answer, and the connections live on."""
    secret = "Authorization: Bearer x"
    peer = served.connect(1)
    replies = [peer.ask("GET", f"/ck/{name}{'x' * 22}/poll", secret) for name in ("", "1", "2", "3", "ab-c")]
    assert {(reply.status, reply.body) for reply in replies} == {(404, replies[0].body)}
    assert totals(served, "connections_handed_over") == [1, 1]


def test_a_server_that_has_gone(served: Pair) -> None:
    """Its sessions have gone with it: 404, at once."""
    session = served.session(0)
    server = served.hosts[0].server
    assert server is not None
    server.stop(0)
    served.neighbours[0].close()
    assert served.connect(1).ask("GET", f"{session.path}/poll", session.authorization).status == 404
    assert totals(served, "connections_handed_over")[1] == 0


def test_one_that_is_introduced_later(served: Pair) -> None:
    """Before it is asked for anything it has put the way to its mailbox into the others'."""
    out, way_in = mailbox()
    ways = {"2": os.dup(served.neighbours[1]._way_in.fileno())}
    third = Neighbours("3", os.dup(out.fileno()), os.dup(way_in.fileno()), ways)
    third.introduce(1.0)
    peer = served.connect(1)
    peer.request("GET", f"/ck/3{'x' * 22}/poll", "Authorization: Bearer x")
    assert served.hosts[1].until(lambda: totals(served, "connections_handed_over")[1]) == 1
    what, descriptor = collect(out)
    assert isinstance(what, Introduction)
    assert what.unread.startswith(b"GET /ck/3xxx")
    assert b"authorization: Bearer x\r\n" in what.unread
    with socket.socket(fileno=descriptor) as sock:
        sock.sendall(b"from the third")
    assert peer.take(14) == b"from the third"
    third.close()
    out.close()
    way_in.close()


def test_a_mailbox_that_is_full(served: Pair) -> None:
    """Whoever has something for it waits, and goes on in order when there is room; whoever leaves is forgotten."""
    out, way_in = mailbox()
    ways = {"2": os.dup(served.neighbours[1]._way_in.fileno())}
    third = Neighbours("3", os.dup(out.fileno()), os.dup(way_in.fileno()), ways)
    third.introduce(1.0)
    descriptor = os.open(os.devnull, os.O_RDONLY)
    filled = 0
    while True:
        try:
            post(way_in, "x" * 1000, descriptor)
            filled += 1
        except BlockingIOError:
            break
    os.close(descriptor)
    peers = [served.connect(1) for _ in range(3)]
    for number, peer in enumerate(peers):
        peer.request("GET", f"/ck/3{number}{'x' * 21}/poll")
        served.hosts[1].until(lambda: totals(served, "handlers")[1] == number + 1)  # noqa: B023
    assert totals(served, "connections_handed_over")[1] == 0
    for _ in range(filled):
        os.close(collect(out)[1])
    served.hosts[1].until(lambda: totals(served, "connections_handed_over")[1] == 3)
    for number in range(3):
        what, descriptor = collect(out)
        assert what.unread.startswith(f"GET /ck/3{number}xx".encode())
        os.close(descriptor)
    third.close()
    out.close()
    way_in.close()


class _NoRoom:
    """A company for which there are no descriptors."""

    name = "2"

    def member(self, name: str) -> _NoRoom:
        return self

    async def take(self, release: object) -> bool:
        raise OSError(errno.EMFILE, "Too many open files")


def test_no_descriptors(served: Pair) -> None:
    """The client comes again, and nothing is lost by it."""
    session = served.session(0)
    served.hosts[1].core.company = _NoRoom()
    peer = served.connect(1)
    reply = peer.ask("GET", f"{session.path}/poll", session.authorization)
    assert (reply.status, reply.get("retry-after")) == (503, "1")
    server = served.hosts[1].server
    assert server is not None
    assert server.limit_counts["descriptors"] == 1
    served.hosts[1].core.company = served.neighbours[1]
    assert session.poll(peer) == ["in 1"]


def test_a_connection_for_a_server_that_has_ended(served: Pair) -> None:
    """It is closed."""
    ours, theirs = socket.socketpair()
    introduction = Introduction(
        listener=0, peer=None, local=None, secure=False, tls=None, counted=False, unsent=b"", unread=b"GET / HTTP/1.1"
    )
    server = served.hosts[0].server
    assert server is not None
    server.stop()
    server._serve_handed_over(Handover(theirs, introduction))
    assert ours.recv(1) == b""
    ours.close()


# -- what is known of the client


def test_whose_connection_it_is(pair: Pair) -> None:
    """The addresses that a proxy has told go along, for this request and all that follow."""
    pair.serve(proxy_protocol="enable", trusted_proxies=["127.0.0.1"])
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 443\r\n"
    maker = pair.connect(0)
    maker.send(header)
    session = Session(maker, "1")
    peer = pair.connect(1)
    peer.send(header)
    assert session.poll(peer) == session.poll(peer) == ["in 1"]
    assert pair.sites[0].principals == [(("192.0.2.1", 1111), "http", None)] * 5
    assert pair.sites[1].principals == []


def test_the_places_an_address_has(pair: Pair) -> None:
    """Are counted where the connection is, and freed where it was."""
    pair.serve(max_connections_per_address=2)
    session = pair.session(0)
    peers = [pair.connect(1) for _ in range(2)]
    assert session.poll(peers[0]) == ["in 1"]
    assert peers[1].ask().body == b"2"
    assert pair.connect(1).ask().body == b"2"
    assert pair.connect(0).reply().status == 503


def test_a_client_that_has_said_all(served: Pair) -> None:
    """Half-closed, it gets its answer from the other server all the same."""
    session = served.session(0)
    peer = served.connect(1)
    lines = (session.authorization, "Content-Type: text/plain")
    peer.request("POST", f"{session.path}?n=1", *lines, body=b"the last")
    peer.fin()
    assert json.loads(peer.reply().body) == {"ack": 1}
    assert peer.rest() == b""


def test_a_stop_with_connections_of_the_other(served: Pair) -> None:
    """What was handed over is told goodbye, as its own connections are."""
    session = served.session(0)
    peer = served.connect(1)
    peer.upgrade("Sec-WebSocket-Protocol: ck.v1", path=f"{session.path}/ws")
    peer.send_frame(TEXT, session.hello)
    assert [text[:3] for text in texts(peer, 2)] == ["h {", "m 1"]
    server = served.hosts[1].server
    assert server is not None
    server.stop()  # it is none of its
    peer.send_frame(TEXT, b"m 1 still here")
    assert texts(peer, 1) == ["m 2 1: still here"]
    server = served.hosts[0].server
    assert server is not None
    server.stop_soon(5)
    assert [text[:8] for text in texts(peer, 2)] == ["a 1", "e 3 1001"]
    peer.send_frame(TEXT, b"a 3")
    peer.send_frame(CLOSE, peer.read_close()[1])
    assert peer.rest() == b""
    assert server.join(5)
