"""The generic pump: a Link over any anyio ByteStream.

Slower than the reactor and good for everything else: in-memory streams of the tests, other systems, odd transports.
One task reads, one writes; flow control, budgets and the engine's calls are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream, SocketAttribute

from channelkit.server.pump.link import FINISHING, LINGER_BYTES, LOST, Engine, Link

if TYPE_CHECKING:
    from channelkit._loop import Loop
    from channelkit.config import Config

READ_SIZE = 64 * 1024
SEND_SIZE = 64 * 1024  # at once, so that a slow peer's progress is seen


class StreamLink(Link):
    """A link over a ByteStream; `run` moves its bytes."""

    __slots__ = ("_ended", "_input_over", "_more", "_read_place", "_shut_down", "_stream", "_write_place")

    def __init__(self, loop: Loop, config: Config, stream: ByteStream) -> None:
        peer = stream.extra(SocketAttribute.remote_address, None)
        local = stream.extra(SocketAttribute.local_address, None)
        super().__init__(loop, config, peer, local)
        self._stream = stream
        self._write_place = loop.parking()
        self._read_place = loop.parking()
        self._more = False  # the engine is to be resumed
        self._shut_down = False  # our direction has ended
        self._ended = anyio.Event()
        self._input_over = False

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
            with anyio.CancelScope(shield=True):
                if self._shut_down:
                    await self._stream.aclose()
                else:
                    await anyio.aclose_forcefully(self._stream)

    # -- reading

    async def _read_all(self) -> None:
        while self._phase != LOST:
            if self._more:
                self._more = False
                self._more = bool(self.guard(self.engine.resume))
                await self._loop.checkpoint()
            elif not self.reading:
                await self._read_place.park()
            elif not await self._read_once():
                break
        else:
            await self._linger()
        self._input_over = True
        if self._shut_down:
            self._ended.set()

    async def _read_once(self) -> bool:
        """One read; False at the end of input."""
        try:
            data = await self._stream.receive(READ_SIZE)
        except anyio.EndOfStream:
            self.guard(self.engine.eof_received)
            return False
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            self._lose(ConnectionResetError(str(error) or "the connection was reset"))
            return False
        self.alive = True
        if self._phase == LOST:
            return not self._ended.is_set()
        if self.reading:
            self._more = bool(self.guard(self.engine.data_received, memoryview(data)))
        else:  # switched off while this read was under way
            await self._until_reading()
            self._more = bool(self.guard(self.engine.data_received, memoryview(data)))
        return True

    async def _until_reading(self) -> None:
        while not self.reading and self._phase != LOST:
            await self._read_place.park()

    def set_reading(self, on: bool) -> None:
        if on == self.reading:
            return
        self.reading = on
        if on:
            self._more = True
            self._read_place.wake()

    async def _linger(self) -> None:
        """After our end: read away what still comes, so that the peer's side delivers our last bytes."""
        left = LINGER_BYTES
        try:
            while left > 0:
                left -= len(await self._stream.receive(READ_SIZE))
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
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
                    return
                await self._write_place.park()
                continue
            data = b"".join(self._out)
            self._out[:] = [data[SEND_SIZE:]] if len(data) > SEND_SIZE else []
            data = data[:SEND_SIZE]
            self._blocked()
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                self._lose(ConnectionResetError(str(error) or "the connection was reset"))
                return
            if self._phase != LOST:
                self._progress(len(data))

    def finish(self) -> None:
        super().finish()
        self._write_place.wake()

    # -- ending

    def _shut(self) -> None:
        self._shut_down = True
        self._read_place.wake()
        self._loop.spawn(self._send_eof)
        if self._input_over:
            self._ended.set()
        else:
            self._loop.call_at(self._loop.time() + self._config.linger_timeout, self._ended.set)

    async def _send_eof(self) -> None:
        try:
            await self._stream.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, NotImplementedError):
            self._ended.set()

    def _close(self, hard: bool) -> None:
        self._ended.set()


async def serve_stream(loop: Loop, config: Config, stream: ByteStream, on_connect: Callable[[Link], Engine]) -> None:
    """Serve one connection over `stream` until it is over; cancelled, the connection is cut."""
    link = StreamLink(loop, config, stream)
    link.engine = on_connect(link)
    await link.run()
