"""The WebSocket transport: one message, one WebSocket message; close codes and pings as RFC 6455 has them.

Frames, pongs and the close handshake are the host's; what is decided here is what a channel may carry, which
subprotocol and origin are acceptable, and what each end of the wire means for the channel.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from channelkit.channel import Channel
from channelkit.errors import BadRequest
from channelkit.http import Response, header_lines, whole
from channelkit.spi import SPI_VERSION, ChannelOptions, HttpExchange, WebSocketExchange
from channelkit.status import CloseStatus, status_of_code

if TYPE_CHECKING:
    from channelkit.http import Request


class WebSocketChannel(Channel):
    """A channel over one WebSocket."""

    __slots__ = ("_ending_code", "_send_wire", "_websocket", "subprotocol")

    transport = "websocket"
    is_websocket = True

    def __init__(self, request: Request, exchange: WebSocketExchange, subprotocol: str | None) -> None:
        super().__init__(request, exchange)
        self._websocket = exchange
        self._send_wire = exchange.write
        #: The subprotocol that was agreed on, None if none.
        self.subprotocol = subprotocol
        self._ending_code: tuple[CloseStatus, int, str] | None = None  # what the peer, or its mistake, decided
        exchange.listener = self

    # -- hooks

    @property
    def _wire_format(self) -> Hashable | None:
        return self._websocket.wire_format

    def _encode(self, data: Any) -> Any:
        if isinstance(data, str):
            return self._websocket.text(data)
        if isinstance(data, bytes):
            return self._websocket.binary(data)
        return self._encode_other(data)

    def _encode_other(self, data: Any) -> Any:
        if isinstance(data, bytearray | memoryview):
            return self._websocket.binary(bytes(data))
        body = data.body if isinstance(data, Response) else data.get("body") if isinstance(data, Mapping) else None
        if body is None or (not isinstance(body, str) and whole(body) is None):
            raise TypeError(
                f"a WebSocket carries str and bytes, not {type(data).__name__}; encode it first, for instance with "
                "json.dumps (of a mapping or Response only its body is sent, and that must be str or bytes)"
            )
        return self._encode(body)

    def _write(self, wire: Any, last: bool) -> None:
        self._send_wire(wire)

    def _finish(self, code: int, reason: str) -> None:
        self._websocket.close(code, reason)

    def _abort(self) -> None:
        self._websocket.abort()

    def _ping(self, data: bytes) -> None:
        self._websocket.ping(data)

    # -- what the exchange tells (spi.WebSocketListener)

    received = Channel._received  # one call less for each message

    def pinged(self, data: bytes) -> None:
        self._pinged(data)

    def room(self) -> None:
        self._room()

    def closed_by_peer(self, code: int, reason: str) -> None:
        self._ending_code = (status_of_code(code), code, reason)
        self._peer_closing()

    def failed(self, code: int, detail: str) -> None:
        """The peer broke the protocol: the status is that of the code it was sent, and the end is its doing."""
        self._ending_code = (status_of_code(code), code, detail)
        self._peer_closing()

    def confirmed(self) -> None:
        self._end(delivered=True)

    def finished(self) -> None:
        self._end(delivered=None)

    def lost(self, error: Exception | None) -> None:
        self._end(delivered=False if self._ending is not None else None, unsent=self._websocket.buffered_bytes)

    def _end(self, delivered: bool | None, unsent: int = 0) -> None:
        self._unread += self._websocket.unread
        if self._ending_code is None:
            self._ended(CloseStatus.ABNORMAL, 1006, "", "network", delivered=delivered, unsent=unsent)
        else:
            status, code, reason = self._ending_code
            self._ended(status, code, reason, "peer", delivered=delivered, unsent=unsent)


class WebSocketTransport:
    """Claims every request that asks for an upgrade to WebSocket."""

    name = "websocket"
    spi_version = SPI_VERSION

    def claims(self, request: Request) -> bool:
        return request.is_websocket

    def open(self, exchange: HttpExchange, request: Request, options: ChannelOptions) -> Channel:
        check_origin(request, options.origins)
        subprotocol = next((one for one in options.subprotocols if one in request.subprotocols), None)
        websocket = exchange.upgrade(subprotocol, header_lines(options.headers))
        return WebSocketChannel(request, websocket, subprotocol)


def check_origin(request: Request, origins: tuple[str, ...] | None) -> None:
    """Raise BadRequest(403) for a page of a foreign origin: RFC 6455 10.2.

    Only browsers send Origin, and they send the truth.  The request's own origins are always admitted, those in
    `origins` too, and with "*" everyone.
    """
    origin = request.headers.get("origin")
    if origin is None or (origins is not None and ("*" in origins or origin in origins)):
        return
    if origin.lower() in request.origins:
        return
    raise BadRequest(403, f"origin {origin!r} is not allowed; name it in origins=[...]")
