"""A connection that begins with a header of the PROXY protocol: what stands before its link.

The header is peeked at and taken out of the kernel only when it is whole.  So nothing else needs to know of it: the
link that follows, with TLS or without, finds the client's first byte where it always is, and where there turns out to
be no header, nothing has been read.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, Any

from channelkit._deadline import Deadline
from channelkit.errors import BadProxyHeader
from channelkit.wire.proxy_protocol import V1_MAX, ProxyHeader, read_proxy_header

if TYPE_CHECKING:
    from channelkit.config import Config
    from channelkit.server.pump.accepting import Listener
    from channelkit.server.pump.reactor import Reactor

# Edge-triggered: what was peeked at stays readable, and would be reported for ever.
_EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


class Proxied:
    """A handler of the reactor, for as long as the header is not complete."""

    __slots__ = ("_config", "_deadline", "_listener", "_peer", "_reactor", "_sock")

    def __init__(self, reactor: Reactor, listener: Listener, sock: socket.socket, peer: Any, config: Config) -> None:
        self._reactor = reactor
        self._listener = listener
        self._sock: socket.socket | None = sock
        self._peer = peer
        self._config = config
        self._deadline = Deadline(reactor.loop, self._late)
        self._deadline.set(config.proxy_timeout)
        sock.setblocking(False)
        reactor.proxied.add(self)
        reactor.register(sock.fileno(), self, _EVENTS)

    def on_events(self, events: int) -> None:
        """More may be there than when it was last looked at, also the end."""
        if self._sock is None:
            return
        try:
            data = self._sock.recv(max(V1_MAX, self._config.max_proxy_header), socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        try:
            header = read_proxy_header(data, self._config.max_proxy_header) if data else None
        except BadProxyHeader as error:
            self._refuse(error)
            return
        if header is not None:
            self._go_on(header)
        elif events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
            if data:
                self._tell(f"it ended inside its PROXY header: {data[:V1_MAX]!r}")
            self.close()  # with nothing at all: somebody looks whether the port is open

    def _refuse(self, error: BadProxyHeader) -> None:
        if error.absent and self._config.proxy_protocol == "optional":
            self._hand_over(None)
        else:
            # Without an answer, as the specification wants it: what would be answered is not known to be HTTP.
            self._tell(error)
            self.close()

    def _go_on(self, header: ProxyHeader) -> None:
        assert self._sock is not None
        self._sock.recv(header.size)
        self._hand_over(header)

    def _hand_over(self, header: ProxyHeader | None) -> None:
        sock = self._leave()
        assert sock is not None
        self._listener.arrived(sock, header)

    def _late(self) -> None:
        self._reactor.loop.tally.hit(
            "proxy_timeout", f"the PROXY header of {name_of(self._peer)} did not arrive in time"
        )
        self.close()

    def _tell(self, what: object) -> None:
        self._reactor.loop.tally.hit("proxy_protocol", f"a connection from {name_of(self._peer)} was closed: {what}")

    def _leave(self) -> socket.socket | None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._deadline.cancel()
            self._reactor.proxied.discard(self)
            self._reactor.unregister(sock.fileno())
        return sock

    def close(self) -> None:
        """Close without a word.  May be called again."""
        sock = self._leave()
        if sock is not None:
            self._reactor.discard(sock)
            self._reactor.room_again()


def name_of(peer: Any) -> str:
    """A peer, for the log."""
    return f"{peer[0]} port {peer[1]}" if peer else "a UNIX socket"
