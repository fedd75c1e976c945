"""What counts as one address, wherever something is limited for each; and counting by it."""

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


class Crowds:
    """How many there are from each place, and whether that is as many as may be."""

    __slots__ = ("_counts", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: dict[str | bytes, int] = {}

    def full(self, peer: Any) -> bool:
        """Whether no more may come from where `peer` is; never where there is no address."""
        place = place_of(peer)
        return place is not None and self._counts.get(place, 0) >= self._most

    def enter(self, peer: Any) -> str | bytes | None:
        """One more; where it is, if anywhere, for `leave`."""
        place = place_of(peer)
        if place is not None:
            self._counts[place] = self._counts.get(place, 0) + 1
        return place

    def leave(self, place: str | bytes) -> None:
        """One less; a place without any takes no memory."""
        self._counts[place] -= 1
        if not self._counts[place]:
            del self._counts[place]
