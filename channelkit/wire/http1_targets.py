"""What a request is sent to: the four forms of a target, and the Host field (RFC 9112 3.2, RFC 9110 7.2).  Pure."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from channelkit.errors import BadRequest

# RFC 3986 3.2.2 host and 3.2.3 port, which may be empty; no userinfo, never an empty host.  Zones (`%25eth0`) have no
# place in it: they mean nothing beyond the machine that wrote them (RFC 9844).
_AUTHORITY = re.compile(
    r"(\[[0-9A-Za-z:.\-_~!$&'()*+,;=]++\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})++)(?::0*+([0-9]{0,5}+))?"
)
_FUTURE_LITERAL = re.compile(r"v[0-9A-Fa-f]++\.[A-Za-z0-9\-._~!$&'()*+,;=:]++")
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*+)://([^/?]*+)([^?]*+)(\?.*+)?")
_MAX_PORT = 65535


@lru_cache(maxsize=256)  # a server has few names; what is wrong raises, and that is not kept
def check_host(host: str) -> None:
    """Raise BadRequest unless `host` is a host with an optional port, as a Host field must be (RFC 9112 3.2)."""
    match = _AUTHORITY.fullmatch(host)
    if match is None or int(match[2] or 0) > _MAX_PORT:
        raise BadRequest(400, "invalid Host field or authority")
    if host[0] == "[":
        _check_literal(match[1][1:-1])


def _check_literal(literal: str) -> None:
    if _FUTURE_LITERAL.fullmatch(literal):
        return
    try:
        ipaddress.IPv6Address(literal)
    except ValueError:
        raise BadRequest(400, "what stands in brackets is no IPv6 address") from None


def read_target(method: str, target: str, served: str = "http") -> tuple[str, str | None]:
    """The target in origin-form (or `*`), and the authority if the target has one; `served` is the one scheme there is.

    Raises BadRequest for what is none of the four forms, for CONNECT, and for a scheme that is not served here.
    """
    if "#" in target:
        raise BadRequest(400, "a fragment in a request target")  # RFC 9112 3.2: none of the forms has one
    if method == "CONNECT":
        raise _connect(target)
    if target[0] == "/":
        return target, None
    if target == "*":
        if method != "OPTIONS":
            raise BadRequest(400, "the target * with another method than OPTIONS")  # RFC 9112 3.2.4
        return target, None
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise BadRequest(400, "malformed request target")
    scheme, authority, path, query = match.groups("")
    if scheme.lower() != served:
        # RFC 9110 7.4: an https resource must not be served over a connection that is not secured, nor the reverse.
        raise BadRequest(421, f"a target with the scheme {scheme[:20]!r}")
    check_host(authority)
    if not path:
        path = "*" if method == "OPTIONS" and not query else "/"  # RFC 9112 3.2.4, RFC 9110 4.2.3
    return path + query, authority


def _connect(target: str) -> BadRequest:
    """CONNECT asks for a tunnel, which this server does not make (RFC 9110 9.3.6)."""
    match = _AUTHORITY.fullmatch(target)
    if match is None or not 0 < int(match[2] or 0) <= _MAX_PORT:
        return BadRequest(400, "CONNECT to what is no host and port")
    return BadRequest(501, "CONNECT")
