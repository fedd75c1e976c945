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

if TYPE_CHECKING:
    from channelkit.config import Config
    from channelkit.server.pump.reactor import Reactor

ACCEPTS_PER_TURN = 64
REST = 0.5  # seconds a listener rests when descriptors have run out
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

OnConnect = Callable[[Link], Engine]


class Listener:
    """A listening socket of the reactor."""

    def __init__(
        self, reactor: Reactor, sock: socket.socket, on_connect: OnConnect, busy: bytes, config: Config
    ) -> None:
        self._config = config  # of the connections that come by here
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
            if self._reactor.crowded(peer):
                self._turn_away(sock, peer)
            else:
                self._adopt(sock)

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

    def _adopt(self, sock: socket.socket) -> None:
        try:
            self._reactor.adopt(sock, self._on_connect, self._config)
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
        """Stop listening at once; nothing more is accepted."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._reactor.forget(self)
            self._timer.cancel()
            if not self._resting:
                self._reactor.unregister(sock.fileno())
            sock.close()
