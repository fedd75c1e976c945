"""The WebSocket binding of a session: subprotocol `ck.v1`, the client's hello first."""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import replace
from typing import TYPE_CHECKING

from channelkit._deadline import Deadline
from channelkit.errors import BadMessage, BadRequest
from channelkit.http import Response
from channelkit.responding import ANSWERED, Answered
from channelkit.session.actions import Finish, Kind
from channelkit.session.codec import decode_websocket, encode_websocket, read_client_hello
from channelkit.session.frames import SUBPROTOCOL, ClientHello, Frame, Hello
from channelkit.session.refusals import Refusal, malformed
from channelkit.spi import SPI_VERSION, WebSocketExchange
from channelkit.transports.session_pace import PacedCarrier

if TYPE_CHECKING:
    from channelkit.session.parcel import Parcel
    from channelkit.spi import Session, Visit

POLICY_VIOLATION = 1008
_HEADER = 1024  # of a frame, and every hello
REASON = 123  # bytes of a close frame's reason (RFC 6455 5.5)


class WebSocketSessions:
    """Sessions over WebSockets, at /ws; there also without a session, which the hello then makes."""

    name = "websocket"
    spi_version = SPI_VERSION
    ways = ("ws",)
    hello_first = True

    def carry(self, visit: Visit, way: str) -> Response | Answered:
        if not visit.request.is_websocket:
            return Response(426, {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}, "Upgrade Required\n")
        if SUBPROTOCOL not in visit.request.subprotocols:
            raise BadRequest(400, f"a session's WebSocket needs the subprotocol {SUBPROTOCOL}")
        websocket = visit.exchange.upgrade(SUBPROTOCOL, ())
        websocket.allow(visit.config.max_message + _HEADER)  # hello promises it, whatever max_ws is for others
        WebSocketCarrier(websocket, visit.welcome, visit.config.max_message, visit.config.hello_timeout)
        visit.exchange.watch_client()
        return ANSWERED


class WebSocketCarrier(PacedCarrier):
    """One WebSocket.  `spi.WebSocketListener` of its exchange; the session's carrier from hello on.

    `welcome(hello)` finds or makes the session of a hello, or says why not.
    """

    __slots__ = (
        "_max_message",
        "_over",
        "_patience",
        "_secret",
        "_text",
        "_welcome",
        "_write",
    )

    def __init__(
        self,
        exchange: WebSocketExchange,
        welcome: Callable[[ClientHello], tuple[Session, str | None] | Refusal],
        max_message: int,
        hello_timeout: float,
    ) -> None:
        super().__init__(exchange)
        self._text, self._write = exchange.text, exchange.write
        self._welcome = welcome
        self._max_message = max_message
        self._session = None
        self._secret: str | None = None
        self._over = False
        self._patience = Deadline(exchange.loop, self._no_hello)
        self._patience.set(hello_timeout)
        exchange.listener = self

    @property
    def heard_at(self) -> float:
        """When a part of a message came: of a large one on a slow line nothing else is seen for long."""
        at: float = self._exchange.heard_at
        return at

    # -- spi.QuickCarrier

    def _encoded(self, frame: Frame) -> Sized:
        if isinstance(frame, Hello) and self._secret is not None:
            frame, self._secret = replace(frame, secret=self._secret), None  # told once, to who made the session
        message = encode_websocket(frame)
        wire: Sized = self._text(message) if isinstance(message, str) else self._exchange.binary(message)
        return wire

    def _put(self, pieces: list[Sized]) -> None:
        for piece in pieces:
            self._write(piece)

    def message(self, n: int, parcel: Parcel) -> None:
        if self._behind or self._outbox.unsent > self._mark:
            self._skip(n)
            return
        payload = parcel.payload
        if isinstance(payload, str):
            self._write(self._text(f"m {n} {payload}"))
        else:
            self._write(self._exchange.binary(b"m %d %b" % (n, payload)))

    def finish(self, action: Finish) -> None:
        if action.refusal is not None and action.refusal.status == 409:
            self._close(action.refusal.close_code, action.refusal.close_reason)
        else:
            self._close(action.code, action.reason)

    def _close(self, code: int, reason: str) -> None:
        self._patience.cancel()
        self._behind = 0
        if not self._over:
            self._over = True
            self._exchange.close(code, reason.encode()[:REASON].decode(errors="ignore"))

    # -- spi.WebSocketListener

    def received(self, message: str | bytes) -> None:
        if self._over:
            return
        try:
            frame = decode_websocket(message, self._max_message, read_client_hello)
        except BadMessage as error:
            self._bad(error)
            return
        if self._session is not None:
            if frame is None:
                self._session.heard(self._number, self._exchange.loop.time())
            else:
                self._session.received(self._number, frame)
        elif isinstance(frame, ClientHello):
            self._hello(frame)
        else:
            self._bad(BadMessage("the first frame must be the hello"))

    def _hello(self, hello: ClientHello) -> None:
        self._patience.cancel()
        found = self._welcome(hello)
        if isinstance(found, Refusal):
            self._close(found.close_code, found.close_reason)
            return
        session, self._secret = found
        result = session.attach(Kind.WEBSOCKET, hello.a, hello.recv, self)
        if isinstance(result, Refusal):
            self._close(result.close_code, result.close_reason)
            return
        self._session, self._number = session, result

    def _bad(self, error: BadMessage) -> None:
        if self._session is not None:
            self._session.broke(self._number, error.close_code, error.detail)
        else:  # a refusal, which says that coming again will not help
            refusal = malformed(error)
            self._close(refusal.close_code, refusal.close_reason)

    def _no_hello(self) -> None:
        self._exchange.loop.tally.hit("hello_timeout", "a WebSocket without a hello was closed")
        self._close(POLICY_VIOLATION, "no hello")

    def pinged(self, data: bytes) -> None:
        """Life is told by the session's own frames."""

    def closed_by_peer(self, code: int, reason: str) -> None:
        self._gone()

    def confirmed(self) -> None:
        """Our close was answered."""

    def failed(self, code: int, detail: str) -> None:
        self._gone()

    def finished(self) -> None:
        self._gone()

    def lost(self, error: Exception | None) -> None:
        self._gone()

    def _gone(self) -> None:
        """A close of any code, an error, the end of TCP: detached, whatever it says."""
        self._patience.cancel()
        self._behind = 0
        over, self._over = self._over, True
        if self._session is not None and not over:
            self._session.detached(self._number)

    def going_away(self, now: bool) -> None:
        """The session hears of it by itself, and ends this; one without a session goes now."""
        if self._session is None:
            self._close(1001, "")
