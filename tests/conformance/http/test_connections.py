"""The life of a connection: order, persistence, how it ends, and what every response must carry."""

from __future__ import annotations

import re
import threading
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from channelkit import Channel, Request, Response, as_channel, with_channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.conftest import Host

HEAD = "GET {} HTTP/1.1\r\nHost: a\r\n\r\n"


async def echo(request: Request) -> Response:
    return Response(200, {}, request.path.encode() + await request.body())


# -- 9112-9.3.2-order


def test_pipelined_answers_are_in_order_whatever_each_costs(host: Host) -> None:
    """9112-9.3.2-order: responses come in the order of the requests, also when later ones could be quicker."""
    released = threading.Event()

    async def handler(request: Request) -> str:
        if request.path == "/0":
            while not released.is_set():
                await anyio.sleep(0.001)
        await anyio.sleep(0.001 * (9 - int(request.path[1:])))
        return request.path

    peer = host.serve(handler).connect()
    peer.send("".join(HEAD.format(f"/{number}") for number in range(9)))
    released.set()
    assert [peer.reply().body for _ in range(9)] == [b"/%d" % number for number in range(9)]


@pytest.mark.parametrize("way", ["returned", "sent"])
def test_a_client_that_takes_no_answers_gets_no_more_of_them(host: Host, way: str) -> None:
    """Look-ahead is bounded although the client reads nothing: requests are not run to pile up answers."""
    run = 0

    async def handler(request: Request) -> Any:
        nonlocal run
        run += 1
        if way == "sent":
            async with with_channel(request) as channel:
                await channel.send(b"x" * 50_000)
            return None
        return b"x" * 50_000

    requests = 400
    peer = host.serve(handler, soft_mark=65536, read_ahead=2000).connect(receive_buffer=8192)
    peer.send(HEAD.format("/") * requests)

    def state() -> tuple[bool, int]:
        return all(link.unsent > 0 and not link.reading for link in links(host)), run

    def stuck() -> bool:
        first = host.call(state)
        return first[0] and all(host.call(state) == first for _ in range(200))

    host.until(lambda: run > 1 and stuck())
    assert run < requests / 2
    assert host.call(lambda: links(host)[0].unsent) < 200_000
    for _ in range(requests):
        assert len(peer.reply().body) == 50_000
    assert run == requests


def links(host: Host) -> list[Any]:
    assert host.server is not None
    assert host.server._core is not None
    connections: Any = host.server._core.connections
    return [connection.link for connection in connections]


def test_the_last_answer_of_a_slow_reader_is_not_cut_by_keep_alive(host: Host) -> None:
    """A connection whose answer is still leaving is not idle: `keep_alive_timeout` does not end it."""

    async def handler(request: Request) -> bytes:
        return b"x" * 5_000_000 if request.path == "/big" else b"small"

    peer = host.serve(handler, keep_alive_timeout=0.05).connect(receive_buffer=8192)
    peer.send(HEAD.format("/big") + HEAD.format("/small"))
    threading.Event().wait(0.3)
    assert len(peer.reply().body) == 5_000_000
    assert peer.reply().body == b"small"


# -- persistence and its end


def test_persistence(host: Host) -> None:
    """9112-9.3-persist: a connection goes on by itself, and nothing is announced."""
    peer = host.serve(echo).connect()
    for number in range(20):
        reply = peer.ask("POST" if number % 2 else "GET", "/", body=b"x" * (number % 2))
        assert reply.get("connection") is None


def test_nothing_is_read_behind_a_close(host: Host) -> None:
    """9112-9.6-no-more: after a close option, of the client or of the server, no further request is processed."""
    seen: list[str] = []

    async def handler(request: Request) -> Response:
        seen.append(request.path)
        return Response(200, {"Connection": "close"} if request.path == "/server" else {}, "x")

    host.serve(handler)
    for first in ("GET /client HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", HEAD.format("/server")):
        peer = host.connect()
        peer.send(first + HEAD.format("/behind"))
        assert peer.reply().get("connection") == "close"
        assert peer.rest() == b""
    assert seen == ["/client", "/server"]


