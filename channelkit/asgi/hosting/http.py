"""An ASGI application answering one plain request."""

from __future__ import annotations

from collections.abc import AsyncIterator

from channelkit.asgi.hosting.client import Client
from channelkit.asgi.hosting.messages import Message
from channelkit.asgi.hosting.response import Response
from channelkit.errors import BadRequest
from channelkit.http import Request

DISCONNECT = "http.disconnect"


class HttpRun:
    """The `receive` and `send` of one request; any task of the application may call either."""

    def __init__(self, request: Request, client: Client) -> None:
        self._client = client
        self._response = Response(self._client, "http")
        self._pieces: AsyncIterator[bytes] | None = request.stream()  # None: the body is through
        self._reading = False
        self.send = self._response.send

    async def receive(self) -> Message:
        """The next piece of the body, or `http.disconnect` when nobody waits for more of the response.

        That is: the client is gone, the response is complete, or it is an event stream and the server stops.
        Reading a piece is what lets the client send more.  Cancelled, it takes nothing.
        """
        while not self._over:
            if self._pieces is None:
                self._client.exchange.watch_client()
                if not self._over:
                    await self._client.wait()
            elif self._reading:
                await self._client.wait()  # another task of the application is at it; one piece goes to one
            else:
                return await self._next_piece(self._pieces)
        return {"type": DISCONNECT}

    @property
    def _over(self) -> bool:
        return self._response.over or self._response.must_end

    async def _next_piece(self, pieces: AsyncIterator[bytes]) -> Message:
        self._reading = True
        try:
            piece = await anext(pieces, b"")
        except BadRequest as error:
            self._pieces = None
            self._response.refuse(error)
            return {"type": DISCONNECT}
        finally:
            self._reading = False
            self._client.news()
        if not piece:
            self._pieces = None
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    def app_returned(self) -> None:
        """The application has returned: see that there is an answer.  Raises HandlerError if it gave none."""
        self._response.app_returned()
