"""What a handler gets.

Nothing here waits except the reading of a request body, and that only calls the body source the host put in.
"""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias
from urllib.parse import parse_qsl, unquote

from channelkit._access_log import path_of
from channelkit.errors import BadRequest
from channelkit.http.headers import Headers, MultiMapping

if TYPE_CHECKING:
    from channelkit.spi import HttpExchange
    from channelkit.tls import TLSInfo

Address: TypeAlias = tuple[str, int] | None

_USUAL_PORTS = {"http": ":80", "https": ":443"}


class BodySource(Protocol):
    """Where a request's body comes from; the host implements it."""

    async def read(self) -> bytes:
        """The next piece, or b"" at the end.  Raises BadRequest if the peer breaks off or sends too much."""
        ...


class _Pieces:
    """The pieces of a request's body; no async generator, so leaving the loop early leaves nothing to be closed."""

    __slots__ = ("_given", "_request")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._given = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = b""
        if self._request._body is not None:
            if not self._given:
                piece = self._request._body
        elif self._request._source is not None:
            piece = await self._request._source.read()
        self._given = True
        if not piece:
            raise StopAsyncIteration
        return piece


class RequestData:
    """What is known of a request without waiting: the same for `Request` and `SyncRequest`."""

    __slots__ = (
        "_body",
        "_cookies",
        "_exchange",
        "_headers",
        "_host",
        "_query",
        "_source",
        "_state",
        "asgi_scope",
        "client",
        "http_version",
        "is_websocket",
        "method",
        "principal",
        "query_string",
        "raw_headers",
        "raw_path",
        "root_path",
        "scheme",
        "server",
        "subprotocols",
        "tls",
    )

    def __init__(
        self,
        *,
        method: str,
        target: str,
        raw_headers: tuple[tuple[str, str], ...] = (),
        http_version: str = "1.1",
        scheme: str = "http",
        tls: TLSInfo | None = None,
        client: Address = None,
        server: Address = None,
        host: str | None = None,
        is_websocket: bool = False,
        subprotocols: tuple[str, ...] = (),
        root_path: str = "",
        state: dict[str, Any] | None = None,
        asgi_scope: Mapping[str, Any] | None = None,
        exchange: HttpExchange | None = None,
        source: BodySource | None = None,
    ) -> None:
        self.method = method
        self.raw_path, _, self.query_string = target.partition("?")
        self.raw_headers = raw_headers
        self.http_version = http_version
        self.scheme = scheme
        self.tls = tls
        self.client = client
        self.server = server
        self.is_websocket = is_websocket
        self.subprotocols = subprotocols
        self.root_path = root_path
        self.asgi_scope = asgi_scope
        self.principal: Any = None
        self._host = host
        self._exchange = exchange
        self._source = source
        self._headers: Headers | None = None
        self._query: MultiMapping | None = None
        self._cookies: dict[str, str] | None = None
        self._state = state
        self._body: bytes | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method} {path_of(self.raw_path)}>"

    @property
    def path(self) -> str:
        """The path with its percent escapes decoded as UTF-8."""
        raw = self.raw_path
        return unquote(raw) if "%" in raw else raw

    @property
    def headers(self) -> Headers:
        """The header fields by name, in any case."""
        if self._headers is None:
            self._headers = Headers(self.raw_headers)
        return self._headers

    @property
    def host(self) -> str:
        """The Host field, or what a trusted proxy says it was; "" if there is none."""
        return self._host if self._host is not None else self.headers.get("host", "")

    @property
    def origins(self) -> frozenset[str]:
        """The origins of this server's own pages, as browsers write them: scheme://host, the port if it is unusual.

        Over TLS, here or by what a trusted proxy or the host tells, it is the https one only.  Without, both: a proxy
        may have taken the TLS off and not told.
        """
        host = self.host.lower()
        if not host:
            return frozenset()
        schemes = ("https",) if self.scheme == "https" else ("http", "https")
        return frozenset(f"{scheme}://{host.removesuffix(_USUAL_PORTS[scheme])}" for scheme in schemes)

    @property
    def query_params(self) -> MultiMapping:
        """The decoded query: `request.query_params.get("n")`, or `.getlist("n")`."""
        if self._query is None:
            self._query = MultiMapping(parse_qsl(self.query_string, keep_blank_values=True))
        return self._query

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name; a malformed Cookie header gives those before the fault."""
        if self._cookies is None:
            jar: SimpleCookie = SimpleCookie()
            try:
                jar.load(self.headers.get("cookie", ""))
            except CookieError:
                pass  # foreign input: what could be read is what there is
            self._cookies = {name: morsel.value for name, morsel in jar.items()}
        return self._cookies

    @property
    def state(self) -> dict[str, Any]:
        """A dict of your own, empty at first."""
        if self._state is None:
            self._state = {}
        return self._state

    def outliving(self) -> Self:
        """A copy for what outlives its connection, and keeps nothing of it; a body that was not read is gone there."""
        kept = copy.copy(self)
        kept._exchange = kept._source = None
        return kept


class Request(RequestData):
    """One HTTP request, as the handler sees it.

    `path` is decoded, `raw_path` is not; both begin below `root_path`, the prefix that an ASGI application was mounted
    at ("" on our own server).  `client` and `server` are (host, port) of the socket, or what a trusted proxy tells
    (`proxy_protocol`, `forwarded`), never of a header that anyone could have sent; None where there is no such thing,
    as with UNIX sockets.  `host` is what the client asked, with a port where it named one.  `scheme` is "http" or
    "https", for WebSockets too; `tls` is what is known of the connection's TLS where it is our own server that speaks
    it (version, cipher, the client's certificate), else None.  `principal` is what the `authenticate` of an `Endpoint`
    made of the request; None without.

    `state` is a dict of your own; under ASGI it is the scope's, so what middleware left is in it, and `asgi_scope` is
    the whole scope (None on our own server).  `body()`, `stream()` and `json()` wait for the peer and may be used by
    one task at a time; cancelled, they leave what has not been returned to the next call.
    """

    __slots__ = ()

    def stream(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives; reading it is what lets the peer send more.

        Leaving the loop early leaves the rest for the next reader.  Raises BadRequest if the peer breaks off or
        exceeds `max_body`; uncaught, it becomes the right answer.
        """
        return _Pieces(self)

    async def body(self) -> bytes:
        """The whole body, at most `max_body` bytes; a second call gives the same bytes."""
        if self._body is None:
            self._body = b"".join([piece async for piece in self.stream()])
        return self._body

    async def json(self) -> Any:
        """The body read as JSON.  Raises BadRequest(400) if it is none; uncaught, the peer gets that answer."""
        try:
            return json.loads(await self.body())
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise BadRequest(400, f"the body is not JSON: {error}") from None
