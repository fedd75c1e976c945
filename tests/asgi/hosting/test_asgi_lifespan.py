"""Lifespans: an ASGI application's, and any context manager's, around a server that really listens."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import anyio
import pytest

from channelkit import ASGIHandler, ConfigError, HandlerError, LifespanFailed, Request, Server, run_server, serve
from channelkit.server.lifespan import living
from channelkit.testing import clock

PATIENCE = 10.0
App = Callable[[Any, Any, Any], Awaitable[None]]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def ask(server: Server) -> bytes:
    """The answer to one request."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer


async def respond(send: Any, text: str) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


class Site:
    """An application with a lifespan, which does what its attributes say."""

    def __init__(self, startup: str = "complete", shutdown: str = "complete") -> None:
        self.startup = startup
        self.shutdown = shutdown
        self.events: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            try:
                await self.live(scope, receive, send)
            finally:
                self.events.append("ended")
        else:
            scope["state"]["count"][0] += 1
            assert "own" not in scope["state"]
            scope["state"]["own"] = True  # seen by this request only
            await respond(send, str(sorted(scope["state"].items())))

    async def live(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive()) == {"type": "lifespan.startup"}
        self.events.append("startup")
        scope["state"]["count"] = [0]
        if self.startup == "raise":
            raise RuntimeError("no database")
        if self.startup == "return":
            return
        if self.startup == "hang":
            await anyio.sleep_forever()
        await send({"type": f"lifespan.startup.{self.startup}", "message": "no database"})
        if self.startup == "failed":
            raise RuntimeError("as Starlette does it")
        if self.shutdown == "crash":
            raise RuntimeError("crashed in between")
        assert (await receive()) == {"type": "lifespan.shutdown"}
        self.events.append("shutdown")
        if self.shutdown == "raise":
            raise RuntimeError("cannot go")
        if self.shutdown == "hang":
            await anyio.sleep_forever()
        await send({"type": f"lifespan.shutdown.{self.shutdown}", "message": "cannot go"})


# -- over a server


def test_up_before_the_first_request_and_down_after_the_last(backend: Any) -> None:
    """State comes to each request as a copy of its own; the lifespan ends before `stop` returns."""
    site = Site()
    server = run_server(ASGIHandler(site), port=0, backend=backend)
    assert site.events == ["startup"]
    assert ask(server).endswith(b"[('count', [1]), ('own', True)]")
    assert ask(server).endswith(b"[('count', [2]), ('own', True)]")
    assert site.events == ["startup"]
    server.stop()
    assert site.events == ["startup", "shutdown", "ended"]


@pytest.mark.parametrize(
    ("startup", "text"),
    [
        ("failed", "the startup of the ASGI application failed: no database"),
        ("raise", "the startup of the ASGI application raised RuntimeError('no database')"),
        ("return", "returned from its lifespan without 'lifespan.startup.complete'"),
    ],
)
def test_an_application_that_cannot_start(startup: str, text: str, backend: Any) -> None:
    """`run_server` raises what the application said, and nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    site = Site(startup)
    with pytest.raises(LifespanFailed) as caught:
        run_server(ASGIHandler(site), port=port, backend=backend)
    assert text in str(caught.value)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE)
    assert site.events == ["startup", "ended"]


def test_serve_raises_it_too(backend: Any) -> None:
    """As itself, in no exception group."""

    async def main() -> None:
        await serve(ASGIHandler(Site("failed")), port=0)

    with pytest.raises(LifespanFailed):
        anyio.run(main, backend=backend)


async def raises(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await respond(send, "served")


async def returns(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await respond(send, "served")


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await respond(send, "served")


@pytest.mark.parametrize("app", [raises, returns, answers])
def test_an_application_without_a_lifespan(app: App, backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One that raises on the scope, returns, or takes it for a request, is served without."""
    server = run_server(ASGIHandler(app), port=0, backend=backend)
    assert ask(server).endswith(b"served")
    server.stop()
    assert [one.message for one in caplog.records] == []


