"""ASGIApp by itself, in virtual time: where it lives, how it ends, and what a host may do to it."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from channelkit import (
    ASGIApp,
    Channel,
    CloseInfo,
    CloseStatus,
    ConfigError,
    Endpoint,
    Listen,
    NotAvailable,
    Request,
    Response,
    SessionConfig,
    as_channel,
    reject,
    schedule_task,
    with_channel,
)
from channelkit.asgi.hosted.application import HOST_OPTIONS
from channelkit.config import Config
from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend

if TYPE_CHECKING:
    from channelkit.transports.session_channel import SessionChannel
    from tests.asgi.hosted.conftest import Calling

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def app_of(handler: Any, **options: Any) -> ASGIApp:
    return ASGIApp(handler, handle_signals=False, **options)


def living(backend: Backend) -> int:
    """Tasks of the event loop: what is left behind would be counted here."""
    if backend == "asyncio":
        import asyncio

        return len(asyncio.all_tasks())
    import trio

    return trio.lowlevel.current_statistics().tasks_living


async def settle() -> None:
    await anyio.sleep(0.001)


# -- where it lives ----------------------------------------------------------------------------------------------------


def test_without_a_lifespan_nothing_is_left_behind(backend: Backend, calling: Calling) -> None:
    """The first request starts what is needed; when nothing needs it any more it is gone, and comes again."""

    async def main() -> None:
        app = app_of(_hello)
        before = living(backend)
        for _ in range(2):
            async with calling(app) as call:
                await call.returned.wait()
            assert (call.status, call.body, call.complete) == (200, b"hello", True)
            await settle()
            assert living(backend) == before

    clock.run(main, backend=backend)


async def _hello(request: Request) -> str:
    return "hello"


def test_a_scheduled_task_runs_without_a_lifespan(backend: Backend, calling: Calling) -> None:
    """What a handler schedules runs, long after its request; then nothing is left."""
    ran: list[float] = []

    async def later() -> None:
        await anyio.sleep(5)
        ran.append(anyio.current_time())

    async def handler(request: Request) -> str:
        schedule_task(10, later)
        return "soon"

    async def main() -> None:
        before = living(backend)
        async with calling(app_of(handler)) as call:
            await call.returned.wait()
        await anyio.sleep(20)
        assert ran == [pytest.approx(15)]
        assert living(backend) == before

    clock.run(main, backend=backend)


def test_one_application_in_two_event_loops_after_another(backend: Backend, calling: Calling) -> None:
    """An application outlives an event loop, as under a test client that makes one for each request."""
    app = app_of(_hello)

    async def main() -> int | None:
        async with calling(app) as call:
            await call.returned.wait()
        status: int | None = call.status
        return status

    assert [clock.run(main, backend=backend) for _ in range(3)] == [200, 200, 200]


def test_the_lifespan_protocol(backend: Backend, calling: Calling) -> None:
    """Startup and shutdown are answered; the shutdown drains what is open."""
    channels: list[Channel] = []

    async def handler(request: Request) -> Channel:
        return as_channel(request, on_open=channels.append, framing="sse")

    async def main() -> None:
        app = app_of(handler)
        async with calling(app, "lifespan") as life:
            life.say("lifespan.startup")
            await life.until(lambda sent: sent == [{"type": "lifespan.startup.complete"}])
            async with calling(app) as call:
                await call.until(lambda sent: sent)
                life.say("lifespan.shutdown")
                await call.returned.wait()
                assert call.complete
                assert _told(channels[0]) == ("server-close", 1001)
            await life.returned.wait()
            assert life.sent[1:] == [{"type": "lifespan.shutdown.complete"}]

    clock.run(main, backend=backend)


def _told(channel: Channel) -> tuple[str, int]:
    assert channel.close_info is not None
    return channel.close_info.status, channel.close_info.code


def test_the_parents_lifespan(backend: Backend, calling: Calling) -> None:
    """`lifespan` is what a framework takes: it gets the application, and leaving it drains."""

    async def main() -> None:
        app = app_of(_wait_forever)
        up, stop, down = anyio.Event(), anyio.Event(), anyio.Event()

        async def parent() -> None:
            async with app.lifespan(object()):
                up.set()
                await stop.wait()
            down.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parent)
            await up.wait()
            async with calling(app, "websocket") as call:
                await call.until(lambda sent: sent)
                stop.set()
                await call.returned.wait()
            await down.wait()
        assert call.sent[-1] == {"type": "websocket.close", "code": 1001, "reason": ""}

    clock.run(main, backend=backend)


async def _wait_forever(request: Request) -> None:
    async with with_channel(request) as channel:
        await channel.wait_closed()


# -- the end -----------------------------------------------------------------------------------------------------------


def test_drain_ends_what_is_open_and_refuses_what_comes(backend: Backend, calling: Calling) -> None:
    """Streams end, WebSockets close with 1001, a held answer may still come; new requests get 503."""
    held: list[Channel] = []

    async def handler(request: Request) -> Any:
        if request.path == "/held":
            return as_channel(request, on_open=held.append)
        return await _wait_forever(request) if request.is_websocket else as_channel(request, framing="ndjson")

    async def main() -> None:
        app = app_of(handler)
        async with (
            calling(app) as stream,
            calling(app, "websocket") as websocket,
            calling(app, path="/held") as answer,
            anyio.create_task_group() as tasks,
        ):
            await stream.until(lambda sent: sent)
            await websocket.until(lambda sent: sent)
            await settle()
            tasks.start_soon(app.drain, 30)
            await stream.returned.wait()
            await websocket.returned.wait()
            assert stream.complete
            assert websocket.sent[-1]["code"] == 1001
            async with calling(app) as late:
                await late.returned.wait()
            assert (late.status, late.headers[b"retry-after"]) == (503, b"1")
            await held[0].send("after all")
            await answer.returned.wait()
            assert (answer.status, answer.body) == (200, b"after all")
        assert anyio.current_time() < 1

    clock.run(main, backend=backend)


def test_drains_deadline_cancels_handlers_and_answers_503(backend: Backend, calling: Calling) -> None:
    """What has not ended in time is cancelled; an answer that is still owed is 503."""
    ended: list[float] = []

    async def handler(request: Request) -> Any:
        if request.path == "/held":
            return as_channel(request)
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(anyio.current_time())

    async def main() -> None:
        app = app_of(handler, drain_timeout=2)
        async with calling(app, path="/held") as held, calling(app) as stuck:
            await settle()
            await app.drain()
            await held.returned.wait()
            await stuck.returned.wait()
            assert held.status == 503
            assert stuck.sent == []
            assert ended == [pytest.approx(2, abs=0.1)]

    clock.run(main, backend=backend)


def test_on_stop_acts_before_anything_is_closed(backend: Backend, calling: Calling) -> None:
    """The last word reaches whoever is open, and then the channel closes."""
    open_now: list[Channel] = []

    async def handler(request: Request) -> Any:
        return as_channel(request, framing="ndjson", on_open=open_now.append)

    async def last_word() -> None:
        for channel in open_now:
            await channel.send("restarting")

    async def main() -> None:
        app = app_of(handler, on_stop=last_word)
        async with calling(app) as call:
            await call.until(lambda sent: sent)
            await app.drain(5)
            assert call.returned.is_set()
            assert b'"restarting"\n' in b"".join(message.get("body", b"") for message in call.sent)

    clock.run(main, backend=backend)


def test_several_may_drain_at_once(backend: Backend, calling: Calling) -> None:
    """A signal, the application's own hook and a lifespan: all return when all is over."""

    async def main() -> None:
        app = app_of(_wait_forever)
        async with calling(app, "websocket") as call:
            await call.until(lambda sent: sent)
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(app.drain, 5)
            assert call.returned.is_set()

    clock.run(main, backend=backend)


