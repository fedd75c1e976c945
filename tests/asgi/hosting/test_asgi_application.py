"""What `ASGIHandler` takes for an application, and what it says about everything else."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest

from channelkit import ASGIHandler, ConfigError, HandlerError, Request, run_server
from channelkit.testing import clock
from channelkit.testing.host import open_host


async def function(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})


class Instance:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await function(scope, receive, send)


class Awaitable:
    """As Starlette's HTTPEndpoint: the class is the application."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.arguments = scope, receive, send

    def __await__(self) -> Any:
        return function(*self.arguments).__await__()


def sync_that_returns_a_coroutine(*arguments: Any) -> Any:
    return function(*arguments)


async def with_options(first: int, scope: Any, receive: Any, send: Any, *, more: int = 0) -> None:
    await function(scope, receive, send)


@pytest.mark.parametrize(
    "app", [function, Instance(), Awaitable, sync_that_returns_a_coroutine, partial(with_options, 1)]
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_applications(app: Any, backend: Any) -> None:
    """Functions, objects, classes of awaitables, partial objects: what can be called with three and awaited."""

    async def main() -> bytes:
        async with open_host(ASGIHandler(app)) as host:
            return await host.get()

    assert clock.run(main, backend=backend).startswith(b"HTTP/1.1 204")


class Asgi2:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


def wsgi(environ: Any, start_response: Any) -> Any: ...


def factory() -> Any: ...


@pytest.mark.parametrize(
    ("app", "text"),
    [
        (None, "cannot be called"),
        ("module:app", "cannot be called"),
        (Asgi2, "ASGI 2"),
        (wsgi, "a2wsgi.WSGIMiddleware"),
        (factory, "call it"),
        (Instance, "give an instance"),
        (lambda a, b, c, d: None, "async def app"),
    ],
)
def test_no_applications(app: Any, text: str) -> None:
    """They are refused when the handler is made, and the text has the cure."""
    with pytest.raises(ConfigError, match=text):
        ASGIHandler(app)


def no_coroutine(scope: Any, receive: Any, send: Any) -> str:
    return "x"


def test_a_plain_function_of_three(caplog: pytest.LogCaptureFixture) -> None:
    """What only shows when it is called is refused before the server listens."""
    with pytest.raises(ConfigError, match="returned a str"):
        run_server(ASGIHandler(no_coroutine), port=0)  # type: ignore[arg-type]
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("root_path", ["api", "/api/", "/", 5])
def test_root_paths_that_cannot_work(root_path: Any) -> None:
    """A root_path begins with a slash and ends without."""
    with pytest.raises(ConfigError, match="root_path"):
        ASGIHandler(function, root_path=root_path)


def test_a_request_from_nowhere() -> None:
    """A request that no server made cannot be answered."""

    async def main() -> None:
        with pytest.raises(HandlerError, match="came from no server"):
            await ASGIHandler(function)(Request(method="GET", target="/"))

    clock.run(main)
