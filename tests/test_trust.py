"""`trusted_proxies`: which peers are believed."""

from __future__ import annotations

from typing import Any

import pytest

from channelkit._trust import trusted
from channelkit.errors import ConfigError

V4, V6 = ("192.0.2.7", 5), ("2001:db8::7", 5)


@pytest.mark.parametrize(
    ("proxies", "peer", "expected"),
    [
        ((), V4, False),
        ((), None, False),
        (("*",), V4, True),
        (("*",), None, True),
        (("unix",), None, True),
        (("unix",), V4, False),
        (("192.0.2.7",), V4, True),
        (("192.0.2.7",), None, False),
        (("192.0.2.8",), V4, False),
        (("192.0.2.0/24",), V4, True),
        (("192.0.2.0/24",), V6, False),
        (("2001:db8::/32",), V6, True),
        (("2001:db8:0::7",), V6, True),
        (("fe80::/10",), ("fe80::1%eth0", 5), True),
        (("192.0.2.0/24",), ("::ffff:192.0.2.7", 5), True),
        (("10.0.0.0/8", "192.0.2.7"), V4, True),
        (("10.0.0.0/8",), ("no address", 0), False),
    ],
)
def test_who_is_trusted(proxies: tuple[str, ...], peer: Any, expected: bool) -> None:
    """Addresses, networks of both families, peers of UNIX sockets, everyone; an IPv4 address however it is written."""
    assert trusted(proxies).peer(peer) is expected


@pytest.mark.parametrize("word", ["localhost", "10.0.0.1/8", "10.0.0", "", 7])
def test_a_word_that_means_nothing_is_named(word: Any) -> None:
    """A name, a network with host bits, an incomplete address: the mistake is the caller's, with the word in it."""
    with pytest.raises(ConfigError, match="trusted_proxies"):
        trusted((word,))
