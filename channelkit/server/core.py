"""What all connections of one running server share: handler, limits, and the list of what is open."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING

from anyio.abc import TaskGroup

from channelkit._draining import Draining
from channelkit.http import Request
from channelkit.responding import Handler, run_handler
from channelkit.server.http1 import HttpConnection
from channelkit.timer import TimerService, current_timers
from channelkit.wire.http1_requests import RequestLimits

if TYPE_CHECKING:
    from channelkit._loop import Loop
    from channelkit.config import Config
    from channelkit.server.pump.link import Link
    from channelkit.spi import HttpExchange


class ServerCore(Draining):
    """The shared state of one server on one loop."""

    def __init__(self, handler: Handler, config: Config, loop: Loop, handlers: TaskGroup) -> None:
        super().__init__(loop, handlers.cancel_scope.cancel, config)
        self.handler = handler
        self.config = config
        self.request_limits = RequestLimits(
            max_line=config.max_line,
            max_head=config.max_head,
            max_headers=config.max_headers,
            max_body=config.max_body,
        )
        self.listeners: list[Config] = []  # of each listener, in their order
        self._start = loop.starter(handlers, getattr(handler, "__qualname__", None) or repr(handler))
        current_timers.set(TimerService(loop, self.workers))
        self._context = copy_context()  # that of handlers: not of what the loop is doing when a request comes

    def connect(self, link: Link) -> HttpConnection:
        """The engine for a new connection."""
        self.loop.meters.connections += 1
        return HttpConnection(self, link)

    def listener_of(self, link: Link) -> int | None:
        """The number of the listener by which `link` came; None if it came by another way."""
        return next((number for number, config in enumerate(self.listeners) if config is link.config), None)

    def handle(self, request: Request, exchange: HttpExchange) -> None:
        """Run the handler for `request` soon, in a task."""
        self.running += 1
        self.loop.meters.requests += 1
        # In the server's own context: a pipelined request must not inherit what its predecessor's handler had set.
        self._start(self._context.copy(), self._handle, request, exchange)

    async def _handle(self, request: Request, exchange: HttpExchange) -> None:
        try:
            await run_handler(self.handler, request, exchange)
        finally:
            self.handler_ended()
