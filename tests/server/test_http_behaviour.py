"""What HTTP clients see, byte by byte: framing, keep-alive, refusals, and what a handler's mistakes become."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from channelkit import Channel, ChannelClosed, CloseStatus, Request, Response, as_channel, reject, with_channel

if TYPE_CHECKING:
    from tests.server.conftest import Host


async def hello(request: Request) -> Response:
    return Response(200, {"X-Path": request.raw_path}, "hello")


def answering(result: Any) -> Callable[[Request], Any]:
    """A handler that returns this."""

    async def handler(request: Request) -> Any:
        return result() if callable(result) else result

    return handler


def sending(*messages: Any, close: bool = False, **options: Any) -> Callable[[Request], Any]:
    """A handler that sends these on a channel, closing with the last if asked, at the end of the block otherwise."""

    async def handler(request: Request) -> None:
        async with with_channel(request, **options) as channel:
            for index, message in enumerate(messages):
                last = close and index == len(messages) - 1
                assert await channel.send(message, close_after_send=last)

    return handler


# -- channels: the first send decides the framing


def test_first_send_with_close_is_an_ordinary_response(host: Host) -> None:
    """The first send with close has a Content-Length; then the channel is over, and the connection goes on."""

    async def handler(request: Request) -> Channel:
        return as_channel(request, on_open=lambda channel: channel.send_nowait("réponse"), on_close=host.closed)

    peer = host.serve(handler).connect()
    for _ in range(2):
        reply = peer.ask()
        assert (reply.status, reply.body) == (200, "réponse".encode())
        assert reply.get("content-length") == "8"
        assert reply.get("content-type") == "text/html; charset=utf-8"
        assert reply.get("connection") is None
    host.until(lambda: len(host.ends) == 2)
    assert {status for status, _ in host.ends} == {CloseStatus.SERVER_CLOSE}


def test_head_and_first_chunk_arrive_together(host: Host) -> None:
    """The first send without close opens a chunked response: head and chunk are one write."""

    async def handler(request: Request) -> Channel:
        return as_channel(request, streaming=True, on_open=host.opened)

    peer = host.serve(handler).connect()
    peer.request()
    channel = host.channel()
    host.call(channel.send_nowait, "first")
    assert peer.more()
    head, body = peer.buffer.split(b"\r\n\r\n", 1)
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert b"content-length" not in head.lower()
    assert body == b"5\r\nfirst\r\n"
    peer.buffer = b""
    host.call(channel.send_nowait, "last", True)
    assert peer.until(b"0\r\n\r\n") == b"4\r\nlast\r\n0\r\n\r\n"


def test_later_status_and_headers_are_ignored(host: Host) -> None:
    """Status and headers count on the first send only; of later mappings only the body does."""
    first = {"status": 202, "headers": {"X-One": "1", "Content-Length": "99"}, "body": "a"}
    later = {"status": 500, "headers": {"X-Two": "2"}, "body": "b"}
    peer = host.serve(sending(first, later, Response(404, {}, "c"), streaming=True)).connect()
    reply = peer.ask()
    assert (reply.status, reply.chunks) == (202, [b"a", b"b", b"c"])
    assert reply.get("x-one") == "1"
    assert reply.get("x-two") is None
    assert reply.get("content-type") is None


@pytest.mark.parametrize("empty", ["", b"", None, {"body": ""}])
def test_empty_data_never_writes_a_chunk(host: Host, empty: Any) -> None:
    """Empty data, first or later, writes no chunk: a chunk of no length would end the response."""
    peer = host.serve(sending(empty, "x", empty, "y", empty, close=True, streaming=True)).connect()
    assert peer.ask().chunks == [b"x", b"y"]
    assert peer.ask().chunks == [b"x", b"y"]


def test_empty_first_send_opens_the_stream(host: Host) -> None:
    """A first send without a body sends the head alone."""

    async def handler(request: Request) -> Channel:
        return as_channel(request, streaming=True, on_open=host.opened)

    peer = host.serve(handler).connect()
    peer.request()
    host.call(host.channel().send_nowait, Response(200, {"Content-Type": "text/plain"}))
    reply = peer.head()
    assert reply.get("content-type") == "text/plain"
    host.call(host.channel().close_nowait)
    assert peer.chunk() == b""


@pytest.mark.parametrize(
    ("code", "status"), [(1000, 204), (1001, 503), (1012, 503), (1013, 503), (1011, 500), (4000, 500)]
)
def test_close_before_any_send(host: Host, code: int, status: int) -> None:
    """A channel closed before it sent anything is an empty response whose status says what the code says."""

    async def handler(request: Request) -> Channel:
        return as_channel(request, on_open=lambda channel: channel.close_nowait(code), on_close=host.closed)

    peer = host.serve(handler).connect()
    reply = peer.ask()
    assert (reply.status, reply.body) == (status, b"")
    assert reply.get("transfer-encoding") is None
    assert reply.get("content-length") == (None if status == 204 else "0")
    assert reply.get("retry-after") == ("1" if status == 503 else None)
    assert peer.ask().status == status
    host.until(lambda: len(host.ends) == 2)


@pytest.mark.parametrize("bad", [3, 2.5, object(), {"status": 200, "extra": 1}, {"body": 4}, {}])
def test_a_send_that_cannot_be_carried_raises_to_its_caller(host: Host, bad: Any) -> None:
    """Data of no kind that HTTP carries raises in the handler, nothing is written, and the channel goes on."""

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            with pytest.raises((TypeError, ValueError)):
                await channel.send(bad)
            await channel.send("recovered")

    assert host.serve(handler).connect().ask().body == b"recovered"


@pytest.mark.parametrize(
    ("name", "value"), [("X", "a\r\nSet-Cookie: b"), ("X", "a\0"), ("X", "a\x7f"), ("A B", "c"), ("", "c"), ("É", "c")]
)
def test_a_bad_header_raises_to_its_caller(host: Host, name: str, value: str) -> None:
    """A header that cannot be written raises in the handler before a byte is out, and the channel goes on."""

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            with pytest.raises(ValueError, match="header"):
                await channel.send(Response(200, {name: value}, "x"))
            assert channel.is_open
            await channel.send("recovered")

    assert host.serve(handler).connect().ask().body == b"recovered"


def test_a_held_channel_is_answered_by_another_request(host: Host) -> None:
    """Two held polls are answered by one other request, and their connections go on."""
    polls: list[Channel] = []

    async def handler(request: Request) -> Any:
        if request.method == "GET":
            return as_channel(request, on_open=polls.append)
        while polls:
            polls.pop().send_nowait(await request.body())
        return "done"

    host.serve(handler)
    waiting = [host.connect(), host.connect()]
    for _ in range(2):
        for peer in waiting:
            peer.request()
        host.until(lambda: len(polls) == 2)
        assert host.connect().ask("POST", body=b"news").body == b"done"
        for peer in waiting:
            reply = peer.reply()
            assert (reply.body, reply.get("content-length")) == (b"news", "4")


def test_send_after_the_end_is_refused(host: Host) -> None:
    """Once a response is complete, `send` is False and `receive` was never possible."""
    results: list[Any] = []

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            results.append(await channel.send("one"))
            results.append(await channel.send("two"))
            results.append(channel.send_nowait("three"))
            results.append(await channel.close())

    assert host.serve(handler).connect().ask().body == b"one"
    host.until(lambda: len(results) == 4)
    assert results == [True, False, False, False]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_client_that_leaves_is_noticed_at_once(host: Host, streaming: bool) -> None:
    """A disconnect is noticed while an answer is held or a stream is silent: client-close, once."""

    async def handler(request: Request) -> Channel:
        return as_channel(request, streaming=streaming, on_open=host.opened, on_close=host.closed)

    peer = host.serve(handler).connect()
    peer.request()
    channel = host.channel()
    if streaming:
        host.call(channel.send_nowait, "first")
        peer.until(b"first\r\n")
    peer.close()
    info = host.end()
    assert (info.status, info.code, info.by) == (CloseStatus.CLIENT_CLOSE, 1006, "peer")
    assert host.call(channel.send_nowait, "late") is False
    host.idle()
    assert len(host.ends) == 1


# -- framing by version, method and status


def test_http_1_0_stream_ends_with_the_connection(host: Host) -> None:
    """To an HTTP/1.0 client a stream is not chunked; the end of the connection is its end."""
    peer = host.serve(sending("a\n", "b\n", streaming=True)).connect()
    peer.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    reply = peer.head()
    assert reply.get("transfer-encoding") is None
    assert reply.get("content-length") is None
    assert reply.get("connection") == "close"
    assert peer.rest() == b"a\nb\n"


def test_http_1_0_keep_alive(host: Host) -> None:
    """HTTP/1.0 persists when asked to, and is told so; else it does not."""
    peer = host.serve(hello).connect()
    peer.send("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
    assert (peer.reply().get("connection") or "").lower() == "keep-alive"
    peer.send("GET / HTTP/1.0\r\n\r\n")
    assert peer.reply().body == b"hello"
    assert peer.rest() == b""


@pytest.mark.parametrize(
    "line", ["Connection: close", "connection: Foo, CLOSE", "Connection: keep-alive\r\nConnection: close"]
)
@pytest.mark.parametrize("handler", [hello, sending("hello"), sending("hello", streaming=True)])
def test_connection_close_from_the_client(host: Host, line: str, handler: Any) -> None:
    """A client that asks for close gets its answer whole, is told, and sees the end."""
    peer = host.serve(handler).connect()
    peer.request("GET", "/", line)
    reply = peer.reply()
    assert reply.body == b"hello"
    assert reply.get("connection") == "close"
    assert peer.rest() == b""


def test_connection_close_from_the_handler(host: Host) -> None:
    """A handler's `Connection: close` closes after the response; a pipelined request behind it is not run."""
    seen: list[str] = []

    async def handler(request: Request) -> Response:
        seen.append(request.path)
        return Response(200, {"Connection": "close"}, "bye")

    peer = host.serve(handler).connect()
    peer.request("GET", "/1")
    peer.request("GET", "/2")
    reply = peer.reply()
    assert (reply.body, reply.get("connection")) == (b"bye", "close")
    assert peer.rest() == b""
    assert seen == ["/1"]