def test_a_new_lifespan_ends_the_drain(backend: Backend, calling: Calling) -> None:
    """An application that was drained serves again when it is started again."""

    async def main() -> None:
        app = app_of(_hello)
        await app.drain()
        async with calling(app) as refused:
            await refused.returned.wait()
        async with app.lifespan(), calling(app) as served:
            await served.returned.wait()
        assert (refused.status, served.status) == (503, 200)

    clock.run(main, backend=backend)


# -- what a host may do ------------------------------------------------------------------------------------------------


def test_a_request_that_its_host_cancels(backend: Backend, calling: Calling) -> None:
    """The handler is cancelled: a channel of callbacks closes with 1001, a block is left by an exception: 1011."""
    infos: list[CloseInfo | None] = []

    async def handler(request: Request) -> Any:
        if request.path == "/block":
            async with with_channel(request, framing="sse") as channel:
                channel.on_close(lambda status: infos.append(channel.close_info))
                await channel.wait_closed()
        return as_channel(request, framing="sse", on_close=lambda channel, status: infos.append(channel.close_info))

    async def main() -> None:
        app = app_of(handler)
        async with calling(app) as other, calling(app) as call, calling(app, path="/block") as block:
            for one in (other, call, block):
                await one.until(lambda sent: sent)
            for one in (call, block):
                one.cancel_scope.cancel()
                await one.returned.wait()
                assert not one.complete
            await settle()
            told = {(one.status, one.code, one.by) for one in infos if one is not None}
            assert told == {("server-close", 1001, "local"), ("internal-server-error", 1011, "local")}
            assert not other.returned.is_set()

    clock.run(main, backend=backend)


