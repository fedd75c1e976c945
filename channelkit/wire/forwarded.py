"""Who a request came from, by what proxies have written into it: `Forwarded` (RFC 7239) and `X-Forwarded-*`.  Pure.

Each proxy appends what it knows of its own peer, so the fields are read from the right, and only as far as those who
wrote them are trusted: the client is the rightmost who is no trusted proxy.  What stands left of it, anyone could have
sent, and it is not even looked at.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from channelkit.errors import BadRequest
from channelkit.wire.http1_targets import check_host

Address: TypeAlias = tuple[str, int]
Fields: TypeAlias = tuple[tuple[str, str], ...]
Trust: TypeAlias = Callable[[str | None], bool]  # of an address; None: who has none, at a UNIX socket


@dataclass(frozen=True, slots=True)
class Origin:
    """What trusted proxies tell.  What is None they do not tell; a client who is hidden from us is None too."""

    client: Address | None = None
    hidden: bool = False  # told of, but not by address
    scheme: str | None = None
    host: str | None = None


class Malformed(ValueError):
    """What trusted proxies have written cannot be understood."""


def read_x_forwarded(fields: Fields, trusted: Trust) -> Origin:
    """By X-Forwarded-For, -Proto and -Host; those that are not there tell nothing.

    Of -Proto and -Host the member beside the client's in -For counts, if they have as many, else the last.  Raises
    Malformed.
    """
    hops = _members(fields, "x-forwarded-for")
    client, at = None, 0
    for text in reversed(hops):
        at += 1
        client = None if text == "unix:" else _address(text)  # nginx's word for the peer of a UNIX socket
        if not trusted(client and client[0]):
            break
    proto, host = (_beside(_members(fields, f"x-forwarded-{name}"), len(hops), at) for name in ("proto", "host"))
    return Origin(client, bool(hops) and client is None, _scheme(proto), _host(host))


def _members(fields: Fields, name: str) -> list[str]:
    """The members of a list field, however many lines it has; empty ones are none (RFC 9110 5.6.1.2)."""
    members = [member.strip(" \t") for key, value in fields if key == name for member in value.split(",")]
    return [member for member in members if member]


def _beside(members: list[str], hops: int, at: int) -> str | None:
    if not members:
        return None
    return members[-at] if len(members) == hops and at else members[-1]


def read_forwarded(fields: Fields, trusted: Trust) -> Origin:
    """By Forwarded.  Raises Malformed."""
    told = Origin()
    for element in _elements(fields):
        node = element.get("for")
        hidden = node is not None and _OBFUSCATED.fullmatch(node) is not None
        client = _client(node) if node is not None and not hidden else told.client if node is None else None
        told = Origin(client, hidden, _scheme(element.get("proto")), _host(element.get("host")))
        if node is None or client is None or not trusted(client[0]):
            break
    return told


# An element at the end of a field's value (RFC 7239 4).  A comma inside quotes is none between elements.  What a
# client has sent before our proxy's element can spoil only its own: its quotes do not reach over ours, since behind
# a closing quote an element goes on with a semicolon or ends.
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rf'(?:{_TOKEN}|"(?:[^"\\]|\\.)*+")'
_PAIR = rf"{_TOKEN}={_VALUE}"
_LAST = re.compile(rf"(?:^|,)[ \t]*+((?:{_PAIR})?(?:;(?:{_PAIR})?)*+)[ \t]*$")
_PAIRS = re.compile(rf"({_TOKEN})=({_VALUE})")


def _elements(fields: Fields) -> Iterator[dict[str, str]]:
    """From the right; a part that is none raises Malformed when it is reached."""
    for _, value in reversed([field for field in fields if field[0] == "forwarded"]):
        rest = value
        while True:
            match = _LAST.search(rest)
            if match is None:
                raise Malformed(f"Forwarded does not end in an element: {rest[-100:]!r}")
            if match[1]:
                yield _pairs(match[1])
            if not match.start():
                break
            rest = rest[: match.start()]


def _pairs(element: str) -> dict[str, str]:
    found = [(name.lower(), _unquoted(value)) for name, value in _PAIRS.findall(element)]
    pairs = dict(found)
    if len(pairs) < len(found):
        raise Malformed(f"a parameter occurs twice in {element!r}")  # RFC 7239 4
    return pairs


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


_OBFUSCATED_PORT = re.compile(r"_[A-Za-z0-9._\-]+")
_OBFUSCATED = re.compile(r"(?:unknown|_[A-Za-z0-9._\-]+)(?::(?:[0-9]{1,5}|_[A-Za-z0-9._\-]+))?", re.IGNORECASE)


def _client(node: str) -> Address:
    """A node that is not hidden; its port may be (RFC 7239 6)."""
    host, _, port = node.rpartition(":")
    return _address(host if _OBFUSCATED_PORT.fullmatch(port) else node)


# An address as proxies write it: with a port or without, IPv6 in brackets or, if without a port, bare.
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)")


def _address(text: str) -> Address:
    match = _NODE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        host = ipaddress.ip_address(match[1] or match[2] or match[4])
        port = int(match[3] or 0)
        if port > 65535 or (match[1] is not None and host.version == 4):
            raise ValueError
    except ValueError:
        raise Malformed(f"{text[:100]!r} is no address") from None
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return str(mapped or host), port


_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def _scheme(text: str | None) -> str | None:
    if text is None:
        return None
    scheme = _SCHEMES.get(text.lower())
    if scheme is None:
        raise Malformed(f"{text[:100]!r} is none of http, https, ws and wss")
    return scheme


def _host(text: str | None) -> str | None:
    if text is not None:
        try:
            check_host(text)
        except BadRequest:
            raise Malformed(f"{text[:100]!r} is no host") from None
    return text
