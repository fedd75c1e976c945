"""The reactor: all sockets of one loop in one epoll, and the loop is woken once for all that are ready.

The traps it steers around, each seen: events of a connection that was closed earlier in the same batch (looked up by
descriptor *and* generation); HUP that cannot be masked (a paused link that gets one is unregistered, with a
deadline); one connection holding the loop (one read and 64 messages a turn, 5 ms in all); running out of descriptors.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from channelkit._deadline import Deadline
from channelkit._places import Crowds
from channelkit.server.pump.accepting import Listener, OnConnect
from channelkit.server.pump.forks import keep_from_forks
from channelkit.server.pump.later import Later
from channelkit.server.pump.poller import IN, RDHUP, Poller
from channelkit.server.pump.socket_link import SocketLink

if TYPE_CHECKING:
    from channelkit._loop import Loop
    from channelkit.config import Config
    from channelkit.server.pump.proxied import Proxied
    from channelkit.server.pump.tls_link import TlsAcceptor, TlsLink
    from channelkit.server.pump.tunnel import Tunnel
    from channelkit.wire.proxy_protocol import ProxyHeader

READ_SIZE = 256 * 1024
EVENTS_PER_POLL = 512
TURN = 0.005  # seconds a tick may take before the rest waits for the next
LAST_WORDS = 2.0  # seconds that a tunnel is kept then: what is behind it may be stopping too, and say goodbye
LAST_HANDSHAKE = 0.5  # seconds they get when the listener closes: two long round trips
FLUSH_SLICE = 0.002  # seconds of flushing before the loop gets a turn
HANDSHAKE_SLICE = 0.002  # seconds of TLS handshakes in a turn: one or two with RSA, and then everybody else


class Reactor:
    """See the module."""

    def __init__(
        self,
        loop: Loop,
        config: Config,
        *,
        poller: Poller | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.loop = loop
        self.config = config
        self.poller: Poller = select.epoll() if poller is None else poller
        self.buffer = memoryview(bytearray(READ_SIZE))
        self._plain: memoryview | None = None
        self.meters = loop.meters
        self.clock = clock
        self._handlers: dict[int, Any] = {}  # descriptor -> SocketLink or Listener
        self._batch: deque[tuple[Any, int]] = deque()  # polled, and not served yet
        self._links: set[SocketLink] = set()
        self._ready = Later(self, _go_on, TURN)
        self.handshaking: set[TlsLink] = set()
        self._handshakes = Later(self, _shake_hands, HANDSHAKE_SLICE)  # those that can go a step further
        self._dirty: deque[SocketLink] = deque()
        self._flush_scheduled = False
        self._ticking = False
        self._closing: list[socket.socket] = []  # closed at the end of the tick, so no number is reused within it
        self._listeners: list[Listener] = []
        self._last_handshakes = Deadline(loop, self._end_handshakes)
        self.tunnels: set[Tunnel] = set()  # connections that other processes serve
        self._last_words = Deadline(loop, self._end_tunnels)
        self._closed = False
        self.proxied: set[Proxied] = set()  # connections before their PROXY header
        self._crowds = Crowds(config.max_connections_per_address)
        self.on_link_closed: Callable[[], None] = lambda: None
        loop.watch(self.poller.fileno(), self.tick)
        keep_from_forks(self)

    @property
    def links(self) -> int:
        """How many connections there are, also those that only linger, and those that no proxy has introduced yet.

        A tunnel is one, though it has two links.
        """
        return len(self._links) + len(self.proxied) - len(self.tunnels)

    @property
    def plain(self) -> memoryview:
        """Another buffer, for what was decrypted; there once it is needed."""
        if self._plain is None:
            self._plain = memoryview(bytearray(READ_SIZE))
        return self._plain

    # -- coming and going

    def listen(
        self,
        sock: socket.socket,
        on_connect: OnConnect,
        busy: bytes = b"",
        config: Config | None = None,
        tls: TlsAcceptor | None = None,
    ) -> Listener:
        """Accept connections on a non-blocking listening socket; `busy` is what one too many from a place is told.

        `config` is theirs, if it is not the reactor's; with `tls` they speak TLS.
        """
        listener = Listener(self, sock, on_connect, busy, config or self.config, tls)
        self._listeners.append(listener)
        return listener

    def adopt(
        self,
        sock: socket.socket,
        on_connect: OnConnect,
        config: Config | None = None,
        header: ProxyHeader | None = None,
        *,
        tls: TlsAcceptor | None = None,
        counted: bool = True,
    ) -> SocketLink:
        """Serve a connected socket.  The engine may already write, pause or abort while it is made.

        With `tls` it is made when the handshake is done.  `header` is what a proxy has told of the connection.  Not
        `counted`, it is none of the connections of its address.
        """
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = config or self.config
        link = SocketLink(self, sock, config) if tls is None else tls.link(self, sock, config, on_connect)
        if header is not None:
            link.introduced(header)
        self._links.add(link)
        if counted:
            link.place = self._crowds.enter(link.peer)
        self.register(sock.fileno(), link, IN | RDHUP)
        if tls is None:
            try:
                link.engine = on_connect(link)
            except BaseException:
                link.drop()
                raise
        return link

    def forget(self, listener: Listener) -> None:
        """It is closed.  Connections of which nobody has told yet whose they are, and those still in their handshake,
        get a moment: a request may be right behind it.  Tunnels get a longer one.
        """
        self._listeners.remove(listener)
        if self.proxied or self.handshaking:
            self._last_handshakes.set(LAST_HANDSHAKE)
        if self.tunnels:
            self._last_words.set(LAST_WORDS)

    def _end_handshakes(self) -> None:
        for one in tuple(self.proxied):
            one.close()
        for link in tuple(self.handshaking):
            link.hang_up()

    def _end_tunnels(self) -> None:
        for tunnel in tuple(self.tunnels):
            tunnel.finish()

    def register(self, fd: int, handler: Any, events: int) -> None:
        self._handlers[fd] = handler
        self.poller.register(fd, events)

    def descriptors(self) -> Iterable[int]:
        """Of all listeners and connections, but for those that only linger."""
        return () if self._closed else tuple(self._handlers)

    def unregister(self, fd: int) -> None:
        """Always before the socket is closed: a descriptor that lives elsewhere would go on being reported."""
        if self._handlers.pop(fd, None) is not None:
            self.poller.unregister(fd)

    def discard(self, sock: socket.socket) -> None:
        """Close a socket that is unregistered; inside a tick, at its end."""
        if self._ticking:
            self._closing.append(sock)
        else:
            sock.close()

    def crowded(self, peer: Any) -> bool:
        """Whether there are as many connections from where `peer` is as may be."""
        return self._crowds.full(peer)

    def link_closed(self, link: SocketLink) -> None:
        self._links.discard(link)
        if link.place is not None:
            self._crowds.leave(link.place)
        self.room_again()

    def room_again(self) -> None:
        """A connection is over."""
        for listener in self._listeners:
            listener.wake()
        self.on_link_closed()

    def close(self) -> None:
        """Cut every link, close the epoll.  The engines are told by the loop's last turn."""
        if self._closed:
            return
        self._closed = True
        for listener in tuple(self._listeners):
            listener.close()
        self._last_handshakes.cancel()
        self._last_words.cancel()
        self._end_handshakes()
        for link in tuple(self._links):  # not only those the epoll knows: some are unregistered, see `_hung_up`
            link.cut()
        self._batch.clear()
        self.loop.unwatch(self.poller.fileno())
        self.poller.close()

    # -- the tick

    def tick(self) -> None:
        """Serve what is ready.  Never entered while it runs."""
        if self._ticking or self._closed:
            return
        self.turn(self._serve_events)

    def turn(self, serve: Callable[[], None]) -> None:
        """Call `serve`; what it wrote leaves at its end, and sockets it closed are closed then."""
        was_ticking, self._ticking = self._ticking, True
        try:
            serve()
            self._flush_dirty()
        finally:
            self._ticking = was_ticking
            for sock in self._closing:
                sock.close()
            self._closing.clear()

    def _serve_events(self) -> None:
        batch = self._batch
        if not batch:
            # The owners are looked up before any user code runs: a number may belong to another by then.
            owner = self._handlers.get
            batch.extend([(owner(fd), events) for fd, events in self.poller.poll(0, EVENTS_PER_POLL)])
        began = now = self.clock()
        while batch:
            handler, events = batch.popleft()
            if handler is not None:
                handler.on_events(events)
                now = self.clock()
                if now - began > TURN:
                    # The rest comes first next time: epoll reports in an unchanging order, so whoever stands at its
                    # head and is always ready would starve the others.  It is readable still, so there is a next time;
                    # but what is watched by edges (`proxied`) was reported once, and would wait here for somebody else.
                    if batch and self.proxied:
                        self.loop.call_soon(self.tick)
                    break
        if now - began > self.meters.longest_tick:
            self.meters.longest_tick = now - began

    def make_ready(self, link: SocketLink) -> None:
        """`link` has work buffered: it goes on in the next turn."""
        if not link.queued:
            link.queued = True
            self._ready.add(link)

    def make_handshake(self, link: TlsLink) -> None:
        """`link` can go a step further with its handshake, when it is its turn, behind all that is ready."""
        self._handshakes.add(link)

    # -- flushing

    def make_dirty(self, link: SocketLink) -> None:
        """A dirty link exists, so a flush is scheduled in this turn."""
        self._dirty.append(link)
        if not self._ticking and not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self._flush_scheduled = False
        self._flush_dirty()

    def _flush_dirty(self) -> None:
        """Oldest first, in slices: a broadcast to thousands must not hold the loop."""
        dirty = self._dirty
        until = self.clock() + FLUSH_SLICE
        while dirty:
            dirty.popleft().flush_turn()
            if dirty and self.clock() > until:
                if not self._flush_scheduled:
                    self._flush_scheduled = True
                    self.loop.call_soon(self._flush_later)
                return


def _go_on(link: SocketLink) -> None:
    link.queued = False
    link.go_on()


def _shake_hands(link: TlsLink) -> None:
    link.shake_hands()