def test_a_host_that_does_not_take_a_message_in_time(backend: Backend, calling: Calling) -> None:
    """A client that reads nothing is given up after `write_timeout`; for a big message it is longer."""
    infos: list[CloseInfo] = []

    async def handler(request: Request) -> None:
        async with with_channel(request, framing="sse") as channel:
            await channel.send("x" * 200_000)
            infos.append(await channel.wait_closed())

    async def main() -> None:
        app = app_of(handler, write_timeout=10.0)
        async with calling(app) as call:
            call.blocked = ".start"
            await call.returned.wait()
            assert anyio.current_time() == pytest.approx(10)
            assert (infos[0].status, infos[0].by) == ("client-close", "peer")
            assert infos[0].unsent > 200_000
        async with calling(app) as call:
            began = anyio.current_time()
            call.blocked = ".body"
            await call.returned.wait()
            assert anyio.current_time() - began == pytest.approx(40)

    clock.run(main, backend=backend)


def test_a_host_that_refuses_a_message(backend: Backend, calling: Calling) -> None:
    """An OSError says that the client is gone; anything else ends the channel too."""
    infos: list[CloseInfo] = []

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            await channel.send("x")
            infos.append(await channel.wait_closed())

    async def main() -> None:
        for error in (OSError("gone"), RuntimeError("what is this?")):
            async with calling(app_of(handler), "websocket") as call:
                call.refuses["websocket.send"] = error
                await call.returned.wait()
                assert call.error is None
        assert [(one.status, one.code) for one in infos] == [("abnormal", 1006)] * 2

    clock.run(main, backend=backend)


def test_a_client_that_closes_while_we_send(backend: Backend, calling: Calling) -> None:
    """The host refuses our message before it tells of the close: code, reason and last words still come, and what
    did not leave is counted."""
    seen: list[Any] = []

    async def handler(request: Request) -> Channel:
        return as_channel(request, on_receive=lambda _, message: seen.append(message), on_close=_note)

    def _note(channel: Channel, status: str) -> None:
        seen.append(channel.close_info)

    channels: list[Channel] = []

    async def greet(request: Request) -> Channel:
        channel = await handler(request)
        channels.append(channel)
        return channel

    async def main() -> None:
        async with calling(app_of(greet), "websocket") as call:
            await call.until(lambda sent: sent)
            call.refuses["websocket.send"] = OSError("the client is gone")
            assert await channels[0].send("too late")
            await settle()
            call.say("websocket.receive", text="last words")
            call.say("websocket.disconnect", code=4001, reason="bye")
            await call.returned.wait()
            await settle()
        info = seen[1]
        assert seen[0] == "last words"
        assert (info.status, info.code, info.reason, info.by) == ("unknown", 4001, "bye", "peer")
        assert info.delivered is False
        assert info.unsent == len("too late") + 2

    clock.run(main, backend=backend)


def test_a_client_that_is_gone_before_it_is_connected(backend: Backend, calling: Calling) -> None:
    """A WebSocket scope whose first message is the end calls no handler."""

    async def handler(request: Request) -> None:
        raise AssertionError("called")

    async def main() -> None:
        async with calling(app_of(handler), "websocket", subprotocols=[]) as call:
            assert (await call._heard.receive())["type"] == "websocket.connect"
            call.say("websocket.disconnect", code=1006)
            await call.returned.wait()
            assert (call.sent, call.error) == ([], None)

    clock.run(main, backend=backend)


