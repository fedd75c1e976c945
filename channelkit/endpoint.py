"""`Endpoint`: one URL for every transport, with sessions below it (docs/protocol.md, "Requests").

    room = Endpoint(chat_room)          # async def chat_room(channel): ...
    serve(room)                         # or from your own handler: return await room(request)

The request decides.  Addresses that end in /ck, /ck/ws, /ck/SID and below are sessions; on the URL itself a WebSocket
without `ck.v1` and a GET that accepts text/event-stream are connection-scoped channels.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from channelkit._jobs import REQUEST
from channelkit._lifecycle import logger
from channelkit._on_workers import channel_callback, runs_on_loop
from channelkit.channel import Channel
from channelkit.config import SessionConfig
from channelkit.errors import BadMessage, BadRequest, ConfigError, MessageTooBig, NotAvailable, WorkersBusy
from channelkit.handlers import make_channel, unanswered
from channelkit.http import Request, Response
from channelkit.responding import ANSWERED, Answered
from channelkit.session import admission, refusals
from channelkit.session.actions import Kind
from channelkit.session.codec import decode_batch, decode_body, hello_members, line_limit, media_type
from channelkit.session.frames import SUBPROTOCOL, ClientHello, Numbered
from channelkit.session.identity import digest, matches, new_secret, new_sid
from channelkit.session.query import Query, parse_query
from channelkit.session.refusals import Refusal
from channelkit.session.server import ServerSession
from channelkit.status import CloseStatus
from channelkit.sync import SyncChannel, SyncRequest
from channelkit.transports.long_poll import PollCarrier
from channelkit.transports.session import LiveSession, SessionChannel
from channelkit.transports.session_http import (
    NO_STORE,
    StreamCarrier,
    ack_response,
    events_refusal,
    refusal_response,
)
from channelkit.transports.session_websocket import WebSocketCarrier
from channelkit.transports.websocket import check_origin

if TYPE_CHECKING:
    from channelkit._loop import Loop
    from channelkit.spi import Exchange

TRANSPORTS = ("websocket", "http_stream", "long_poll")
COOKIE = "ck"

#: Below the endpoint's URL.  An id is 22 characters of base64url, perhaps behind a routing hint.
_ADDRESS = re.compile(
    r"(?P<base>.*/ck)(?:/(?:(?P<new>ws)|(?P<sid>[A-Za-z0-9_-]{16,128})(?:/(?P<way>stream|events|poll|ws))?))?"
)
_ALLOWED = {"create": "POST", "session": "POST, DELETE", "attach": "GET"}

Handler = Callable[[Channel], Awaitable[Any]]
PlainFunction = Callable[[SyncChannel], Any]
Authenticate = Callable[[Request], Any]


class _Kept:
    """What an endpoint keeps of a session: the machine's binding, and a hash of the secret."""

    __slots__ = ("digest", "live", "owner")

    def __init__(self, live: LiveSession, secret: str, owner: Hashable) -> None:
        self.live = live
        self.digest = digest(secret)
        self.owner = owner  # whose sessions are counted together


