"""Plain requests of an ASGI application, in memory and virtual time: what it is told, what comes of what it sends."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from channelkit import ASGIApp, ASGIHandler, HandlerError, Request, as_channel
from channelkit.testing import clock
from channelkit.testing.host import Host, open_host, read_all

App = Callable[[Any, Any, Any], Awaitable[None]]
Message = dict[str, Any]

CRLF = b"\r\n"


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def serve(app: App, talk: Callable[[Host], Awaitable[Any]], backend: Any, **options: Any) -> Any:
    """What `talk` returns, which talks to a server of `app`."""

    async def main() -> Any:
        async with open_host(ASGIHandler(app), **options) as host:
            return await talk(host)

    return clock.run(main, backend=backend, max_ticks=200_000)


def get(app: App, backend: Any, data: bytes | None = None, **options: Any) -> bytes:
    """The answer to one request."""

    async def talk(host: Host) -> bytes:
        return await (host.get() if data is None else host.exchange(data))

    answer: bytes = serve(app, talk, backend, **options)
    return answer


def sends(*messages: Message) -> App:
    """An application that sends these."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def split(answer: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Status line, header lines, body."""
    head, _, rest = answer.partition(CRLF * 2)
    status, *lines = head.split(CRLF)
    return status, lines, rest


# -- the scope


def test_the_scope(backend: Any) -> None:
    """The scope tells all that the specification asks for; `root_path` stands in front of both paths."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await sends(start(), body())(scope, receive, send)

    async def main() -> None:
        async with open_host(ASGIHandler(app, root_path="/api")) as host:
            await host.exchange(
                b"GET /a%20b/%E2%82%AC?q=%41&r HTTP/1.1\r\n"
                b"Host: test\r\nX-Two: 1\r\nx-two: \xfc\r\nConnection: close\r\n\r\n"
            )

    clock.run(main, backend=backend)
    (scope,) = scopes
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/api/a b/€",
        "raw_path": b"/api/a%20b/%E2%82%AC",
        "query_string": b"q=%41&r",
        "root_path": "/api",
        "headers": [(b"host", b"test"), (b"x-two", b"1"), (b"x-two", b"\xfc"), (b"connection", b"close")],
        "client": scope["client"],
        "server": scope["server"],
        "state": {},
    }


# -- the response


def test_one_piece_gets_its_length(backend: Any) -> None:
    """A response in one piece has a Content-Length though the application gave none, and the connection goes on."""
    _, lines, rest = split(get(sends(start(200, (b"X-A", b"1"), (b"x-a", b"2")), body(b"hello")), backend))
    assert lines[:2] + [one for one in lines if b"Length" in one] == [b"X-A: 1", b"x-a: 2", b"Content-Length: 5"]
    assert rest == b"hello"


def test_the_length_of_the_application_is_kept(backend: Any) -> None:
    """A stream whose length the application knows is not chunked."""
    app = sends(start(200, (b"content-length", b"6")), body(b"abc", True), body(b"def"))
    _, lines, rest = split(get(app, backend))
    assert b"Content-Length: 6" in lines
    assert not any(b"chunked" in line for line in lines)
    assert rest == b"abcdef"


def test_a_stream_is_chunked(backend: Any) -> None:
    """A stream of unknown length is chunked; its last empty message adds no chunk."""
    _, lines, rest = split(get(sends(start(), body(b"abc", True), body(b"", True), body(b"d", True), body()), backend))
    assert b"Transfer-Encoding: chunked" in lines
    assert rest == b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"


@pytest.mark.parametrize("pieces", [(body(b"abcdef"),), (body(b"abc", True), body(b"def")), (body(b"ab"),)])
def test_a_body_of_another_length_is_aborted(
    pieces: tuple[Message, ...], backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """More or less than the announced Content-Length never looks like a whole response; the log tells once."""
    answer = get(sends(start(200, (b"content-length", b"4")), *pieces), backend)
    assert len(split(answer)[2]) < 4
    assert len([one for one in caplog.records if "Content-Length" in one.message]) == 1


@pytest.mark.parametrize(("status", "lengths"), [(204, []), (304, [b"content-length: 5"])])
def test_statuses_without_a_body(status: int, lengths: list[bytes], backend: Any) -> None:
    """204 and 304 have no body whatever the application sends; a 304 keeps the length a 200 would have."""
    _, lines, rest = split(get(sends(start(status, (b"content-length", b"5")), body(b"hello")), backend))
    assert rest == b""
    assert [line for line in lines if b"length" in line.lower()] == lengths


@pytest.mark.parametrize(
    ("messages", "length"),
    [
        ((start(), body(b"hello")), b"content-length: 5"),
        ((start(200, (b"content-length", b"7")), body()), b"content-length: 7"),
        ((start(), body()), None),
    ],
)
def test_head(messages: tuple[Message, ...], length: bytes | None, backend: Any) -> None:
    """HEAD gets the head of the response alone; nothing is invented about the length of the GET."""
    answer = get(sends(*messages), backend, b"HEAD / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    _, lines, rest = split(answer)
    assert rest == b""
    assert [line.lower() for line in lines if b"length" in line.lower()] == ([length] if length else [])


def test_the_head_waits_for_the_first_body(backend: Any) -> None:
    """Nothing is written before the first body message, so an exception between the two is a clean 500."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(201))
        await anyio.sleep(1)
        raise RuntimeError("between")

    async def talk(host: Host) -> bytes:
        stream = host.connect()
        await stream.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        with anyio.move_on_after(0.5):
            assert await stream.receive() == b"nothing"
        return await read_all(stream)

    assert serve(app, talk, backend).startswith(b"HTTP/1.1 500 ")


