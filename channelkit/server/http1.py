"""One HTTP/1 connection: requests one after another, each answered before the next begins.

An engine on a `Link`.  Bytes become events in `wire.http1_requests`; here they become exchanges, and the connection's
life is decided: keep-alive, read-ahead, half-close, refusals, timeouts (RFC 9112 9).
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from channelkit._deadline import Deadline
from channelkit._draining import LAST_REQUEST
from channelkit._handover import Handover, Introduction
from channelkit._request_body import RequestBody
from channelkit._trust import trusted
from channelkit.errors import BadRequest
from channelkit.http import Request
from channelkit.responding import refuse
from channelkit.server.http1_exchange import Http1Exchange
from channelkit.server.pump.proxied import name_of
from channelkit.server.websocket import WebSocketConnection
from channelkit.wire.forwarded import Malformed, read_forwarded, read_x_forwarded
from channelkit.wire.http1_heads import request_bytes
from channelkit.wire.http1_requests import END, RequestHead, RequestReader
from channelkit.wire.http1_responses import CONTINUE
from channelkit.wire.websocket_handshake import is_websocket_request, offered_subprotocols

if TYPE_CHECKING:
    from channelkit.server.core import ServerCore
    from channelkit.server.pump.link import Link
    from channelkit.wire.deflate import Agreement

EVENTS_PER_TURN = 64

#: What a refusal answers to, when there was no request that could be read.
_UNREADABLE = RequestHead(
    method="-",
    target="-",
    http_version="1.1",
    headers=(),
    keep_alive=False,
    expect_continue=False,
    upgrade=(),
    has_body=False,
    content_length=None,
    chunked=False,
)


class HttpConnection:
    """The engine of a connection that speaks HTTP/1."""

    __slots__ = (
        "_core",
        "_deadline",
        "_ending",
        "_eof",
        "_exchange",
        "_fronted",
        "_held_back",
        "_in_head",
        "_reader",
        "_served",
        "config",
        "host",
        "link",
        "loop",
    )

    def __init__(self, core: ServerCore, link: Link) -> None:
        self._core = core
        self.link = link
        self.loop = core.loop
        self.config = link.config  # of the listener it came by
        self.host = core
        self._reader = RequestReader(core.request_limits, scheme="https" if link.secure else "http")
        self._exchange: Http1Exchange | None = None
        self._ending = False  # nothing that still arrives is answered
        self._eof = False
        self._held_back = False  # we switched reading off
        self._in_head = False  # a head has begun and its deadline runs
        self._fronted = self.config.forwarded != "ignore" and self.config.trusts(link.peer)
        self._served = False  # a request has been answered
        self._deadline = Deadline(core.loop, self._expired)
        self._deadline.set(self.config.head_timeout)
        core.connections.add(self)

    # -- engine: what the link tells

    def data_received(self, data: memoryview) -> bool:
        if self._ending:
            return False
        self._reader.feed(data)
        return self._advance()

    def resume(self) -> bool:
        return False if self._ending else self._advance()

    def eof_received(self) -> None:
        """The client has shut down its side, or closed: FIN tells no difference (RFC 9112 9.6)."""
        self._eof = True
        exchange = self._exchange
        if exchange is None:
            if not self._ending:
                self._advance()
            return
        if exchange.body is not None:
            exchange.body.fail(BadRequest(400, "the client went away before its request was complete"))
        if exchange.watched:
            self.watched()

    def watched(self) -> None:
        """A channel does not outlive its client's FIN, whichever of the two was there first."""
        if self._eof and self.config.half_closed == "close":
            self.loop.call_soon(self.link.abort)

    def wrote(self) -> None:
        if self._exchange is not None:
            self._exchange.wrote()
        elif not self._ending:
            self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._ending = True
        self._deadline.cancel()
        self._core.ended(self)
        if self._exchange is not None:
            self._exchange.lost(error)
            self._exchange = None

    # -- requests

    def _advance(self) -> bool:
        """Handle what is buffered; True if the loop should get its turn before more."""
        for _ in range(EVENTS_PER_TURN):
            exchange = self._exchange
            if exchange is None:
                if self.link.unsent > self.config.soft_mark:
                    # A client that asks and takes no answers gets no more of them; the write timeout runs.
                    self.link.notify = True
                    self._hold_back()
                    return False
            elif exchange.body is None or exchange.body.ended or exchange.body.full:
                self._hold_back()
                return False
            try:
                event = self._reader.next_event()
            except BadRequest as error:
                self._bad(error)
                return False
            if event is None:
                self._need_more()
                return False
            if isinstance(event, RequestHead):
                self._begin(event)
            elif event is END:
                self._body_ended()
            elif isinstance(event, bytes) and exchange is not None and exchange.body is not None:
                exchange.body.put(event)
                self._body_moves(exchange, exchange.body)
        return True

    def _need_more(self) -> None:
        if self._exchange is not None:
            return
        if self._eof:
            self._end()
        elif self._reader.in_head and not self._in_head:
            self._in_head = True  # one deadline, at a head's first byte: more bytes do not move it
            self._deadline.set(self.config.head_timeout)

    def _begin(self, head: RequestHead) -> None:
        self._deadline.set(math.inf)
        self._in_head = False
        exchange = self._exchange = Http1Exchange(self, head)
        if head.has_body:
            exchange.body = RequestBody(self.loop, self._body_wanted, self._body_taken)
        request = Request(
            method=head.method,
            target=head.target,
            raw_headers=head.headers,
            http_version=head.http_version,
            scheme="https" if self.link.secure else "http",
            tls=self.link.tls,
            client=self.link.peer,
            server=self.link.local,
            is_websocket=is_websocket_request(head.headers),
            subprotocols=offered_subprotocols(head.headers) if head.upgrade else (),
            exchange=exchange,
            source=exchange.body,
        )
        if self._fronted:
            self._introduce(request)
        exchange.client = request.client
        if request.is_websocket:
            exchange.keep_alive = False  # if it is refused: what follows may be frames, and is run as no request
        self._core.handle(request, exchange)

    def _introduce(self, request: Request) -> None:
        """A trusted proxy has sent it: whose it is, the proxy says, if it says so in a way one can read."""
        read = read_forwarded if self.config.forwarded == "forwarded" else read_x_forwarded
        try:
            origin = read(request.raw_headers, trusted(tuple(self.config.trusted_proxies)).named)
        except Malformed as error:
            self.loop.tally.hit("forwarded", f"what {name_of(self.link.peer)} told of a client is ignored: {error}")
            return
        if origin.client is not None or origin.hidden:
            request.client = origin.client
        request.scheme = origin.scheme or request.scheme
        request._host = origin.host

    def _hold_back(self) -> None:
        """Requests behind this one wait, bounded: then reading stops, and TCP slows the client down."""
        exchange = self._exchange
        full = exchange is not None and exchange.body is not None and exchange.body.full
        if not self._held_back and (full or self._reader.buffered >= self.config.read_ahead):
            self._held_back = True
            self.link.set_reading(False)

    def _read_on(self) -> None:
        if self._held_back:
            self._held_back = False
            self.link.set_reading(True)

    # -- bodies

    def _body_wanted(self) -> None:
        """The handler waits for more of the body: RFC 9110 10.1.1, and the clock for the client runs."""
        exchange = self._exchange
        assert exchange is not None
        if exchange.head.expect_continue and not exchange.continued and not exchange.started:
            exchange.continued = True
            if not self._reader.buffered:
                self.link.write(CONTINUE)
        self._deadline.set(self.config.body_timeout)
        self._read_on()
        if self._reader.buffered:
            self._go_on_soon()

    def _body_taken(self) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.body is not None and not exchange.body.full:
            self._read_on()

    def _body_moves(self, exchange: Http1Exchange, body: RequestBody) -> None:
        if exchange.answered:
            body.discard()  # one deadline for all that is left of it: its bytes do not move it
        else:
            self._deadline.set(self.config.body_timeout if body.waiting else math.inf)

    def _body_ended(self) -> None:
        self._deadline.set(math.inf)
        exchange = self._exchange
        if exchange is None or exchange.body is None:
            return
        exchange.body.end()
        if exchange.answered:
            self._next()

    # -- the end of a response

    def may_keep_alive(self, exchange: Http1Exchange) -> bool:
        """Whether another request can follow: not with a body still coming that nobody will read."""
        if not exchange.keep_alive or self._ending or self._core.stopping:
            return False
        body = exchange.body
        if body is None or body.ended:
            return True
        return exchange.small_rest() and (exchange.continued or not exchange.head.expect_continue)

    def response_done(self, exchange: Http1Exchange) -> None:
        if self._exchange is not exchange:
            return
        if not exchange.keep_alive:
            self._end()
        elif exchange.body is not None and not exchange.body.ended:
            exchange.answered = True  # the rest of its body is read away first
            exchange.body.discard()
            self._deadline.set(self.config.body_timeout)
            self._read_on()
            self._go_on_soon()
        else:
            self._next()

    def _next(self) -> None:
        self._exchange = None
        self._served = True
        more = self._reader.next_request()
        self._deadline.set(self.config.keep_alive_timeout)
        if self._held_back:
            self._read_on()
        if more or self._eof:
            self._go_on_soon()

    def _go_on_soon(self) -> None:
        self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self.resume():
            self._go_on_soon()

    def _end(self) -> None:
        self._ending = True
        self._deadline.cancel()
        self.link.finish()

    def _bad(self, error: BadRequest) -> None:
        """The bytes make no request: answer once, then close; what follows is never looked at (RFC 9112 11.2)."""
        exchange = self._exchange
        self.loop.tally.refused(error)
        if exchange is not None:
            exchange.keep_alive = False
            if exchange.body is not None:
                exchange.body.fail(error)
            if exchange.answered:
                self._end()
            return
        self._exchange = exchange = Http1Exchange(self, _UNREADABLE)
        exchange.client = self.link.peer
        refuse(exchange, error)
        self._ending = True

    def _expired(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            self._body_late(exchange)
        elif self._in_head:
            self._bad(BadRequest(408, "the head did not arrive in time", limit="head_timeout"))
        elif self.link.unsent or self._reader.in_head:
            # Not idle: the write timeout runs, or the next request is here and has its turn soon.
            self._deadline.set(self.config.keep_alive_timeout)
        elif self._core.stopping:
            self._end()
        else:
            name = "keep_alive_timeout" if self._served else "head_timeout"
            self.loop.tally.hit(name, "a silent connection was closed", logging.DEBUG)
            self._end()

    def _body_late(self, exchange: Http1Exchange) -> None:
        error = BadRequest(408, "the body did not arrive in time", limit="body_timeout")
        self.loop.tally.refused(error)
        if exchange.answered:
            self._end()
        elif exchange.body is not None:
            exchange.keep_alive = False
            exchange.body.fail(error)

    # -- upgrade, handing over, and drain

    def become_websocket(self, answer: bytes, deflate: Agreement | None) -> WebSocketConnection:
        """Hand the link over; frames that came with the handshake are its first input."""
        rest = self._reader.take_rest()
        self._ending = True
        self._exchange = None
        self._deadline.cancel()
        self._core.connections.discard(self)
        self.link.write(answer)
        websocket = WebSocketConnection(self._core, self.link, deflate)
        self.link.engine = websocket
        if self._held_back:
            self.link.set_reading(True)
        websocket.begin(rest, self._eof)
        return websocket

    def hand_over(self, head: RequestHead, body: bytes) -> Handover | None:
        """Give the connection up, with its present request unanswered and read to its end; see `HttpExchange`."""
        link = self.link
        listener = self._core.listener_of(link)
        if listener is None or (released := link.release()) is None:
            return None
        sock, unsent = released
        unread = request_bytes(head, body) + self._reader.take_rest()
        self._ending = True
        self._exchange = None
        self._deadline.cancel()
        self._core.ended(self)
        self.loop.meters.handed_over += 1
        return Handover(
            sock,
            Introduction(
                listener=listener,
                peer=link.peer,
                local=link.local,
                secure=link.secure,
                tls=link.tls,
                counted=link.counted,
                unsent=unsent,
                unread=unread,
            ),
        )

    def going_away(self, now: bool) -> None:
        """The server stops: an idle connection goes if no request is on its way, a running request may finish."""
        if self._exchange is not None:
            self._exchange.going_away(now)
        elif now:
            self._end()
        elif not self._in_head:
            self._deadline.set(LAST_REQUEST)

    def abort(self) -> None:
        self.link.abort()
