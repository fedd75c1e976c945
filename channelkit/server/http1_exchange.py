"""One HTTP/1 request being answered on one connection: the head's framing, the body, the end.

RFC 9112 6 decides the framing.  What it writes is coalesced by the link: head and first piece leave in one send.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from channelkit._access_log import access, log_request
from channelkit._lifecycle import logger
from channelkit._request_body import HELD, RequestBody
from channelkit.errors import BadRequest, HandlerError
from channelkit.spi import HttpExchange, HttpWire, Listener, WebSocketExchange
from channelkit.wire.deflate import agree
from channelkit.wire.http1_requests import RequestHead
from channelkit.wire.http1_responses import (
    CONTINUE,
    LAST_CHUNK,
    bodiless,
    chunk,
    date_line,
    field_line,
    http_date,
    response_head,
    status_line,
)
from channelkit.wire.websocket_handshake import check_upgrade, offered_extensions, sec_websocket_accept

if TYPE_CHECKING:
    from channelkit._handover import Handover
    from channelkit.channel import Channel
    from channelkit.server.http1 import HttpConnection

WAITING, STARTED, FINISHED, OVER = range(4)

#: Fields that say how a message is framed or a connection kept: the server's business, not the handler's.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "trailer"})
#: Those that one status keeps as given; RFC 9110 15.4.5: the length a 200 would have had.
_KEPT = {"upgrade": 426, "content-length": 304}
_HANDSHAKE = frozenset({"sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-extensions", "date"})


class Http1Exchange(HttpExchange):
    """Seam 2 over HTTP/1."""

    __slots__ = (
        "_begun",
        "_chunked",
        "_connection",
        "_no_body",
        "_remaining",
        "_state",
        "answered",
        "body",
        "client",
        "continued",
        "head",
        "keep_alive",
        "size",
        "status",
        "watched",
    )

    def __init__(self, connection: HttpConnection, head: RequestHead) -> None:
        self._connection = connection
        self.loop = connection.loop
        self.config = connection.config
        self.host = connection.host
        self.outbox = connection.link
        self.head = head
        self.keep_alive = head.keep_alive
        self.listener: Listener | None = None
        self.channel: Channel | None = None
        self.gone = False  # the connection was lost before the response was complete
        self.body: RequestBody | None = None
        self._state = WAITING
        self._chunked = False
        self._no_body = False
        self._remaining: int | None = None
        self.continued = False  # 100 Continue was due and is settled
        self.watched = False  # the client's FIN ends this exchange
        self.client: Any = None
        self.status = 0  # of the response, once it has begun
        self.size = 0  # bytes of its body
        # Asked once a request: the clock costs more than all the counting.
        self._begun = self.loop.time() if access.isEnabledFor(logging.INFO) else None
        self.answered = False  # complete, but the rest of the request's body is still to be read away

    # -- spi.Exchange

    def want_room(self) -> None:
        self._connection.link.notify = True

    def flush(self) -> None:
        self._connection.link.flush()

    def set_reading(self, on: bool) -> None:
        """A request's body is pulled by the handler; nothing else can arrive."""

    def abort(self) -> None:
        if self._state != OVER:
            self._connection.link.abort()

    # -- spi.HttpExchange

    @property
    def started(self) -> bool:
        return self._state != WAITING

    @property
    def ended(self) -> bool:
        return self._state >= FINISHED

    @property
    def body_allowed(self) -> bool:
        return self.head.method != "HEAD"

    def start(self, status: int, headers: Iterable[tuple[str, str]], length: int | None) -> bool:
        if self._state == OVER:
            return True  # the peer has gone; whoever writes learns it by `lost`
        if self._state != WAITING:
            raise HandlerError("the response has begun already; a request has one answer")
        lines, close = self._own_lines(status, headers)
        empty, chunked = bodiless(status), False
        bare = empty or self.head.method == "HEAD"
        if empty:
            if status == 205:
                lines.append(b"Content-Length: 0\r\n")
        elif length is not None:
            lines.append(b"Content-Length: %d\r\n" % length)
        elif self.head.http_version == "1.1":
            if not bare:
                lines.append(b"Transfer-Encoding: chunked\r\n")
                chunked = True
        else:
            close = close or not bare  # RFC 9112 6.3: the end of the connection is the end of the body
        if close or not self._connection.may_keep_alive(self):
            self.keep_alive = False
            # RFC 9110 7.8
            lines.append(b"Connection: close, upgrade\r\n" if status == 426 else b"Connection: close\r\n")
        elif self.head.http_version == "1.0":
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self._chunked = chunked
        self._no_body = bare
        self._remaining = None if bare or chunked else length
        self._state = STARTED
        self.status = status
        self.loop.meters.responses[status] += 1
        self._connection.link.write(b"".join(lines))
        return not bare

    def _own_lines(self, status: int, headers: Iterable[tuple[str, str]]) -> tuple[list[bytes], bool]:
        """The status line and the handler's, without framing, with Server and Date unless given; and whether it wants
        to close.  Raises before anything is written.
        """
        lines = [status_line(status)]
        close = has_date = has_server = False
        for name, value in headers:
            lower = name.lower()
            if lower in _FRAMING:
                close = close or (lower == "connection" and "close" in value.lower())
                if _KEPT.get(lower) != status:
                    continue
            elif lower == "date":
                has_date = True
            elif lower == "server":
                has_server = True
            lines.append(field_line(name, value))
        if not has_server and self.config.server_header is not None:
            lines.append(field_line("Server", self.config.server_header))
        if not has_date:
            lines.append(date_line(int(time.time())))
        return lines, close

    def write(self, wire: HttpWire) -> None:
        data = wire.data
        if not data or self._no_body or self._state != STARTED:
            return
        self.size += len(data)
        if self._chunked:
            if wire.chunk is None:
                wire.chunk = chunk(data)
            self._connection.link.write(wire.chunk)
            return
        if self._remaining is not None:
            self._remaining -= len(data)
            if self._remaining < 0:
                logger.error("a body is longer than the Content-Length it was sent with; the response is aborted")
                self.abort()
                return
        self._connection.link.write(data)

    def finish(self) -> None:
        if self._state != STARTED:
            return
        if self._remaining:
            if self._remaining > 0:
                logger.error("a body is shorter than the Content-Length it was sent with; the response is aborted")
                self.abort()
            return
        if self._chunked:
            self._connection.link.write(LAST_CHUNK)
        self._state = FINISHED
        if self.listener is None:
            self._complete()
        else:
            self.loop.call_soon(self.check_handed_over)

    def check_handed_over(self) -> None:
        """A channel's response is complete when the kernel has it: that is what `close_info` reports."""
        link = self._connection.link
        if self._state != FINISHED:
            return
        link.flush()
        if link.unsent:
            link.notify = True
            return
        self._complete()

    def _complete(self) -> None:
        self._state = OVER
        if self._begun is not None:
            self._log(self._begun, whole=True)
        if self.listener is not None:
            self.listener.finished()
        self._connection.response_done(self)

    def _log(self, begun: float, *, whole: bool) -> None:
        head, seconds = self.head, self.loop.time() - begun
        log_request(self.client, head.method, head.target, head.http_version, self.status, self.size, seconds, whole)

    def upgrade(self, subprotocol: str | None, headers: Iterable[tuple[str, str]]) -> WebSocketExchange:
        if self.gone:
            raise BadRequest(400, "the client went away before its handshake was answered")
        if self._state != WAITING:
            raise HandlerError("the response has begun already; a request has one answer")
        key = check_upgrade(self.head.method, self.head.http_version, self.head.headers)
        if self.head.has_body:
            raise BadRequest(400, "a WebSocket handshake has no body")
        deflate = agree(self.config.deflate, offered_extensions(self.head.headers))
        lines = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
        lines.append(("Sec-WebSocket-Accept", sec_websocket_accept(key)))
        if subprotocol is not None:
            lines.append(("Sec-WebSocket-Protocol", subprotocol))
        if deflate is not None:
            lines.append(("Sec-WebSocket-Extensions", deflate.answer))
        given = [one for one in headers if one[0].lower() not in _FRAMING | _HANDSHAKE]
        lines += [*given, ("Date", http_date(time.time()))]
        data = response_head(101, lines, informational=True)
        if self.head.expect_continue:
            data = CONTINUE + data  # RFC 9110 7.8
        self._state = OVER
        self.status = 101
        self.loop.meters.responses[101] += 1
        if self._begun is not None:
            self._log(self._begun, whole=True)
        return self._connection.become_websocket(data, deflate)

    def hand_over(self, body: bytes) -> Handover | None:
        if self._state != WAITING:
            return None
        handover = self._connection.hand_over(self.head, body)
        if handover is not None:
            self._state = OVER
        return handover

    def watch_client(self) -> None:
        if not self.watched:
            self.watched = True
            if self._state < FINISHED:
                self._connection.watched()

    def channel_made(self, channel: Channel) -> None:
        self.channel = channel
        if self._state < FINISHED:
            self.watch_client()
        elif self.gone and self.listener is not None:
            self.loop.call_soon(self.listener.lost, None)

    # -- what the connection tells

    def wrote(self) -> None:
        if self._state == FINISHED:
            self.check_handed_over()
        elif self.listener is not None:
            self.listener.room()

    def lost(self, error: Exception | None) -> None:
        if self._state == OVER:
            return
        self._state = OVER
        self.gone = True
        if self._begun is not None:
            self._log(self._begun, whole=False)
        if self.body is not None:
            self.body.fail(BadRequest(400, "the client went away before its request was complete"))
        if self.listener is not None:
            self.listener.lost(error)

    def going_away(self, now: bool) -> None:
        self.keep_alive = False
        if self.listener is not None:
            self.listener.going_away(now)

    def small_rest(self) -> bool:
        """Whether what is missing of the request's body may be read away to keep the connection."""
        length = self.head.content_length
        return length is not None and length <= HELD
