"""A request's body on its way from a host to the handler: bounded, pulled by the handler."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from channelkit._loop import Loop, Parking

HELD = 64 * 1024  # bytes kept for a handler that does not read yet; then the socket is not read either


class RequestBody:
    """Implements `http.BodySource`.  `wanted()` is called when the handler waits, `taken()` when it has taken some."""

    __slots__ = ("_error", "_parking", "_pieces", "_taken", "_wanted", "ended", "size", "waiting")

    def __init__(self, loop: Loop, wanted: Callable[[], None], taken: Callable[[], None]) -> None:
        self._pieces: deque[bytes] = deque()
        self._error: Exception | None = None
        self._parking: Parking = loop.parking()
        self._wanted = wanted
        self._taken = taken
        self.size = 0
        self.ended = False
        self.waiting = False

    @property
    def full(self) -> bool:
        """Whether no more should be read from the peer for now."""
        return self.size >= HELD

    def put(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.size += len(piece)
        self._parking.wake()

    def end(self) -> None:
        self.ended = True
        self._parking.wake()

    def fail(self, error: Exception) -> None:
        """No more will come; what has come can still be read."""
        if not self.ended and self._error is None:
            self._error = error
            self._parking.wake()

    def discard(self) -> None:
        """Nobody will read it."""
        self._pieces.clear()
        self.size = 0

    async def read(self) -> bytes:
        if self.waiting:
            raise anyio.BusyResourceError("reading the body of this request from")
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.ended:
                return b""
            self.waiting = True
            try:
                self._wanted()
                await self._parking.park()
            finally:
                self.waiting = False
        piece = self._pieces.popleft()
        self.size -= len(piece)
        self._taken()
        return piece
