"""`Endpoint` itself: its options, what each request is for, and the life of the application's handler.

The request decides.  Addresses that end in /ck, /ck/ws, /ck/SID and below are sessions; on the URL itself a WebSocket
without `ck.v1` and a GET that accepts text/event-stream are connection-scoped channels.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from channelkit import registry
from channelkit._lifecycle import logger
from channelkit._threads.jobs import REQUEST
from channelkit._threads.plain import channel_callback, message_callback, runs_on_loop
from channelkit.channel import Channel
from channelkit.config import SessionConfig
from channelkit.endpoint.addresses import Address, parse_address
from channelkit.endpoint.admission import COOKIE, Admission, Authenticate, credential
from channelkit.endpoint.cors import Cors, Fields, checked_origins, is_preflight, with_fields
from channelkit.endpoint.failures import Failures
from channelkit.endpoint.passing import pass_on
from channelkit.endpoint.table import Sessions
from channelkit.endpoint.uplink import post
from channelkit.endpoint.visit import Visit
from channelkit.errors import BadMessage, BadRequest, ConfigError, WorkersBusy
from channelkit.handlers import make_channel, unanswered
from channelkit.http import Request, Response
from channelkit.responding import BUSY
from channelkit.session import refusals
from channelkit.session.codec import hello_members
from channelkit.session.frames import SUBPROTOCOL
from channelkit.session.query import parse_query
from channelkit.session.refusals import Refusal
from channelkit.status import CloseStatus
from channelkit.sync import SyncChannel
from channelkit.transports.session import LiveSession
from channelkit.transports.session_channel import SessionChannel
from channelkit.transports.session_http import NO_STORE, refusal_response

if TYPE_CHECKING:
    from channelkit._loop import Loop
    from channelkit.spi import SessionTransport

TRANSPORTS = ("websocket", "http_stream", "long_poll")

Handler = Callable[[Channel], Awaitable[Any]]
PlainFunction = Callable[[SyncChannel], Any]


class Endpoint:
    """A request handler that serves one URL over every transport; its own handler gets a Channel.

    `handler(channel)` runs once a session, and once a connection without one; when it returns the channel closes with
    1000, when it raises with 1011.  A plain `def` handler runs on the worker pool and gets a SyncChannel; so do the
    callbacks beside it, and `authenticate` with a SyncRequest, unless that is `async def`.  Callbacks may stand beside
    a handler or in its stead: without one they run on the loop.  `transports` are those offered:
    the built-in three, and by their names those of other packages (`spi.SessionTransport`).
    `session` is a `SessionConfig`.  `authenticate(request)`, awaited if need be, gives the principal of every request
    (hashable; None: nobody in particular), or a Response that refuses it; a session belongs to the principal that
    made it, and every channel of this endpoint has it as `channel.principal`.  `origins` are those of other sites whose
    pages may use this endpoint ("*": all, but without cookies).

    Any number of requests may run at once, on one event loop.  Raises ConfigError for options that cannot work.
    """

    def __init__(
        self,
        handler: Handler | PlainFunction | None = None,
        *,
        transports: Iterable[str] = TRANSPORTS,
        session: SessionConfig | None = None,
        authenticate: Authenticate | None = None,
        origins: Iterable[str] | None = None,
        on_open: Callable[[Any], Any] | None = None,
        on_receive: Callable[[Any, Any], Any] | None = None,
        on_close: Callable[[Any, CloseStatus], Any] | None = None,
    ) -> None:
        self._handler = _checked(handler, on_open or on_receive)
        self._plain = isinstance(self._handler, _PlainHandler)
        if self._plain:
            on_open, on_close = channel_callback(on_open, must=True), channel_callback(on_close, must=True)
            on_receive = message_callback(on_receive)
        self._transports = _names(transports)
        config = session or SessionConfig()
        listed = checked_origins(origins)
        failures = Failures(config.failed_credentials, config.failure_interval, config.failing_addresses)
        self._admission = Admission(authenticate, listed, failures, plain=self._plain)
        self._cors = Cors(listed, config.preflight_age)
        self._callbacks: dict[str, Any] = {"on_open": on_open, "on_receive": on_receive, "on_close": on_close}
        self._sessions = Sessions(config, failures, self._begin, plain=self._plain)

    def __repr__(self) -> str:
        return f"<Endpoint of {self._handler!r}, {self.session_count} sessions>"

    # -- the application's view of sessions

    @property
    def session_count(self) -> int:
        """How many sessions are open."""
        return self._sessions.count

    def session(self, session_id: str) -> SessionChannel | None:
        """The open session with this public id, or None."""
        return self._sessions.channel(session_id)

    # -- requests

    async def __call__(self, request: Request) -> Any:
        """Serve one request; returns what the handler of the server returns."""
        fields = self._cors.fields(request)
        try:
            answer = await self._answer(request, fields)
        except BadRequest as error:
            error.fields = fields
            raise
        except WorkersBusy:
            answer = Response(BUSY.status, BUSY.headers, BUSY.body)
        except BadMessage as error:
            answer = refusal_response(refusals.malformed(error))
        return with_fields(answer, fields) if isinstance(answer, Response) else answer

    async def _answer(self, request: Request, fields: Fields) -> Any:
        address = parse_address(request.path)
        if is_preflight(request):
            methods = "GET" if address is None else address.methods
            return self._cors.preflight(request, methods) or self._foreign(request, refusals.origin())
        secret, by_cookie = (None, False) if address is None else credential(request)
        if (refusal := self._admission.origin(request, by_cookie=by_cookie)) is not None:  # before any look-up
            return self._foreign(request, refusal)
        if address is None:
            return await self._connection(request, fields)
        if address.sid is not None and (answer := await pass_on(request, address.sid, self._sessions.config)):
            return answer
        loop = unanswered(request).loop
        proven = partial(self._proven, loop, address, secret)
        principal = await self._admission.principal(request, loop, proven)
        if isinstance(principal, Response):
            return principal
        if unanswered(request).gone and (address.sid is None or address.way is not None):  # while that was asked
            raise BadRequest(400, "the client went away before it was answered")
        return await self._session_request(request, address, fields, secret, principal)

    def _proven(self, loop: Loop, address: Address, secret: str | None) -> bool:
        """Whether the request has its session's secret; a hello will, or be told no more than that it has not."""
        if address.sid is not None and (transport := _transport(address)) is not None and transport.hello_first:
            return True
        return self._sessions.proven(loop, address.sid, secret)

    def _foreign(self, request: Request, refusal: Refusal) -> Response:
        """A page that may not: it learns next to nothing, so the log says what to do."""
        origin = request.headers.get("origin", "none, with a cookie")[:100]
        text = f"{request.method} from origin {origin!r}; if it may, name it in origins=[...] of the Endpoint"
        unanswered(request).loop.tally.hit("origin", text)
        return refusal_response(refusal)

    # -- connection-scoped channels

    async def _connection(self, request: Request, fields: Fields) -> Any:
        if request.is_websocket and "websocket" in self._transports and SUBPROTOCOL not in request.subprotocols:
            return await self._channel(request)
        accepts_events = "text/event-stream" in request.headers.get("accept", "")
        if request.method == "GET" and accepts_events and "http_stream" in self._transports:
            return await self._channel(request, "sse", fields)
        return self._offer(request)

    def _offer(self, request: Request) -> Response:
        """Nothing here fits: what would."""
        status = 426 if "websocket" in self._transports and not request.is_websocket else 406
        base, _, _ = f"{_path(request).rstrip('/')}/".partition("/ck/")  # also of a mistyped address below it
        sessions = f"{base.rstrip('/')}/ck"
        text = f"This is a channel. It offers: {', '.join(self._transports)}; sessions at {sessions}\n"
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        if status == 426:
            headers += [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
        return Response(status, headers, text)

    async def _channel(self, request: Request, framing: str | None = None, fields: Fields = ()) -> Any:
        principal = await self._admission.principal(request, unanswered(request).loop, lambda: False)
        if isinstance(principal, Response | Refusal):
            return principal if isinstance(principal, Response) else refusal_response(principal)
        if self._plain:
            unanswered(request).host.workers.check_room()  # 503 now, or else 1013 behind the handshake
        channel = make_channel(request, headers=fields, framing=framing, origins=("*",), quiet=True)  # judged already
        self._open(channel)
        if self._handler is not None:
            await self._run(channel)
        return channel

    def _open(self, channel: Channel) -> None:
        holding = self._handler is not None and self._callbacks["on_receive"] is None
        channel._open(**self._callbacks, holding=holding)

    async def _run(self, channel: Channel) -> None:
        """The handler of a channel, to its end; whatever it does, the channel is closed then."""
        assert self._handler is not None
        try:
            async with channel:
                await self._handler(channel)
                if isinstance(channel, SessionChannel):
                    channel.handled()
        except WorkersBusy:
            pass  # closed with 1013; counted and logged by the pool
        except Exception:
            logger.exception("the handler of %r raised; closed with 1011", channel)
        finally:
            channel._handler_returned()

    # -- sessions

    async def _session_request(
        self, request: Request, address: Address, fields: Fields, secret: str | None, principal: Any
    ) -> Any:
        if address.way is not None:
            return await self._carry(address, Visit(request, self._sessions, address.sid, fields, secret, principal))
        if request.method not in address.methods.split(", "):
            return _not_allowed(address)
        if address.sid is None:
            return self._create(request, principal)
        query = parse_query(request.query_params)
        found = self._sessions.find(request, unanswered(request).loop, address.sid, secret, principal)
        if isinstance(found, Refusal):
            return refusal_response(found)
        if request.method == "DELETE":
            refusal = found.delete(query.a)
            return Response(204, [*NO_STORE]) if refusal is None else refusal_response(refusal)
        return await post(request, found, query)

    async def _carry(self, address: Address, visit: Visit) -> Any:
        """A connection that wants to carry a session."""
        way = address.way
        transport = _transport(address)
        if transport is None or way is None or (address.sid is None and not transport.hello_first):
            return self._offer(visit.request)
        if visit.request.method != "GET":
            return _not_allowed(address)
        if transport.name not in self._transports:
            return Response(406, [*NO_STORE], f"This endpoint does not offer {transport.name}.\n")
        answer = transport.carry(visit, way)
        return await answer if inspect.isawaitable(answer) else answer

    def _create(self, request: Request, principal: Any) -> Response:
        query = parse_query(request.query_params)
        by_cookie = request.query_params.get("cookie") == "1"
        if by_cookie and ";" in request.raw_path:  # which ends a cookie's Path (RFC 6265 4.1.1), and begins what else?
            raise BadRequest(400, "no cookie can be for a path with a semicolon")
        made = self._sessions.make(request, unanswered(request), principal, query.a)
        if isinstance(made, Refusal):
            return refusal_response(made)
        live, secret = made
        path = f"{_path(request)}/{live.machine.sid}"
        headers = [("Location", path), ("Content-Type", "application/json"), *NO_STORE]
        if by_cookie:
            cookie = f"{COOKIE}={secret}; HttpOnly; Secure; SameSite=Strict; Path={path}"
            headers.append(("Set-Cookie", cookie))
        return Response(201, headers, _hello_body(live, secret))

    def _begin(self, channel: SessionChannel) -> None:
        """The first request of a session was admitted."""
        self._open(channel)
        if self._handler is not None:
            channel._loop.spawn(self._run, channel, name=f"session of {channel.request.path}")
        else:
            channel._handler_returned()


def _transport(address: Address) -> SessionTransport | None:
    return next((one for one in registry.session_transports() if address.way in one.ways), None)


def _hello_body(live: LiveSession, secret: str) -> bytes:
    return (json.dumps(hello_members(live.machine.hello(secret)), separators=(",", ":")) + "\n").encode()


def _path(request: Request) -> str:
    """The request's own path, as the client sees it."""
    return request.root_path.rstrip("/") + request.raw_path


def _not_allowed(address: Address) -> Response:
    return Response(405, [("Allow", address.methods), *NO_STORE], "Method Not Allowed\n")


def _checked(handler: Any, callbacks: Any) -> Handler | None:
    if handler is None:
        if callbacks is None:
            raise ConfigError("an Endpoint needs a handler, on_open or on_receive: nobody would talk to its channels")
        return None
    if not callable(handler):
        raise ConfigError(f"a handler is a function that takes a channel, not {handler!r}")
    return cast("Handler", handler) if runs_on_loop(handler) else _PlainHandler(handler)


class _PlainHandler:
    """A plain `def` handler of channels, as the loop calls it."""

    def __init__(self, function: PlainFunction) -> None:
        self._function = function

    def __repr__(self) -> str:
        return repr(self._function)

    async def __call__(self, channel: Channel) -> Any:
        await channel._exchange.host.workers.run(REQUEST, self._function, channel.sync)


def _names(transports: Iterable[str]) -> tuple[str, ...]:
    names = (transports,) if isinstance(transports, str) else tuple(transports)
    known = [one.name for one in registry.session_transports()]
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise ConfigError(f"transports must be some of {', '.join(known)}, not {', '.join(map(repr, wrong)) or '()'}")
    return names
