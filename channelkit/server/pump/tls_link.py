"""A link whose bytes are TLS: the reactor's link, with a `TlsSession` between it and its engine.

What a peer's engine counts and waits for is plaintext: bytes are `unsent` until the kernel has taken every record they
are in.  At most one send's worth is encrypted at a time, so what is accepted and not sent is held once, in plain text.

The engine comes to be when the handshake is done.  Handshakes cost a hundred times what a message does, so they have a
queue of their own (`Reactor.make_handshake`), and however many there are, established connections wait for one only.
"""

from __future__ import annotations

import logging
import socket
import ssl
from typing import TYPE_CHECKING, Protocol

from channelkit._deadline import Deadline
from channelkit.server.pump.link import FINISHING, LOST, OPEN
from channelkit.server.pump.socket_link import SocketLink
from channelkit.server.pump.tls import HandshakeFailed, TlsSession, why
from channelkit.server.pump.tunnel import Tunnel

if TYPE_CHECKING:
    from channelkit.config import Config
    from channelkit.server.pump.accepting import OnConnect
    from channelkit.server.pump.reactor import Reactor

HANDSHAKE_READ = 16 * 1024  # at once before the handshake is done: whoever sends more is not believed yet
BATCH = 64 * 1024  # plaintext encrypted for one send: four full records
MAX_CONTROL = 16 * 1024  # alerts and answers to key updates that a peer provokes and does not read


class ContextSource(Protocol):
    """Where the context of a new connection comes from."""

    @property
    def context(self) -> ssl.SSLContext: ...


class TlsAcceptor:
    """Makes the links of a listener that speaks TLS, each with the context of its moment."""

    def __init__(self, source: ContextSource) -> None:
        self._source = source

    def link(self, reactor: Reactor, sock: socket.socket, config: Config, on_connect: OnConnect) -> TlsLink:
        """A link at the beginning of its handshake."""
        return TlsLink(reactor, sock, config, TlsSession(self._source.context), on_connect)


class _NoEngine:
    """What stands for the engine during a handshake."""

    def data_received(self, data: memoryview) -> bool:
        return False

    def resume(self) -> bool:
        return False

    def eof_received(self) -> None:
        pass

    def wrote(self) -> None:
        pass

    def connection_lost(self, error: Exception | None) -> None:
        pass


_NO_ENGINE = _NoEngine()


