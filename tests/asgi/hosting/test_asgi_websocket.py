"""WebSockets of an ASGI application, in memory and virtual time: handshake, messages, every way to end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from wsproto.events import CloseConnection, Ping

from channelkit import ASGIHandler, Disconnected, Request
from channelkit.testing import clock
from channelkit.testing.host import Host, Refused, open_host

App = Callable[[Any, Any, Any], Awaitable[None]]
Message = dict[str, Any]

ACCEPT = {"type": "websocket.accept"}
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def serve(app: App, talk: Callable[[Host], Awaitable[Any]], backend: Any, **options: Any) -> Any:
    """What `talk` returns, which talks to a server of `app`."""

    async def main() -> Any:
        async with open_host(ASGIHandler(app), **options) as host:
            return await talk(host)

    return clock.run(main, backend=backend, max_ticks=200_000)


class Recorder:
    """An application that accepts, keeps what it receives, and does what messages ask for."""

    def __init__(self, accept: Message | None = None) -> None:
        self.accept = accept or ACCEPT
        self.scope: Any = None
        self.received: list[Message] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        while True:
            message = await receive()
            self.received.append(message)
            if message["type"] == "websocket.connect":
                await send(self.accept)
            elif message["type"] == "websocket.disconnect":
                return
            elif (order := message.get("text")) is not None and order.startswith("close"):
                _, code, reason = order.split(" ", 2)
                await send({"type": "websocket.close", "code": int(code), "reason": reason})
            elif order == "return":
                return
            elif order == "keep quiet":
                pass
            elif order == "raise":
                raise RuntimeError("as it was told to")
            else:
                await send({**message, "type": "websocket.send"})

    @property
    def end(self) -> Message:
        return self.received[-1]


def disconnect(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


# -- the handshake


def test_the_scope(backend: Any) -> None:
    """The scope of a WebSocket has its own scheme, the offered subprotocols, and the denial extension."""
    app = Recorder()

    async def talk(host: Host) -> None:
        await (await host.websocket("/a%20b?x=1", subprotocols=["one", "two"])).close()

    serve(app, talk, backend)
    scope = app.scope
    headers = dict(scope.pop("headers"))
    assert headers[b"sec-websocket-protocol"] == b"one, two"
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"x=1",
        "root_path": "",
        "client": scope["client"],
        "server": scope["server"],
        "state": {},
        "subprotocols": ["one", "two"],
        "extensions": {"websocket.http.response": {}},
    }


def test_accept_with_subprotocol_and_headers(backend: Any) -> None:
    """The application's choice and its header lines are in the 101; its own check of Origin is the only one."""
    app = Recorder({**ACCEPT, "subprotocol": "two", "headers": [(b"X-Own", b"1"), (b"set-cookie", b"a=b")]})

    async def talk(host: Host) -> None:
        stream = host.connect()
        await stream.send(HANDSHAKE + b"Sec-WebSocket-Protocol: one, two\r\nOrigin: http://elsewhere.example\r\n\r\n")
        head = await stream.receive()
        assert head.startswith(b"HTTP/1.1 101 ")
        for line in (b"Sec-WebSocket-Protocol: two", b"X-Own: 1", b"set-cookie: a=b"):
            assert b"\r\n" + line + b"\r\n" in head

    serve(app, talk, backend)


def test_a_subprotocol_that_was_not_offered(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is left out of the answer, where it would make the client fail, and the log says so."""

    async def talk(host: Host) -> None:
        peer = await host.websocket(subprotocols=["one"])
        assert peer.subprotocol is None
        await peer.close()

    serve(Recorder({**ACCEPT, "subprotocol": "two"}), talk, backend)
    assert "'two'" in caplog.text


def test_frames_in_the_packet_of_the_handshake(backend: Any) -> None:
    """What the client says before it has our answer is not lost."""
    app = Recorder()

    async def talk(host: Host) -> None:
        stream = host.connect()
        await stream.send(HANDSHAKE + b"\r\n" + b"\x81\x82\0\0\0\0hi")
        await anyio.sleep(1)
        assert (await stream.receive()).endswith(b"\x81\x02hi")

    serve(app, talk, backend)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Version: 13", b"Version: 12"), 426),
        ((b"Key: dGhl", b"Key: ?Ghl"), 400),
        ((b"GET /", b"POST /"), 405),
        ((b"Connection: Upgrade\r\n", b""), 400),
        ((b"Host: test\r\n", b"Host: test\r\nContent-Length: 1\r\n"), 400),
    ],
)
def test_a_bad_handshake_never_reaches_the_application(change: tuple[bytes, bytes], status: int, backend: Any) -> None:
    """It is the client's mistake and gets its own status."""
    app = Recorder()

    async def talk(host: Host) -> bytes:
        return await host.exchange(HANDSHAKE.replace(*change) + b"\r\n")

    assert serve(app, talk, backend).startswith(b"HTTP/1.1 %d " % status)
    assert app.received == []


def test_close_before_accept(backend: Any) -> None:
    """403, and the application hears of the end."""
    seen: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4000})
        seen.append(await receive())
        with pytest.raises(RuntimeError, match=r"after 'websocket\.close'"):
            await send(ACCEPT)

    async def talk(host: Host) -> None:
        with pytest.raises(Refused) as caught:
            await host.websocket()
        assert caught.value.status == 403

    serve(app, talk, backend)
    assert seen == [disconnect(1006)]