@pytest.mark.parametrize("size", [10, 64 * 1024, 64 * 1024 + 1, 1024 * 1024])
def test_a_body_nobody_reads_is_read_away_or_ends_the_connection(host: Host, size: int) -> None:
    """9112-9.3-read-all: what is left of a body is never taken for a request; `Connection` says which way it went."""

    async def handler(request: Request) -> str:
        return request.path

    peer = host.serve(handler).connect()
    peer.send(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")
    reply = peer.reply()
    body = (HEAD.format("/smuggled") * (size // 20 + 1)).encode()[:size]
    if reply.get("connection") == "close":
        assert size > 64 * 1024
        assert peer.rest() == b""
        return
    peer.send(body + HEAD.format("/next").encode())
    assert peer.reply().body == b"/next"


def test_a_chunked_body_nobody_reads_ends_the_connection(host: Host) -> None:
    """9112-9.3-read-all: of a chunked body nobody knows how much is left."""

    async def handler(request: Request) -> str:
        return request.path

    peer = host.serve(handler).connect()
    peer.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert peer.reply().get("connection") == "close"
    assert peer.rest() == b""


@pytest.mark.parametrize("trickle", [False, True])
def test_reading_away_has_its_time(host: Host, trickle: bool) -> None:
    """The rest of a body that is read away behind its answer must arrive within `body_timeout`, however it trickles."""

    async def handler(request: Request) -> str:
        return "done"

    peer = host.serve(handler, body_timeout=0.3, keep_alive_timeout=60.0).connect()
    peer.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\nx")
    assert peer.reply().get("connection") is None
    peer.sock.settimeout(0.02)
    for _ in range(500):
        if trickle:
            peer.send(b"x")
        try:
            assert not peer.more()
        except TimeoutError:
            continue
        break
    else:
        pytest.fail("the connection stays")


@pytest.mark.parametrize(
    ("sent", "seen"), [("Content-Length: 5\r\n\r\nab", 1), ("Transfer-Encoding: chunked\r\n\r\n", 1)]
)
def test_a_message_that_ends_too_early_is_incomplete(host: Host, sent: str, seen: int) -> None:
    """9112-6.3-incomplete: with the connection's end inside a body the message is incomplete, and the handler knows."""
    errors: list[str] = []

    async def handler(request: Request) -> str:
        try:
            await request.body()
        except Exception as error:
            errors.append(type(error).__name__)
            raise
        return "whole"

    peer = host.serve(handler).connect()
    peer.send("POST / HTTP/1.1\r\nHost: a\r\n" + sent)
    peer.fin()
    assert peer.reply().status == 400
    assert peer.rest() == b""
    assert errors == ["BadRequest"]


def test_an_incomplete_head_is_never_run(host: Host) -> None:
    """9110-5.3-whole-head: a request is not applied before its head is whole."""
    seen: list[str] = []

    async def handler(request: Request) -> str:
        seen.append(request.path)
        return ""

    peer = host.serve(handler).connect()
    peer.send("GET / HTTP/1.1\r\nHost: a\r\n")
    peer.fin()
    assert peer.rest() == b""
    assert not seen


# -- responses


def streamed(*pieces: bytes) -> Callable[[Request], Any]:
    async def handler(request: Request) -> Channel:
        def feed(channel: Channel) -> None:
            for piece in pieces:
                channel.send_nowait(piece)
            channel.close_nowait()

        return as_channel(request, streaming=True, on_open=feed)

    return handler


async def answer(request: Request) -> Response:
    status = int(request.path[1:] or 200)
    return Response(status, {"X": "y"}, b"content")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE", "TRACE"])
def test_every_method_has_its_answer(host: Host, method: str) -> None:
    """9110-9.1-get-head: GET and HEAD are supported, and what else a handler answers; HEAD has no content."""
    peer = host.serve(answer).connect()
    reply = peer.ask(method)
    assert (reply.status, reply.get("content-length")) == (200, "7")
    assert reply.body == (b"" if method == "HEAD" else b"content")
    assert peer.ask().body == b"content"


@pytest.mark.parametrize("status", [200, 204, 205, 304, 404, 500])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_every_response_has(host: Host, method: str, status: int) -> None:
    """9110-6.6.1-date, 9112-4-status-line, 9110-8.6-none, 9112-6.1-none, 9110-15.3.6-empty, 9110-9.3.2-head."""
    peer = host.serve(answer).connect()
    peer.request(method, f"/{status}")
    raw = peer.until(b"\r\n\r\n")
    peer.buffer = raw + peer.buffer
    assert re.match(rb"HTTP/1\.1 %d [A-Za-z -]*\r\n" % status, raw)
    reply = peer.reply(method)
    date = reply.get("date")
    assert date is not None
    assert re.fullmatch(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z][a-z] \d{4} \d\d:\d\d:\d\d GMT", date)
    assert parsedate_to_datetime(date) is not None
    assert reply.get("transfer-encoding") is None
    assert reply.get("content-length") == {204: None, 205: "0", 304: None}.get(status, "7")
    assert reply.body == (b"content" if method == "GET" and status in (200, 404, 500) else b"")
    assert peer.ask().status == 200


def test_a_status_without_a_reason_keeps_its_space(host: Host) -> None:
    """9112-4-status-line: the space before the reason is sent although there is none."""
    peer = host.serve(answer).connect()
    peer.request("GET", "/299")
    assert peer.until(b"\r\n") == b"HTTP/1.1 299 \r\n"


def test_no_chunks_for_1_0(host: Host) -> None:
    """9112-6.1-modern: chunked is for HTTP/1.1 alone; 1.0 reads to the end of the connection."""
    peer = host.serve(streamed(b"a", b"b")).connect()
    peer.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    reply = peer.head()
    assert (reply.get("transfer-encoding"), reply.get("connection")) == (None, "close")
    assert peer.rest() == b"ab"


def test_chunks_for_1_1(host: Host) -> None:
    """9112-6.1-no-length: a response in chunks has no Content-Length."""
    reply = host.serve(streamed(b"a", b"b")).connect().ask()
    assert (reply.get("transfer-encoding"), reply.get("content-length")) == ("chunked", None)
    assert reply.body == b"ab"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("framing", ["Content-Length: 3\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"])
def test_continue(host: Host, version: str, framing: str) -> None:
    """9110-10.1.1-continue, 9110-15.2-old: 100 when the handler wants the body, before anything of it came."""
    chunked = "chunked" in framing
    if chunked and version == "1.0":
        framing = "Content-Length: 3\r\n\r\n"
        chunked = False
    peer = host.serve(echo).connect()
    peer.send(f"POST / HTTP/{version}\r\nHost: a\r\nExpect: 100-continue\r\n{framing}")
    if version == "1.1":
        assert peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    peer.send(b"3\r\nabc\r\n0\r\n\r\n" if chunked else b"abc")
    assert peer.reply().body == b"/abc"


def test_a_final_answer_instead_of_continue(host: Host) -> None:
    """9110-10.1.1-final: a handler that wants no body sends its answer at once, and what may follow is never run."""

    async def handler(request: Request) -> Response:
        return Response(401, {"WWW-Authenticate": "Basic"})

    peer = host.serve(handler).connect()
    peer.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    reply = peer.reply()
    assert (reply.status, reply.get("connection")) == (401, "close")
    peer.send(HEAD.format("/"))
    assert peer.rest() == b""


def test_continue_before_switching(host: Host) -> None:
    """9110-7.8-continue: a handshake that expects 100 gets it before its 101."""

    async def handler(request: Request) -> Channel:
        return as_channel(request)

    peer = host.serve(handler).connect()
    peer.send(peer.handshake("Expect: 100-continue"))
    assert peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert peer.head().status == 101


@pytest.mark.parametrize(
    ("method", "lines", "status", "name", "value"),
    [
        ("POST", ("Sec-WebSocket-Version: 13",), 405, "allow", "GET"),
        ("GET", ("Sec-WebSocket-Version: 12",), 426, "upgrade", "websocket"),
    ],
)
def test_refusals_say_what_is_served(
    host: Host, method: str, lines: tuple[str, ...], status: int, name: str, value: str
) -> None:
    """9110-15.5.6-allow, 9110-15.5.22-upgrade: 405 carries Allow; 426 carries Upgrade, named in Connection."""

    async def handler(request: Request) -> Channel:
        return as_channel(request)

    peer = host.serve(handler).connect()
    given = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    reply = peer.ask(method, "/", *given, *lines)
    assert (reply.status, reply.get(name)) == (status, value)
    if status == 426:
        assert "upgrade" in (reply.get("connection") or "").lower()
