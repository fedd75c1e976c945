"""What a handler gets and gives: Request, Response and the forms a response may take.

Nothing here waits except the reading of a request body, and that only calls the body source the host put in.
"""

from __future__ import annotations

import copy
import io
import json
import pathlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import IO, TYPE_CHECKING, Any, Protocol, Self, TypeAlias
from urllib.parse import parse_qsl, unquote

from channelkit._access_log import path_of
from channelkit.errors import BadRequest, HandlerError

if TYPE_CHECKING:
    from channelkit.spi import HttpExchange
    from channelkit.tls import TLSInfo

BytesLike: TypeAlias = bytes | bytearray | memoryview
Body: TypeAlias = (
    None | str | BytesLike | pathlib.Path | IO[bytes] | Iterable[str | BytesLike] | AsyncIterable[str | BytesLike]
)
HeaderValue: TypeAlias = str | int | None | Iterable[str]
HeaderInput: TypeAlias = Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]]
Address: TypeAlias = tuple[str, int] | None


_USUAL_PORTS = {"http": ":80", "https": ":443"}


class MultiMapping(Mapping[str, str]):
    """Name to value where a name may occur more than once: `m[name]` is the first, `getlist` gives all."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        self._items = tuple(items)

    def _key(self, name: str) -> str:
        return name

    def getlist(self, name: str) -> list[str]:
        """All values of `name` in order; an empty list if there are none."""
        wanted = self._key(name)
        return [value for key, value in self._items if key == wanted]

    def __getitem__(self, name: str) -> str:
        wanted = self._key(name)
        for key, value in self._items:
            if key == wanted:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key for key, _ in self._items))

    def __len__(self) -> int:
        return len({key for key, _ in self._items})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._items)!r})"


class Headers(MultiMapping):
    """Request header fields by name, in any case.  A repeated field is one value joined with ", " (RFC 9110 5.3)."""

    __slots__ = ()

    def _key(self, name: str) -> str:
        return name.lower()

    def __getitem__(self, name: str) -> str:
        values = self.getlist(name)
        if not values:
            raise KeyError(name)
        return ("; " if name.lower() == "cookie" else ", ").join(values)


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


@dataclass(slots=True)
class Response:
    """What a handler answers: a status, header fields, a body of any of the forms of `Body`.

    A header value may be a str, an int, a list (one line each), or None (left out).  A body that is neither text
    nor bytes is streamed under back-pressure and never read whole.
    """

    status: int = 200
    headers: HeaderInput = field(default_factory=dict)
    body: Body = None


def reject(status: int = 403, headers: HeaderInput = (), body: Body = None) -> Response:
    """A refusal, of an upgrade or any other request: `return reject(401, {"WWW-Authenticate": "Basic"})`."""
    if not 400 <= status <= 599 and not 300 <= status <= 399:
        raise ValueError(f"a refusal has a status of 300 to 599, not {status}")
    return Response(status, headers, body)


_MAPPINGS = (dict, Mapping)  # asking Mapping costs more than flattening a small dict


def header_lines(headers: HeaderInput) -> list[tuple[str, str]]:
    """Flatten the forms a header value may take into (name, value) lines."""
    items: Any = headers.items() if isinstance(headers, _MAPPINGS) else headers
    lines: list[tuple[str, str]] = []
    for name, value in items:
        if value is None:
            continue
        if isinstance(value, (str, int)):
            lines.append((name, str(value)))
        else:
            lines.extend((name, str(one)) for one in value)
    return lines


_FIELDS = frozenset({"status", "headers", "body"})


def to_response(value: Any) -> Response:
    """Turn a mapping or a bare body into a Response.  Raises TypeError or ValueError naming what is wrong."""
    if isinstance(value, Response):
        return value
    if isinstance(value, Mapping):
        return _from_mapping(value)
    if not is_body(value):
        raise TypeError(
            f"a {type(value).__name__} is no response: use Response, a mapping with status, headers, body, or a body "
            "(None, str, bytes, pathlib.Path, binary file, iterable or async iterable of str or bytes)"
        )
    return Response(body=value)


def _from_mapping(value: Mapping[Any, Any]) -> Response:
    unknown = set(value) - _FIELDS
    if unknown or not value:
        raise ValueError(f"a response mapping has any of status, headers, body; this one has {sorted(map(str, value))}")
    response = Response(value.get("status", 200), value.get("headers") or (), value.get("body"))
    if not is_body(response.body):
        raise TypeError(f"a {type(response.body).__name__} cannot be a body")
    return response


def is_body(value: Any) -> bool:
    """Whether `value` has one of the forms of `Body`."""
    if value is None or isinstance(value, str | bytes | bytearray | memoryview | pathlib.Path | io.IOBase):
        return True
    if isinstance(value, Mapping | int | float):
        return False
    return hasattr(value, "__iter__") or hasattr(value, "__aiter__") or hasattr(value, "read")


def whole(body: Any) -> bytes | None:
    """The bytes of a body that is already in memory; None for one that must be streamed.

    Raises ValueError for text that UTF-8 cannot carry (a lone surrogate).
    """
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes):
        return body
    if isinstance(body, bytearray | memoryview):
        return bytes(body)
    return None


def has_header(lines: Iterable[tuple[str, str]], name: str) -> bool:
    """Whether `name` (lower case) is among the header lines, in any case."""
    return any(key.lower() == name for key, _ in lines)


def check_status(status: object) -> int:
    """The status of a final response, or a TypeError or HandlerError that says what is wrong with it."""
    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"a status is an int, not {type(status).__name__}")
    if not 200 <= status <= 999:
        raise HandlerError(f"status {status} is no final response (RFC 9110 15); use 200 to 599")
    return status