def test_denial(backend: Any) -> None:
    """A refusal of the application's own, streamed under the rules of a response."""
    seen: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        head = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"because")]}
        with pytest.raises(ValueError, match="line break"):
            await send({**head, "headers": [(b"x", b"\n")]})
        await send(head)
        with pytest.raises(RuntimeError, match=r"expected 'websocket\.http\.response\.body'"):
            await send(ACCEPT)
        await send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b" entry"})
        await receive()
        seen.append(await receive())

    async def talk(host: Host) -> bytes:
        return await host.exchange(HANDSHAKE + b"\r\n")

    answer = serve(app, talk, backend)
    assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\nx-why: because\r\n")
    assert answer.endswith(b"2\r\nno\r\n6\r\n entry\r\n0\r\n\r\n")
    assert seen == [disconnect(1006)]


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([], b"HTTP/1.1 500 "),
        ([{"type": "websocket.http.response.start", "status": 401}], b"HTTP/1.1 500 "),
        (
            [
                {"type": "websocket.http.response.start", "status": 401},
                {"type": "websocket.http.response.body", "body": b"x", "more_body": True},
            ],
            b"",
        ),
    ],
)
@pytest.mark.parametrize("raises", [False, True])
def test_an_application_that_answers_by_half(
    messages: list[Message], status: bytes, raises: bool, backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Returning or raising before the handshake is answered is a 500; in the middle of a refusal, an abort."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        if raises:
            raise RuntimeError("as it was told to")

    async def talk(host: Host) -> bytes:
        return await host.exchange(HANDSHAKE + b"\r\n")

    answer = serve(app, talk, backend)
    assert answer.startswith(status)
    assert bool(answer) is bool(status)
    assert [one.levelname for one in caplog.records if one.exc_info] == ["ERROR"]


@pytest.mark.parametrize("way", ["half_close", "reset"])
def test_a_client_that_does_not_wait_for_the_handshake(way: str, backend: Any) -> None:
    """The application hears of it, and whatever it answers raises an OSError."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen.append(await receive())
        await send(ACCEPT)

    async def talk(host: Host) -> None:
        stream = host.connect()
        await stream.send(HANDSHAKE + b"\r\n")
        await anyio.sleep(1)
        getattr(stream, way)()
        await anyio.sleep(1)

    serve(app, talk, backend)
    assert seen == [disconnect(1006)]


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        ({"type": "websocket.send", "text": "x"}, RuntimeError, "'websocket.accept' or 'websocket.close'"),
        ({"type": "http.response.start"}, RuntimeError, "before the WebSocket is accepted"),
        ({**ACCEPT, "subprotocol": b"x"}, TypeError, "is a str"),
        ({**ACCEPT, "headers": [("a", "b")]}, TypeError, "bytes"),
        ({**ACCEPT, "headers": [(b"a\n", b"b")]}, ValueError, "header name"),
        ({**ACCEPT, "headers": [(b"Sec-WebSocket-Protocol", b"b")]}, ValueError, "'subprotocol'"),
    ],
)
def test_wrong_answers(message: Message, error: type[Exception], text: str, backend: Any) -> None:
    """They raise in the application, the text names the mistake, and the handshake can still be answered."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(error, match=text):
            await send(message)
        await send(ACCEPT)
        await send({"type": "websocket.close", "code": 4001})

    async def talk(host: Host) -> Any:
        peer = await host.websocket()
        return await peer.receive()

    assert serve(app, talk, backend).code == 4001


def test_after_a_wrong_answer_the_client_is_still_watched(backend: Any) -> None:
    """A handshake that could not be accepted as it was meant is as it was before: the application hears of the end."""
    seen: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(ValueError, match="header name"):
            await send({**ACCEPT, "headers": [(b"a\n", b"b")]})
        seen.append(await receive())

    async def talk(host: Host) -> None:
        stream = host.connect()
        await stream.send(HANDSHAKE + b"\r\n")
        await anyio.sleep(1)
        stream.reset()
        await anyio.sleep(1)

    serve(app, talk, backend)
    assert seen == [disconnect(1006)]


def test_a_task_that_receives_before_another_accepts(backend: Any) -> None:
    """It gets the first message."""
    seen: list[Message] = []

    async def take(receive: Any) -> None:
        seen.append(await receive())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, receive)
            await anyio.sleep(1)
            await send(ACCEPT)

    async def talk(host: Host) -> None:
        peer = await host.websocket()
        await peer.send("first")
        await peer.receive()

    serve(app, talk, backend)
    assert seen == [{"type": "websocket.receive", "text": "first"}]


