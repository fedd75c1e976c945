"""`ASGIHandler`: an ASGI 3 application as a request handler of our server."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from channelkit._lifecycle import logger
from channelkit.asgi.hosting.client import Client
from channelkit.asgi.hosting.http import HttpRun
from channelkit.asgi.hosting.lifespan import App, open_lifespan
from channelkit.asgi.hosting.scopes import http_scope, websocket_scope
from channelkit.asgi.hosting.websocket import WebSocketRun
from channelkit.channel import Channel
from channelkit.errors import BadRequest, ConfigError, Disconnected, HandlerError
from channelkit.handlers import unanswered
from channelkit.http import Request
from channelkit.responding import ANSWERED, Answered
from channelkit.wire.websocket_handshake import check_upgrade


class ASGIHandler:
    """Runs an ASGI 3 application (FastAPI, Starlette or any other) as a request handler.

    It may be the whole server, `serve(ASGIHandler(app))`, or a part: a handler of yours returns
    `await site(request)` for what it does not answer itself, and `serve(handler, lifespan=site.lifespan)` starts and
    stops the application.  `root_path` is the path that a proxy in front cuts off.

    Any number of requests may run at once.  Raises ConfigError for what is no ASGI 3 application.
    """

    def __init__(self, app: App, *, root_path: str = "") -> None:
        _check_app(app)
        _check_root_path(root_path)
        self._app = app
        self._root_path = root_path
        self._state: dict[str, Any] = {}
        self._alive = False
        self._lifespan_seen = False

    def __repr__(self) -> str:
        return f"<ASGIHandler of {self._app!r}>"

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """The application's lifespan: it is up inside the block.  `serve` and `run_server` open it by themselves.

        Entering waits for the application's startup, leaving for its shutdown.  Raises LifespanFailed if the
        application says, or shows by an exception, that it cannot start; one without a lifespan runs without.
        HandlerError if it is open already: two servers at a time take two handlers, each with a state of its own.
        """
        if self._alive:
            raise HandlerError(f"the lifespan of {self!r} is open already; make an ASGIHandler for each server")
        self._alive = self._lifespan_seen = True
        self._state = {}
        try:
            async with open_lifespan(self._call, self._state):
                yield
        finally:
            self._alive = False

    async def __call__(self, request: Request) -> Channel | Answered:
        """Let the application answer `request`; returns what the handler must return.

        Waits as long as the application runs.  Cancelled, it cancels the application, and the response is aborted.
        Raises whatever the application raises, HandlerError if it answers nothing or the request was answered before.
        """
        if not self._lifespan_seen:
            self._lifespan_seen = True
            logger.warning(
                "%r answers requests, but its lifespan was not started: give `lifespan=site.lifespan` to serve", self
            )
        if request.is_websocket:
            return await self._websocket(request)
        client = Client(unanswered(request))
        run = HttpRun(request, client)
        await self._call(http_scope(request, self._root_path, self._state, client.passage), run.receive, run.send)
        run.app_returned()
        return ANSWERED

    async def _websocket(self, request: Request) -> Channel | Answered:
        exchange = unanswered(request)
        check_upgrade(request.method, request.http_version, request.raw_headers)  # the application sees valid ones only
        if request._source is not None:
            raise BadRequest(400, "a WebSocket handshake has no body")
        client = Client(exchange)
        run = WebSocketRun(request, client)
        scope = websocket_scope(request, self._root_path, self._state, client.passage)
        try:
            await self._call(scope, run.receive, run.send)
        except Disconnected:
            pass  # it went on sending until it heard that nobody is there: as good an end as any
        run.app_returned()
        return ANSWERED if run.channel is None else run.channel

    async def _call(self, scope: Any, receive: Any, send: Any) -> None:
        result: Any = self._app(scope, receive, send)
        if not inspect.isawaitable(result):
            raise ConfigError(
                f"{self._app!r} is no ASGI 3 application: called with scope, receive and send it returned a "
                f"{type(result).__name__}; write `async def`"
            )
        await result


def _check_app(app: Any) -> None:
    if not callable(app):
        raise ConfigError(f"an ASGI application is called with scope, receive and send; {app!r} cannot be called")
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return  # written in C, say: it will be seen
    if _takes(signature, 3):
        return
    if inspect.isclass(app) and not _takes(signature, 1):
        cure = "it is a class: give an instance of it"
    elif _takes(signature, 1):
        cure = "it looks like ASGI 2, which takes the scope alone: wrap it with asgiref's guarantee_single_callable"
    elif _takes(signature, 2):
        cure = "it looks like WSGI, which takes environ and start_response: wrap it with a2wsgi.WSGIMiddleware"
    elif _takes(signature, 0):
        cure = "it looks like a function that makes the application: call it"
    else:
        cure = "write `async def app(scope, receive, send)`"
    raise ConfigError(f"{app!r} is no ASGI 3 application; {cure}")


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _check_root_path(root_path: Any) -> None:
    if not isinstance(root_path, str) or (root_path and (root_path[0] != "/" or root_path[-1] == "/")):
        raise ConfigError(f"root_path is '' or a path such as '/api', without a slash at its end, not {root_path!r}")
