"""An ASGI application holding one WebSocket: a handshake that it accepts or refuses, then a channel.

Messages, back-pressure, close codes and drain are the channel's; here are ASGI's words for them.
"""

from __future__ import annotations

from typing import Any

from channelkit._lifecycle import logger
from channelkit.asgi.hosting.client import Client
from channelkit.asgi.hosting.messages import Message, headers_of, message_type, payload_of, unexpected
from channelkit.asgi.hosting.response import Response
from channelkit.channel import Channel
from channelkit.errors import BadRequest, ChannelClosed, Disconnected, HandlerError
from channelkit.handlers import as_channel
from channelkit.http import Request

ABNORMAL = 1006
ANSWERS = ("websocket.accept", "websocket.close", "websocket.http.response.start")


class WebSocketRun:
    """The `receive` and `send` of one WebSocket."""

    def __init__(self, request: Request, client: Client) -> None:
        self._request = request
        self._exchange = client.exchange
        self._client = client
        self._denial: Response | None = None
        self._told = False  # of the connect
        self._closed = False  # by the application
        self.channel: Channel | None = None

    # -- receive

    async def receive(self) -> Message:
        """`websocket.connect`, then each message, then `websocket.disconnect` with the true code and reason.

        One task at a time, once the handshake is accepted.  Cancelled, it takes nothing.
        """
        if not self._told:
            self._told = True
            return {"type": "websocket.connect"}
        if self.channel is None:
            await self._wait_answered()
        if self.channel is None:
            return {"type": "websocket.disconnect", "code": ABNORMAL, "reason": ""}
        try:
            message = await self.channel.receive()
        except ChannelClosed as closed:
            return {"type": "websocket.disconnect", "code": closed.info.code, "reason": closed.info.reason}
        return {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}

    async def _wait_answered(self) -> None:
        """Until the handshake is accepted, or can no longer be."""
        while self.channel is None and not self._refused and not self._client.gone:
            self._exchange.watch_client()
            await self._client.wait()

    @property
    def _refused(self) -> bool:
        return self._denial is not None and self._denial.complete

    # -- send

    async def send(self, message: Message) -> None:
        """Answer the handshake, send a message, or close; waits while too much is unsent.

        Raises Disconnected, an OSError, once the WebSocket is over; RuntimeError, TypeError or ValueError for what
        ASGI does not allow; nothing is sent then.
        """
        kind = message_type(message)
        if self._closed:
            raise unexpected(kind, after="after 'websocket.close'")
        if self.channel is not None:
            await self._send_open(self.channel, kind, message)
        elif self._denial is not None:
            await self._denial.send(message)
        elif self._client.gone:
            raise Disconnected("the client went away before its WebSocket was answered")
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            await self._forbid()
        elif kind == "websocket.http.response.start":
            denial = Response(self._client, "websocket.http")
            await denial.send(message)  # a bad one leaves the handshake as it was
            self._denial = denial
        else:
            raise unexpected(kind, *ANSWERS, after="before the WebSocket is accepted")

    async def _send_open(self, channel: Channel, kind: str, message: Message) -> None:
        if kind == "websocket.send":
            if not await channel.send(payload_of(message)):
                raise _over(channel)
        elif kind == "websocket.close":
            if not channel.close_nowait(message.get("code", 1000), message.get("reason") or ""):
                raise _over(channel)
            self._closed = True
        else:
            raise unexpected(kind, "websocket.send", "websocket.close", after="on an open WebSocket")

    def _accept(self, message: Message) -> None:
        lines = headers_of(message)
        if any(name.lower() == "sec-websocket-protocol" for name, _ in lines):
            raise ValueError("'websocket.accept' chooses by 'subprotocol', not by a Sec-WebSocket-Protocol header")
        subprotocol = self._chosen(message.get("subprotocol"))
        self._client.release()
        try:
            # The application checks Origin itself, as under any ASGI server.
            self.channel = as_channel(self._request, subprotocols=subprotocol, headers=lines, origins=["*"])
        except BadRequest as error:
            raise Disconnected(error.detail) from None  # what can be seen in the request was checked before
        except BaseException:
            self._exchange.listener = self._client  # a bad header: nothing was answered
            raise
        self._client.news()

    def _chosen(self, subprotocol: Any) -> tuple[str, ...]:
        if subprotocol is None:
            return ()
        if not isinstance(subprotocol, str):
            raise TypeError(f"'subprotocol' of 'websocket.accept' is a str, not {type(subprotocol).__name__}")
        if subprotocol not in self._request.subprotocols:
            # RFC 6455 4.1: a client fails a connection whose answer names what it did not offer.
            logger.warning(
                "accepted %r without subprotocol %r: the client has not offered it", self._request, subprotocol
            )
        return (subprotocol,)

    async def _forbid(self) -> None:
        """Closed before it was accepted: 403, as the specification wants it."""
        self._denial = Response(self._client, "websocket.http")
        await self._denial.send({"type": "websocket.http.response.start", "status": 403})
        await self._denial.send({"type": "websocket.http.response.body"})
        self._closed = True

    # -- the end

    def app_returned(self) -> None:
        """The application has returned: close with 1000 what it left open.  HandlerError if it gave no answer."""
        if self.channel is not None:
            self.channel.close_nowait(1000)
        elif self._denial is not None:
            self._denial.app_returned()
        elif not self._client.gone:
            self._client.release()
            raise HandlerError("the ASGI application returned without accepting or refusing the WebSocket")


def _over(channel: Channel) -> Disconnected:
    return Disconnected(f"the WebSocket is over: {channel.close_info or 'its peer has closed it'}")