@pytest.mark.parametrize("result", ["hello", Response(200, {}, "hello"), {"body": b"hello"}])
def test_head_has_the_fields_of_get_and_no_body(host: Host, result: Any) -> None:
    """HEAD tells the length of the handler's body and sends none of it."""
    peer = host.serve(answering(result)).connect()
    fields = [name for name, _ in peer.ask("GET").headers]
    reply = peer.ask("HEAD")
    assert reply.get("content-length") == "5"
    assert [name for name, _ in reply.headers] == fields
    assert peer.ask("GET").body == b"hello"


@pytest.mark.parametrize("handler", [sending("a", "b", streaming=True), sending("e", framing="sse")])
def test_head_to_a_stream(host: Host, handler: Any) -> None:
    """HEAD of a stream is its head alone; then the next request is served."""

    async def served(request: Request) -> Any:
        if request.path == "/hello":
            return "hello"
        channel = as_channel(
            request, streaming=True, on_open=lambda channel: channel.send_nowait("x"), on_close=host.closed
        )
        assert channel is not None
        return channel

    peer = host.serve(served).connect()
    reply = peer.ask("HEAD")
    assert reply.status == 200
    assert peer.ask("GET", "/hello").body == b"hello"
    assert host.end().status == CloseStatus.SERVER_CLOSE


