"""The generic pump: a Link over any anyio ByteStream.

Slower than the reactor and good for everything else: in-memory streams of the tests, other systems, odd transports.
One task reads, one writes; flow control, budgets and the engine's calls are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute

from channelkit._deadline import Deadline
from channelkit.errors import ConfigError
from channelkit.server.pump.link import FINISHING, LINGER_BYTES, LOST, Engine, Link
from channelkit.tls import TLSInfo

if TYPE_CHECKING:
    from channelkit._loop import Loop, Timer
    from channelkit.config import Config

READ_SIZE = 64 * 1024
SEND_SIZE = 64 * 1024  # at once, so that a slow peer's progress is seen
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)  # OSError: ssl.SSLError, odd streams


class StreamLink(Link):
    """A link over a ByteStream; `run` moves its bytes."""

    __slots__ = (
        "_ended",
        "_eof_sent",
        "_held",
        "_input_over",
        "_linger_timer",
        "_more",
        "_patience",
        "_read_place",
        "_shut_down",
        "_stream",
        "_write_place",
    )

    def __init__(self, loop: Loop, config: Config, stream: ByteStream) -> None:
        peer = stream.extra(SocketAttribute.remote_address, None)
        local = stream.extra(SocketAttribute.local_address, None)
        super().__init__(loop, config, peer, local)
        version = stream.extra(TLSAttribute.tls_version, None)
        if version is not None:  # anyio's TLSStream
            self.secure = True
            certificate = stream.extra(TLSAttribute.peer_certificate) or None
            self.tls = TLSInfo(version, stream.extra(TLSAttribute.cipher)[0], certificate)
        self._stream = stream
        self._write_place = loop.parking()
        self._read_place = loop.parking()
        self._more = False  # the engine is to be resumed
        self._shut_down = False  # our direction has ended
        self._eof_sent = False  # and the peer has been told
        self._ended = anyio.Event()
        self._held: bytes | None = None  # read while reading was switched off; b"": the end of input
        self._input_over = False
        self._patience: Deadline | None = None  # the peer hung up while we were not reading
        self._linger_timer: Timer | None = None

    async def run(self) -> None:
        """Move bytes until the connection is over, then close the stream."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_all)
                tasks.start_soon(self._write_all)
                await self._ended.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._lose(ConnectionAbortedError("the pump was cancelled"))
            self._drop_timers()
            # A close that waits for the peer (TLS says goodbye) gets as long as a peer gets to read our end.
            with anyio.move_on_after(self.config.linger_timeout, shield=True):
                if self._shut_down:
                    await self._stream.aclose()
                else:
                    await anyio.aclose_forcefully(self._stream)

    # -- reading

    async def _read_all(self) -> None:
        while self._phase != LOST:
            if not self.reading:
                await self._read_place.park()
            elif self._more:
                self._more = bool(self.guard(self.engine.resume))
                await self._loop.checkpoint()
            elif self._held is not None:
                self._take(self._held)
            elif self._input_over:
                await self._read_place.park()  # the engine may have work left: it is resumed as before the end
            else:
                await self._read_once()
        if self._shut_down and not self._input_over:
            await self._linger()
            self._input_over = True
        self._end_if_done()

    async def _read_once(self) -> None:
        try:
            data = await self._stream.receive(READ_SIZE)
        except anyio.EndOfStream:
            data = b""
        except _BROKEN as error:
            self._input_over = True
            self._lose(ConnectionResetError(str(error) or "the connection was reset"))
            return
        self.alive = True
        if self._phase != LOST and not self.reading:  # switched off while this read was under way
            self._hold(data)
        else:
            self._take(data)

    def _hold(self, data: bytes) -> None:
        self._held = data
        if not data:
            self._patience = Deadline(self._loop, self._abandoned)
            self._patience.set(self.config.half_closed_timeout)

    def _take(self, data: bytes) -> None:
        """Give the engine what was read, unless it is over for it."""
        self._held = None
        if not data:
            self._input_over = True
        if self._phase == LOST:
            return
        if data:
            self._more = bool(self.guard(self.engine.data_received, memoryview(data)))
        else:
            self.guard(self.engine.eof_received)

    def set_reading(self, on: bool) -> None:
        if self._phase == LOST or on == self.reading:
            return
        self.reading = on
        if on:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
            self._more = True
            self._read_place.wake()

    async def _linger(self) -> None:
        """After our end: read away what still comes, so that the peer's side delivers our last bytes."""
        left = LINGER_BYTES
        try:
            while left > 0:
                left -= len(await self._stream.receive(READ_SIZE))
        except (anyio.EndOfStream, *_BROKEN):
            pass

    # -- writing

    def _schedule_flush(self) -> None:
        self._write_place.wake()

    def flush(self) -> None:
        """The writer task takes everything that is there when it runs."""
        if self._out:
            self._write_place.wake()

    async def _write_all(self) -> None:
        while self._phase != LOST:
            if not self._out:
                self._dirty = False
                if self._phase == FINISHING:
                    self._finish_if_sent()
                else:
                    await self._write_place.park()
                continue
            data = self._next_piece()
            self._blocked()
            try:
                await self._stream.send(data)
            except _BROKEN as error:
                self._lose(ConnectionResetError(str(error) or "the connection was reset"))
                return
            if self._phase != LOST:
                self._progress(len(data))
        if self._shut_down:
            await self._send_eof()

    def _next_piece(self) -> bytes:
        data = self._gather()
        if len(data) > SEND_SIZE:
            self._out.insert(0, memoryview(data)[SEND_SIZE:])
            data = memoryview(data)[:SEND_SIZE]
        return bytes(data)

    def finish(self) -> None:
        super().finish()
        self._write_place.wake()

    # -- ending

    def _shut(self) -> None:
        self._shut_down = True
        self._read_place.wake()
        self._write_place.wake()
        at = self._loop.time() + self.config.linger_timeout
        self._linger_timer = self._loop.call_at(at, self._ended.set)

    async def _send_eof(self) -> None:
        try:
            await self._stream.send_eof()
        except (NotImplementedError, *_BROKEN):
            self._ended.set()  # a peer that cannot be told that we have ended would only wait with us
        self._eof_sent = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._eof_sent and self._input_over:
            self._ended.set()

    def _drop_timers(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        if self._patience is not None:
            self._patience.cancel()

    def _close(self, hard: bool) -> None:
        self._ended.set()

    def drop(self) -> None:
        """There is no engine for it."""
        self._give_up()


async def serve_stream(loop: Loop, config: Config, stream: ByteStream, on_connect: Callable[[Link], Engine]) -> None:
    """Serve one connection over `stream` until it is over; cancelled, the connection is cut.

    Raises ConfigError if a header of the PROXY protocol may come first: that is read where sockets are accepted.
    """
    if config.proxy_protocol != "disable":
        raise ConfigError(f"proxy_protocol={config.proxy_protocol!r} is for listening sockets, not for single streams")
    link = StreamLink(loop, config, stream)
    try:
        link.engine = on_connect(link)
    except BaseException:
        link.drop()
        await anyio.aclose_forcefully(stream)
        raise
    await link.run()