def test_an_exception_after_the_head_aborts(backend: Any) -> None:
    """Half a body never looks whole."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"half", True))
        await anyio.sleep(1)
        raise RuntimeError("after the head")

    answer = get(app, backend)
    assert b"half" in answer
    assert not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("messages", "status", "text"),
    [
        ((), b"500", "without starting a response"),
        ((start(),), b"500", "without completing"),
        ((start(), body(b"x", True)), b"", "without completing"),
    ],
)
def test_an_application_that_stops_early(
    messages: tuple[Message, ...], status: bytes, text: str, backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Returning without an answer is a 500, without its end an abort; the log says which."""
    assert get(sends(*messages), backend)[9:12] == status
    assert any(text in str(one.exc_info) for one in caplog.records if one.exc_info)


@pytest.mark.parametrize(
    ("messages", "error", "text"),
    [
        ([body()], RuntimeError, "expected 'http.response.start'"),
        ([start(), start()], RuntimeError, "expected 'http.response.body'"),
        ([start(), body(), body()], RuntimeError, "after the response was complete"),
        ([{"type": "http.response.push"}], RuntimeError, "'http.response.push'"),
        ([{"status": 200}], TypeError, "'type'"),
        (["start"], TypeError, "is a dict"),
        ([{"type": "http.response.start"}], ValueError, "no 'status'"),
        ([{"type": "http.response.start", "status": "200"}], TypeError, "is an int"),
        ([{"type": "http.response.start", "status": 99}], RuntimeError, "99"),
        ([start(200, ("x", "y"))], TypeError, "bytes"),  # type: ignore[arg-type]
        ([{"type": "http.response.start", "status": 200, "headers": [b"x"]}], TypeError, "pairs of bytes"),
        ([start(200, (b"a b", b"c"))], ValueError, "header name"),
        ([start(200, (b"a", b"c\r\nd: e"))], ValueError, "line break"),
        ([start(200, (b"content-length", b"-1"))], ValueError, "whole number"),
        ([start(200, (b"content-length", b"1"), (b"Content-Length", b"2"))], ValueError, "'1, 2'"),
        ([start(), {"type": "http.response.body", "body": "text"}], TypeError, "is bytes, not str"),
    ],
)
def test_wrong_messages(messages: list[Any], error: type[Exception], text: str, backend: Any) -> None:
    """What is no message, or comes at the wrong time, raises in the application, and the text names the mistake."""
    caught: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        *right, wrong = messages
        for message in right:
            await send(message)
        try:
            await send(wrong)
        except Exception as problem:
            caught.append(problem)

    get(app, backend)
    assert isinstance(caught[0], error)
    assert text in str(caught[0])


