"""An ASGI application under supervision: whatever it sends out of turn, or malformed, is an error of the run.

The rules are those of the ASGI specification (HTTP and WebSocket, 2.4); `checked` stands between host and application.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from channelkit.asgi.hosted.scope import Message, Receive, Scope, Send

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AsgiRuleBroken(AssertionError):
    """The application did what the specification forbids."""


#: What may follow what, by the type of the last message that was sent ("" at first).
_HTTP: dict[str, tuple[str, ...]] = {
    "": ("http.response.start",),
    "http.response.start": ("http.response.body",),
    "http.response.body": ("http.response.body",),
    "end": (),
}
_WEBSOCKET: dict[str, tuple[str, ...]] = {
    "": ("websocket.accept", "websocket.close", "websocket.http.response.start"),
    "websocket.accept": ("websocket.send", "websocket.close"),
    "websocket.send": ("websocket.send", "websocket.close"),
    "websocket.http.response.start": ("websocket.http.response.body",),
    "websocket.http.response.body": ("websocket.http.response.body",),
    "end": (),
}
_FORBIDDEN = (b"connection", b"transfer-encoding", b"keep-alive", b"upgrade")


def checked(app: App, broken: list[str]) -> App:
    """`app` with every message looked at; what breaks a rule is appended to `broken` and raised."""

    async def supervised(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        rules = _Supervisor(scope, receive, send, broken)
        await app(scope, rules.receive, rules.send)
        rules.returned = True

    return supervised


class _Supervisor:
    def __init__(self, scope: Scope, receive: Receive, send: Send, broken: list[str]) -> None:
        self.returned = False
        self._table = _HTTP if scope["type"] == "http" else _WEBSOCKET
        self._extensions: Mapping[str, Any] = scope.get("extensions") or {}
        self._receive = receive
        self._send = send
        self._broken = broken
        self._last = ""
        self._refused = False  # the host raised
        self._receiving = self._sending = False
        self._connected = scope["type"] == "http"

    async def receive(self) -> Message:
        self._demand(not self._receiving, "two tasks call receive at once")
        self._demand(not self.returned, "receive is called after the application has returned")
        self._receiving = True
        try:
            message = await self._receive()
        finally:
            self._receiving = False
        self._connected = True
        return message

    async def send(self, message: Message) -> None:
        self._demand(not self._sending, "two tasks call send at once")
        self._demand(not self.returned, "send is called after the application has returned")
        self._demand(self._connected, "sent before websocket.connect was received")
        self._look_at(message)
        self._sending = True
        try:
            await self._send(message)
        except Exception:
            self._refused = True
            raise
        finally:
            self._sending = False

    def _look_at(self, message: Message) -> None:
        kind = message["type"]
        way_out = self._refused and kind == "websocket.close"  # from a host that does not keep its word
        self._demand(way_out or kind in self._table[self._last], f"{kind} after {self._last or 'nothing'}")
        self._last = kind
        if kind.endswith("response.start"):
            self._look_at_head(message)
            self._demand(kind.startswith("http") or "websocket.http.response" in self._extensions, "no such extension")
        elif kind.endswith("response.body"):
            self._demand(type(message["body"]) is bytes, "a body that is not bytes")
            if not message.get("more_body", False):
                self._last = "end"
        elif kind == "websocket.send":
            given = [message.get("text"), message.get("bytes")]
            self._demand(sum(one is not None for one in given) == 1, "not exactly one of text and bytes")
            self._demand(given[0] is None or type(given[0]) is str, "text that is not str")
            self._demand(given[1] is None or type(given[1]) is bytes, "bytes that are not bytes")
        elif kind == "websocket.close":
            self._last = "end"

    def _look_at_head(self, message: Message) -> None:
        self._demand(type(message["status"]) is int and 100 <= message["status"] <= 999, "a status that is none")
        for name, value in message["headers"]:
            self._demand(type(name) is bytes and type(value) is bytes, f"header {name!r} is not bytes")
            self._demand(name == name.lower(), f"header {name!r} is not in lower case")
            wanted = name == b"upgrade" and message["status"] == 426  # RFC 9110 15.5.22
            self._demand(wanted or name not in _FORBIDDEN, f"header {name!r} is the host's business")

    def _demand(self, holds: bool, what: str) -> None:
        if not holds:
            self._broken.append(what)
            raise AsgiRuleBroken(what)
