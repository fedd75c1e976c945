"""One response as an application sends it: a start, bodies, the end; of a plain request or of a refused WebSocket.

The head is held until the first body comes, as the specification demands; so a body in one piece gets its
Content-Length, and an application that fails between the two still becomes a 500.
"""

from __future__ import annotations

from channelkit.asgi.hosting.client import Client
from channelkit.asgi.hosting.messages import (
    Message,
    bytes_of,
    content_length,
    headers_of,
    message_type,
    status_of,
    unexpected,
)
from channelkit.errors import BadRequest, HandlerError
from channelkit.http import check_status
from channelkit.responding import refuse
from channelkit.spi import HttpWire
from channelkit.wire.http1_responses import check_header


class Response:
    """The way of one response.  `prefix` is that of its messages: `http` or `websocket.http`."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._exchange = client.exchange
        self._start = f"{prefix}.response.start"
        self._body = f"{prefix}.response.body"
        self._head: tuple[int, list[tuple[str, str]], int | None] | None = None  # held
        self._written = False
        self._endless = False
        self.complete = False
        self.refused = False  # we have answered ourselves: the request was broken

    @property
    def over(self) -> bool:
        """Whether nothing that the application still sends can reach the client."""
        return self.complete or self._client.gone

    @property
    def must_end(self) -> bool:
        """Whether the server stops and this response has no end of its own: an event stream that has begun."""
        return self._client.leaving and self._endless and self._written

    async def send(self, message: Message) -> None:
        """Take one message; waits while too much is unsent.  Silent when the client is gone."""
        kind = message_type(message)
        if self._client.gone or self.refused:
            await self._client.exchange.loop.checkpoint()
        elif self.complete:
            raise unexpected(kind, after="after the response was complete")
        elif self._head is None:
            if kind != self._start:
                raise unexpected(kind, self._start, after="before the response has begun")
            self._take_start(message)
        elif kind != self._body:
            raise unexpected(kind, self._body, after="after the response has begun")
        else:
            await self._send_body(bytes_of(message, "body"), bool(message.get("more_body", False)))

    def _take_start(self, message: Message) -> None:
        lines = headers_of(message)
        for name, value in lines:
            check_header(name, value)  # a bad one is raised here, where the application can be pointed at it
        status = check_status(status_of(message))
        self._head = status, lines, content_length(lines)
        self._endless = any(
            name.lower() == "content-type" and value.lower().startswith("text/event-stream") for name, value in lines
        )

    async def _send_body(self, data: bytes, more: bool) -> None:
        await self._client.wait_room()
        if self.over:  # meanwhile
            return
        if not self._written:
            self._write_head(data, more)
        self._exchange.write(HttpWire(data))
        if not more:
            self._finish()

    def _write_head(self, data: bytes, more: bool) -> None:
        assert self._head is not None
        status, lines, length = self._head
        if length is None and not more and (data or self._exchange.body_allowed):
            length = len(data)  # an empty answer to HEAD does not tell how long that to GET is
        self._exchange.start(status, lines, length)
        self._written = True

    def _finish(self) -> None:
        self.complete = True
        self._client.release()  # the exchange need not tell when the kernel has it all
        self._exchange.finish()
        self._client.news()

    # -- other ends

    def refuse(self, error: BadRequest) -> None:
        """The request turned out to be broken, whatever the application makes of it: the client is told."""
        if self.over or self._exchange.ended:
            return
        self.complete = self.refused = True
        self._client.release()
        if self._written:
            self._exchange.abort()
        else:
            refuse(self._exchange, error)
        self._client.news()

    def app_returned(self) -> None:
        """The application is through.  Raises HandlerError if its response is not."""
        if self.over:
            return
        if self.must_end:
            self._finish()
            return
        self._client.release()
        if self._head is None:
            raise HandlerError("the ASGI application returned without starting a response")
        raise HandlerError("the ASGI application returned without completing its response")
