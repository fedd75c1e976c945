"""The opening handshake of RFC 6455, as far as it is HTTP: what a client asks for, and whether it may have it.

`headers` are those of a `RequestHead`: names in lower case, one pair a line, in the order of the wire.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator

from channelkit.errors import BadRequest

Headers = Iterable[tuple[str, str]]

VERSION = "13"

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
# 16 bytes are 21 digits, one of which only 2 bits are used, and two pads; other last digits are not canonical.
_KEY = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
# RFC 6455 9.1, every repetition possessive: no value makes these look at a character twice.
_T, _SPACE, _QUOTED = _TOKEN.pattern, r"[ \t]*+", r'"(?:[^"\\]|\\.)*+"'
_PARAMETER = re.compile(rf";{_SPACE}({_T})(?:{_SPACE}={_SPACE}(?:({_T})|({_QUOTED})))?")
_PARAMETERS = rf"(?:{_SPACE};{_SPACE}{_T}(?:{_SPACE}={_SPACE}(?:{_T}|{_QUOTED}))?)*+"
# A member of the list and the comma behind it; empty members are passed over (RFC 9110 5.6.1).
_EXTENSION = re.compile(rf"{_SPACE}(?:({_T})({_PARAMETERS}))?{_SPACE}(?:,|$)")

_REFUSAL_HEADERS = {
    405: (("Allow", "GET"),),  # RFC 9110 15.5.6
    426: (("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)),  # RFC 9110 15.5.22, RFC 6455 4.4
}


def sec_websocket_accept(key: str) -> str:
    """The Sec-WebSocket-Accept value that answers a client's Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode("ascii")


def is_websocket_request(headers: Headers) -> bool:
    """Whether a request asks for a WebSocket, properly or not: `websocket` is among its Upgrade tokens."""
    for name, value in headers:  # noqa: SIM110  (asked for each request; `any` takes twice as long)
        if name == "upgrade" and "websocket" in _split(value.lower()):
            return True
    return False


def offered_subprotocols(headers: Headers) -> tuple[str, ...]:
    """The subprotocols a client offers, in its order, each once.  What is no token cannot be chosen and is left out."""
    offered = _members(headers, "sec-websocket-protocol")
    return tuple(dict.fromkeys(one for one in offered if _TOKEN.fullmatch(one)))


def offered_extensions(headers: Headers) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """The extensions a client offers, in its order, with their parameters; None for one without a value.

    Raises BadRequest(400) for what is no list of extensions: RFC 6455 9.1 lets such a handshake fail.
    """
    offers: list[tuple[str, list[tuple[str, str | None]]]] = []
    for value in _values(headers, "sec-websocket-extensions"):
        at = 0
        while at < len(value):
            found = _EXTENSION.match(value, at)
            if found is None:
                raise BadRequest(400, "Sec-WebSocket-Extensions is no list of extensions")
            if found[1] is not None:
                offers.append((found[1], [_parameter(one) for one in _PARAMETER.finditer(found[2])]))
            at = found.end()
    return offers


def _parameter(found: re.Match[str]) -> tuple[str, str | None]:
    """RFC 6455 9.1: a value may be quoted, and is a token all the same."""
    name, token, quoted = found.groups()
    if quoted is None:
        return name, token
    value = re.sub(r"\\(.)", r"\1", quoted[1:-1])
    if _TOKEN.fullmatch(value) is None:
        raise BadRequest(400, "a quoted extension parameter is no token")
    return name, value


def check_upgrade(method: str, http_version: str, headers: Headers) -> str:
    """The Sec-WebSocket-Key of a valid opening handshake (RFC 6455 4.2.1).

    Raises BadRequest: 405 for a method other than GET, 426 for a request that asks for no WebSocket or for another
    version of it, 400 for the rest.  `refusal_headers` has what must stand beside these statuses.
    """
    headers = tuple(headers)
    if method != "GET":
        raise BadRequest(405, f"a WebSocket handshake by {method}")
    if http_version != "1.1":
        raise BadRequest(400, f"a WebSocket handshake in HTTP/{http_version}")
    if not is_websocket_request(headers):
        raise BadRequest(426, "no WebSocket was asked for")
    if "upgrade" not in [one.lower() for one in _members(headers, "connection")]:
        raise BadRequest(400, "a WebSocket handshake without Connection: upgrade")
    versions = _values(headers, "sec-websocket-version")
    if not versions:
        raise BadRequest(400, "a WebSocket handshake without Sec-WebSocket-Version")
    if versions != [VERSION]:
        raise BadRequest(426, f"WebSocket version {', '.join(versions)[:40]!r}")
    return _key(headers)


def refusal_headers(status: int) -> tuple[tuple[str, str], ...]:
    """The header lines that a refusal with `status` must carry."""
    return _REFUSAL_HEADERS.get(status, ())


def _key(headers: Headers) -> str:
    keys = _values(headers, "sec-websocket-key")
    if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
        raise BadRequest(400, "Sec-WebSocket-Key is not there once, as base64 of 16 bytes")
    return keys[0]


def _values(headers: Headers, name: str) -> list[str]:
    return [value for key, value in headers if key == name]


def _members(headers: Headers, name: str) -> Iterator[str]:
    """The members of a list field, over all its lines (RFC 9110 5.6.1)."""
    for value in _values(headers, name):
        yield from _split(value)


def _split(value: str) -> list[str]:
    return [one for part in value.split(",") if (one := part.strip(" \t"))]
