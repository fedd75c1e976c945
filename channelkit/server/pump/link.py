"""A Link: one byte connection as a protocol engine sees it, whatever pump moves its bytes.

Here: accepting bytes, when they are flushed, how a link ends, and noticing a peer that does not read.  A pump
(reactor or stream) supplies the moving.  The engine's calls come from the loop; `connection_lost` is the last, comes
exactly once, and never from inside a call the engine made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from channelkit._deadline import Deadline
from channelkit._lifecycle import logger

if TYPE_CHECKING:
    import socket

    from channelkit._loop import Loop
    from channelkit.config import Config
    from channelkit.tls import TLSInfo
    from channelkit.wire.proxy_protocol import ProxyHeader

FLUSH_AT = 64 * 1024  # bytes accepted in one turn that are not left waiting for its end
LARGE = 64 * 1024  # a piece from this size on is sent as it is, not copied to join it with others
JOINED = 256 * 1024  # at most so many bytes are joined for one send
LINGER_BYTES = 1024 * 1024  # read away after our end, so that the peer's stack delivers it (RFC 9112 9.6)


class Engine(Protocol):
    """What a protocol implements on top of a link."""

    def data_received(self, data: memoryview) -> bool:
        """Bytes arrived; copy what is kept.  True: more work is buffered than one turn may take."""
        ...

    def resume(self) -> bool:
        """Go on with what is buffered, in a later turn; also once after reading was switched on."""
        ...

    def eof_received(self) -> None:
        """The peer has sent its FIN: nothing more will be read."""
        ...

    def wrote(self) -> None:
        """Bytes left since `notify` was set; it is reset before."""
        ...

    def connection_lost(self, error: Exception | None) -> None:
        """The last call.  None: `finish` was asked for, and everything was handed over."""
        ...


OPEN, FINISHING, LOST = range(3)


class Link(ABC):
    """One byte connection."""

    __slots__ = (
        "_dirty",
        "_loop",
        "_out",
        "_phase",
        "_stall",
        "config",
        "alive",
        "engine",
        "local",
        "notify",
        "peer",
        "reading",
        "secure",
        "tls",
        "unsent",
    )

    engine: Engine

    def __init__(self, loop: Loop, config: Config, peer: Any, local: Any) -> None:
        self._loop = loop
        self.config = config  # of the listener it came by
        self._out: list[bytes | memoryview] = []
        self._dirty = False  # a flush is scheduled, or the kernel is being waited for
        self._phase = OPEN
        self._stall: Deadline | None = None
        self.peer = peer
        self.local = local
        self.secure = False  # what the client speaks is TLS, says this side or a proxy
        self.tls: TLSInfo | None = None  # what is known of it, if it ends here
        self.unsent = 0  # bytes accepted and not handed over
        self.notify = False  # the engine wants `wrote`
        self.alive = False  # something was read; whoever watches for silence resets it
        self.reading = True

    @property
    def counted(self) -> bool:
        """Whether it is one of the connections that its address may have."""
        return False

    @property
    def closed(self) -> bool:
        """Whether the engine has been told, or is being told, that this is over."""
        return self._phase == LOST

    def introduced(self, header: ProxyHeader) -> None:
        """A proxy has told whose connection this is."""
        self.secure = self.secure or header.secure
        if header.proxied:
            self.peer, self.local = header.client, header.server

    # -- writing

    def write(self, data: bytes) -> None:
        """Accept `data`; it leaves with this turn's flush, or at once when it is much.  Ignored after the end."""
        if self._phase != OPEN:
            return
        self._out.append(data)
        self.unsent += len(data)
        if not self._dirty:
            self._dirty = True
            self._schedule_flush()
        if self.unsent >= FLUSH_AT:
            self.flush()

    @abstractmethod
    def _schedule_flush(self) -> None:
        """Have `flush` called in this turn of the loop."""

    @abstractmethod
    def flush(self) -> None:
        """Hand over what can be handed over now.  Never calls the engine."""

    def _gather(self) -> bytes | memoryview:
        """Take what one send is given: small pieces joined, a large one (or what is left of it) uncopied."""
        out = self._out
        if len(out) == 1 or len(out[0]) >= LARGE:
            return out.pop(0)
        if self.unsent < LARGE:  # it is at least what `out` holds
            joined = b"".join(out)
            out.clear()
            return joined
        size = count = 0
        for piece in out:
            size += len(piece)
            if size > JOINED:
                break
            count += 1
        joined = b"".join(out[:count])
        del out[:count]
        return joined

    def _progress(self, sent: int) -> None:
        """`sent` bytes were handed over."""
        self.unsent -= sent
        if self._stall is not None:
            self._stall.set(self.config.write_timeout)
            if not self.unsent:
                self._stall.cancel()
                self._stall = None
        if self.notify:
            self.notify = False
            self._loop.call_soon(self._tell_wrote)

    def _blocked(self) -> None:
        """The peer does not take what is unsent: from now on it is being timed."""
        if self._stall is None:
            self._stall = Deadline(self._loop, self._stalled)
            self._stall.set(self.config.write_timeout)

    def _stalled(self) -> None:
        error = TimeoutError(f"the peer took nothing for {self.config.write_timeout} s")
        self._loop.tally.hit("write_timeout", error)
        self._lose(error)

    def _abandoned(self) -> None:
        error = ConnectionResetError("the peer hung up while its messages were not being read")
        self._loop.tally.hit("half_closed_timeout", error)
        self._lose(error)

    def _tell_wrote(self) -> None:
        if self._phase != LOST:
            self.guard(self.engine.wrote)

    # -- handing over

    def release(self) -> tuple[socket.socket, bytes] | None:
        """Give up the connection: a socket that reads and writes its plain bytes, and those that were written and have
        not left.  The engine is told nothing any more.

        None if this pump cannot do that, or the link is over; then nothing has changed.  Raises OSError if there are
        no descriptors left.
        """
        return None

    # -- ending

    def finish(self) -> None:
        """No more writes; when all is handed over, end our direction, tell the engine, linger, close."""
        if self._phase == OPEN:
            self._phase = FINISHING
            self._loop.call_soon(self._finish_if_sent)

    def _finish_if_sent(self) -> None:
        if self._phase != FINISHING:
            return
        self.flush()
        if self._phase == FINISHING and not self.unsent:
            self._phase = LOST
            self._shut()
            self.guard(self.engine.connection_lost, None)

    def abort(self) -> None:
        """End at once; what is unsent stays counted in `unsent` and never leaves."""
        self._lose(ConnectionAbortedError("aborted by this side"))

    def _lose(self, error: Exception) -> None:
        """The connection is over by `error`; the engine learns it in a call of its own."""
        if self._phase == LOST:
            return
        self._give_up()
        self._close(hard=self.unsent > 0 or isinstance(error, ConnectionAbortedError))
        self._loop.call_soon(self._tell_lost, error)

    def _give_up(self) -> None:
        self._phase = LOST
        self._out.clear()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _tell_lost(self, error: Exception) -> None:
        self.guard(self.engine.connection_lost, error)

    @abstractmethod
    def _shut(self) -> None:
        """Everything is out: shut down our direction, read away what comes for a while, close."""

    @abstractmethod
    def _close(self, hard: bool) -> None:
        """Close at once; `hard`: tell the peer that something is missing (RST)."""

    # -- reading

    @abstractmethod
    def set_reading(self, on: bool) -> None:
        """Stop or go on reading; going on also calls `engine.resume` in a later turn."""

    # -- the engine's mistakes

    def guard(self, call: Any, *args: Any) -> Any:
        """Call the engine: an Exception out of it ends this link only, anything else the whole loop."""
        try:
            return call(*args)
        except Exception:
            logger.exception("the protocol engine of a connection failed; that connection is cut")
            self._lose(ConnectionAbortedError("internal error"))
        except BaseException as error:
            self._lose(ConnectionAbortedError("the server is ending"))
            self._loop.fail(error)
        return None