def test_after_a_wrong_start_the_right_one_is_taken(backend: Any) -> None:
    """A refused message has no effect: the application may still answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with suppress(ValueError):
            await send(start(200, (b"bad\n", b"")))
        await send(start(201))
        await send(body(b"ok"))

    assert get(app, backend).startswith(b"HTTP/1.1 201 ")


# -- the request's body


def test_the_body_comes_in_pieces(backend: Any) -> None:
    """Each piece is one `http.request`, the last says so; then `receive` waits for the end of the response."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["more_body"]:
            seen.append(message)
        seen.append(message)
        await send(start())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, receive)
            await anyio.sleep(1)
            assert seen[-1]["type"] == "http.request"
            await send(body(b"done"))

    async def wait(receive: Any) -> None:
        seen.append(await receive())

    answer = get(app, backend, b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    assert answer.endswith(b"done")
    assert b"".join(one["body"] for one in seen[:-1]) == b"hello"
    assert [one["more_body"] for one in seen[:-1]] == [*[True] * (len(seen) - 2), False]
    assert seen[-1] == {"type": "http.disconnect"}


def test_a_body_that_is_not_read_is_not_taken(backend: Any) -> None:
    """Back-pressure: while the application does not receive, the client can send only so much."""
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(10)
        sent.append(stream_sent())
        size = 0
        while (message := await receive())["more_body"]:
            size += len(message["body"])
        await send(start())
        await send(body(b"%d" % size))

    stream_sent: Callable[[], int] = int

    async def talk(host: Host) -> bytes:
        nonlocal stream_sent
        stream = host.connect()
        stream_sent = lambda: stream.statistics().sent  # noqa: E731
        await stream.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4000000\r\nConnection: close\r\n\r\n")
        await stream.send(bytes(4_000_000))
        return await read_all(stream)

    assert serve(app, talk, backend).endswith(b"4000000")
    assert sent[0] < 1_000_000


def test_a_body_that_was_read_before_is_given_again(backend: Any) -> None:
    """A handler of the user's that looked into the body leaves it to the application."""
    site = ASGIHandler(echo)

    async def handler(request: Request) -> Any:
        assert await request.body() == b"hello"
        return await site(request)

    async def main() -> bytes:
        async with open_host(handler) as host:
            return await host.exchange(
                b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
            )

    assert clock.run(main, backend=backend).endswith(b"hello")


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body it got, whatever happens."""
    received = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        received += message["body"]
        if not message["more_body"]:
            break
    await send(start(200, (b"x-end", message["type"].encode())))
    await send(body(received))


@pytest.mark.parametrize(
    ("head", "data", "status"),
    [
        (b"Transfer-Encoding: chunked", b"b\r\n0123456789a\r\n0\r\n\r\n", b"413"),
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\nzz\r\n", b"400"),
        (b"Content-Length: 9", b"half", b"408"),
    ],
)
def test_a_broken_body_is_answered_rightly(head: bytes, data: bytes, status: bytes, backend: Any) -> None:
    """The application hears of a disconnect; the client gets the status of its mistake, whatever is sent then."""
    request = b"POST / HTTP/1.1\r\nHost: test\r\n" + head + b"\r\n\r\n" + data
    answer = get(echo, backend, request, max_body=10)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.count(b"HTTP/1.1") == 1


def test_a_client_that_breaks_off_its_body(backend: Any) -> None:
    """A FIN in the middle of a body: disconnect for the application, 400 for who may still be listening."""

    async def talk(host: Host) -> bytes:
        stream = host.connect()
        await stream.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nhalf")
        stream.half_close()
        return await read_all(stream)

    assert serve(echo, talk, backend).startswith(b"HTTP/1.1 400 ")


def test_a_broken_body_after_the_head_aborts(backend: Any) -> None:
    """When the response has begun there is no other way to tell."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"begun", True))
        while (await receive())["type"] != "http.disconnect":
            pass
        await send(body(b"never"))

    request = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
    answer = get(app, backend, request)
    assert b"never" not in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_two_tasks_may_receive(backend: Any) -> None:
    """Pieces go to one of them each, and both hear of the end."""
    seen: list[Message] = []

    async def take(receive: Any) -> None:
        while True:
            message = await receive()
            seen.append(message)
            if message["type"] == "http.disconnect":
                return

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, receive)
            tasks.start_soon(take, receive)
            await anyio.sleep(5)
            await send(start())
            await send(body(b"done"))

    async def talk(host: Host) -> bytes:
        stream = host.connect()
        await stream.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\nConnection: close\r\n\r\nabc")
        await anyio.sleep(1)
        await stream.send(b"def")
        return await read_all(stream)

    assert serve(app, talk, backend).endswith(b"done")
    assert b"".join(one.get("body", b"") for one in seen) == b"abcdef"
    assert [one["type"] for one in seen].count("http.disconnect") == 2