# -- messages


def test_text_and_bytes(backend: Any) -> None:
    """Text stays text, bytes stay bytes, in order, both ways; a message has only the key it needs."""
    app = Recorder()

    async def talk(host: Host) -> list[Any]:
        peer = await host.websocket()
        for message in ("text", b"bytes", "", b"", "€"):
            await peer.send(message)
        return [await peer.receive() for _ in range(5)]

    assert serve(app, talk, backend) == ["text", b"bytes", "", b"", "€"]
    assert app.received[1:3] == [
        {"type": "websocket.receive", "text": "text"},
        {"type": "websocket.receive", "bytes": b"bytes"},
    ]


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        (ACCEPT, RuntimeError, "'websocket.send' or 'websocket.close'"),
        ({"type": "websocket.send"}, ValueError, "exactly one"),
        ({"type": "websocket.send", "text": "x", "bytes": b"x"}, ValueError, "exactly one"),
        ({"type": "websocket.send", "text": b"x"}, TypeError, "is a str"),
        ({"type": "websocket.send", "bytes": "x"}, TypeError, "is bytes"),
        ({"type": "websocket.send", "text": "\ud800"}, ValueError, "surrogate"),
        ({"type": "websocket.close", "code": 1005}, ValueError, "1005"),
        ({"type": "websocket.close", "reason": "x" * 124}, ValueError, "123"),
    ],
)
def test_wrong_messages(message: Message, error: type[Exception], text: str, backend: Any) -> None:
    """They raise in the application, and the WebSocket goes on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        with pytest.raises(error, match=text):
            await send(message)
        await send({"type": "websocket.send", "bytes": bytearray(b"fine"), "text": None})

    async def talk(host: Host) -> Any:
        return await (await host.websocket()).receive()

    assert serve(app, talk, backend) == b"fine"


def test_an_application_that_does_not_receive_stops_the_client(backend: Any) -> None:
    """Back-pressure: so much waits, then reading stops, and nothing is lost."""
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await anyio.sleep(100)
        while (message := await receive())["type"] == "websocket.receive":
            received.append(message["text"])

    async def talk(host: Host) -> int:
        peer = await host.websocket(capacity=1000)
        for number in range(100):
            with anyio.move_on_after(1) as scope:
                await peer.send(f"{number:4} " + "x" * 995)
            if scope.cancelled_caught:
                break
        else:
            pytest.fail("the client was never stopped")
        await anyio.sleep(200)
        return number

    stopped = serve(app, talk, backend, max_inbox=10)
    assert 10 <= stopped < 20
    assert [int(one.split()[0]) for one in received] == list(range(len(received)))
    assert len(received) >= stopped


def test_sending_waits_for_a_slow_client(backend: Any) -> None:
    """Above `soft_mark` unsent bytes `send` waits."""
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(ACCEPT)
        while True:
            await send({"type": "websocket.send", "bytes": bytes(10_000)})
            sent += 1

    async def talk(host: Host) -> None:
        peer = await host.websocket(capacity=10_000)
        await anyio.sleep(1)
        assert sent < 30
        for _ in range(20):
            await peer.receive()
        await anyio.sleep(1)
        assert sent >= 20

    serve(app, talk, backend)


# -- the end


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "leaving"), (4321, "own"), (3000, "x" * 123)])
def test_the_client_closes(code: int, reason: str, backend: Any) -> None:
    """The application gets the client's code and reason, after all that came before."""
    app = Recorder()

    async def talk(host: Host) -> None:
        peer = await host.websocket()
        await peer.send("keep quiet")
        answer = await peer.close(code, reason)
        assert answer.code == code
        await anyio.sleep(1)

    serve(app, talk, backend)
    assert app.received[1:] == [{"type": "websocket.receive", "text": "keep quiet"}, disconnect(code, reason)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x88\x80\0\0\0\0", 1005),  # a close frame without a code
        (b"\x83\x80\0\0\0\0", 1002),  # a reserved opcode
        (b"\x81\x81\0\0\0\0\xff", 1007),  # no UTF-8
        (b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4), 1009),
    ],
)
def test_other_frames_that_end_it(data: bytes, code: int, backend: Any) -> None:
    """A close without a code is 1005; a violation is the code that the client was told."""
    app = Recorder()

    async def talk(host: Host) -> None:
        stream = host.connect()
        await stream.send(HANDSHAKE + b"\r\n" + data)
        await anyio.sleep(20)

    serve(app, talk, backend)
    assert app.end["type"] == "websocket.disconnect"
    assert app.end["code"] == code


