"""The peer's end of a socketpair."""

from __future__ import annotations

import socket

import anyio
from anyio.abc import ByteStream

READ_SIZE = 64 * 1024


class SocketEnd(ByteStream):
    """A connected non-blocking socket as a ByteStream, and nothing behind it: what the kernel says is what you get."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    async def receive(self, max_bytes: int = READ_SIZE) -> bytes:
        while True:
            try:
                data = self._sock.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
                continue
            except OSError as error:
                raise anyio.BrokenResourceError from error
            if not data:
                raise anyio.EndOfStream
            await anyio.lowlevel.checkpoint()
            return data

    async def send(self, item: bytes) -> None:
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._sock)
            except OSError as error:
                raise anyio.BrokenResourceError from error
        await anyio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        self.half_close()
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.reset()
        await anyio.lowlevel.checkpoint()

    def send_now(self, data: bytes) -> None:
        """Send what the kernel takes of `data` at once; the rest is lost."""
        try:
            self._sock.send(data)
        except OSError:
            pass

    def half_close(self) -> None:
        """End our direction."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other end is gone already

    def reset(self) -> None:
        """Vanish, as a killed process does."""
        if self._sock.fileno() >= 0:
            anyio.notify_closing(self._sock)
            self._sock.close()