class TlsLink(SocketLink):
    """See the module."""

    __slots__ = ("_covered", "_fin", "_goodbye_said", "_on_connect", "_sealed", "_session", "_silent", "_timeout")

    def __init__(
        self, reactor: Reactor, sock: socket.socket, config: Config, session: TlsSession, on_connect: OnConnect
    ) -> None:
        super().__init__(reactor, sock, config)
        self.secure = True
        self._session = session
        self._on_connect: OnConnect | None = on_connect  # until the handshake is done
        self._sealed: bytes | memoryview = b""  # ciphertext the kernel has not taken
        self._covered = 0  # bytes of `unsent` that have left when it has
        self._fin = False  # TCP's end of input, which may come without TLS's
        self._goodbye_said = False
        self._silent = True  # nothing has ever been read
        self.engine = _NO_ENGINE
        self._timeout: Deadline | None = Deadline(self._loop, self._handshake_late)
        self._timeout.set(self.config.handshake_timeout)
        reactor.handshaking.add(self)

    # -- reading

    def _read(self) -> None:
        assert self._sock is not None
        buffer = self._reactor.buffer
        try:
            size = self._sock.recv_into(buffer, 0 if self._session.established else HANDSHAKE_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        self.alive = True
        self._reactor.meters.bytes_received += size
        self._silent = False
        if size == 0:
            self._fin = True
            if self._session.established:
                self._end_of_input()  # without close_notify too: requests and frames say themselves where they end
            else:
                self._lose(ConnectionResetError("the peer hung up during the TLS handshake"))
            return
        self._session.feed(buffer[:size])
        if self._session.established:
            self._open_some()
        else:
            self._more = True
            self._update()
            self._reactor.make_handshake(self)

    def _open_some(self) -> None:
        """Decrypt a turn's worth and give it to the engine; what is left, here or there, is for the next turn."""
        session, plain = self._session, self._reactor.plain
        try:
            size = session.open(plain)
        except ssl.SSLError as error:
            self._broken(error)
            return
        if control := session.control():
            self._say(control)
        left = bool(size and self._phase != LOST and self.guard(self.engine.data_received, plain[:size]))
        if self._phase == LOST:
            return
        if session.ended and not size:
            self._end_of_input()
        elif left or session.more or session.ended:
            self._continue_later()

    def go_on(self) -> None:
        if self._phase == LOST:
            return
        self._more = False
        if self.reading:
            self._hung = False
            if self.guard(self.engine.resume):
                self._continue_later()
            elif self._phase != LOST and self.reading and not self._eof:
                self._go_on_decrypting()
        if self._phase != LOST and not self._more:
            self._update()

    def _go_on_decrypting(self) -> None:
        """No event of epoll tells of what is in here already."""
        if self._session.more:
            self._open_some()
        elif self._session.ended:
            self._end_of_input()

    def _broken(self, error: ssl.SSLError) -> None:
        """No TLS, or a fatal alert: the connection is over.  The peer is told why, if that costs nothing."""
        if control := self._session.control():
            self._say(control)
            self.flush()
        self._lose(ConnectionResetError(f"TLS: {why(error)}"))

    # -- the handshake

    def shake_hands(self) -> None:
        """One step, when it is this link's turn."""
        if self._phase != OPEN:
            return
        self._more = False
        try:
            answer = self._session.handshake()
        except HandshakeFailed as failure:
            self._refuse(failure)
            return
        if answer:
            self._say(answer)
            self.flush()
        if self._phase == OPEN and self._session.established:
            self._established()
        if self._phase != LOST and not self._more:
            self._update()

    def _established(self) -> None:
        on_connect = self._handshake_over()
        assert on_connect is not None
        self.tls = self._session.info()
        engine = self.guard(on_connect, self)
        if engine is None:
            return
        self.engine = engine
        if self._session.more:
            self._open_some()

    def _refuse(self, failure: HandshakeFailed) -> None:
        """Tell the peer, and end in good order, so that it reads what it is told."""
        self._handshake_over()
        self._loop.tally.hit(
            f"handshake: {failure.reason}", f"{failure.detail} from {self.peer}".lstrip(), logging.DEBUG
        )
        self._goodbye_said = True
        self.reading = False
        if failure.answer:
            self._say(failure.answer)
        self.finish()
        self._update()

    def _handshake_over(self) -> OnConnect | None:
        """It has ended, however; who wants the connection now, if it had not before."""
        self._reactor.handshaking.discard(self)
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        on_connect, self._on_connect = self._on_connect, None
        return on_connect

    def _handshake_late(self) -> None:
        level = logging.DEBUG if self._silent else logging.WARNING
        self._loop.tally.hit("handshake_timeout", f"a TLS handshake with {self.peer} was not completed", level)
        self._lose(TimeoutError("the TLS handshake was not completed in time"))

    def _lose(self, error: Exception) -> None:
        if self._on_connect is not None and not isinstance(error, TimeoutError | ConnectionAbortedError):
            self._loop.tally.hit("handshake: broken off", f"by {self.peer}: {error}", logging.DEBUG)
        super()._lose(error)

    # -- writing

    def _say(self, data: bytes) -> None:
        """Bytes of TLS itself, behind what is encrypted already."""
        self._sealed = bytes(self._sealed) + data
        self._covered += len(data)
        self.unsent += len(data)
        if len(self._sealed) > 2 * BATCH + MAX_CONTROL:
            self._lose(ConnectionAbortedError("the peer provokes TLS messages and reads none"))
        elif not self._dirty:
            self._dirty = True
            self._schedule_flush()

    def _send_out(self) -> None:
        out, sock = self._out, self._sock
        if sock is None or self._phase == LOST:
            return
        gone = moved = 0
        while out or self._sealed:
            if not self._sealed and not self._seal_some():
                return
            try:
                sent = sock.send(self._sealed)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self.unsent -= gone
                self._lose(error)
                return
            moved += sent
            self._reactor.meters.bytes_sent += sent
            if sent < len(self._sealed):
                self._sealed = memoryview(self._sealed)[sent:]
                break
            self._sealed = b""
            gone += self._covered
            self._covered = 0
        if not self._sealed and self._stall is None and not self.notify and self._phase == OPEN:
            self.unsent = 0
            return
        if moved and not gone and self._stall is not None:
            self._stall.set(self.config.write_timeout)  # part of a record: the peer does read
        self._sent(gone)

    def _seal_some(self) -> bool:
        """Encrypt what one send is given: small pieces in one record, of a large one a part."""
        data = self._gather()
        if len(data) > BATCH:
            self._out.insert(0, memoryview(data)[BATCH:])
            data = memoryview(data)[:BATCH]
        try:
            self._sealed = self._session.seal(data)
        except ssl.SSLError as error:
            self._lose(ConnectionResetError(f"TLS: {why(error)}"))
            return False
        self._covered = len(data)
        return True

    # -- handing over

    def release(self) -> tuple[socket.socket, bytes] | None:
        if self._phase != OPEN:
            return None
        return Tunnel(self._reactor, self).far, b""  # what is unsent leaves by this link, before all that is to come

    # -- ending

    def _finish_if_sent(self) -> None:
        if self._phase == FINISHING and not self._goodbye_said:
            self.flush()
            if self._phase == FINISHING and not self.unsent:
                self._goodbye_said = True
                self._say(self._session.goodbye())
        super()._finish_if_sent()

    def _shut(self) -> None:
        self._eof = self._fin  # after close_notify alone the peer's FIN is still to come: a close before it is a reset
        super()._shut()

    def _close(self, hard: bool) -> None:
        if self._sock is not None:
            self._handshake_over()
            self._sealed = b""
            self._session.release()
        super()._close(hard)

    def hang_up(self) -> None:
        """The listener is closed, and nothing has been asked here yet: there is no engine to tell."""
        self._give_up()
        self._close(hard=False)