def test_whoever_waits_takes_the_next_piece(backend: Any) -> None:
    """A task that has its piece and goes leaves the next one to the task that waits."""
    seen: list[bytes] = []

    async def take_one(receive: Any) -> None:
        seen.append((await receive())["body"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_one, receive)
            tasks.start_soon(take_one, receive)
        await send(start())
        await send(body(b"done"))

    async def talk(host: Host) -> bytes:
        stream = host.connect()
        await stream.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\nConnection: close\r\n\r\n")
        for piece in (b"abc", b"def"):
            await anyio.sleep(1)
            await stream.send(piece)
        return await read_all(stream)

    assert serve(app, talk, backend).endswith(b"done")
    assert seen == [b"abc", b"def"]


def test_a_request_that_breaks_while_its_answer_waits_for_room(backend: Any) -> None:
    """The answer is cut; what the application was about to send is dropped, and it does not hear of it."""
    ended: list[str] = []

    async def respond(send: Any) -> None:
        await send(start())
        await send(body(bytes(500_000), True))
        await send(body(b"never"))
        ended.append("sent")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(respond, send)
            await anyio.sleep(1)
            while (await receive())["type"] != "http.disconnect":
                pass

    async def talk(host: Host) -> bytes:
        stream = host.connect(capacity=1000)
        await stream.send(b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        await anyio.sleep(0.5)
        assert ended == []  # it waits for room
        await anyio.sleep(1)
        assert ended == ["sent"]  # it waits no more, though there is none
        return await read_all(stream)

    answer = serve(app, talk, backend)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"never" not in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_a_cancelled_receive_takes_nothing(backend: Any) -> None:
    """As a middleware does it that waits for two things at once."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received = b""
        more = True
        while more:
            with anyio.move_on_after(0.3):
                message = await receive()
                received += message["body"]
                more = message["more_body"]
        await send(start())
        await send(body(received))

    async def talk(host: Host) -> bytes:
        stream = host.connect()
        await stream.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\nConnection: close\r\n\r\n")
        for byte in b"abcdef":
            await anyio.sleep(0.7)
            await stream.send(bytes([byte]))
        return await read_all(stream)

    assert serve(app, talk, backend).endswith(b"abcdef")


# -- the client goes away


@pytest.mark.parametrize("way", ["half_close", "reset", "aclose"])
def test_a_client_that_goes_away(way: str, backend: Any) -> None:
    """Whoever waits in `receive` gets `http.disconnect`; what is sent after that goes nowhere, silently."""
    ended: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(start())
        await send(body(b"begun", True))
        began = anyio.current_time()
        assert await receive() == {"type": "http.disconnect"}
        ended.append(anyio.current_time() - began)
        for _ in range(100):
            await send(body(b"more", True))

    async def talk(host: Host) -> None:
        stream = host.connect()
        await stream.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await anyio.sleep(1)
        result = getattr(stream, way)()
        if result is not None:
            await result
        await anyio.sleep(5)

    serve(app, talk, backend)
    assert ended == [pytest.approx(1, abs=0.1)]


def test_a_client_that_says_it_has_said_all_gets_its_answer(backend: Any) -> None:
    """A FIN after the request is no disconnect for an application that does not ask."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(1)
        await send(start())
        await send(body(b"answer"))

    async def talk(host: Host) -> bytes:
        stream = host.connect()
        await stream.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        stream.half_close()
        return await read_all(stream)

    assert serve(app, talk, backend).endswith(b"answer")


def test_polling_for_the_disconnect(backend: Any) -> None:
    """`receive` in a cancelled scope is how Starlette polls: it must tell without waiting, and take nothing."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(4):
            with anyio.CancelScope() as scope:
                scope.cancel()
                seen.append((await receive())["type"])
            await anyio.sleep(1)

    async def talk(host: Host) -> None:
        stream = host.connect()
        await stream.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await anyio.sleep(2.5)
        stream.reset()
        await anyio.sleep(3)

    serve(app, talk, backend)
    assert seen == ["http.request", "http.disconnect"]


def test_sending_waits_for_a_slow_client(backend: Any) -> None:
    """Above `soft_mark` unsent bytes `send` waits; memory is bounded by it and one message."""
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(start())
        while True:
            await send(body(bytes(10_000), True))
            sent += 10_000

    async def talk(host: Host) -> None:
        stream = host.connect(capacity=10_000)
        await stream.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await anyio.sleep(1)
        assert sent < 300_000
        before = sent
        for _ in range(50):
            await stream.receive()
        await anyio.sleep(1)
        assert sent > before

    serve(app, talk, backend)


def test_an_application_that_never_waits_lets_the_others_run(backend: Any) -> None:
    """Also when nobody is there any more."""
    turns = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        while True:
            await send(body(b"x", True))

    async def talk(host: Host) -> None:
        nonlocal turns
        stream = host.connect()
        await stream.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await stream.receive()
        stream.reset()
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
            turns += 1

    serve(app, talk, backend)
    assert turns == 100


# -- keep-alive, composition, the end


def test_requests_follow_one_another(backend: Any) -> None:
    """Pipelined requests on one connection; what an application does after its response holds nobody up."""
    background: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(scope["path"].encode()))
        await anyio.sleep(1)
        background.append(scope["path"])

    async def talk(host: Host) -> bytes:
        stream = host.connect()
        await stream.send(b"GET /1 HTTP/1.1\r\nHost: t\r\n\r\nGET /2 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        with anyio.fail_after(0.5):
            answer = await read_all(stream)
        await anyio.sleep(2)
        return answer

    answer = serve(app, talk, backend)
    assert b"/1HTTP/1.1 200" in answer
    assert answer.endswith(b"/2")
    assert sorted(background) == ["/1", "/2"]


def test_beside_channels(backend: Any) -> None:
    """A handler answers some requests itself, makes channels of others, and leaves the rest to the application."""
    site = ASGIHandler(sends(start(), body(b"site")))

    async def handler(request: Request) -> Any:
        if request.path == "/ws":
            return as_channel(request, on_receive=lambda channel, message: channel.send_nowait(message))
        if request.path == "/own":
            return "own"
        return await site(request)

    async def main() -> None:
        async with open_host(handler) as host:
            peer = await host.websocket("/ws")
            await peer.send("hello")
            assert await peer.receive() == "hello"
            assert (await host.get("/own")).endswith(b"own")
            assert (await host.get("/else")).endswith(b"site")

    clock.run(main, backend=backend)


def test_one_answer_only(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A request that was answered, or is a channel, is refused to the application, and nothing comes twice."""
    site = ASGIHandler(sends(start(), body(b"site")))
    errors: list[str] = []
    kept: list[Any] = []

    async def handler(request: Request) -> Any:
        if request.path == "/other":
            return kept[0]
        kept.append(await site(request))
        for again in (site, as_channel):
            try:
                result = again(request)
                await result  # type: ignore[misc]
            except HandlerError as error:
                errors.append(str(error))
        return kept[0]

    async def main() -> None:
        async with open_host(handler) as host:
            answer = await host.get("/")
            assert answer.count(b"HTTP/1.1") == 1
            assert (await host.get("/other")).startswith(b"HTTP/1.1 500")

    clock.run(main, backend=backend)
    assert errors == ["this request was answered already"] * 2
    assert "answer of another request" in caplog.text


def drained(app: App, timeout: float, backend: Any) -> bytes:
    """The answer to a request that is a second old when the server begins to stop."""

    async def main() -> bytes:
        async with open_host(ASGIHandler(app)) as host:
            stream = host.connect()
            await stream.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            await anyio.sleep(1)
            await host.core.drain(timeout)
        return await read_all(stream)

    return clock.run(main, backend=backend)


@pytest.mark.parametrize(("kind", "proper"), [(b"text/event-stream", True), (b"text/plain", False)])
def test_drain(kind: bytes, proper: bool, backend: Any) -> None:
    """Event streams are told at once and end properly; other streams may finish until the deadline, then are cut."""
    told: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(start(200, (b"content-type", kind)))
        await send(body(b"one", True))
        try:
            await receive()
        finally:
            told.append(anyio.current_time())
        await send(body(b"bye", True))

    answer = drained(app, 3, backend)
    assert answer.endswith(b"0\r\n\r\n") is proper
    assert (b"bye" in answer) is proper
    assert told == [pytest.approx(1 if proper else 4, abs=0.1)]


def test_drain_lets_a_request_finish(backend: Any) -> None:
    """A running request gets its time, and its answer says that the connection closes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(2)
        await send(start())
        await send(body(b"finished", True))
        await anyio.sleep(1)
        await send(body())

    answer = drained(app, 30, backend)
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"finished\r\n0\r\n\r\n")


def test_at_the_deadline_the_application_is_cancelled(backend: Any) -> None:
    """Nothing outlives the server."""
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("ended")

    assert drained(app, 1, backend).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert ended == ["ended"]


def test_a_lifespan_that_was_forgotten_is_told_once(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever calls the handler from a handler must pass its lifespan on; the log says so, once."""
    caplog.set_level(logging.WARNING, "channelkit")

    async def talk(host: Host) -> None:
        await host.get("/")
        await host.get("/")

    serve(sends(start(), body()), talk, backend)
    assert [one.levelname for one in caplog.records if "lifespan=site.lifespan" in one.message] == ["WARNING"]


def test_a_channel_that_an_application_of_ours_holds_is_answered_at_the_end(backend: Any) -> None:
    """ASGIApp inside ASGIHandler hears of a stop by its lifespan only: its held answer is 503 at the deadline too."""
    ends: list[Any] = []

    async def hold(request: Request) -> Any:
        return as_channel(request, on_close=lambda channel, status: ends.append(status))

    answer = drained(ASGIApp(hold, handle_signals=False), 1, backend)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert len(ends) == 1
