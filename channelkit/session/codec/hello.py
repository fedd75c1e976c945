"""The two hellos as JSON objects, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from channelkit.errors import BadMessage
from channelkit.session.codec.values import SHOWN, read_count
from channelkit.session.frames import VERSION, ClientHello, Hello, Terms

_BOUNDED = 2**31  # hello's counts and sizes: more is nobody's memory


def hello_members(hello: Hello) -> dict[str, object]:
    """The JSON object of a server's hello."""
    members: dict[str, object] = {"v": VERSION}
    if hello.sid is not None:
        members["sid"] = hello.sid
    if hello.secret is not None:
        members["secret"] = hello.secret
    if hello.a is not None:
        members["a"] = hello.a
    if hello.by is not None:
        members["by"] = hello.by
    members["recv"] = hello.recv
    if hello.have is not None:
        members["have"] = hello.have
    if (terms := hello.terms) is not None:
        members |= {"window": [terms.window, terms.window_bytes], "max": terms.max_message}
        members |= {"ping": _short(terms.ping), "grace": _short(terms.grace)}
    return {"recv": hello.recv} if hello == Hello(hello.recv) else members


def client_hello_members(hello: ClientHello) -> dict[str, object]:
    """The JSON object of a client's hello."""
    given = {"sid": hello.sid, "secret": hello.secret}
    named: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    return {"v": VERSION, **named, "a": hello.a, "recv": hello.recv}


def read_server_hello(value: object) -> Hello:
    """A server's hello from its JSON value."""
    members = _hello(value)
    recv = read_count(members.get("recv"), "recv", 0)
    terms = None
    if "window" in members:
        window = members["window"]
        if not isinstance(window, list) or len(window) < 2:
            raise BadMessage("hello: window must be [messages, bytes]")
        terms = Terms(
            window=_count(window[0], "window"),
            window_bytes=_count(window[1], "window"),
            max_message=_count(members.get("max"), "max"),
            ping=_seconds(members.get("ping"), "ping"),
            grace=_seconds(members.get("grace"), "grace"),
        )
    a, by = (read_count(members[name], name, 1) if name in members else None for name in ("a", "by"))
    have = read_count(members["have"], "have", 0) if "have" in members else None
    return Hello(recv, _optional_text(members, "sid"), a, terms, by, have, _optional_text(members, "secret"))


def read_client_hello(value: object) -> ClientHello:
    """A client's hello from its JSON value."""
    members = _hello(value)
    if "v" not in members:
        raise BadMessage("hello: v is missing")
    return ClientHello(
        a=read_count(members.get("a", 1), "a", 1),
        recv=read_count(members.get("recv", 0), "recv", 0),
        sid=_optional_text(members, "sid"),
        secret=_optional_text(members, "secret"),
    )


ReadHello = Callable[[object], Hello | ClientHello]


def _hello(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadMessage("hello must be a JSON object")
    version = value.get("v", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise BadMessage(f"hello: version {str(version)[:SHOWN]} is not spoken here, only {VERSION}")
    return value


def _optional_text(members: dict[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.isascii() or not 0 < len(value) <= 512:
        raise BadMessage(f"hello: {name} must be an ASCII string of 1 to 512 characters")
    return value


def _seconds(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e9:
        raise BadMessage(f"hello: {what} must be seconds above 0")
    return value


def _count(value: object, what: str) -> int:
    number = read_count(value, what, 1)
    if number > _BOUNDED:
        raise BadMessage(f"hello: {what} is beyond reason")
    return number


def _short(seconds: float) -> float:
    return int(seconds) if seconds == int(seconds) else seconds


def hello_json(hello: Hello | ClientHello) -> bytes:
    members = hello_members(hello) if isinstance(hello, Hello) else client_hello_members(hello)
    return json.dumps(members, separators=(",", ":")).encode("ascii")
