"""Requests and responses under every host: bodies, streams, ends, what a head may hold."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from h2.exceptions import H2Error
from h11 import LocalProtocolError
from hosting.application import FAR_TOO_MUCH, MIB, PIECE
from hosting.clients import PATIENCE, Cut, Exchange
from hosting.processes import until

pytestmark = pytest.mark.xdist_group("asgi-hosts")  # the hosts are started once, not once a core

if TYPE_CHECKING:
    from conftest import Site

STILL = 10  # times that a number is seen unchanged
WANTED_END = {"status": "client-close", "code": 1006, "by": "peer"}


def test_a_body_comes_back_as_it_went(site: Site) -> None:
    """Small, big and chunked bodies, whole and streamed, arrive as they were sent."""
    client = site.connect()
    for body in (b"", b"\0\r\n\r\n0\r\n", bytes(range(256)), MIB):
        assert client.ask("POST", "/payloads", body=body).body == body
    streamed = client.ask("POST", "/payloads?streamed=", body=MIB)
    assert streamed.body == MIB
    exchange = site.connect().request("POST", "/payloads", [("Transfer-Encoding", "chunked")], end=False)
    for piece in (b"one", b"\0", b"x" * 70000):
        exchange.send(piece)
    exchange.send(b"", end=True)
    assert exchange.reply().body == b"one\0" + b"x" * 70000


def test_big_answers(site: Site) -> None:
    """A body from memory has its length, a file is streamed; both arrive whole, one after the other."""
    client = site.connect()
    reply = client.get("/big")
    assert (reply.get("content-length"), reply.body) == (str(len(MIB)), MIB)
    assert b"The one application that all hosts serve" in client.get("/file").body


def test_statuses(site: Site) -> None:
    """404, 405, 426, 500, 413 and the rest have the same status, headers and body everywhere."""
    client = site.connect()
    assert client.get("/nothing").status == 404
    reply = client.ask("POST", "/get", body=b"")
    assert (reply.status, reply.get("allow")) == (405, "GET, HEAD")
    reply = site.connect().get("/echo")
    assert (reply.status, reply.body) == (426, b"a WebSocket is needed\n")
    assert reply.get("upgrade") == (None if site.host.http2 else "websocket")
    reply = site.connect().get("/raising")
    assert (reply.status, reply.body) == (500, b"Internal Server Error\n")
    reply = site.connect().get("/refuse?status=403")
    assert (reply.status, reply.get("x-why"), reply.body) == (403, "because", b"not you\n")


def test_a_head_without_a_body(site: Site) -> None:
    """HEAD, 204 and 304 have no body, and the connection goes on."""
    client = site.connect()
    reply = client.ask("HEAD", "/get")
    assert (reply.status, reply.get("content-length"), reply.body) == (200, "3", b"")
    for status in (204, 304):
        reply = client.get(f"/status?status={status}")
        assert (reply.status, reply.body, reply.get("etag")) == (status, b"", '"x"')
    assert client.ask("HEAD", "/stream?id=head").body == b""
    assert client.get("/get").body == b"get"


def test_fields_of_the_connection_are_the_hosts(site: Site) -> None:
    """What a handler says about framing and keeping the connection does not come through."""
    reply = site.connect().get("/status")
    assert reply.body == b"a body\n"
    assert reply.get("keep-alive") is None
    assert reply.get("transfer-encoding") is None
    assert reply.get("content-length") == "7"
    assert reply.get("connection") in (None, "keep-alive", "close")
    site.saw("hop-headers", "left out")


def test_two_requests_on_one_connection(site: Site) -> None:
    """Keep-alive works after an answer, a stream and a held answer."""
    client = site.connect()
    name = site.name()
    assert client.get("/get").body == b"get"
    exchange = client.request("GET", f"/held?id={name}")
    answer = until(lambda: site.connect().get(f"/release?id={name}").body)
    assert answer == b"accepted: True"
    reply = exchange.reply()
    assert (reply.status, reply.get("x-held"), reply.body) == (200, "yes", b"released")
    exchange = client.request("GET", f"/stream?id={name}")
    exchange.head()
    exchange.until(b"begun\n")
    assert site.connect().get(f"/finish?id={name}").body == b"True"
    assert exchange.rest() == b""
    assert client.get("/get").body == b"get"
    held, stream = site.told(name)["ends"]
    for end in (held, stream):
        assert (end["status"], end["by"], end["unsent"]) == ("server-close", "local", 0)


@pytest.mark.parametrize("framing", ["", "sse", "ndjson"])
def test_streams_arrive_as_they_are_sent(site: Site, framing: str) -> None:
    """Each message arrives before the next is sent; the end is a proper one."""
    name = site.name()
    exchange = site.connect().request("GET", f"/stream?id={name}&framing={framing}")
    reply = exchange.head()
    begun = {"": b"begun\n", "sse": b"data: begun\ndata:\n\n", "ndjson": b'"begun\\n"\n'}[framing]
    assert exchange.until(begun[-1:] if framing != "sse" else b"\n\n").replace(b"data: \n", b"data:\n") == begun
    if framing:
        assert reply.get("x-accel-buffering") == "no"
    for message in ("one", "\u00e9\u2028", "line\nline"):
        assert site.connect().ask("POST", f"/say?id={name}", body=message.encode()).body == b"True"
        framed = {
            "": message,
            "sse": "".join(f"data: {line}\n" for line in message.split("\n")) + "\n",
            "ndjson": json.dumps(message, ensure_ascii=False) + "\n",
        }[framing].encode()
        got = b""
        while len(got) < len(framed):
            got += exchange.read()
        assert got == framed or json.loads(got) == message
    assert site.connect().get(f"/finish?id={name}").body == b"True"
    assert exchange.rest() == b""


def test_repeated_fields(site: Site) -> None:
    """Cookies and other fields that are there twice stay two, both ways."""
    headers = [("X-Many", "a"), ("X-Many", "b"), ("Cookie", "c=1; d=2")]
    reply = site.connect().get("/cookies", headers)
    assert reply.getlist("set-cookie") == ["a=1; Path=/", "b=2"]
    assert reply.getlist("x-many") == ["1", "2"]
    assert json.loads(reply.body) == [["a", "b"], {"c": "1", "d": "2"}]


def test_what_a_request_is(site: Site) -> None:
    """Paths, escapes and query are the client's; the rest is the host's word."""
    info = json.loads(site.connect().get("/info/a%20b%2Fc/%C3%A9?x=1&y=%20").body)
    assert info["path"] == "/info/a b/c/\u00e9"
    assert info["raw_path"] == "/info/a%20b%2Fc/%C3%A9"
    assert info["query_string"] == "x=1&y=%20"
    assert (info["root_path"], info["scheme"], info["method"]) == ("", "http", "GET")
    assert info["http_version"] == ("2" if site.host.http2 else "1.1")
    assert info["client"] is True


# -- the client goes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stream", "held"])
def test_a_client_that_drops_its_connection(site: Site, kind: str) -> None:
    """`on_close` runs at once, for a stream and for an answer that is held."""
    name = site.name()
    client = site.connect()
    exchange = client.request("GET", f"/{kind}?id={name}")
    if kind == "stream":
        exchange.head()
        exchange.until(b"begun\n")
    else:
        assert site.connect().get("/get").body == b"get"
    client.reset()
    end = site.end(name)
    assert {key: end[key] for key in WANTED_END} == WANTED_END
    site.saw(f"gone-{kind}", "at once")


def test_a_client_that_does_not_read(site: Site) -> None:
    """`send` waits: memory stays bounded, and what was accepted is not far from what the kernel took."""
    name = site.name()
    before = int(site.connect().get("/memory").body)
    client = site.connect(receive_buffer=65536)
    client.request("GET", f"/flood?id={name}").head()
    accepted = standstill(site, name)
    grown = int(site.connect().get("/memory").body) - before
    client.reset()
    if accepted >= FAR_TOO_MUCH:
        site.saw("back-pressure-http", "no: the host keeps it all in memory")
        return
    assert accepted < 16 << 20
    assert grown < 24 << 20
    site.end(name)
    site.saw("back-pressure-http", "yes")


def standstill(site: Site, name: str) -> int:
    """How much was accepted when no more is."""
    seen: list[Any] = []

    def still() -> bool:
        seen.append(site.notes(name))
        return len(seen) > STILL and bool(seen[-1]) and seen[-STILL:] == [seen[-1]] * STILL

    until(still, "a sender that waits")
    accepted: int = seen[-1][0]
    return accepted


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_an_exception_after_the_head(site: Site) -> None:
    """The client sees that the response is not whole."""
    name = site.name()
    client = site.connect()
    exchange = client.request("GET", f"/torn?id={name}")
    assert exchange.head().status == 200
    assert exchange.until(b"half\n") == b"half\n"
    assert (site.end(name)["status"], site.end(name)["by"]) == ("internal-server-error", "local")
    client.sock.settimeout(0.5)
    site.saw("torn", ending(exchange))


def ending(exchange: Exchange) -> str:
    """How the response ends for its client."""
    try:
        rest = exchange.rest()
    except Cut:
        return "yes"
    except TimeoutError:
        return "no: it waits on"
    assert rest == b""
    return "no: it looks whole"


def test_a_body_that_raises(site: Site) -> None:
    """A streamed body that fails is a 500 where nothing has left, else a cut; never a whole response."""
    exchange = site.connect().request("GET", "/torn-body")
    try:
        assert exchange.reply().status == 500
    except Cut:
        pass
    except TimeoutError:
        assert site.host.family == "hypercorn"


def test_an_announced_body_that_is_too_long(site: Site) -> None:
    """It is refused with 413 before it was sent."""
    length = [("Content-Length", str(3 << 20))]
    exchange = site.connect().request("POST", "/payloads", length, end=False)
    assert exchange.head().status == 413


def test_a_body_that_grows_too_long(site: Site) -> None:
    """A chunked body beyond `max_body` is 413 while it is being sent."""
    client = site.connect()
    exchange = client.request("POST", "/payloads", [("Transfer-Encoding", "chunked")], end=False)
    client.sock.settimeout(PATIENCE)
    try:
        for _ in range(3 << 5):
            exchange.send(bytes(32768))
        exchange.send(b"", end=True)
    except (OSError, H2Error):
        pass  # it may close its end after the answer
    assert exchange.head().status == 413
    site.saw("long-body", "413")
    site.start_afresh()


def test_an_answer_before_the_body_was_read(site: Site) -> None:
    """It arrives although the client is still sending, and other connections are served on."""
    client = site.connect()
    exchange = client.request("POST", "/early", [("Content-Length", str(1 << 20))], end=False)
    reply = exchange.head()
    assert (reply.status, exchange.rest()) == (202, b"early\n")
    client.sock.settimeout(0.5)
    try:
        exchange.send(bytes(1 << 20), end=True)
        assert client.get("/get").body == b"get"
        verdict = "yes; the rest is read, and the connection goes on"
    except TimeoutError:
        verdict = "yes; then the host reads no more, and the connection hangs"
    except (OSError, Cut, LocalProtocolError):
        verdict = "yes; then the host closes the connection"
    if until(lambda: others_served(site), "an answer, or the end of the host", 60.0) == "no":
        verdict = "yes; then the host's worker dies, with all it serves"
    site.saw("early", verdict)
    site.start_afresh()


def others_served(site: Site) -> str:
    """Whether the host still answers; nothing where that cannot be said yet."""
    try:
        client = site.connect()
        client.sock.settimeout(1.0)  # where a worker is just dying nobody answers; the next is refused
        return "yes" if client.get("/get").body == b"get" else ""
    except ConnectionRefusedError:
        return "no"
    except (OSError, Cut):
        return ""


def test_an_upload_that_breaks_off(site: Site) -> None:
    """The handler learns it: nothing is answered, and nothing is left."""
    name = site.name()
    client = site.connect()
    exchange = client.request("POST", f"/count?id={name}", [("Content-Length", "1000")], end=False)
    exchange.send(b"some")
    until(lambda: site.notes(name) == [4])
    client.reset()
    assert site.connect().get("/get").body == b"get"


def test_an_upload_nobody_reads_is_held_back(site: Site) -> None:
    """A client that sends to a held answer is not read without bound."""
    name = site.name()
    client = site.connect()
    exchange = client.request("POST", f"/held?id={name}", [("Transfer-Encoding", "chunked")], end=False)
    client.sock.settimeout(0.3)
    sent = 0
    with pytest.raises((TimeoutError, OSError)):
        while sent < 1 << 30:
            exchange.send(PIECE)
            sent += len(PIECE)
    assert sent < 16 << 20
    client.reset()


def test_a_wrong_handshake(site: Site) -> None:
    """A handshake without its version is refused as the host does it."""
    if site.host.http2:
        site.saw("bad-handshake", "-")
        return
    lines = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]
    reply = site.connect().request("GET", "/echo", lines).head()
    assert reply.status in (400, 426)
    site.saw("bad-handshake", str(reply.status))


# -- what is around a request ------------------------------------------------------------------------------------------


def test_a_scheduled_task_outlives_its_request(site: Site) -> None:
    """With a lifespan or without."""
    name = site.name()
    assert site.connect().get(f"/scheduled?id={name}").body == b"scheduled"
    assert until(lambda: site.notes(name)) == ["ran"]


def test_a_long_handler(site: Site) -> None:
    """A handler that takes its time is waited for."""
    reply = site.connect().get(f"/long?id={site.name()}&seconds=0.2")
    assert (reply.status, reply.body) == (200, b"done")


@pytest.mark.parametrize("mount", ["/starlette/chat", "/fastapi/chat"])
def test_mounted(site: Site, mount: str) -> None:
    """Below a mount of Starlette or FastAPI, paths begin below it, on both kinds of channel."""
    if site.host.native:
        return
    info = json.loads(site.connect().get(f"{mount}/info/a%20b?x=1").body)
    assert (info["path"], info["raw_path"], info["root_path"]) == ("/info/a b", "/info/a%20b", mount)
    websocket = site.connect().websocket(f"{mount}/echo")
    websocket.send("x")
    assert websocket.receive() == "x"
    exchange = site.connect().request("GET", f"{mount}/stream?framing=sse&id={site.name()}")
    assert exchange.head().status == 200
    assert exchange.until(b"\n\n")
    assert site.connect().get(f"{mount}/nothing").status == 404


def test_a_peer_that_shuts_its_sending_side(site: Site) -> None:
    """A client that has half-closed gets its answer, or is taken for gone: nothing hangs."""
    if site.host.http2:
        return
    client = site.connect()
    exchange = client.request("GET", "/get")
    client.sock.shutdown(socket.SHUT_WR)
    try:
        assert exchange.reply().body == b"get"
    except Cut:
        pass
