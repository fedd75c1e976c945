"""A server without a listener, for plans and other tests: connections are handed to it."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import anyio

from channelkit._loop import Loop, open_loop
from channelkit.asgi import ASGIApp, ASGIHandler
from channelkit.asgi.hosted.application import HOST_OPTIONS
from channelkit.config import Config
from channelkit.server.core import ServerCore
from channelkit.server.pump.reactor import Reactor
from channelkit.server.pump.stream import serve_stream
from channelkit.server.pump.tls_link import TlsAcceptor
from channelkit.testing import tls
from channelkit.testing.asgi_rules import checked
from channelkit.testing.network import Line, pair
from channelkit.testing.peers import Hangable, SocketEnd
from channelkit.testing.plans.plan import Network

if TYPE_CHECKING:
    from channelkit.http import Request

#: What carries the bytes to the handler: either pump of our server, the reactor with TLS on it, or an ASGI host (our
#: own, in memory: bytes go through the stream pump, `ASGIHandler` and `ASGIApp`, and the rules of ASGI are watched).
Pump = Literal["stream", "reactor", "tls", "asgi"]
PUMPS: tuple[Pump, ...] = ("stream", "reactor", "tls", "asgi")


class Server:
    """A server without a listener: connections are handed to it, over either pump."""

    def __init__(self, core: ServerCore, loop: Loop, pump: Pump, app: ASGIApp | None) -> None:
        self.core = core
        self._app = app
        self._loop = loop
        self._reactor = Reactor(loop, core.config) if pump in ("reactor", "tls") else None
        self._tls = TlsAcceptor(tls.Source()) if pump == "tls" else None

    def connect(self, network: Network) -> Hangable:
        """A new connection; what is returned is the peer's end."""
        if self._reactor is not None:
            return self._connect_socket(self._reactor, network)
        chunks = None if network.chunk is None else (network.chunk,)
        line = Line(capacity=network.capacity, latency=network.latency, chunks=chunks)
        ours, theirs = pair(capacity=line.capacity, latency=line.latency, chunks=line.chunks, back=line)
        self._loop.spawn(serve_stream, self._loop, self.core.config, ours, self.core.connect)
        return theirs

    def _connect_socket(self, reactor: Reactor, network: Network) -> Hangable:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, network.capacity)
        reactor.adopt(ours, self.core.connect, tls=self._tls)
        return SocketEnd(theirs) if self._tls is None else tls.TlsEnd(SocketEnd(theirs))

    async def drain(self, timeout: float) -> None:
        """As when the process is told to stop: an application hears it before its host acts."""
        if self._app is not None:
            await self._app.drain(timeout)
        await self.core.drain(timeout)

    def close(self) -> None:
        if self._reactor is not None:
            self._reactor.close()


@asynccontextmanager
async def serving(
    handler: Callable[[Request], Awaitable[Any]], config: Config, pump: Pump, broken: list[str] | None = None
) -> AsyncIterator[Server]:
    """A server for as long as the block lasts; then it is cut.  `broken` gets what broke the rules of ASGI."""
    app: ASGIApp | None = None
    if pump == "asgi":
        app = ASGIApp(handler, handle_signals=False, **_app_options(config))
        handler = ASGIHandler(checked(app, [] if broken is None else broken))
    async with open_loop() as loop, anyio.create_task_group() as handlers:
        server = Server(ServerCore(handler, config, loop, handlers), loop, pump, app)
        try:
            yield server
        finally:
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 60):
                await server.core.cut()
            server.close()


def _app_options(config: Config) -> Any:
    """What of a server's options an application inside it takes."""
    names = {one.name for one in dataclasses.fields(config)} - HOST_OPTIONS
    return {name: getattr(config, name) for name in names}