@pytest.mark.parametrize(
    ("shutdown", "text"),
    [("failed", "cannot go"), ("raise", "shutdown of the ASGI application failed"), ("crash", "the server goes on")],
)
def test_later_failures_are_logged(shutdown: str, text: str, backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A lifespan that fails when the server is up, or on its way down, is logged; requests are served meanwhile."""
    site = Site(shutdown=shutdown)
    server = run_server(ASGIHandler(site), port=0, backend=backend)
    assert ask(server).startswith(b"HTTP/1.1 200")
    server.stop()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert text in record.message


def test_a_shutdown_that_does_not_end(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is cancelled after `lifespan_timeout`."""
    site = Site(shutdown="hang")
    run_server(ASGIHandler(site), port=0, backend=backend, lifespan_timeout=0.05).stop()
    assert site.events == ["startup", "shutdown", "ended"]
    assert "has not closed in 0.05 s" in caplog.text


def test_a_server_that_cannot_listen_ends_the_lifespan(backend: Any) -> None:
    """The error is the plain OSError of a port in use."""
    site = Site()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with pytest.raises(OSError, match="in use"):
            run_server(ASGIHandler(site), port=sock.getsockname()[1], backend=backend)
    assert site.events == ["startup", "shutdown", "ended"]


def test_a_cancelled_server_still_shuts_down(backend: Any) -> None:
    """`serve` in a cancelled scope: the application gets its shutdown, shielded."""
    site = Site()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:

            async def run(*, task_status: Any) -> None:
                await serve(ASGIHandler(site), port=0, handle_signals=False, task_status=task_status)

            await tasks.start(run)
            tasks.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    assert site.events == ["startup", "shutdown", "ended"]


def test_a_start_that_is_cancelled(backend: Any) -> None:
    """Nobody waits for a startup that nobody wants any more."""
    site = Site("hang")

    async def main() -> None:
        with anyio.move_on_after(0.05):
            await serve(ASGIHandler(site), port=0, handle_signals=False)

    anyio.run(main, backend=backend)
    assert site.events == ["startup", "ended"]


def test_the_lifespan_of_a_part(backend: Any) -> None:
    """A handler of the user's passes the application's lifespan on; `nullcontext` switches one off."""
    site = Site()
    handler = ASGIHandler(site)

    async def mine(request: Request) -> Any:
        return await handler(request)

    server = run_server(mine, lifespan=handler.lifespan, port=0, backend=backend)
    assert ask(server).startswith(b"HTTP/1.1 200")
    server.stop()
    assert site.events == ["startup", "shutdown", "ended"]
    run_server(handler, lifespan=nullcontext, port=0, backend=backend).stop()
    assert site.events == ["startup", "shutdown", "ended"]


def test_a_second_life(backend: Any) -> None:
    """The same handler may be served again, with a fresh state."""
    handler = ASGIHandler(Site())
    for _ in range(2):
        server = run_server(handler, port=0, backend=backend)
        assert ask(server).endswith(b"[('count', [1]), ('own', True)]")
        server.stop()


def test_two_servers_at_a_time(backend: Any) -> None:
    """They would share one state: the second is refused, and the first goes on."""
    handler = ASGIHandler(Site())
    server = run_server(handler, port=0, backend=backend)
    with pytest.raises(HandlerError, match="for each server"):
        run_server(handler, port=0, backend=backend)
    assert ask(server).startswith(b"HTTP/1.1 200")
    server.stop()


@pytest.mark.parametrize("lifespan", [5, lambda: 5])
def test_no_lifespan_at_all(lifespan: Any, backend: Any) -> None:
    """What makes no async context manager is refused before anything listens."""

    async def handler(request: Request) -> str:
        return ""

    with pytest.raises(ConfigError, match="async context manager"):
        run_server(handler, lifespan=lifespan, port=0, backend=backend)


# -- `living` alone, in virtual time


def run(main: Any, backend: Any) -> Any:
    return clock.run(main, backend=backend, max_ticks=10_000)


def test_the_block_is_between(backend: Any) -> None:
    """Opened, the block, closed; an exception of the block comes out as it is, after the closing."""
    events: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        events.append("open")
        yield
        await anyio.sleep(1)
        events.append("closed")

    async def main() -> None:
        async with living(lifespan, 5):
            events.append("block")
        with pytest.raises(KeyError, match="x"):
            async with living(lifespan, 5):
                raise KeyError("x")

    run(main, backend)
    assert events == ["open", "block", "closed", "open", "closed"]


@pytest.mark.parametrize("when", ["opening", "between", "closing"])
def test_what_it_raises_comes_out(when: str, backend: Any) -> None:
    """On opening there is no block; in between the block is cancelled; never in a group."""
    events: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        if when == "opening":
            raise KeyError(when)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                if when == "between":
                    tasks.start_soon(crash, scope)
                yield
        raise KeyError(when)

    async def crash(scope: anyio.CancelScope) -> None:
        await anyio.sleep(1)
        scope.cancel()

    async def main() -> None:
        async with living(lifespan, 5):
            events.append("block")
            await anyio.sleep(2)
            events.append("end")

    with pytest.raises(KeyError, match=when):
        run(main, backend)
    assert events == {"opening": [], "between": ["block"], "closing": ["block", "end"]}[when]


def test_closing_has_its_time(backend: Any) -> None:
    """Also in a cancelled scope, and no more than its time."""
    times: list[float] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            yield
            await anyio.sleep(3)
            times.append(anyio.current_time())
            await anyio.sleep(30)
        finally:
            times.append(anyio.current_time())

    async def main() -> None:
        with anyio.move_on_after(1):
            async with living(lifespan, 5):
                await anyio.sleep_forever()

    run(main, backend)
    assert times == [pytest.approx(4, abs=0.01), pytest.approx(6, abs=0.01)]
