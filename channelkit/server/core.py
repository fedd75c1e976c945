"""What all connections of one running server share: handler, limits, the list of connections, and the way to stop.

Drain, in this order: the listener is closed (by `run`), idle connections go, WebSockets and streams are closed with
1001, running requests and held answers may finish; at the deadline held answers become 503, handlers are cancelled,
and what is left is cut.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.abc import TaskGroup

from channelkit.http import Request
from channelkit.responding import answer, answer_error, cancelled
from channelkit.server.http1 import HttpConnection
from channelkit.timer import TimerService, current_timers
from channelkit.wire.http1_requests import RequestLimits

if TYPE_CHECKING:
    from channelkit._loop import Loop
    from channelkit.config import Config
    from channelkit.server.pump.link import Link
    from channelkit.spi import HttpExchange

LAST_TURNS = 10  # of the loop between the last goodbye and the cut

Handler = Callable[[Request], Awaitable[Any]]


class Connection(Protocol):
    """What drain needs of a connection, of whatever protocol."""

    def going_away(self, now: bool) -> None: ...

    def abort(self) -> None: ...


class ServerCore:
    """The shared state of one server on one loop."""

    def __init__(self, handler: Handler, config: Config, loop: Loop, handlers: TaskGroup) -> None:
        self.handler = handler
        self.config = config
        self.loop = loop
        self.connections: set[Connection] = set()
        self.stopping = False
        self.request_limits = RequestLimits(
            max_line=config.max_line,
            max_head=config.max_head,
            max_headers=config.max_headers,
            max_body=config.max_body,
        )
        self._handlers = handlers
        self._name = getattr(handler, "__qualname__", None) or repr(handler)
        self._running = 0  # handlers
        self.lingering: Callable[[], int] = lambda: 0  # connections a pump still holds, engines or not
        self._changed = loop.parking()
        current_timers.set(TimerService(loop))
        self._context = copy_context()  # that of handlers: not of what the loop is doing when a request comes

    def connect(self, link: Link) -> HttpConnection:
        """The engine for a new connection."""
        return HttpConnection(self, link)

    def handle(self, request: Request, exchange: HttpExchange) -> None:
        """Run the handler for `request` in a task of its own."""
        self._running += 1
        # In the server's own context: a pipelined request must not inherit what its predecessor's handler had set.
        self._context.copy().run(self._start, request, exchange)

    def _start(self, request: Request, exchange: HttpExchange) -> None:
        self._handlers.start_soon(self._handle, request, exchange, name=self._name)

    async def _handle(self, request: Request, exchange: HttpExchange) -> None:
        try:
            await answer(exchange, await self.handler(request))
        except Exception as error:
            answer_error(exchange, error)
        except BaseException:
            cancelled(exchange)
            raise
        finally:
            self._running -= 1
            if self.stopping:
                self._changed.wake()

    def ended(self, connection: Connection) -> None:
        """A connection is over."""
        self.connections.discard(connection)
        self.link_closed()

    def link_closed(self) -> None:
        """A pump let go of a connection: drain looks again."""
        if self.stopping:
            self._changed.wake()

    # -- drain

    async def drain(self, timeout: float) -> None:
        """Let everything end by itself for at most `timeout` seconds; what remains then is cut."""
        self.stopping = True
        self._say_goodbye(now=False)
        with anyio.move_on_after(timeout):
            await self._wait_idle()
            return
        self._say_goodbye(now=True)

    async def cut(self) -> None:
        """The deadline is over: cancel handlers, abort connections, give `on_close` its time."""
        self.stopping = True
        self._say_goodbye(now=True)
        self._handlers.cancel_scope.cancel()
        for _ in range(LAST_TURNS):
            await self.loop.checkpoint()  # what goodbye wrote leaves, as far as the kernel takes it
        for connection in tuple(self.connections):
            connection.abort()
        with anyio.move_on_after(self.config.handler_cleanup_timeout):
            await self._wait_handlers()
            await self.loop.wait_callbacks()
        # Scheduled tasks, pullers, callbacks that would not end: nothing outlives the server.
        self.loop.cancel_on_leaving()

    def _say_goodbye(self, now: bool) -> None:
        for connection in tuple(self.connections):
            connection.going_away(now)

    async def _wait_handlers(self) -> None:
        """Until every handler and engine is through; what lingers in the kernel is cut by the pump."""
        while self.connections or self._running:
            await self._changed.park()

    async def _wait_idle(self) -> None:
        while self.connections or self._running or self.lingering():
            await self._changed.park()
