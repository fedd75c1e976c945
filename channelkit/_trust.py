"""Whom to believe about who the client is: the addresses of our own proxies.  Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeAlias

from channelkit.errors import ConfigError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Trusted:
    """A set of addresses and networks; "unix" stands for every peer of a UNIX socket, "*" for everyone."""

    __slots__ = ("_everyone", "_networks", "_unix")

    def __init__(self, proxies: Iterable[str]) -> None:
        words = list(proxies)
        self._everyone = "*" in words
        self._unix = "unix" in words
        self._networks = [_network(word) for word in words if word not in ("*", "unix")]

    def peer(self, peer: Any) -> bool:
        """Whether the other end of a socket, (host, port) or None for a UNIX socket, is one of them."""
        return self._everyone or self.named(None if peer is None else peer[0])

    def named(self, host: str | None) -> bool:
        """Whether `host`, None for a UNIX socket, is named; "*" names nobody.

        So in a chain of proxies everyone who may connect is believed about his own peer, and not about what that had
        to say.
        """
        if host is None:
            return self._unix
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


@lru_cache(maxsize=64)  # asked for with each connection; there are as many as listeners with options of their own
def trusted(proxies: tuple[str, ...]) -> Trusted:
    """The set that `trusted_proxies` means.  Raises ConfigError for a word that is neither address nor network."""
    return Trusted(proxies)


def _network(word: object) -> Network:
    if not isinstance(word, str):
        raise ConfigError(f"trusted_proxies must be a list of str, not of {type(word).__name__}")
    try:
        return ipaddress.ip_network(word)
    except ValueError as error:
        raise ConfigError(
            f"trusted_proxies has {word!r}, which is neither an address, a network such as 10.0.0.0/8, "
            f'"unix" nor "*": {error}'
        ) from None