class Endpoint:
    """A request handler that serves one URL over every transport; its own handler gets a Channel.

    `handler(channel)` runs once a session, and once a connection without one; when it returns the channel closes with
    1000, when it raises with 1011.  A plain `def` handler runs on the worker pool and gets a SyncChannel; so do the
    callbacks beside it, and `authenticate` with a SyncRequest, unless that is `async def`.  Callbacks may stand beside
    a handler or in its stead: without one they run on the loop.  `transports` are those offered.
    `session` is a `SessionConfig`.  `authenticate(request)`, awaited if need be, gives the principal of every request
    (hashable; None: nobody in particular), or a Response that refuses it; a session belongs to the principal that
    made it.  `origins` are those of other sites whose pages may use this endpoint ("*": all).

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
            on_receive = channel_callback(on_receive)
        self._transports = _names(transports)
        self._config = session or SessionConfig()
        if self._config.ack == "processed":
            raise NotAvailable("ack='processed' is not in this version; leave it at 'inbox'")
        self._authenticate = authenticate
        self._origins = None if origins is None else tuple(origins)
        self._callbacks: dict[str, Any] = {"on_open": on_open, "on_receive": on_receive, "on_close": on_close}
        self._sessions: dict[str, _Kept] = {}
        self._owners: Counter[Hashable] = Counter()
        self._ended: deque[tuple[float, LiveSession]] = deque()  # tombstones, by when they may be forgotten

    def __repr__(self) -> str:
        return f"<Endpoint of {self._handler!r}, {len(self._sessions)} sessions>"

    # -- the application's view of sessions

    @property
    def session_count(self) -> int:
        """How many sessions are open."""
        return self._owners.total()

    def session(self, session_id: str) -> SessionChannel | None:
        """The open session with this public id, or None."""
        kept = self._sessions.get(session_id)
        return None if kept is None or kept.live.machine.over else kept.live.channel

    # -- requests

    async def __call__(self, request: Request) -> Any:
        """Serve one request; returns what the handler of the server returns."""
        if (address := _ADDRESS.fullmatch(request.path)) is None:
            return await self._connection(request)
        try:
            return await self._session_request(request, address)
        except BadMessage as error:
            return refusal_response(refusals.malformed(error))

    async def _principal(self, request: Request) -> Any:
        if self._authenticate is None:
            return None
        if self._plain and not runs_on_loop(self._authenticate):
            workers = unanswered(request).host.workers
            return await workers.run(REQUEST, self._authenticate, SyncRequest(request))
        result = self._authenticate(request)
        return await result if inspect.isawaitable(result) else result

    # -- connection-scoped channels

    async def _connection(self, request: Request) -> Any:
        if request.is_websocket and "websocket" in self._transports and SUBPROTOCOL not in request.subprotocols:
            return await self._channel(request)
        accepts_events = "text/event-stream" in request.headers.get("accept", "")
        if request.method == "GET" and accepts_events and "http_stream" in self._transports:
            if (refusal := self._origin(request, by_cookie=False)) is not None:
                return refusal_response(refusal)
            return await self._channel(request, framing="sse")
        return self._offer(request)

    def _offer(self, request: Request) -> Response:
        """Nothing here fits: what would."""
        status = 426 if "websocket" in self._transports and not request.is_websocket else 406
        sessions = f"{_path(request).rstrip('/')}/ck"
        text = f"This is a channel. It offers: {', '.join(self._transports)}; sessions at {sessions}\n"
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        if status == 426:
            headers += [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
        return Response(status, headers, text)

    async def _channel(self, request: Request, framing: str | None = None) -> Any:
        principal = await self._principal(request)
        if isinstance(principal, Response):
            return principal
        if self._plain:
            unanswered(request).host.workers.check_room()  # 503 now, or else 1013 behind the handshake
        channel = make_channel(request, framing=framing, origins=self._origins, quiet=True)
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
        except WorkersBusy:
            pass  # closed with 1013; counted and logged by the pool
        except Exception:
            logger.exception("the handler of %r raised; closed with 1011", channel)
        finally:
            channel._handler_returned()

    # -- sessions

    async def _session_request(self, request: Request, address: re.Match[str]) -> Any:
        credential, by_cookie = _credential(request)
        if (refusal := self._origin(request, by_cookie=by_cookie)) is not None:  # before any look-up
            return refusal_response(refusal)
        principal = await self._principal(request)
        if isinstance(principal, Response):
            return principal
        sid, way = address["sid"], address["way"] or address["new"]
        if way == "ws":
            return self._websocket(request, sid, credential, principal)
        if sid is None:
            return self._create(request, principal) if request.method == "POST" else _not_allowed("create")
        if way is not None and request.method != "GET":
            return _not_allowed("attach")
        if way is None and request.method not in ("POST", "DELETE"):
            return _not_allowed("session")
        query = parse_query(request.query_params, request.headers.get("last-event-id") if way == "events" else None)
        found = self._find(unanswered(request).loop, sid, credential, principal)
        if isinstance(found, Refusal):
            return events_refusal(found, query.ack) if way == "events" else refusal_response(found)
        if way == "poll":
            return await self._poll(request, found, query)
        if way is not None:
            return self._stream(request, found, query, Kind.EVENTS if way == "events" else Kind.STREAM)
        if request.method == "DELETE":
            refusal = found.delete(query.a)
            return Response(204, [*NO_STORE]) if refusal is None else refusal_response(refusal)
        return await self._post(request, found, query)

    def _origin(self, request: Request, *, by_cookie: bool) -> Refusal | None:
        host = request.headers.get("host", "").lower()
        return admission.origin(
            sent=request.headers.get("origin"),
            own=frozenset({f"http://{host}", f"https://{host}"}),  # a proxy in front may have taken the TLS off
            allowed=frozenset(self._origins or ()),
            by_cookie=by_cookie,
            fetch_site=request.headers.get("sec-fetch-site"),
            referer=request.headers.get("referer"),
        )

    def _find(self, loop: Loop, sid: str, secret: str | None, principal: Hashable) -> LiveSession | Refusal:
        """The session of a credential.  Unknown, wrong secret, wrong principal: one answer, on one path."""
        self._forget(loop)
        kept = self._sessions.get(sid)
        if kept is not None and kept.live.loop.native is not loop.native:
            kept = None  # of another event loop, which nobody could reach from here
        refusal = admission.credential(
            known=kept is not None,
            secret_matches=matches(None if kept is None else kept.digest, secret),
            principal_matches=kept is not None and kept.live.principal == principal,
        )
        if refusal is not None:
            return refusal
        assert kept is not None
        return kept.live

    # -- creation and the end

    def _create(self, request: Request, principal: Hashable) -> Response:
        query = parse_query(request.query_params)
        made = self._make(request, unanswered(request), principal, query.a)
        if isinstance(made, Refusal):
            return refusal_response(made)
        live, secret = made
        path = f"{_path(request)}/{live.machine.sid}"
        headers = [("Location", path), ("Content-Type", "application/json"), *NO_STORE]
        if request.query_params.get("cookie") == "1":
            cookie = f"{COOKIE}={secret}; HttpOnly; Secure; SameSite=Strict; Path={path}"
            headers.append(("Set-Cookie", cookie))
        return Response(201, headers, _hello_body(live, secret))

    def _make(
        self, request: Request, exchange: Exchange, principal: Hashable, a: int
    ) -> tuple[LiveSession, str] | Refusal:
        self._forget(exchange.loop)
        owner = principal if principal is not None else request.client and request.client[0]
        if exchange.host.stopping:
            return refusals.draining(None)
        if self._owners.total() >= self._config.max_sessions:
            exchange.loop.tally.hit("max_sessions", "a session was not made")
            return refusals.crowded()
        if self._plain:
            exchange.host.workers.check_room()
        if self._owners[owner] >= self._config.max_sessions_per_principal:
            exchange.loop.tally.hit("max_sessions_per_principal", f"{owner!r} has that many")
            return refusals.crowded(own_fault=True)
        secret = new_secret()
        machine = ServerSession(new_sid(), self._config, exchange.loop.time(), a=a)
        live = LiveSession(machine, request, exchange, principal, self._begin, self._over)
        self._sessions[machine.sid] = _Kept(live, secret, owner)
        self._owners[owner] += 1
        return live, secret

    def _begin(self, channel: SessionChannel) -> None:
        """The first request was admitted."""
        self._open(channel)
        if self._handler is not None:
            channel._loop.spawn(self._run, channel, name=f"session of {channel.request.path}")
        else:
            channel._handler_returned()

    def _over(self, live: LiveSession) -> None:
        kept = self._sessions[live.machine.sid]
        self._owners[kept.owner] -= 1
        if not self._owners[kept.owner]:
            del self._owners[kept.owner]
        self._ended.append((live.machine.forget_at, live))

    def _forget(self, loop: Loop) -> None:
        """Drop the tombstones whose grace is over."""
        while self._ended:
            when, live = self._ended[0]
            if live.loop.native is loop.native and when > loop.time():
                return
            self._ended.popleft()
            self._sessions.pop(live.machine.sid, None)

    # -- the bindings

    async def _poll(self, request: Request, live: LiveSession, query: Query) -> Response | Answered:
        if "long_poll" not in self._transports:
            return _not_offered("long_poll")
        answer = await PollCarrier(live, unanswered(request)).answered(query.a, query.ack, query.wait)
        return ANSWERED if answer is None else answer

    def _stream(self, request: Request, live: LiveSession, query: Query, kind: Kind) -> Response | Answered:
        if "http_stream" not in self._transports:
            return _not_offered("http_stream")
        refused = StreamCarrier(live, unanswered(request), kind, query.ack).begin(query.a, query.ack)
        if refused is None:
            return ANSWERED
        if kind is Kind.EVENTS:
            return events_refusal(refused.refusal, query.ack)
        return refusal_response(refused.refusal)

    async def _post(self, request: Request, live: LiveSession, query: Query) -> Response:
        limit = self._config.max_message
        content_type = request.headers.get("content-type", "")
        body = await _body(request, line_limit(limit))
        frames: list[Numbered]
        if media_type(content_type) == "application/x-ndjson" or (not body and query.n is None):
            frames = decode_batch(body, limit)
        else:
            frames = [decode_body(content_type, body, query.n, limit)]
        answer = live.post(query.a, query.ack, frames)
        return refusal_response(answer) if isinstance(answer, Refusal) else ack_response(answer)

    def _websocket(self, request: Request, sid: str | None, credential: str | None, principal: Hashable) -> Any:
        if not request.is_websocket:
            return Response(426, {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}, "Upgrade Required\n")
        if "websocket" not in self._transports:
            return _not_offered("websocket")
        if SUBPROTOCOL not in request.subprotocols:
            raise BadRequest(400, f"a session's WebSocket needs the subprotocol {SUBPROTOCOL}")
        check_origin(request, self._origins)
        exchange = unanswered(request)
        welcome = partial(self._welcome, request, exchange, sid, credential, principal)
        websocket = exchange.upgrade(SUBPROTOCOL, ())
        WebSocketCarrier(websocket, welcome, self._config.max_message, self._config.hello_timeout)
        exchange.watch_client()
        return ANSWERED

    def _welcome(
        self,
        request: Request,
        exchange: Exchange,
        sid: str | None,
        credential: str | None,
        principal: Hashable,
        hello: ClientHello,
    ) -> tuple[LiveSession, str | None] | Refusal:
        """The session that a WebSocket's first frame asks for; without an id it is a new one, told with its secret."""
        wanted = sid or hello.sid
        if wanted is None:
            return self._make(request, exchange, principal, hello.a)
        found = self._find(exchange.loop, wanted, hello.secret or credential, principal)
        return found if isinstance(found, Refusal) else (found, None)


# -- reading requests, making answers ----------------------------------------------------------------------------------


def _credential(request: Request) -> tuple[str | None, bool]:
    """The secret that a request presents, and whether a cookie does: those need proof of where they come from (P8)."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip(), False
    cookie = request.cookies.get(COOKIE)
    return cookie, cookie is not None


async def _body(request: Request, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise MessageTooBig(f"a body of more than {limit} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _hello_body(live: LiveSession, secret: str) -> bytes:
    return (json.dumps(hello_members(live.machine.hello(secret)), separators=(",", ":")) + "\n").encode()


def _path(request: Request) -> str:
    """The request's own path, as the client sees it."""
    return request.root_path.rstrip("/") + request.raw_path


def _not_allowed(what: str) -> Response:
    return Response(405, [("Allow", _ALLOWED[what]), *NO_STORE], "Method Not Allowed\n")


def _not_offered(transport: str) -> Response:
    return Response(406, [*NO_STORE], f"This endpoint does not offer {transport}.\n")


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
    wrong = [name for name in names if name not in TRANSPORTS]
    if wrong or not names:
        raise ConfigError(
            f"transports must be some of {', '.join(TRANSPORTS)}, not {', '.join(map(repr, wrong)) or '()'}"
        )
    return names