@pytest.mark.parametrize("status", [204, 205, 304])
@pytest.mark.parametrize("channel", [False, True])
def test_statuses_without_content(host: Host, status: int, channel: bool) -> None:
    """204 and 304 have neither length nor body, 205 says 0; a stream ends with its head."""
    response = Response(status, {"Content-Length": "5"} if status != 304 else {}, "hello")
    results: list[bool] = []

    async def handler(request: Request) -> Any:
        if not channel:
            return response
        async with with_channel(request, streaming=True) as made:
            results.append(await made.send(response))
            results.append(await made.send("more"))
        return None

    peer = host.serve(handler).connect()
    for _ in range(2):
        reply = peer.ask()
        assert (reply.status, reply.body) == (status, b"")
        assert reply.get("content-length") == ("0" if status == 205 else None)
        assert reply.get("transfer-encoding") is None
    expected = [True, False] * 2 if channel else []
    host.until(lambda: len(results) == len(expected))  # the last send may still be returning
    assert results == expected


def test_not_modified_keeps_its_length(host: Host) -> None:
    """A 304 carries the Content-Length the handler gave, the one a 200 would have had."""
    peer = host.serve(answering(Response(304, {"Content-Length": "1234", "ETag": '"x"'}))).connect()
    reply = peer.ask()
    assert reply.get("content-length") == "1234"
    assert peer.ask().status == 304


@pytest.mark.parametrize("name", ["Content-Length", "content-length", "Transfer-Encoding", "Keep-Alive", "Trailer"])
def test_a_handlers_framing_is_replaced(host: Host, name: str) -> None:
    """Length and encoding are always those of what is sent, whatever the handler says."""
    value = "chunked" if name == "Transfer-Encoding" else "99"
    reply = host.serve(answering(Response(200, {name: value}, "hello"))).connect().ask()
    assert (reply.body, reply.get("content-length")) == (b"hello", "5")


def test_header_forms(host: Host) -> None:
    """A list gives one line each, a number its digits, None nothing; names keep their spelling."""
    headers: dict[str, str | int | list[str] | None] = {
        "Set-Cookie": ["a=1", "b=2"],
        "X-Number": 7,
        "X-None": None,
        "eTag": "x",
        "DATE": "then",
        "server": "mine",
    }
    reply = host.serve(answering(Response(200, headers, ""))).connect().ask()
    names = [name for name, _ in reply.headers]
    assert reply.getlist("set-cookie") == ["a=1", "b=2"]
    assert reply.get("x-number") == "7"
    assert "X-None" not in names
    assert "eTag" in names
    assert (reply.get("date"), reply.get("server")) == ("then", "mine")


@pytest.mark.parametrize("header", [None, "other"])
def test_server_header_option(host: Host, header: str | None) -> None:
    """`server_header` names the server, or with None leaves the field out; there is always a Date."""
    reply = host.serve(hello, server_header=header).connect().ask()
    assert reply.get("server") == header
    assert reply.get("date") is not None


# -- what handlers return


def generate() -> Iterator[str | bytes]:
    yield "one "
    yield b"two "
    yield ""
    yield bytearray(b"three")  # type: ignore[misc]


async def generate_later() -> AsyncIterator[str]:
    yield "one "
    await anyio.lowlevel.checkpoint()
    yield "two three"


BODIES: dict[str, tuple[Callable[[], Any], bytes]] = {
    "str": (lambda: "dé", "dé".encode()),
    "bytes": (lambda: b"\0\xff", b"\0\xff"),
    "bytearray": (lambda: bytearray(b"abc"), b"abc"),
    "memoryview": (lambda: memoryview(b"abc"), b"abc"),
    "file": (lambda: io.BytesIO(b"x" * 600_000), b"x" * 600_000),
    "path": (lambda: Path(__file__), Path(__file__).read_bytes()),
    "list": (lambda: ["a", b"b", ""], b"ab"),
    "iterator": (generate, b"one two three"),
    "async-iterator": (generate_later, b"one two three"),
    "empty-iterator": (lambda: iter(()), b""),
}


@pytest.mark.parametrize("way", ["returned", "in-a-response", "sent", "sent-on-a-stream"])
@pytest.mark.parametrize("kind", BODIES)
def test_every_kind_of_body(host: Host, kind: str, way: str) -> None:
    """Every kind of body arrives whole, returned or sent, and the connection goes on."""
    make, expected = BODIES[kind]

    async def handler(request: Request) -> Any:
        if way == "returned":
            return make()
        if way == "in-a-response":
            return Response(200, {}, make())
        async with with_channel(request, streaming=way == "sent-on-a-stream") as channel:
            assert await channel.send(make())
            if way == "sent-on-a-stream":
                assert await channel.send("|end")
        return None

    peer = host.serve(handler).connect()
    for _ in range(2):
        assert peer.ask().body == expected + (b"|end" if way == "sent-on-a-stream" else b"")


