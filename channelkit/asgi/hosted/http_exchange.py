"""One HTTP request of an ASGI host being answered: the head, the body, the end, each at most once.

The host frames, dates and keeps connections; here is what an exchange promises besides: writes that never wait, one
reader of `receive`, the end noticed and told once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from channelkit._deadline import Deadline
from channelkit._lifecycle import logger
from channelkit._request_body import RequestBody
from channelkit.asgi.hosted.outbox import AsgiOutbox
from channelkit.asgi.hosted.scope import Message, Receive, Scope, Send, header_pairs, passage_of
from channelkit.errors import BadRequest, HandlerError
from channelkit.spi import HttpExchange, HttpWire, Listener, WebSocketExchange
from channelkit.wire.http1_responses import bodiless
from channelkit.wire.websocket_handshake import check_upgrade

if TYPE_CHECKING:
    from channelkit._handover import Handover
    from channelkit.asgi.hosted.core import AppCore
    from channelkit.channel import Channel

WAITING, STARTED, FINISHED, OVER = range(4)

CLIENT_CLOSED_REQUEST = 499  # nginx's word, for logs: no client ever sees it
MESSAGES_PER_TURN = 64  # that a host may give without ever waiting, before others get their turn
_LENGTH = b"content-length"


class AsgiHttpExchange(HttpExchange):
    """Seam 2 over an ASGI `http` scope."""

    __slots__ = (
        "_aborted",
        "_body_deadline",
        "_body_size",
        "_core",
        "_no_body",
        "_over",
        "_left",
        "_lingering",
        "_read_on",
        "_reading",
        "_receive",
        "_send",
        "_state",
        "_tasks",
        "_wants_room",
        "body",
        "handler_scope",
        "queue",
        "scope",
        "working",
    )

    #: Of the messages that make a response.
    prefix = "http.response"

    def __init__(self, core: AppCore, scope: Scope, receive: Receive, send: Send, tasks: TaskGroup) -> None:
        self.loop = core.loop
        self.config = core.config
        self.host = core
        self.scope = scope
        self.listener: Listener | None = None
        self.channel: Channel | None = None
        self.gone = False
        self.body = RequestBody(core.loop, self._body_wanted, self._body_taken)
        self.handler_scope = anyio.CancelScope()
        self.outbox = self.queue = AsgiOutbox(core.loop, send, core.config.write_timeout, self)
        self._core = core
        self._receive = receive
        self._send = send
        self._tasks = tasks
        self._state = WAITING
        self._no_body = False
        self._aborted = False  # what the host gets is a 500, and the listener hears that all is lost
        self._wants_room = False
        self.working = False  # a task reads and one writes
        self._reading: anyio.CancelScope | None = None  # of the task that reads, while there is one
        self._left = False  # the client, says the host
        self._lingering = False  # over for our part, and still read until the host says that it is for the client's
        self._body_size = 0
        self._body_deadline = Deadline(core.loop, self._body_late)
        self._read_on = core.loop.parking()
        self._over = core.loop.parking()

    # -- the request's own task

    async def complete(self) -> None:
        """Wait until the response is complete or the client gone.  A plain answer is handed over from here."""
        while self._state != OVER:
            if self.working or not self.queue.waiting:
                await self._over.park()
            else:
                await self.queue.write()
        if self._left and not self.queue.begun:
            await self._answer_nobody()

    async def _answer_nobody(self) -> None:
        """The client has left before it was answered.  A host drops what is sent then; but middleware may insist on an
        answer (Starlette's BaseHTTPMiddleware raises without one)."""
        try:
            await self._send({"type": "http.response.start", "status": CLIENT_CLOSED_REQUEST, "headers": []})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception:
            pass  # ASGI 2.4: it may as well raise

    async def linger(self) -> None:
        """Stay with the host until the client has answered our close.

        Hosts take our return for the end of everything: hypercorn breaks, over HTTP/2 with all that the connection
        carries, when the client's answer comes after it.
        """
        if self._lingering:
            with anyio.move_on_after(self.config.close_timeout):
                while self._reading is not None:
                    await self._over.park()

    def _work(self) -> None:
        """Something outlives the handler's steps: from now on one task reads from the host and one writes to it."""
        if not self.working:
            self.working = True
            self._tasks.start_soon(self._read)
            self._tasks.start_soon(self.queue.run)

    # -- spi.Exchange

    def want_room(self) -> None:
        self._wants_room = True

    def flush(self) -> None:
        """The writer hands over as fast as the host takes."""

    def set_reading(self, on: bool) -> None:
        """A request's body is pulled by the handler; nothing else can arrive."""

    def abort(self) -> None:
        """What the host has begun to send is left incomplete, so that it looks cut; else it becomes a 500."""
        if self._state == OVER:
            return
        if self._state == WAITING or self._aborted or self.queue.begun:
            self.queue.close()
            self.loop.call_soon(self.lost, None)
        else:
            self._aborted = True
            self._state = FINISHED
            head = {"type": f"{self.prefix}.start", "status": 500, "headers": [(_LENGTH, b"0")]}
            self.queue.replace(head, 1)
            self.queue.put({"type": f"{self.prefix}.body", "body": b"", "more_body": False}, 1)

    # -- spi.HttpExchange

    @property
    def started(self) -> bool:
        return self._state != WAITING

    @property
    def ended(self) -> bool:
        return self._state >= FINISHED

    @property
    def body_allowed(self) -> bool:
        return self.scope.get("method") != "HEAD"

    def start(self, status: int, headers: Iterable[tuple[str, str]], length: int | None) -> bool:
        if self._state == OVER:
            return True  # the client has gone; whoever writes learns it by `lost`
        if self._state != WAITING:
            raise HandlerError("the response has begun already; a request has one answer")
        no_content = bodiless(status)
        pairs = header_pairs(headers, keep=self._kept(status))
        if status != 304:  # RFC 9110 15.4.5: there it is the length a 200 would have had
            pairs = [pair for pair in pairs if pair[0] != _LENGTH]
            if status == 205:
                length = 0
            if length is not None and (not no_content or status == 205):
                pairs.append((_LENGTH, b"%d" % length))
        self._no_body = no_content or not self.body_allowed
        self._state = STARTED
        self.queue.put(
            {"type": f"{self.prefix}.start", "status": status, "headers": pairs},
            sum(len(name) + len(value) for name, value in pairs) + 1,
        )
        if self.listener is not None:
            if length is None and not self._no_body:
                # ASGI: a host may keep the head back until a body comes; a stream's client wants to see it open.
                self.queue.put({"type": f"{self.prefix}.body", "body": b"", "more_body": True}, 0)
            self._work()
        return not self._no_body

    def _kept(self, status: int) -> frozenset[str]:
        """HTTP/1.1 demands Upgrade of a 426 (RFC 9110 15.5.22); later versions know no such field."""
        version: str = self.scope.get("http_version", "1.1")
        return frozenset({"upgrade"}) if status == 426 and version.startswith("1") else frozenset()

    def write(self, wire: HttpWire) -> None:
        if wire.data and not self._no_body and self._state == STARTED:
            message = {"type": f"{self.prefix}.body", "body": wire.data, "more_body": True}
            self.queue.put(message, len(wire.data))

    def finish(self) -> None:
        if self._state == STARTED:
            self._state = FINISHED
            self.queue.put({"type": f"{self.prefix}.body", "body": b"", "more_body": False}, 1)

    def channel_made(self, channel: Channel) -> None:
        self.channel = channel
        if not self.gone:
            self._work()
        elif self.listener is not None:
            self.loop.call_soon(self.listener.lost, None)

    def hand_over(self, body: bytes) -> Handover | None:
        passage = passage_of(self.scope)
        if passage is None or self._state != WAITING:
            return None
        handover = passage.hand_over(body)
        if handover is not None:
            self.start(204, (), None)  # for what stands between the server and us and wants to see an answer
            self.finish()
        return handover

    def watch_client(self) -> None:
        if self._state != OVER:
            self._work()

    def upgrade(self, subprotocol: str | None, headers: Iterable[tuple[str, str]]) -> WebSocketExchange:
        """A host that knows WebSockets gives them a scope of their own; this one passed the handshake on as HTTP."""
        lower = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in self.scope["headers"]]
        check_upgrade(self.scope["method"], self.scope.get("http_version", "1.1"), lower)
        logger.warning("the ASGI host serves no WebSockets (for uvicorn: pip install websockets); answered 501")
        raise BadRequest(501, "the ASGI host serves no WebSockets")

    # -- what the outbox tells

    def handed(self, message: Message) -> None:
        if self._state == OVER:
            return
        if message["type"] == f"{self.prefix}.body" and not message["more_body"]:
            self.lost(None) if self._aborted else self._complete()
        elif self._wants_room and self.listener is not None:
            self._wants_room = False
            self.listener.room()

    def failed(self, error: Exception) -> None:
        if not isinstance(error, OSError):  # that is what a host says of a client that is gone
            logger.warning("the ASGI host refused a message", exc_info=error)
        self.lost(error)

    def stalled(self) -> None:
        """The client does not read: as `abort`, and what was not taken counts as unsent."""
        self.abort()

    # -- the end

    def _complete(self) -> None:
        self._state = OVER
        self._settle()
        if self.listener is not None:
            self.listener.finished()

    def lost(self, error: Exception | None) -> None:
        """The client is gone, or must be taken for it."""
        if self._state == OVER:
            return
        self._state = OVER
        self.gone = True
        self._settle()
        self.body.fail(BadRequest(400, "the client went away before its request was complete"))
        if self.listener is not None:
            self.listener.lost(error)

    def given_up(self) -> None:
        """The request's task ends.  That is news only if the host has cancelled it: then it is the host's doing."""
        if self._state != OVER:
            self.going_away(now=True)
            self.lost(None)

    def _settle(self) -> None:
        self.queue.close()
        self._body_deadline.cancel()
        self._over.wake()

    # -- the one reader of `receive`

    async def _read(self) -> None:
        try:
            while not self._read_enough():
                with anyio.CancelScope() as self._reading:
                    await self._read_messages()
                    return
                await self._gave_way()
        finally:
            self._reading = None
            self._over.wake()

    def _read_enough(self) -> bool:
        return self._state == OVER and not self._lingering

    async def _read_messages(self) -> None:
        burst = 0
        while not self._read_enough():
            if self._holding_back():
                await self._read_on.park()
                continue
            try:
                message = await self._receive()
            except Exception as error:
                if self._state != OVER:
                    self.failed(error)
                return
            burst += 1
            if burst % MESSAGES_PER_TURN == 0:
                await self.loop.checkpoint()
            if not self._received(message):
                return

    async def _gave_way(self) -> None:
        """Reading was interrupted; wait until it may go on."""

    def _holding_back(self) -> bool:
        return self.body.full

    def _received(self, message: Message) -> bool:
        """Take a message of the host's; False if it was the last."""
        kind: str = message["type"]
        if kind == "http.request":
            self._put_body(message.get("body", b""), message.get("more_body", False))
            return True
        if kind == "http.disconnect" and not self._last_is_out():
            self._left = True
            self.lost(None)
        return kind != "http.disconnect"

    def _last_is_out(self) -> bool:
        """Whether the host has got the end of the response: a host says "disconnect" then too."""
        current = self.queue.current
        return self._state == OVER or (current is not None and current.get("more_body") is False)

    # -- the request's body

    def _put_body(self, piece: bytes, more: bool) -> None:
        self._body_size += len(piece)
        if self._body_size > self.config.max_body:
            self.body.fail(BadRequest(413, f"a body of more than {self.config.max_body} bytes"))
            return
        if piece:
            self.body.put(bytes(piece))
        if not more:
            self.body.end()
        if self.body.waiting:
            self._body_deadline.set(self.config.body_timeout)
        else:
            self._body_deadline.set(math.inf)

    def _body_wanted(self) -> None:
        self._work()
        self._body_deadline.set(self.config.body_timeout)

    def _body_taken(self) -> None:
        self._body_deadline.set(math.inf)
        self._read_on.wake()

    def _body_late(self) -> None:
        self.body.fail(BadRequest(408, "the body did not arrive in time"))

    # -- drain

    def going_away(self, now: bool) -> None:
        if self.listener is not None:
            self.listener.going_away(now)

    def cancel_handler(self) -> None:
        """Drain's deadline."""
        self.handler_scope.cancel()
