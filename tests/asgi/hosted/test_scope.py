"""Paths below a mount, escapes, schemes, addresses: what becomes of a scope."""

from __future__ import annotations

from typing import Any

import pytest

from channelkit.asgi.hosted.scope import content_length, has_denial, header_pairs, request_of


def request(**scope: Any) -> Any:
    full = {"type": "http", "method": "GET", "path": "/", "headers": [], **scope}
    return request_of(full, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scope", "path", "raw_path"),
    [
        ({"path": "/a"}, "/a", "/a"),
        ({"path": "/a b", "raw_path": b"/a%20b"}, "/a b", "/a%20b"),
        ({"path": "/a b"}, "/a b", "/a%20b"),
        ({"path": "/a/b", "raw_path": b"/a%2Fb"}, "/a/b", "/a%2Fb"),
        ({"path": "/\u00e9"}, "/\u00e9", "/%C3%A9"),
        ({"path": "/a", "raw_path": b"/a?x=1"}, "/a", "/a"),  # some clients put the query there
        ({"path": "/a%b", "raw_path": b"/a%25b"}, "/a%b", "/a%25b"),
        ({"path": "/a%b"}, "/a%b", "/a%25b"),
        ({"path": "/m/a", "root_path": "/m"}, "/a", "/a"),
        ({"path": "/m/a", "root_path": "/m/"}, "/a", "/a"),
        ({"path": "/m", "root_path": "/m"}, "/", "/"),
        ({"path": "/m/", "root_path": "/m"}, "/", "/"),
        ({"path": "/more", "root_path": "/m"}, "/more", "/more"),  # no mount of ours: it was taken off already
        ({"path": "/a", "root_path": "/m"}, "/a", "/a"),
        ({"path": "/m/a b", "raw_path": b"/m/a%20b", "root_path": "/m"}, "/a b", "/a%20b"),
        ({"path": "/m/a b", "raw_path": b"/a%20b", "root_path": "/m"}, "/a b", "/a%20b"),  # raw_path without the mount
        ({"path": "/\u00e9/a", "raw_path": b"/%C3%A9/a", "root_path": "/\u00e9"}, "/a", "/a"),
        ({"path": "/\u00e9/a%", "raw_path": b"/%c3%a9/a%25", "root_path": "/\u00e9"}, "/a%", "/a%25"),
        ({"path": "", "root_path": ""}, "/", "/"),
        ({"path": "*", "method": "OPTIONS"}, "*", "*"),
    ],
)
def test_the_path(scope: dict[str, Any], path: str, raw_path: str) -> None:
    """Paths begin below the mount; escapes are the client's own where the host tells them."""
    made = request(**scope)
    assert (made.path, made.raw_path) == (path, raw_path)


def test_the_rest_of_a_scope() -> None:
    """Scheme, addresses, query, headers, state, with what may be missing."""
    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/",
        "scheme": "wss",
        "query_string": b"a=%20&b=\xff",
        "headers": [(b"X-A", b"\xe9"), (b"x-a", b"2")],
        "client": ["1.2.3.4", 5],
        "server": ["/run/socket", None],
        "subprotocols": ["a"],
        "http_version": "2",
    }
    made = request_of(scope, None, None)  # type: ignore[arg-type]
    assert (made.method, made.scheme, made.is_websocket, made.subprotocols) == ("GET", "https", True, ("a",))
    assert (made.client, made.server, made.http_version) == (("1.2.3.4", 5), None, "2")
    assert (made.query_string, made.headers.getlist("x-a")) == ("a=%20&b=\u00ff", ["\u00e9", "2"])
    made.state["mine"] = 1
    assert scope["state"] == {"mine": 1}
    assert made.asgi_scope is scope


def test_the_announced_length() -> None:
    """A number where there is one."""
    assert content_length({"headers": [(b"content-length", b"12")]}) == 12
    assert content_length({"headers": [(b"Content-Length", b"0")]}) == 0
    assert content_length({"headers": [(b"content-length", b"x")]}) is None
    assert content_length({"headers": []}) is None


def test_denial_is_asked_for() -> None:
    """An extension that is not named is not there, however the host says so."""
    assert has_denial({"extensions": {"websocket.http.response": {}}})
    assert not has_denial({"extensions": {}})
    assert not has_denial({"extensions": None})
    assert not has_denial({})


def test_header_lines() -> None:
    """Names in lower case, repeated ones kept, framing left to the host, bad ones named."""
    lines = [("Set-Cookie", "a"), ("Set-Cookie", "b "), ("Connection", "close"), ("Upgrade", "websocket")]
    assert header_pairs(lines) == [(b"set-cookie", b"a"), (b"set-cookie", b"b")]
    assert header_pairs(lines, keep=frozenset({"upgrade"}))[-1] == (b"upgrade", b"websocket")
    with pytest.raises(ValueError, match="x-bad"):
        header_pairs([("x-bad", "a\r\nb: c")])
