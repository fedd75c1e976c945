"""A tunnel: what a TLS link becomes when another process is to serve it.

TLS cannot be handed on, since its state is in this process.  So the other one is given an end of a pair of sockets,
and whatever the client's link reads is written to the other end, and back.  Nobody here knows any more what is said.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channelkit.server.pump.link import Link
    from channelkit.server.pump.reactor import Reactor


class Tunnel:
    """Two links, each of which is written what the other reads."""

    def __init__(self, reactor: Reactor, client: Link) -> None:
        """`client` has this as its engine from now on.  Raises OSError if there is no room for a pair of sockets."""
        near, self.far = socket.socketpair()
        self._reactor = reactor
        self._client = client
        self._process = reactor.adopt(near, lambda link: _End(self, link, client), client.config, counted=False)
        client.engine = _End(self, client, self._process)
        client.set_reading(True)  # its engine may have paused it
        reactor.tunnels.add(self)

    def finish(self) -> None:
        """End it in good order: what was read is written still."""
        self._client.finish()
        self._process.finish()

    def end_lost(self) -> None:
        """One of the links is over, and the other soon."""
        self._reactor.tunnels.discard(self)


class _End:
    """The engine of one of the two links."""

    __slots__ = ("_link", "_other", "_tunnel")

    def __init__(self, tunnel: Tunnel, link: Link, other: Link) -> None:
        self._tunnel = tunnel
        self._link = link
        self._other = other

    def data_received(self, data: memoryview) -> bool:
        self._other.write(bytes(data))
        return self.resume()

    def resume(self) -> bool:
        """Whoever does not take what it is sent slows down whoever sends it."""
        if self._other.unsent > self._other.config.soft_mark:
            self._other.notify = True
            self._link.set_reading(False)
        return False

    def wrote(self) -> None:
        """This link has handed something over, which the other may have been waiting for."""
        if self._link.unsent > self._link.config.soft_mark:
            self._link.notify = True
        else:
            self._other.set_reading(True)

    def eof_received(self) -> None:
        self._other.finish()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self._other.finish()
        else:
            self._other.abort()
        self._tunnel.end_lost()