def test_a_file_is_closed_after_it_was_sent(host: Host, tmp_path: Path) -> None:
    """A file or iterator given as a body is closed, read to its end or not needed at all."""
    closed: list[str] = []

    class File(io.BytesIO):
        def close(self) -> None:
            closed.append("file")
            super().close()

    host.serve(answering(lambda: File(b"abc")))
    assert host.connect().ask().body == b"abc"
    host.until(lambda: closed)
    host.connect().ask("HEAD")
    host.until(lambda: len(closed) == 2)


def fail_at_once() -> Iterator[str]:
    raise RuntimeError("secret")
    yield ""


def fail_later() -> Iterator[str]:
    yield "begun"
    raise RuntimeError("secret")


async def fail_later_async() -> AsyncIterator[str]:
    yield "begun"
    raise RuntimeError("secret")


def yield_a_number() -> Iterator[Any]:
    yield "begun"
    yield 3


def test_a_body_that_fails_before_its_first_piece_is_a_500(host: Host) -> None:
    """An error before the first piece of a streamed body can still be a proper 500."""
    peer = host.serve(answering(fail_at_once)).connect()
    reply = peer.ask()
    assert (reply.status, b"secret" in reply.body) == (500, False)


@pytest.mark.parametrize("result", [fail_later, fail_later_async, yield_a_number])
@pytest.mark.parametrize("way", ["returned", "sent"])
def test_a_body_that_fails_later_is_aborted(host: Host, result: Callable[[], Any], way: str) -> None:
    """An error in the middle of a body cuts the connection: the final chunk never comes."""

    async def handler(request: Request) -> Any:
        if way == "returned":
            return result()
        return as_channel(request, on_open=lambda channel: channel.send_nowait(result()), on_close=host.closed)

    peer = host.serve(handler).connect()
    peer.request()
    assert not peer.cut_off().endswith(b"0\r\n\r\n")
    if way == "sent":
        host.end()
    host.idle()


def test_a_body_that_nobody_reads_does_not_pile_up(host: Host) -> None:
    """A streamed body is pulled only as fast as the client takes it, and is closed when the client leaves."""
    pulled: list[int] = []
    over = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                pulled.append(1)
                yield b"x" * 65536
        finally:
            over.set()

    peer = host.serve(answering(endless)).connect(receive_buffer=4096)
    peer.request()
    steady: list[int] = []
    host.until(lambda: _same_for_a_while(steady, len(pulled)))
    assert len(pulled) < 200  # 13 MB: socket buffers, not all there is
    peer.close()
    assert over.wait(10)


def _same_for_a_while(seen: list[int], value: int) -> bool:
    seen.append(value)
    return len(seen) > 100 and len(set(seen[-100:])) == 1