@pytest.mark.parametrize("way", ["half_close", "reset"])
def test_the_client_vanishes(way: str, backend: Any) -> None:
    """Without a close frame it is 1006."""
    app = Recorder()

    async def talk(host: Host) -> None:
        peer = await host.websocket()
        getattr(peer.stream, way)()
        await anyio.sleep(1)

    serve(app, talk, backend)
    assert app.end == disconnect(1006)


def test_sending_to_a_websocket_that_is_over(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    """`send` raises an OSError once the client has closed; that it comes out of the application is no error."""
    caught: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        for message in ({"type": "websocket.send", "text": "x"}, {"type": "websocket.close"}):
            try:
                await send(message)
            except OSError as error:
                caught.append(error)
        await send({"type": "websocket.send", "text": "x"})

    async def talk(host: Host) -> None:
        await (await host.websocket()).close(1000, "enough")
        await anyio.sleep(1)

    serve(app, talk, backend)
    assert [type(one) for one in caught] == [Disconnected, Disconnected]
    assert "normal (1000) by peer: enough" in str(caught[0])
    assert [one.message for one in caplog.records if one.exc_info] == []


def test_a_send_that_waits_is_woken_by_the_end(backend: Any) -> None:
    """It raises like one that comes later."""
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(10_000)})
        except OSError:
            ended.append("told")

    async def talk(host: Host) -> None:
        peer = await host.websocket(capacity=1000)
        await anyio.sleep(1)
        peer.stream.reset()
        await anyio.sleep(1)

    serve(app, talk, backend)
    assert ended == ["told"]


@pytest.mark.parametrize(
    ("order", "code", "reason"),
    [("close 1000 ", 1000, ""), ("close 4000 bye", 4000, "bye"), ("return", 1000, ""), ("raise", 1011, "")],
)
def test_the_application_ends_it(order: str, code: int, reason: str, backend: Any) -> None:
    """Its own code and reason; 1000 if it just returns, 1011 if it raises."""
    app = Recorder()

    async def talk(host: Host) -> None:
        peer = await host.websocket()
        await peer.send(order)
        close = await peer.receive()
        assert isinstance(close, CloseConnection)
        assert (close.code, close.reason or "") == (code, reason)
        await peer.answer_close(close)
        await anyio.sleep(1)

    serve(app, talk, backend)
    if order.startswith("close"):
        assert app.end == disconnect(code, reason)  # its own words, when the closing is through


def test_drain(backend: Any) -> None:
    """The client is told 1001, and so is the application."""
    app = Recorder()

    async def talk(host: Host) -> None:
        peer = await host.websocket()
        await peer.send_event(Ping(b"x"))
        host.loop.spawn(host.core.drain, 5)
        close = await peer.receive()
        while not isinstance(close, CloseConnection):
            close = await peer.receive()
        assert close.code == 1001
        await peer.answer_close(close)
        await anyio.sleep(1)

    serve(app, talk, backend)
    assert app.end == disconnect(1001)


def test_a_cancelled_receive_takes_nothing(backend: Any) -> None:
    """An application may wait for a message and something else, whichever comes first."""
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        while len(received) < 5:
            with anyio.move_on_after(0.3):
                received.append((await receive())["text"])

    async def talk(host: Host) -> None:
        peer = await host.websocket()
        for number in range(5):
            await anyio.sleep(0.7)
            await peer.send(str(number))
        await peer.receive()

    serve(app, talk, backend)
    assert received == list("01234")


def test_as_part_of_a_handler(backend: Any) -> None:
    """The result of the application's handler is the answer of the user's."""
    site = ASGIHandler(Recorder())

    async def handler(request: Request) -> Any:
        return await site(request)

    async def main() -> None:
        async with open_host(handler) as host:
            peer = await host.websocket()
            await peer.send("x")
            assert await peer.receive() == "x"
            await peer.close()

    clock.run(main, backend=backend)
