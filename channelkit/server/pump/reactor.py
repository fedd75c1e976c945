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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from channelkit._deadline import Deadline
from channelkit._places import place_of
from channelkit.server.pump.accepting import Listener, OnConnect, told
from channelkit.server.pump.link import FINISHING, LINGER_BYTES, LOST, OPEN, Link

if TYPE_CHECKING:
    from channelkit._loop import Loop
    from channelkit.config import Config
    from channelkit.server.pump.proxied import Proxied
    from channelkit.server.pump.tls_link import TlsAcceptor, TlsLink
    from channelkit.wire.proxy_protocol import ProxyHeader

IN, OUT, HUP, ERR, RDHUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP, select.EPOLLERR, select.EPOLLRDHUP
READ_SIZE = 256 * 1024
EVENTS_PER_POLL = 512
TURN = 0.005  # seconds a tick may take before the rest waits for the next
LAST_HANDSHAKE = 0.5  # seconds they get when the listener closes: two long round trips
FLUSH_SLICE = 0.002  # seconds of flushing before the loop gets a turn
HANDSHAKE_SLICE = 0.002  # seconds of TLS handshakes in a turn: one or two with RSA, and then everybody else


class Poller(Protocol):
    """The part of select.epoll used here; tests script another."""

    def register(self, fd: int, eventmask: int) -> None: ...
    def modify(self, fd: int, eventmask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


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
        self._clock = clock
        self._handlers: dict[int, Any] = {}  # descriptor -> SocketLink or Listener
        self._batch: deque[tuple[Any, int]] = deque()  # polled, and not served yet
        self._links: set[SocketLink] = set()
        self._ready: deque[SocketLink] = deque()
        self._ready_scheduled = False
        self.handshaking: set[TlsLink] = set()
        self._handshakes: deque[TlsLink] = deque()  # those that can go a step further
        self._handshakes_scheduled = False
        self._dirty: deque[SocketLink] = deque()
        self._flush_scheduled = False
        self._ticking = False
        self._closing: list[socket.socket] = []  # closed at the end of the tick, so no number is reused within it
        self._listeners: list[Listener] = []
        self._last_handshakes = Deadline(loop, self._end_handshakes)
        self._closed = False
        self.proxied: set[Proxied] = set()  # connections before their PROXY header
        self._places: dict[str | bytes, int] = {}  # where peers are -> how many connections from there
        self.on_link_closed: Callable[[], None] = lambda: None
        loop.watch(self.poller.fileno(), self.tick)

    @property
    def links(self) -> int:
        """How many connections there are, also those that only linger, and those that no proxy has introduced yet."""
        return len(self._links) + len(self.proxied)

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
    ) -> Link:
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
        link.place = place = place_of(link.peer) if counted else None
        if place is not None:
            self._places[place] = self._places.get(place, 0) + 1
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
        get a moment: a request may be right behind it.
        """
        self._listeners.remove(listener)
        if self.proxied or self.handshaking:
            self._last_handshakes.set(LAST_HANDSHAKE)

    def _end_handshakes(self) -> None:
        for one in tuple(self.proxied):
            one.close()
        for link in tuple(self.handshaking):
            link.hang_up()

    def register(self, fd: int, handler: Any, events: int) -> None:
        self._handlers[fd] = handler
        self.poller.register(fd, events)

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
        place = place_of(peer)
        return place is not None and self._places.get(place, 0) >= self.config.max_connections_per_address

    def link_closed(self, link: SocketLink) -> None:
        self._links.discard(link)
        if link.place is not None:
            self._places[link.place] -= 1
            if not self._places[link.place]:
                del self._places[link.place]
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
        self._ticking = True
        try:
            self._serve_events()
            self._flush_dirty()
        finally:
            self._leave_tick()

    def _serve_events(self) -> None:
        batch = self._batch
        if not batch:
            # The owners are looked up before any user code runs: a number may belong to another by then.
            handlers = self._handlers
            batch.extend((handlers.get(fd), events) for fd, events in self.poller.poll(0, EVENTS_PER_POLL))
        began = now = self._clock()
        while batch:
            handler, events = batch.popleft()
            if handler is not None:
                handler.on_events(events)
                now = self._clock()
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
            self._ready.append(link)
        if not self._ready_scheduled:
            self._ready_scheduled = True
            self.loop.call_soon(self._serve_ready)

    def _serve_ready(self) -> None:
        self._ready_scheduled = False
        until = self._clock() + TURN
        was_ticking, self._ticking = self._ticking, True
        try:
            for _ in range(len(self._ready)):
                link = self._ready.popleft()
                link.queued = False
                link.go_on()
                if self._clock() > until:
                    break
            self._flush_dirty()
        finally:
            self._leave_tick(was_ticking)
        if self._ready and not self._ready_scheduled:
            self._ready_scheduled = True
            self.loop.call_soon(self._serve_ready)

    def _leave_tick(self, was_ticking: bool = False) -> None:
        self._ticking = was_ticking
        for sock in self._closing:
            sock.close()
        self._closing.clear()

    # -- handshakes

    def make_handshake(self, link: TlsLink) -> None:
        """`link` can go a step further with its handshake, when it is its turn, behind all that is ready."""
        self._handshakes.append(link)
        if not self._handshakes_scheduled:
            self._handshakes_scheduled = True
            self.loop.call_soon(self._serve_handshakes)

    def _serve_handshakes(self) -> None:
        self._handshakes_scheduled = False
        until = self._clock() + HANDSHAKE_SLICE
        was_ticking, self._ticking = self._ticking, True
        try:
            while self._handshakes:
                self._handshakes.popleft().shake_hands()
                if self._clock() > until:
                    break
            self._flush_dirty()
        finally:
            self._leave_tick(was_ticking)
        if self._handshakes and not self._handshakes_scheduled:
            self._handshakes_scheduled = True
            self.loop.call_soon(self._serve_handshakes)

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
        until = self._clock() + FLUSH_SLICE
        while dirty:
            dirty.popleft().flush_turn()
            if dirty and self._clock() > until:
                if not self._flush_scheduled:
                    self._flush_scheduled = True
                    self.loop.call_soon(self._flush_later)
                return


class SocketLink(Link):
    """A link over a socket of the reactor."""

    __slots__ = (
        "_eof",
        "_events",
        "_half_closed",
        "_hung",
        "_lingered",
        "_more",
        "_reactor",
        "_sock",
        "place",
        "queued",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket, config: Config) -> None:
        super().__init__(reactor.loop, config, _address(sock.getpeername), _address(sock.getsockname))
        self._reactor = reactor
        self._sock: socket.socket | None = sock
        self._events = IN | RDHUP
        self._eof = False
        self._more = False  # the engine has work buffered; nothing is read until it is done
        self._hung = False  # RDHUP, HUP or ERR came while we were not reading: not asked for again before we read
        self._half_closed: Deadline | None = None  # the peer hung up while we were not reading
        self._lingered = -1  # bytes read away after our end; -1 before it
        self.queued = False
        self.place: str | bytes | None = None  # where the peer is, as the limit for one address sees it

    # -- events

    def on_events(self, events: int) -> None:
        if self._sock is None:
            return
        if events & OUT:
            self._send_out()
            self._update()
        if self._sock is None:
            return
        if self._lingered >= 0:
            self._linger()
        elif events & (IN | RDHUP | HUP | ERR):
            if self.reading and not self._more and not self._eof:
                self._read()
            elif events & (RDHUP | HUP | ERR):
                self._hung_up(events)

    def _read(self) -> None:
        assert self._sock is not None
        buffer = self._reactor.buffer
        try:
            size = self._sock.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        self.alive = True
        self._reactor.meters.bytes_received += size
        if size == 0:
            self._end_of_input()
            return
        if self.guard(self.engine.data_received, buffer[:size]):
            self._continue_later()

    def _continue_later(self) -> None:
        if self._phase != LOST:
            self._more = True
            self._update()
            self._reactor.make_ready(self)

    def go_on(self) -> None:
        """The next turn of work that was left."""
        if self._phase == LOST:
            return
        self._more = False
        if self.reading:
            self._hung = False
        if self.reading and self.guard(self.engine.resume):
            self._continue_later()
        else:
            self._update()

    def _end_of_input(self) -> None:
        self._eof = True
        self._update()
        self.guard(self.engine.eof_received)

    def _hung_up(self, events: int) -> None:
        """HUP, ERR or RDHUP while we do not read: it would be reported for ever, so we look away.

        For a limited time if the engine has paused; if it is only busy, the next turn reads on.  RDHUP alone is a peer
        that still listens: what is unsent goes on leaving.
        """
        self._hung = True
        if not self.reading and self._half_closed is None and not self._eof:
            self._half_closed = Deadline(self._loop, self._abandoned)
            self._half_closed.set(self.config.half_closed_timeout)
        if events & (HUP | ERR):
            self._send_out()  # it tells whether anything can leave
            self._set_events(0)
        else:
            self._update()

    # -- interest

    def _update(self) -> None:
        """Bring epoll's view in line: reading unless paused, busy or at the end; writing while something is unsent."""
        if self._sock is None:
            return
        events = 0
        if self._lingered >= 0 or (self.reading and not self._more and not self._eof):
            events = IN | RDHUP
        elif not self._eof and not self._hung:
            events = RDHUP
        if self.unsent and self._lingered < 0 and self._stall is not None:
            events |= OUT
        self._set_events(events)

    def _set_events(self, events: int) -> None:
        if events == self._events or self._sock is None:
            return
        fd = self._sock.fileno()
        if not events:
            self._reactor.unregister(fd)  # HUP and ERR cannot be masked: 0 would spin
        elif not self._events:
            self._reactor.register(fd, self, events)
        else:
            self._reactor.poller.modify(fd, events)
        self._events = events

    def set_reading(self, on: bool) -> None:
        if self._phase == LOST or on == self.reading:
            return
        self.reading = on
        if on:
            if self._half_closed is not None:
                self._half_closed.cancel()
                self._half_closed = None
            self._hung = False
            self._more = True
            self._reactor.make_ready(self)
        else:
            self._update()

    # -- writing

    def _schedule_flush(self) -> None:
        self._reactor.make_dirty(self)

    def flush_turn(self) -> None:
        self._dirty = False
        if not self._events & OUT:  # as in `flush`
            self._send_out()

    def flush(self) -> None:
        if not self._events & OUT:  # else the kernel is full, and says when it is not: trying would only cost
            self._send_out()

    def _send_out(self) -> None:
        out, sock = self._out, self._sock
        if not out or sock is None or self._phase == LOST:
            return
        total = 0
        while out:
            data = self._gather()
            try:
                sent = sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self.unsent -= total
                self._lose(error)
                return
            total += sent
            if sent < len(data):
                out.insert(0, memoryview(data)[sent:])
                break
        self._reactor.meters.bytes_sent += total
        if not out and self._stall is None and not self.notify and self._phase == OPEN:
            self.unsent = 0
            return
        self._sent(total)

    def _sent(self, total: int) -> None:
        """The kernel took `total` bytes; where that is not all, or not the plain case."""
        if total:
            self._progress(total)
        if self.unsent:
            self._blocked()
            if not self._events & OUT:
                self._update()
        elif self._events & OUT:
            self._update()
        if self._phase == FINISHING and not self.unsent:
            self._loop.call_soon(self._finish_if_sent)

    # -- ending

    def _shut(self) -> None:
        assert self._sock is not None
        if self._half_closed is not None:
            self._half_closed.cancel()
            self._half_closed = None
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(hard=False)
            return
        if self._eof:
            self._close(hard=False)
            return
        self._lingered = 0
        self._half_closed = Deadline(self._loop, self._linger_over)
        self._half_closed.set(self.config.linger_timeout)
        self._update()

    def _linger(self) -> None:
        assert self._sock is not None
        try:
            size = self._sock.recv_into(self._reactor.buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            size = 0
        self._lingered += size
        if size == 0 or self._lingered > LINGER_BYTES:
            self._linger_over()

    def _linger_over(self) -> None:
        self._close(hard=False)

    def drop(self) -> None:
        """There is no engine for it."""
        self._give_up()
        self._close(hard=True)

    def cut(self) -> None:
        """The reactor ends."""
        self._lose(ConnectionAbortedError("the server has ended"))
        self._close(hard=False)

    def _close(self, hard: bool) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._half_closed is not None:
            self._half_closed.cancel()
            self._half_closed = None
        if self._events:
            self._reactor.unregister(sock.fileno())
        if hard and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._reactor.discard(sock)
        self._reactor.link_closed(self)


def _address(ask: Callable[[], Any]) -> Any:
    """(host, port), or None where the socket has no such thing."""
    try:
        return told(ask())
    except OSError:
        return None


__all__ = ["OPEN", "Listener", "Reactor", "SocketLink"]