def test_none_is_404(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that returns None has answered 404, with nothing in it, and a warning in the log."""
    reply = host.serve(answering(None)).connect().ask()
    assert (reply.status, reply.body, reply.get("content-length")) == (404, b"", "0")
    assert "None" in caplog.text


@pytest.mark.parametrize(
    "result",
    [
        3,
        2.5,
        NotImplemented,
        {"status": 200, "nonsense": 1},
        {"status": "200"},
        {"status": True},
        {"body": 3},
        Response(101, {}, ""),
        Response(100, {}, ""),
        Response(1000, {}, ""),
        Response(200, {"X": "a\r\nb"}, "secret"),
        Response(200, {"A B": "c"}, "secret"),
        Response(200, {"X": "\u20ac"}, "secret"),
        Response(200, {}, "\ud800"),
    ],
    ids=repr,
)
def test_a_result_that_is_no_response_is_a_500(host: Host, result: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be a response is a 500 with a fixed text; the log says why; the connection goes on."""
    peer = host.serve(answering(result)).connect()
    for _ in range(2):
        reply = peer.ask()
        assert (reply.status, reply.body) == (500, b"Internal Server Error\n")
    assert "the handler of <Request GET /> raised" in caplog.text


def test_a_handler_that_raises_is_a_500(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """An exception before the head is a 500 that says nothing of it; the log says all."""

    async def handler(request: Request) -> None:
        raise RuntimeError("kaboom")

    reply = host.serve(handler).connect().ask()
    assert (reply.status, reply.body) == (500, b"Internal Server Error\n")
    assert reply.get("content-type") == "text/plain; charset=utf-8"
    assert "kaboom" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
def test_a_handler_that_raises_before_its_channel_sent(host: Host, streaming: bool) -> None:
    """A handler that raises with a silent channel open is a 500."""

    async def handler(request: Request) -> None:
        async with with_channel(request, streaming=streaming) as channel:
            channel.on_close(lambda status: host.closed(channel, status))
            raise RuntimeError("kaboom")

    reply = host.serve(handler).connect().ask()
    assert (reply.status, b"kaboom" in reply.body) == (500, False)
    assert host.end().status == CloseStatus.INTERNAL_SERVER_ERROR


@pytest.mark.parametrize("way", ["block", "handler", "callback"])
def test_a_handler_that_raises_after_its_head(host: Host, way: str) -> None:
    """An exception after the head aborts the connection: what was cut cannot look whole."""

    async def handler(request: Request) -> None:
        if way == "block":
            async with with_channel(request, streaming=True) as channel:
                channel.on_close(lambda status: host.closed(channel, status))
                await channel.send("begun")
                await channel.flush()
                raise RuntimeError("kaboom")
        channel = as_channel(request, streaming=True, on_close=host.closed)
        await channel.send("begun")
        await channel.flush()
        if way == "handler":
            raise RuntimeError("kaboom")
        channel.on_close(lambda status: None)
        as_channel_failing(channel)

    def as_channel_failing(channel: Channel) -> None:
        channel._queue_call(lambda: 1 // 0)

    peer = host.serve(handler).connect()
    peer.request()
    got = peer.cut_off()
    assert got.endswith(b"5\r\nbegun\r\n")
    assert host.end().status == CloseStatus.INTERNAL_SERVER_ERROR
    host.idle()


def test_a_request_has_one_answer(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that makes a channel and then returns something else: the channel's answer is the only one."""

    async def handler(request: Request) -> str:
        as_channel(request, on_open=lambda channel: channel.send_nowait("channel"))
        return "returned"

    peer = host.serve(handler).connect()
    assert peer.ask().body == b"channel"
    assert peer.ask().body == b"channel"
    assert "one answer" in caplog.text


def test_a_second_channel_raises(host: Host) -> None:
    """A request makes one channel; asking for a second raises, and the first goes on."""

    async def handler(request: Request) -> Channel:
        channel = as_channel(request)
        with pytest.raises(RuntimeError, match="channel already"):
            as_channel(request)
        await channel.send("first")
        return channel

    assert host.serve(handler).connect().ask().body == b"first"


def test_another_requests_channel_is_a_500(host: Host) -> None:
    """Returning the channel of another request is a 500, and that other channel is not touched."""
    held: list[Channel] = []

    async def handler(request: Request) -> Any:
        if request.path == "/held":
            held.append(as_channel(request))
        return held[0]

    first, second = host.serve(handler).connect(), host.connect()
    first.request("GET", "/held")
    host.until(lambda: held)
    assert second.ask("GET", "/other").status == 500
    host.call(held[0].send_nowait, "still mine")
    assert first.reply().body == b"still mine"


def test_reject(host: Host) -> None:
    """`reject` is a plain response."""
    handler = answering(reject(401, {"WWW-Authenticate": "Basic"}, "who?"))
    reply = host.serve(handler).connect().ask()
    assert (reply.status, reply.body, reply.get("www-authenticate")) == (401, b"who?", "Basic")


def test_receive_on_a_response_is_unsupported(host: Host) -> None:
    """Nothing can be received on a plain response: `receive` says so at once and iteration too."""

    async def handler(request: Request) -> None:
        from channelkit import ReceiveUnsupported

        async with with_channel(request) as channel:
            with pytest.raises(ReceiveUnsupported):
                await channel.receive()
            await channel.send("told")

    assert host.serve(handler).connect().ask().body == b"told"


# -- keep-alive, pipelining, request bodies


def test_pipelined_requests_are_answered_in_order(host: Host) -> None:
    """The next handler starts when the previous response is complete, held and streamed ones included."""
    started: list[str] = []

    async def handler(request: Request) -> Any:
        started.append(request.path)
        if request.path == "/held":
            return as_channel(request, on_open=host.opened)
        if request.path == "/stream":
            return as_channel(request, on_open=host.opened, streaming=True)
        return request.path

    peer = host.serve(handler).connect()
    for path in ("/1", "/held", "/2", "/stream", "/3"):
        peer.request("GET", path)
    assert peer.reply().body == b"/1"
    held = host.channel()
    assert started == ["/1", "/held"]
    host.call(held.send_nowait, "answer")
    assert peer.reply().body == b"answer"
    assert peer.reply().body == b"/2"
    host.until(lambda: len(host.channels) == 2)
    host.call(host.channel().send_nowait, "part")
    assert started == ["/1", "/held", "/2", "/stream"]
    host.call(host.channel().send_nowait, "last", True)
    assert peer.reply().chunks == [b"part", b"last"]
    assert peer.reply().body == b"/3"


def test_many_pipelined_requests(host: Host) -> None:
    """Two thousand requests in one go get two thousand answers in their order."""
    peer = host.serve(hello).connect()
    sender = threading.Thread(
        target=peer.send, args=(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(2000)),)
    )
    sender.start()
    assert [peer.reply().get("x-path") for _ in range(2000)] == [f"/{number}" for number in range(2000)]
    sender.join()


def test_requests_behind_a_held_one_are_bounded(host: Host) -> None:
    """Reading stops when too much waits behind an unanswered request, and goes on after it."""

    async def handler(request: Request) -> Any:
        return as_channel(request, on_open=host.opened) if request.path == "/held" else request.path

    peer = host.serve(handler, read_ahead=1000).connect()
    peer.request("GET", "/held")
    count = 200
    for number in range(count):
        peer.request("GET", f"/{number}")
    host.call(host.channel().send_nowait, "now")
    assert peer.reply().body == b"now"
    assert [peer.reply().body for _ in range(count)] == [b"/%d" % number for number in range(count)]


@pytest.mark.parametrize("body", [b"abc", b"x" * 300_000])
def test_a_request_body_arrives(host: Host, body: bytes) -> None:
    """`body()` is the whole body, twice the same; the connection goes on."""

    async def handler(request: Request) -> bytes:
        first = await request.body()
        assert await request.body() == first
        return first

    peer = host.serve(handler).connect()
    for _ in range(2):
        assert peer.ask("POST", body=body).body == body


def test_a_chunked_request_body_arrives(host: Host) -> None:
    """A chunked body arrives piece by piece, and what follows is the next request."""

    async def handler(request: Request) -> bytes:
        return b"|".join([piece async for piece in request.stream()])

    peer = host.serve(handler).connect()
    peer.request("POST", "/", "Transfer-Encoding: Chunked")
    peer.send("3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\nX-Trailer: 1\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert peer.reply().body.replace(b"|", b"") == b"abcdefg"
    assert peer.reply().body == b""


def test_a_body_that_nobody_reads_is_not_read_from_the_socket(host: Host) -> None:
    """A handler that reads slowly slows its client down; then it gets everything in order."""
    go, sent, size = threading.Event(), threading.Event(), 30_000_000

    async def handler(request: Request) -> str:
        await anyio.to_thread.run_sync(go.wait)
        total = 0
        async for piece in request.stream():
            total += len(piece)
        return str(total)

    peer = host.serve(handler, max_body=size).connect()
    peer.request("POST", "/", f"Content-Length: {size}")

    def send_all() -> None:
        peer.send(b"x" * size)
        sent.set()

    sender = threading.Thread(target=send_all)
    sender.start()
    assert not sent.wait(0.2), "30 MB do not fit into socket buffers, so somebody was reading"
    go.set()
    assert peer.reply().body == str(size).encode()
    sender.join()


def test_a_small_body_that_was_not_read_is_skipped(host: Host) -> None:
    """A handler that ignores a small body: the next request is found behind it."""
    peer = host.serve(hello).connect()
    for _ in range(3):
        assert peer.ask("POST", body=b"GET /trap HTTP/1.1\r\n\r\n" * 10).body == b"hello"


def test_a_big_body_that_was_not_read_closes(host: Host) -> None:
    """A handler that ignores a big body: its answer arrives, says close, and the connection ends."""
    peer = host.serve(hello).connect()
    peer.request("POST", "/", "Content-Length: 1000000")
    reply = peer.reply()
    assert (reply.body, reply.get("connection")) == (b"hello", "close")
    assert peer.rest() == b""


def test_a_response_may_begin_before_the_body_is_read(host: Host) -> None:
    """A handler may echo a body while it arrives."""

    async def handler(request: Request) -> None:
        async with with_channel(request, streaming=True) as channel:
            async for piece in request.stream():
                await channel.send(piece)

    peer = host.serve(handler).connect()
    peer.request("POST", "/", "Transfer-Encoding: chunked")
    peer.send("1\r\na\r\n")
    peer.head()
    assert peer.chunk() == b"a"
    peer.send("1\r\nb\r\n")
    assert peer.chunk() == b"b"
    peer.send("0\r\n\r\n")
    assert peer.chunk() == b""


@pytest.mark.parametrize("reads", [True, False])
def test_expect_continue(host: Host, reads: bool) -> None:
    """100 Continue comes when the handler wants the body, and never when it does not."""

    async def handler(request: Request) -> Any:
        return await request.body() if reads else reject(403)

    peer = host.serve(handler).connect()
    peer.request("POST", "/", "Expect: 100-Continue", "Content-Length: 3")
    if reads:
        assert peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send("abc")
        assert peer.reply().body == b"abc"
        assert peer.ask("POST", body=b"d").body == b"d"
    else:
        reply = peer.reply()
        assert (reply.status, reply.get("connection")) == (403, "close")
        assert peer.rest() == b""


def test_no_continue_when_the_body_is_there(host: Host) -> None:
    """A body that came with its head needs no 100 Continue."""

    async def handler(request: Request) -> bytes:
        return await request.body()

    peer = host.serve(handler).connect()
    assert peer.ask("POST", "/", "Expect: 100-continue", body=b"abc").body == b"abc"


def test_expect_continue_and_a_body_too_large(host: Host) -> None:
    """A body that is announced too large is refused at once, never continued."""
    peer = host.serve(hello, max_body=10).connect()
    peer.request("POST", "/", "Expect: 100-continue", "Content-Length: 11")
    reply = peer.reply()
    assert (reply.status, reply.get("connection")) == (413, "close")
    assert peer.rest() == b""


@pytest.mark.parametrize("chunked", [False, True])
def test_max_body(host: Host, chunked: bool) -> None:
    """A body of exactly `max_body` is served; one more byte is 413 and the end."""

    async def handler(request: Request) -> str:
        return str(len(await request.body()))

    peer = host.serve(handler, max_body=10).connect()
    if chunked:
        peer.request("POST", "/", "Transfer-Encoding: chunked")
        peer.send("5\r\nabcde\r\n5\r\nabcde\r\n0\r\n\r\n")
    else:
        peer.request("POST", "/", body=b"0123456789")
    assert peer.reply().body == b"10"
    if chunked:
        peer.request("POST", "/", "Transfer-Encoding: chunked")
        peer.send("5\r\nabcde\r\n6\r\nabcdef\r\n0\r\n\r\n")
    else:
        peer.request("POST", "/", body=b"0123456789a")
    reply = peer.reply()
    assert (reply.status, reply.get("connection")) == (413, "close")
    assert peer.rest() == b""


def test_json_that_is_none_is_a_400(host: Host) -> None:
    """A body that is not JSON is the client's mistake, and it is told."""

    async def handler(request: Request) -> str:
        return str(await request.json())

    peer = host.serve(handler).connect()
    assert peer.ask("POST", body=b"[1]").body == b"[1]"
    assert peer.ask("POST", body=b"[1").status == 400


def test_a_client_that_leaves_inside_its_body(host: Host) -> None:
    """A handler that waits for the body of a client that is gone gets an error instead of waiting for ever."""
    errors: list[BaseException] = []

    async def handler(request: Request) -> None:
        try:
            await request.body()
        except BaseException as error:
            errors.append(error)
            raise

    peer = host.serve(handler).connect()
    peer.request("POST", "/", "Content-Length: 10")
    peer.send("abc")
    peer.close()
    host.until(lambda: errors)
    assert type(errors[0]).__name__ == "BadRequest"
    host.idle()


# -- half-close


def test_half_close_is_answered(host: Host) -> None:
    """A client that sends its request and shuts down its side gets a returned response, then the end."""

    async def handler(request: Request) -> str:
        await anyio.sleep(0.01)
        return "still"

    peer = host.serve(handler).connect()
    peer.request()
    peer.fin()
    assert peer.reply().body == b"still"
    assert peer.rest() == b""


def test_half_close_with_half_closed_answer(host: Host) -> None:
    """With `half_closed="answer"` a held channel outlives its client's FIN and is answered."""

    async def handler(request: Request) -> Channel:
        return as_channel(request, on_open=host.opened, on_close=host.closed)

    peer = host.serve(handler, half_closed="answer").connect()
    peer.request()
    peer.fin()
    channel = host.channel()
    host.call(channel.send_nowait, "late")
    assert peer.reply().body == b"late"
    assert peer.rest() == b""
    assert host.end().status == CloseStatus.SERVER_CLOSE


# -- refusals

MALFORMED: dict[str, tuple[bytes, int]] = {
    "no-version": (b"GET /\r\nHost: x\r\n\r\n", 400),
    "two-spaces": (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400),
    "http-1.2": (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
    "http-2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "bare-lf": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "cr-alone": (b"GET / HTTP/1.1\rHost: x\r\n\r\n", 400),
    "folding": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
    "space-before-colon": (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
    "no-colon": (b"GET / HTTP/1.1\r\nHost: x\r\nAb\r\n\r\n", 400),
    "nul": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0\r\n\r\n", 400),
    "no-host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two-hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    "bad-host": (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    "bad-port": (b"GET / HTTP/1.1\r\nHost: a:70000\r\n\r\n", 400),
    "length-and-chunked": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "signed-length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400),
    "two-lengths": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
    "other-encoding": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    "chunked-1.0": (b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "long-target": (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "long-line": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 5000 + b"\r\n\r\n", 431),
    "many-headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
    "large-head": (b"GET / HTTP/1.1\r\nHost: x\r\n" + (b"A: " + b"a" * 4000 + b"\r\n") * 20 + b"\r\n", 431),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests(host: Host, name: str) -> None:
    """What is no request is refused with a status and a fixed text; nothing behind it is looked at."""
    seen: list[str] = []

    async def handler(request: Request) -> str:
        seen.append(request.path)
        return "served"

    data, status = MALFORMED[name]
    peer = host.serve(handler).connect()
    assert peer.ask("GET", "/before").body == b"served"
    peer.send(data + b"GET /behind HTTP/1.1\r\nHost: x\r\n\r\n")
    reply = peer.reply()
    assert (reply.status, reply.get("connection")) == (status, "close")
    assert len(reply.body) < 40
    assert peer.rest() == b""
    assert seen == ["/before"]
    host.idle()


@pytest.mark.parametrize(
    "body", ["+3\r\nabc\r\n", " 3\r\nabc\r\n", "\r\nabc\r\n", "3\r\nabcd\r\n", "g\r\n", "11111111111111111\r\n"]
)
def test_a_malformed_chunk(host: Host, body: str) -> None:
    """A chunk that is none is 400 and the end, told by the handler that reads the body."""

    async def handler(request: Request) -> bytes:
        return await request.body()

    peer = host.serve(handler).connect()
    peer.request("POST", "/", "Transfer-Encoding: chunked")
    peer.send(body + "0\r\n\r\n")
    reply = peer.reply()
    assert reply.status in (400, 413)
    assert reply.get("connection") == "close"
    assert peer.rest() == b""


def test_the_answer_to_a_long_request_is_read(host: Host) -> None:
    """A client that is still sending reads the refusal: the connection is not reset under it."""
    peer = host.serve(hello).connect()
    peer.send(b"GET /" + b"a" * 500_000)
    reply = peer.reply()
    assert reply.status == 414
    assert peer.rest() == b""


@pytest.mark.parametrize("line", [b"", b"\r\n", b"\r\n\r\n"])
def test_empty_lines_before_a_request(host: Host, line: bytes) -> None:
    """Empty lines before a request are passed over (RFC 9112 2.2)."""
    peer = host.serve(hello).connect()
    peer.send(line + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert peer.reply().status == 200


def test_a_request_in_single_bytes(host: Host) -> None:
    """A request that arrives byte by byte is the same request."""

    async def handler(request: Request) -> str:
        return f"{request.method} {request.path} {request.headers['x-y']} {(await request.body()).decode()}"

    peer = host.serve(handler).connect()
    for byte in b"PUT /a HTTP/1.1\r\nHost: h\r\nX-Y: z\r\nContent-Length: 2\r\n\r\nhi":
        peer.send(bytes([byte]))
    assert peer.reply().body == b"PUT /a z hi"


def test_any_method(host: Host) -> None:
    """Any token is a method."""

    async def handler(request: Request) -> str:
        return request.method

    peer = host.serve(handler).connect()
    for method in ("OPTIONS", "PATCH", "PROPFIND", "M-SEARCH", "foo"):
        assert peer.ask(method).body == method.encode()


# -- timeouts


@pytest.mark.parametrize("sent", ["GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_slow_head(host: Host, sent: str) -> None:
    """A head that does not arrive in time is 408 and the end."""
    peer = host.serve(hello, head_timeout=0.05).connect()
    peer.send(sent)
    reply = peer.reply()
    assert (reply.status, reply.get("connection")) == (408, "close")
    assert peer.rest() == b""
    host.idle()


def test_a_slow_head_that_trickles(host: Host) -> None:
    """A head that trickles is no faster for it: the deadline does not move with its bytes."""
    peer = host.serve(hello, head_timeout=0.1).connect()
    over = threading.Event()

    def trickle() -> None:
        while not over.wait(0.01):
            try:
                peer.send("X")
            except OSError:
                return

    sender = threading.Thread(target=trickle)
    sender.start()
    try:
        assert peer.reply().status == 408
    finally:
        over.set()
        sender.join()


def test_a_silent_connection(host: Host) -> None:
    """A connection that never says anything is let go of, without an answer to nothing."""
    peer = host.serve(hello, head_timeout=0.05).connect()
    assert peer.rest() == b""
    host.idle()


def test_keep_alive_ends(host: Host) -> None:
    """A connection that is silent after an answer is closed after `keep_alive_timeout`, without a word."""
    peer = host.serve(hello, keep_alive_timeout=0.05).connect()
    assert peer.ask().body == b"hello"
    assert peer.rest() == b""


def test_a_slow_body(host: Host) -> None:
    """A body that stops arriving is 408 and the end."""

    async def handler(request: Request) -> bytes:
        return await request.body()

    peer = host.serve(handler, body_timeout=0.05).connect()
    peer.request("POST", "/", "Content-Length: 10")
    peer.send("abc")
    reply = peer.reply()
    assert (reply.status, reply.get("connection")) == (408, "close")
    assert peer.rest() == b""


@pytest.mark.parametrize("way", ["stream", "returned"])
def test_a_client_that_does_not_read(host: Host, way: str) -> None:
    """A client that takes nothing for `write_timeout` is cut, and the channel knows."""

    async def handler(request: Request) -> Any:
        if way == "returned":
            return b"x" * 50_000_000
        return as_channel(request, on_open=lambda channel: channel.send_nowait(b"x" * 50_000_000), on_close=host.closed)

    peer = host.serve(handler, write_timeout=0.1).connect(receive_buffer=4096)
    peer.request()
    if way == "stream":
        info = host.end()
        assert info.delivered is False
        assert info.unsent > 0
    else:
        assert peer.more()  # it was being answered
    host.idle()


def test_timeouts_may_be_switched_off(host: Host) -> None:
    """`math.inf` switches a timeout off."""
    off = math.inf
    host.serve(hello, head_timeout=off, keep_alive_timeout=off, body_timeout=off, write_timeout=off, ping_interval=off)
    assert host.connect().ask().body == b"hello"


def test_wait_closed_tells_the_end(host: Host) -> None:
    """`wait_closed` and a `receive` that was never possible leave the channel's one `close_info`."""
    infos: list[Any] = []

    async def handler(request: Request) -> None:
        async with with_channel(request, streaming=True) as channel:
            await channel.send("x")
            await channel.close()
            infos.append(await channel.wait_closed())
            infos.append(channel.close_info)
            assert isinstance(ChannelClosed(infos[0]).info.status, CloseStatus)

    assert host.serve(handler).connect().ask().body == b"x"
    host.until(lambda: len(infos) == 2)
    assert infos[0] is infos[1]
    assert infos[0].status == CloseStatus.SERVER_CLOSE


PLAIN_ASYNCIO = """
import asyncio
import channelkit


class Started:
    def __init__(self):
        self.server = asyncio.get_running_loop().create_future()

    def started(self, value=None):
        self.server.set_result(value)


async def handler(request):
    return "hello"


async def main():
    started = Started()
    task = asyncio.create_task(channelkit.serve(handler, port=0, task_status=started))
    server = await started.server
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    print((await reader.read())[-5:])
    writer.close()
    server.stop_soon(1)
    await task


asyncio.run(main())
"""


def test_serves_under_a_plain_asyncio_run() -> None:
    """`serve` needs no `anyio.run`: it works in a program that was started by `asyncio.run`."""
    done = subprocess.run([sys.executable, "-c", PLAIN_ASYNCIO], capture_output=True, timeout=30, check=True)
    assert done.stdout == b"b'hello'\n"
    assert done.stderr == b""
