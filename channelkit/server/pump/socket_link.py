"""A link over a plain socket: what its events mean, when it reads, how what was written leaves, how it is closed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from channelkit._deadline import Deadline
from channelkit.server.pump.accepting import told
from channelkit.server.pump.link import FINISHING, LINGER_BYTES, LOST, OPEN, Link
from channelkit.server.pump.poller import ERR, HUP, IN, OUT, RDHUP

if TYPE_CHECKING:
    from channelkit.config import Config
    from channelkit.server.pump.reactor import Reactor


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
        if self.unsent and not self._events & OUT:  # as in `flush`; a receiver that parks has flushed already
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
            data = out.pop() if len(out) == 1 else self._gather()
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

    # -- handing over

    @property
    def counted(self) -> bool:
        return self.place is not None

    def release(self) -> tuple[socket.socket, bytes] | None:
        self.flush()
        sock = self._sock
        if sock is None or self._phase != OPEN:
            return None
        unsent = b"".join(self._out)
        self.unsent = 0
        self._give_up()
        self._let_go(sock)
        self._reactor.link_closed(self)
        return sock, unsent

    def given(self, unread: bytes) -> None:
        """Its first bytes were read elsewhere: these."""
        if self._phase != LOST and self.guard(self.engine.data_received, memoryview(unread)):
            self._continue_later()

    def _let_go(self, sock: socket.socket) -> None:
        self._sock = None
        if self._half_closed is not None:
            self._half_closed.cancel()
            self._half_closed = None
        if self._events:
            self._reactor.unregister(sock.fileno())

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
        sock = self._sock
        if sock is None:
            return
        self._let_go(sock)
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
