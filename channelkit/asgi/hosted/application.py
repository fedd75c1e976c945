"""`ASGIApp`: a channelkit handler as an ASGI 3 application, to be mounted wherever one can be."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Unpack

import anyio

from channelkit._draining import OnStop, on_stop_of
from channelkit.asgi.hosted.core import AppCore, Homes
from channelkit.asgi.hosted.http_exchange import AsgiHttpExchange
from channelkit.asgi.hosted.scope import Receive, Scope, Send, content_length, passage_of, request_of
from channelkit.asgi.hosted.signals import heard_signals
from channelkit.asgi.hosted.websocket_exchange import AsgiHandshake
from channelkit.config import Config, ServerOptions
from channelkit.errors import BadRequest, ConfigError
from channelkit.http import Request, Response, reject
from channelkit.responding import Handler, PlainFunction, checked_handler, run_handler
from channelkit.timer import current_timers

#: Fields of `Config` that are the host's business: it listens, reads heads, keeps connections and pings.
HOST_OPTIONS = frozenset(
    {
        "ip",
        "port",
        "listen",
        "backlog",
        "reuse_port",
        "server_header",
        "ssl",
        "trusted_proxies",
        "proxy_protocol",
        "max_proxy_header",
        "proxy_timeout",
        "forwarded",
        "max_line",
        "max_head",
        "max_headers",
        "read_ahead",
        "max_connections",
        "max_connections_per_address",
        "handshake_timeout",
        "head_timeout",
        "keep_alive_timeout",
        "pong_timeout",
        "compression",
        "max_fragments",
        "linger_timeout",
        "half_closed_timeout",
        "half_closed",
        "lifespan_timeout",
    }
)

#: Seconds for open responses at the end, where `serve` gives them more: less than any host's own patience.
DRAIN_TIMEOUT = 1.0


class ASGIApp:
    """`handler` as an ASGI 3 application: `app.mount("/chat", ASGIApp(chat))`, or `uvicorn module:name`.

    The handler is what `serve` takes, unchanged: requests become channels on any host, HTTP version and event loop.
    `options` are the fields of `Config` that are not the host's business; `drain_timeout`, the patience at the end, is
    1 second by default here, because hosts have little of their own.  A lifespan is used where the host or a parent
    application gives one (see `lifespan`); without it the first request starts what is needed, and nothing stays
    behind the last.

    When the process is told to stop (SIGINT, SIGTERM: heard beside the host's own handler, in the main thread, unless
    `handle_signals` is False), `on_stop()` is called (see `serve`), streams end, WebSockets close with 1001 and new
    requests get 503.  `drain` does the same when asked.

    A plain `def` handler runs on the worker pool, as on our server.  Raises ConfigError for an option that cannot work
    here.
    """

    def __init__(
        self,
        handler: Handler | PlainFunction,
        *,
        on_stop: OnStop | None = None,
        handle_signals: bool = True,
        **options: Unpack[ServerOptions],
    ) -> None:
        self._handler = checked_handler(handler)
        options.setdefault("drain_timeout", DRAIN_TIMEOUT)
        self._config = _config(options)
        self._on_stop = on_stop_of(handler, on_stop)
        self._handle_signals = handle_signals
        self._homes = Homes(self._config, self._opened)
        self._drained = False

    def __repr__(self) -> str:
        return f"<ASGIApp of {self._handler!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope, as ASGI 3 has it.  Cancelled by the host, a channel ends with 1001."""
        kind = scope["type"]
        if kind == "http":
            await self._serve(AsgiHttpExchange, scope, receive, send)
        elif kind == "websocket":
            await self._connected(scope, receive, send)
        elif kind == "lifespan":
            await self._live(receive, send)
        else:
            raise ValueError(f"an ASGI scope of type {kind!r} is not known here: http, websocket and lifespan are")

    # -- the end

    async def drain(self, timeout: float | None = None) -> None:
        """End what is open on this event loop and refuse what comes: for a hook that runs before the host stops.

        Single answers that are owed may come for `timeout` seconds (default: `drain_timeout`); then handlers are
        cancelled and what is left is cut.  Returns when all is over; every `on_close` has run.  Any number may ask
        at once.  A handler of this application must not wait for it: it would wait for itself.
        """
        patience = self._config.drain_timeout if timeout is None else _seconds("timeout", timeout)
        self._drained = True
        home = self._homes.current()
        if home is not None and home.core is not None:
            await home.core.end(patience)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """The time in which the application lives: `FastAPI(lifespan=channels.lifespan)`.

        Frameworks do not pass the lifespan on to what is mounted; without it everything works, but scheduled tasks
        and callbacks that still run when the host stops are cancelled instead of ended.  Leaving the block drains.
        """
        self._drained = False
        async with self._homes.move_in().opened() as core:
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await core.end(self._config.drain_timeout)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        async with self.lifespan():
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def _opened(self, core: AppCore) -> AsyncIterator[None]:
        """What a core needs for as long as it lives."""
        core.on_stop = self._on_stop

        def stop() -> None:
            core.loop.spawn(core.end, self._config.drain_timeout)

        with heard_signals(lambda: core.loop.run_from_signal(stop), self._handle_signals):
            yield

    # -- requests

    async def _connected(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        if message["type"] == "websocket.connect":  # else the client is gone already
            await self._serve(AsgiHandshake, scope, receive, send)

    async def _serve(self, kind: type[AsgiHttpExchange], scope: Scope, receive: Receive, send: Send) -> None:
        home = await self._homes.claim()
        try:
            async with anyio.create_task_group() as tasks:
                assert home.core is not None
                passage = passage_of(scope)
                home.core.company = None if passage is None else passage.company
                exchange = kind(home.core, scope, receive, send, tasks)
                await self._answer(home.core, scope, exchange)
                await exchange.linger()
                if exchange.working:  # a cancellation costs as much as all the rest of a plain answer
                    tasks.cancel_scope.cancel()  # the one that reads: nothing more is expected
        finally:
            home.release()

    async def _answer(self, core: AppCore, scope: Scope, exchange: AsgiHttpExchange) -> None:
        request = request_of(scope, exchange, exchange.body)
        core.connections.add(exchange)
        core.running += 1
        core.loop.prepare_context()
        token = current_timers.set(core.timers)
        try:
            try:
                with exchange.handler_scope:
                    await run_handler(self._choose(core, scope), request, exchange)
            finally:
                current_timers.reset(token)
                core.handler_ended()
            await exchange.complete()
        finally:
            exchange.given_up()
            core.ended(exchange)

    def _choose(self, core: AppCore, scope: Scope) -> Handler:
        """The handler, or what stands in for it where a request is refused without it."""
        if core.stopping or self._drained:
            return _stopping
        length = content_length(scope)
        if length is not None and length > self._config.max_body:
            return _too_large
        return self._handler


async def _stopping(request: Request) -> Response:
    return reject(503, {"Retry-After": "1", "Content-Type": "text/plain; charset=utf-8"}, "Service Unavailable\n")


async def _too_large(request: Request) -> Response:
    raise BadRequest(413, "the announced body is longer than max_body")


def _config(options: Any) -> Config:
    owned = sorted(HOST_OPTIONS.intersection(options))
    if owned:
        raise ConfigError(f"{', '.join(owned)}: under ASGI that is the host's business; set it there")
    try:
        return Config(**options)
    except TypeError as error:
        raise TypeError(f"{error}; the options are the fields of channelkit.Config") from None


def _seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise ConfigError(f"{name} must be seconds from 0, not {value!r}")
    return float(value)