def test_a_denial_with_and_without_the_extension(backend: Backend, calling: Calling) -> None:
    """With the extension a refusal is the response it is; without, and where the host does not keep its word: 403."""

    async def handler(request: Request) -> Response:
        return reject(401, {"WWW-Authenticate": "Basic"}, "who are you?")

    async def main() -> None:
        app = app_of(handler)
        announced: dict[str, Any] = {"websocket.http.response": {}}
        async with calling(app, "websocket", extensions=announced) as call:
            await call.returned.wait()
        assert (call.status, call.headers[b"www-authenticate"], call.body) == (401, b"Basic", b"who are you?")
        async with calling(app, "websocket") as call:
            await call.returned.wait()
        assert call.sent == [{"type": "websocket.close"}]
        for refused in ("websocket.http.response.start", "websocket.http.response.body"):
            async with calling(app, "websocket", extensions=announced) as call:
                call.refuses[refused] = RuntimeError("never heard of it")
                await call.returned.wait()
            assert call.sent[-1] == {"type": "websocket.close"}

    clock.run(main, backend=backend)


def test_a_handshake_that_comes_as_http(backend: Backend, calling: Calling) -> None:
    """A host without WebSockets passes the upgrade on as a request: 501; a wrong one gets what our server says."""
    upgrade = [
        (b"host", b"test"),
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    ]

    async def handler(request: Request) -> Channel:
        assert request.is_websocket
        return as_channel(request)

    async def status(method: str, version: bytes) -> tuple[int | None, bytes | None]:
        headers = [*upgrade, (b"sec-websocket-version", version)]
        async with calling(app_of(handler), method=method, headers=headers) as call:
            await call.returned.wait()
        return call.status, call.headers.get(b"upgrade")

    async def main() -> None:
        assert await status("GET", b"13") == (501, None)
        assert await status("GET", b"8") == (426, b"websocket")
        assert await status("POST", b"13") == (405, None)

    clock.run(main, backend=backend)


def test_what_middleware_left_is_there(backend: Backend, calling: Calling) -> None:
    """The scope, its state and the context of the host's task reach the handler and its callbacks."""
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    seen: list[Any] = []

    async def handler(request: Request) -> Channel:
        assert request.asgi_scope is not None
        seen.append((request.asgi_scope["user"], request.state["id"], who.get()))
        return as_channel(request, on_receive=lambda _, message: seen.append((message, who.get())))

    inner = app_of(handler)

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        who.set("somebody")
        await inner({**scope, "user": "me", "state": {"id": 7}}, receive, send)

    async def main() -> None:
        async with calling(middleware, "websocket") as call:
            await call.until(lambda sent: sent)
            call.say("websocket.receive", text="hi")
            await settle()
        assert seen == [("me", 7, "somebody"), ("hi", "somebody")]

    clock.run(main, backend=backend)


def test_a_message_beyond_max_ws(backend: Backend, calling: Calling) -> None:
    """A host that lets through more than we allow: 1009, and what came before is delivered."""
    seen: list[Any] = []

    async def handler(request: Request) -> Channel:
        return as_channel(request, on_receive=lambda _, message: seen.append(message), on_close=_note)

    def _note(channel: Channel, status: str) -> None:
        seen.append(_told(channel))

    async def main() -> None:
        async with calling(app_of(handler, max_ws=10), "websocket") as call:
            await call.until(lambda sent: sent)
            call.say("websocket.receive", bytes=b"0123456789")
            call.say("websocket.receive", text="\u00e9" * 6)
            await call.returned.wait()
            await settle()
        assert seen == [b"0123456789", ("message-too-big", 1009)]
        assert call.sent[-1] == {"type": "websocket.close", "code": 1009, "reason": ""}

    clock.run(main, backend=backend)


@pytest.mark.parametrize(("length", "sizes", "status"), [(b"11", [11], 413), (None, [6, 6], 413), (None, [5, 5], 200)])
def test_a_body_beyond_max_body(
    backend: Backend, calling: Calling, length: bytes | None, sizes: list[int], status: int
) -> None:
    """Announced or not, a body of more than `max_body` bytes is 413."""

    async def handler(request: Request) -> bytes:
        return await request.body()

    async def main() -> None:
        headers = [] if length is None else [(b"content-length", length)]
        async with calling(app_of(handler, max_body=10), method="POST", headers=headers) as call:
            for size in sizes:
                call.say("http.request", body=b"x" * size, more_body=True)
            call.say("http.request", body=b"", more_body=False)
            await call.returned.wait()
        assert call.status == status

    clock.run(main, backend=backend)


