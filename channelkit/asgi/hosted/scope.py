"""What an ASGI scope says, as a `Request`; and header lines as ASGI wants them.  Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, unquote

from channelkit._handover import EXTENSION, Passage
from channelkit.http import Address, Request
from channelkit.wire.http1_responses import check_header
from channelkit.wire.websocket_handshake import is_websocket_request, offered_subprotocols

if TYPE_CHECKING:
    from channelkit.http import BodySource
    from channelkit.spi import HttpExchange

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

#: Fields that say how a message is framed or a connection kept: the host's business in every version of HTTP.
_FRAMING = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer", "upgrade"})
_NONE = frozenset[str]()


def request_of(scope: Scope, exchange: HttpExchange, source: BodySource | None) -> Request:
    """The request a scope describes; paths begin below the mount."""
    websocket = scope["type"] == "websocket"
    headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"])
    root_path = scope.get("root_path", "")
    query = scope.get("query_string", b"").decode("latin-1")
    path = _raw_path(scope, root_path)
    return Request(
        method="GET" if websocket else scope["method"],
        target=f"{path}?{query}" if query else path,
        raw_headers=headers,
        http_version=scope.get("http_version", "1.1"),
        scheme=_scheme(scope),
        client=_address(scope.get("client")),
        server=_address(scope.get("server")),
        is_websocket=websocket or is_websocket_request(headers),
        subprotocols=tuple(scope.get("subprotocols", ())) if websocket else offered_subprotocols(headers),
        root_path=root_path,
        state=_state(scope),
        asgi_scope=scope,
        exchange=exchange,
        source=source,
    )


def passage_of(scope: Scope) -> Passage | None:
    """What our own server gives an application, if it is the host and has company."""
    passage = (scope.get("extensions") or {}).get(EXTENSION)
    return passage if isinstance(passage, Passage) else None


def _state(scope: Scope) -> dict[str, Any]:
    """The very dict of the scope: middleware and our handler see what the other put there."""
    state: dict[str, Any] = scope.setdefault("state", {})
    return state


def _raw_path(scope: Scope, root_path: str) -> str:
    """The path below `root_path`, with its percent escapes.

    By the specification `path` holds `root_path`; some frameworks have taken it off already, and then it stays as it
    is.  `raw_path` is optional and not always cut the way `path` is: it counts only where it says the same.
    """
    path: str = scope["path"]
    raw = scope.get("raw_path") or b""
    given = raw.decode("latin-1").partition("?")[0]
    if (unquote(given) if "%" in given else given) != path:
        given = quote(path, safe=_SAFE)
    mount = root_path.rstrip("/")
    if mount and (path == mount or path.startswith(f"{mount}/")):
        escaped = quote(mount, safe=_SAFE)
        given = given[len(escaped) :] if given.startswith(escaped) else quote(path[len(mount) :], safe=_SAFE)
    return given or "/"


_SAFE = "/:@!$&'()*+,;=~-._"  # RFC 3986 3.3: pchar and "/"


def _scheme(scope: Scope) -> str:
    scheme: str = scope.get("scheme", "http")
    return {"ws": "http", "wss": "https"}.get(scheme, scheme)


def _address(value: Any) -> Address:
    """(host, port), or None for what has no port, such as a UNIX socket."""
    if value is None or value[1] is None:
        return None
    return str(value[0]), int(value[1])


def content_length(scope: Scope) -> int | None:
    """The Content-Length of the request, which the host has checked; None if it has none."""
    for name, value in scope["headers"]:
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return None


def has_denial(scope: Scope) -> bool:
    """Whether the host can answer a WebSocket handshake with a response of ours."""
    extensions: Mapping[str, Any] = scope.get("extensions") or {}
    return "websocket.http.response" in extensions


def header_pairs(
    headers: Iterable[tuple[str, str]], *, keep: frozenset[str] = frozenset()
) -> list[tuple[bytes, bytes]]:
    """Header lines for ASGI, without those that are the host's business, except for `keep`.

    Raises TypeError or ValueError, naming the header, for one that cannot be written.
    """
    pairs: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        check_header(name, value)
        lower = name.lower()
        if lower not in _FRAMING or lower in keep:
            pairs.append((lower.encode("ascii"), value.strip(" \t").encode("latin-1")))
    return pairs
