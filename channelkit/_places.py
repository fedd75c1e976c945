"""What counts as one address, wherever something is limited for each."""

from __future__ import annotations

import socket
from typing import Any

_MAPPED = b"\0" * 10 + b"\xff\xff"  # before an IPv4 address that came to an IPv6 socket


def place_of(peer: Any) -> str | bytes | None:
    """An IPv4 address; of an IPv6 address the half that one customer is given, the /64; other words as they are.

    `peer` is (host, port, ...).  None where there is no address, as on a UNIX socket.
    """
    if not isinstance(peer, tuple):
        return None
    host: str = peer[0]
    if ":" not in host:
        return host
    try:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host  # an ASGI host may call its client anything
    if packed.startswith(_MAPPED):
        return socket.inet_ntoa(packed[len(_MAPPED) :])
    return packed[:8]
