"""Accepting connections: how many at once, how many from one address, and what happens when there is no room."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from channelkit._deadline import Deadline
from channelkit._lifecycle import logger
from channelkit.server.pump.link import Engine, Link
from channelkit.server.pump.proxied import Proxied, name_of

if TYPE_CHECKING:
    from channelkit.config import Config
    from channelkit.server.pump.reactor import Reactor
    from channelkit.server.pump.tls_link import TlsAcceptor
    from channelkit.wire.proxy_protocol import ProxyHeader

ACCEPTS_PER_TURN = 64
LAST_TURNS = 32  # at the end: 2,048 connections, more than `backlog` lets wait
REST = 0.5  # seconds a listener rests when descriptors have run out
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

OnConnect = Callable[[Link], Engine]


def told(address: Any) -> tuple[str, int] | None:
    """(host, port) of a socket's address, None for UNIX sockets; IPv4 by its own address on an IPv6 socket too."""
    if not isinstance(address, tuple):
        return None
    host: str = address[0]
    return (host[7:] if host.startswith("::ffff:") and "." in host else host), address[1]


class Listener:
    """A listening socket of the reactor."""

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        on_connect: OnConnect,
        busy: bytes,
        config: Config,
        tls: TlsAcceptor | None,
    ) -> None:
        self._config = config  # of the connections that come by here
        self._fronted = (config.proxy_protocol, config.forwarded) != ("disable", "ignore")
        self._tls = tls
        self._reactor = reactor
        self._sock: socket.socket | None = sock
        self._on_connect = on_connect
        self._busy = busy
        self._resting = False
        self._timer = Deadline(reactor.loop, self._rested)
        reactor.register(sock.fileno(), self, select.EPOLLIN)

    def on_events(self, events: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._sock is None or self._resting:
                return
            if self._reactor.links >= self._reactor.config.max_connections:
                self._rest(None)
                return
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._rest(error)
                    return
                continue  # that connection is gone already (ECONNABORTED and its kin)
            self._accepted(sock, told(peer))

    def _accepted(self, sock: socket.socket, peer: Any) -> None:
        """A trusted proxy's connections are not counted as its own: they are those of its clients."""
        config, reactor = self._config, self._reactor
        trusted = self._fronted and config.trusts(peer)
        if trusted and config.proxy_protocol != "disable":
            Proxied(reactor, self, sock, peer, config)
        elif config.proxy_protocol == "enable":
            reactor.loop.tally.hit("proxy_protocol", f"{name_of(peer)}, not one of trusted_proxies, was turned away")
            sock.close()
        elif not trusted and reactor.crowded(peer):
            self._turn_away(sock, peer)
        else:
            self._adopt(sock, counted=not trusted)

    def arrived(self, sock: socket.socket, header: ProxyHeader | None) -> None:
        """A trusted proxy has told whose connection this is, or, where that is its choice, has told nothing."""
        if header is not None and header.proxied and self._reactor.crowded(header.client):
            self._turn_away(sock, header.client)
            self._reactor.room_again()
        else:
            self._adopt(sock, header, counted=header is not None and header.proxied)

    def _turn_away(self, sock: socket.socket, peer: Any) -> None:
        """Tell why, as far as that costs nothing: a connection that was turned away must leave no work behind."""
        self._reactor.loop.tally.hit("max_connections_per_address", f"one more from {peer[0]} was turned away")
        sock.setblocking(False)
        try:
            sock.send(self._busy)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        sock.close()

    def _adopt(self, sock: socket.socket, header: ProxyHeader | None = None, *, counted: bool) -> None:
        try:
            self._reactor.adopt(sock, self._on_connect, self._config, header, tls=self._tls, counted=counted)
        except Exception:
            logger.exception("a new connection cannot be served; it is cut")
            self._reactor.discard(sock)

    def _rest(self, error: OSError | None) -> None:
        """Look away for a while: a listener that cannot accept would be reported for ever."""
        assert self._sock is not None
        self._resting = True
        self._reactor.unregister(self._sock.fileno())
        if error is not None:
            self._timer.set(REST)
            self._reactor.loop.tally.hit("descriptors", f"cannot accept ({error.strerror}); new connections wait")
        else:
            self._reactor.loop.tally.hit("max_connections", "new connections wait in the kernel's queue")

    def wake(self) -> None:
        """A connection has ended; if the limit was the reason to rest, there is room again."""
        if self._resting and self._reactor.links < self._reactor.config.max_connections:
            self._rested()

    def _rested(self) -> None:
        if self._sock is not None and self._resting:
            self._resting = False
            self._timer.cancel()
            self._reactor.register(self._sock.fileno(), self, select.EPOLLIN)

    def close(self) -> None:
        """Stop listening at once.  What waits in the kernel's queue was promised an answer: it is accepted still."""
        if not self._resting:
            for _ in range(LAST_TURNS):
                self.on_events(0)
        sock, self._sock = self._sock, None
        if sock is not None:
            self._reactor.forget(self)
            self._timer.cancel()
            if not self._resting:
                self._reactor.unregister(sock.fileno())
            sock.close()