def test_a_body_that_does_not_come(backend: Backend, calling: Calling) -> None:
    """The client stops in the middle: 408 after `body_timeout`."""

    async def handler(request: Request) -> bytes:
        return await request.body()

    async def main() -> None:
        async with calling(app_of(handler, body_timeout=7.0), method="PUT") as call:
            call.say("http.request", body=b"half", more_body=True)
            await call.returned.wait()
            assert call.status == 408
            assert anyio.current_time() == pytest.approx(7)

    clock.run(main, backend=backend)


# -- the programmer's mistakes -----------------------------------------------------------------------------------------


def test_options_of_the_host_are_refused(backend: Backend) -> None:
    """What the host decides cannot be set here, and the text says so; every such name is a real option."""
    assert set(Config.__dataclass_fields__) >= HOST_OPTIONS
    with pytest.raises(ConfigError, match="max_line, port: under ASGI that is the host's business"):
        ASGIApp(_hello, port=80, max_line=10)
    with pytest.raises(ConfigError, match="forwarded, listen: under ASGI that is the host's business"):
        ASGIApp(_hello, forwarded="x-forwarded", listen=[Listen(port=1)])
    with pytest.raises(ConfigError, match="drain_timeout must be seconds"):
        ASGIApp(_hello, drain_timeout=-1)
    with pytest.raises(TypeError, match="options are the fields"):
        ASGIApp(_hello, colour="red")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="a handler is a function"):
        ASGIApp("hello")  # type: ignore[arg-type]


def test_a_scope_of_another_kind(backend: Backend, calling: Calling) -> None:
    """An unknown scope is the host's mistake, and named."""

    async def main() -> None:
        async with calling(app_of(_hello), "carrier-pigeon") as call:
            await call.returned.wait()
            assert isinstance(call.error, ValueError)
            assert "carrier-pigeon" in str(call.error)

    clock.run(main, backend=backend)


def test_pings_are_the_hosts(backend: Backend, calling: Calling) -> None:
    """A WebSocket under ASGI cannot ping, and says whose business it is; an event stream can."""

    async def handler(request: Request) -> None:
        async with with_channel(request, framing=None if request.is_websocket else "sse") as channel:
            if request.is_websocket:
                with pytest.raises(NotAvailable, match="host sends its own"):
                    channel.ping()
            else:
                assert channel.ping()

    async def main() -> None:
        app = app_of(handler)
        async with calling(app, "websocket") as call:
            await call.returned.wait()
        assert call.sent[-1] == {"type": "websocket.close", "code": 1000, "reason": ""}
        async with calling(app) as call:
            await call.returned.wait()
        assert call.body.startswith(b":")

    clock.run(main, backend=backend)


def test_a_client_that_leaves_before_it_is_answered(backend: Backend, calling: Calling) -> None:
    """The host gets an answer for nobody, since middleware may insist on one; it may refuse it."""

    async def hold(request: Request) -> Channel:
        return as_channel(request)

    async def main() -> None:
        for refused in (None, OSError("the client is gone")):
            async with calling(app_of(hold)) as held:
                if refused is not None:
                    held.refuses["http.response.start"] = refused
                held.say("http.disconnect")
                await held.returned.wait()
            assert held.error is None
            assert (held.status, held.complete) == ((499, True) if refused is None else (None, False))

    clock.run(main, backend=backend)


def test_sessions_end_with_their_event_loop(backend: Backend) -> None:
    """A test client without a lifespan may have a loop for each request: no session is counted for ever."""
    ends: list[CloseStatus] = []
    channels: list[SessionChannel | None] = []
    endpoint = Endpoint(
        on_receive=lambda channel, message: None,
        on_close=lambda channel, status: ends.append(status),
        session=SessionConfig(max_sessions=2),
    )
    app = ASGIApp(endpoint)

    async def use() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            made = [(await client.post("/ck")).json() for _ in range(2)]
            assert (await client.post("/ck")).status_code == 503
            sids = [one["sid"] for one in made]
            channels.extend(endpoint.session(sid) for sid in sids)
            for one in made[1:]:
                lines = {"Authorization": f"Bearer {one['secret']}"}
                assert (await client.get(f"/ck/{one['sid']}/poll?wait=0", headers=lines)).status_code == 200
        assert endpoint.session_count == 2
        return str(sids[0])

    for number in range(3):
        sid = anyio.run(use, backend=backend)
        assert endpoint.session_count == 0
        assert endpoint.session(sid) is None
        assert ends == [CloseStatus.SERVER_CLOSE] * (number + 1)  # of those that were opened
    infos = [channel.close_info for channel in channels if channel is not None]
    assert [info.code for info in infos if info is not None] == [1001] * 6
