"""Moves a client's bytes over any stream, and misbehaves when asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import anyio

from channelkit.testing.peers.socket_end import READ_SIZE


class PeerProtocol(Protocol):
    """What `PeerConnection` needs of a protocol."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the wire; what is returned is to be sent back."""
        ...

    def eof(self) -> None:
        """The server has ended its direction."""
        ...


class Hangable(Protocol):
    """The faults both kinds of stream know; `MemoryStream` and `SocketEnd` have them."""

    async def receive(self, max_bytes: int = ...) -> bytes: ...
    async def send(self, item: bytes) -> None: ...
    async def aclose(self) -> None: ...
    def half_close(self) -> None: ...
    def reset(self) -> None: ...


class PeerConnection:
    """One peer on one stream: a task that reads, a task that writes, and its bad manners."""

    def __init__(
        self,
        stream: Hangable,
        protocol: PeerProtocol,
        *,
        chunk: int | None = None,
        vanish_after: int | None = None,
        on_news: Callable[[], object] = lambda: None,
    ) -> None:
        self.gone_at: float | None = None  # when this side was over, however
        self.vanished = False
        self.mute = False
        self.half_closed = False
        self.bytes_read = 0
        self._stream = stream
        self._protocol = protocol
        self._chunk = chunk  # bytes a write is cut into
        self._vanish_after = vanish_after  # bytes to read before this peer dies
        self._on_news = on_news
        self._out: deque[bytes | None] = deque()  # None: half-close
        self._writable = anyio.Event()
        self._reading = anyio.Event()
        self._reading.set()
        self._over = anyio.Event()

    async def run(self) -> None:
        """Move bytes until the connection is over; then the stream is closed."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read)
            tasks.start_soon(self._write)
            await self._over.wait()
            tasks.cancel_scope.cancel()
        self.gone_at = anyio.current_time()
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()

    # -- manners

    def say(self, data: bytes) -> None:
        """Send `data` in order; waiting is the writer's business."""
        if data and not self.mute:
            self._out.append(data)
            self._writable.set()

    def stop_reading(self) -> None:
        if self._reading.is_set():
            self._reading = anyio.Event()

    def resume_reading(self) -> None:
        if not self.mute:
            self._reading.set()

    def fall_silent(self) -> None:
        """Neither read nor write any more, and stay connected: a machine whose cable was pulled."""
        self.stop_reading()
        self.mute = True
        self._out.clear()

    def half_close(self) -> None:
        """End our direction behind what was said."""
        self._out.append(None)
        self._writable.set()

    def vanish(self) -> None:
        """Die: no goodbye, what is on the way is lost."""
        if not self._over.is_set():
            self.vanished = True
            self._stream.reset()
            self._over.set()

    def hang_up(self) -> None:
        """Close the connection for good; nothing happens if it is over."""
        self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    # -- tasks

    async def _read(self) -> None:
        while True:
            await self._reading.wait()
            try:
                data = await self._stream.receive(READ_SIZE)
            except anyio.EndOfStream:
                self._protocol.eof()
                self._on_news()
                break
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._on_news()
                break
            self._read_some(data)
        self._over.set()

    def _read_some(self, data: bytes) -> None:
        if self._vanish_after is not None and self.bytes_read + len(data) >= self._vanish_after:
            data = data[: max(0, self._vanish_after - self.bytes_read)]
            if data:
                self._protocol.feed(data)
            self.bytes_read += len(data)
            self.vanish()
        else:
            self.bytes_read += len(data)
            self.say(self._protocol.feed(data))
        self._on_news()

    async def _write(self) -> None:
        while True:
            while not self._out:
                self._writable = anyio.Event()
                await self._writable.wait()
            data = self._out.popleft()
            try:
                if data is None:
                    self.half_closed = True
                    self._stream.half_close()
                else:
                    await self._send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # what the server still sends is read all the same

    async def _send(self, data: bytes) -> None:
        size = self._chunk or len(data)
        for start in range(0, len(data), size):
            if self.mute:
                return
            await self._stream.send(data[start : start + size])
