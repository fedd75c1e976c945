"""What an application is told about a request: the ASGI scope.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from channelkit._handover import EXTENSION, Passage

if TYPE_CHECKING:
    from channelkit.http import Request

VERSION = "3.0"
HTTP_VERSION = "2.3"  # from 2.4 on `send` raises when the client is gone; here it returns, and `receive` tells
WEBSOCKET_VERSION = "2.4"  # there `send` raises an OSError, and a disconnect has a reason
LIFESPAN_VERSION = "2.0"

Scope = dict[str, Any]


def http_scope(request: Request, root_path: str, state: dict[str, Any], passage: Passage | None) -> Scope:
    """The scope of a plain request."""
    scope = _connection(request, root_path, state)
    if passage is not None:
        scope["extensions"] = {EXTENSION: passage}
    scope["type"] = "http"
    scope["asgi"] = {"version": VERSION, "spec_version": HTTP_VERSION}
    scope["scheme"] = request.scheme
    scope["method"] = request.method  # as it came: methods are case-sensitive (RFC 9110 9.1)
    return scope


def websocket_scope(request: Request, root_path: str, state: dict[str, Any], passage: Passage | None) -> Scope:
    """The scope of a WebSocket handshake."""
    scope = _connection(request, root_path, state)
    scope["type"] = "websocket"
    scope["asgi"] = {"version": VERSION, "spec_version": WEBSOCKET_VERSION}
    scope["scheme"] = "wss" if request.scheme == "https" else "ws"
    scope["subprotocols"] = list(request.subprotocols)
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    if passage is not None:
        extensions[EXTENSION] = passage
    scope["extensions"] = extensions
    return scope


def lifespan_scope(state: dict[str, Any]) -> Scope:
    """The scope of the server's own life; `state` is the application's to fill."""
    return {"type": "lifespan", "asgi": {"version": VERSION, "spec_version": LIFESPAN_VERSION}, "state": state}


def _connection(request: Request, root_path: str, state: dict[str, Any]) -> Scope:
    # `root_path` is what a proxy cut off, so it stands in front of both paths (as uvicorn does it since 0.26).
    return {
        "http_version": request.http_version,
        "path": root_path + request.path,
        "raw_path": (root_path + request.raw_path).encode("latin-1"),
        "query_string": request.query_string.encode("latin-1"),
        "root_path": root_path,
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.raw_headers],
        "client": request.client,
        "server": request.server,
        "state": state.copy(),  # shallow: a request's own keys, everybody's values
    }
