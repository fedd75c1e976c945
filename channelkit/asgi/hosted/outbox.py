"""What a request has to say and its host has not taken yet: a queue, and the one caller of the host's `send`.

ASGI's `send` is awaited and may block for as long as the client does not read; an exchange's writes never wait.  This
is where the two meet.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import anyio

from channelkit._deadline import Deadline

if TYPE_CHECKING:
    from channelkit._loop import Loop
    from channelkit.asgi.hosted.scope import Message, Send

PIECE = 64 * 1024  # bytes of a body that go to the host in one message, if so much is waiting
BODY = "http.response.body"


class Owner(Protocol):
    """Whose messages these are."""

    def handed(self, message: Message) -> None:
        """The host has taken `message`."""

    def failed(self, error: Exception) -> None:
        """The host could not take a message: the last that is heard."""

    def stalled(self) -> None:
        """A message has been with the host for too long."""


class AsgiOutbox:
    """Implements `spi.Outbox` for one request."""

    __slots__ = (
        "_deadline",
        "_owner",
        "_parking",
        "_queue",
        "_scope",
        "_send",
        "_timeout",
        "begun",
        "closed",
        "current",
        "unsent",
    )

    def __init__(self, loop: Loop, send: Send, write_timeout: float, owner: Owner) -> None:
        self.unsent = 0
        self.closed = False  # nothing more is taken or handed on
        self.begun = False  # the host has got something
        self.current: Message | None = None  # what the host is taking now
        self._owner = owner
        self._send = send
        self._timeout = write_timeout
        self._queue: deque[tuple[Message, int]] = deque()
        self._parking = loop.parking()
        self._deadline = Deadline(loop, owner.stalled)
        self._scope: anyio.CancelScope | None = None

    @property
    def waiting(self) -> bool:
        """Whether there is something to hand over."""
        return bool(self._queue)

    def put(self, message: Message, size: int) -> None:
        """Accept `message`; `size` is what it counts in `unsent`.  Once closed it counts, and goes nowhere."""
        self.unsent += size
        if not self.closed:
            self._queue.append((message, size))
            self._parking.wake()

    def replace(self, message: Message, size: int) -> None:
        """Drop what is queued and accept `message` in its stead."""
        self._queue.clear()
        self.unsent = 0
        self.put(message, size)

    def close(self) -> None:
        """Drop what is queued and leave the host's `send`, if it is being waited for."""
        if not self.closed:
            self.closed = True
            self._queue.clear()
            self._deadline.cancel()
            self._parking.wake()
            if self._scope is not None:
                self._scope.cancel()

    async def run(self) -> None:
        """Hand over whatever comes, until closed.  One task at a time runs this or `write`."""
        with anyio.CancelScope() as self._scope:
            while not self.closed:
                await self.write()
                if not self._queue and not self.closed:
                    await self._parking.park()

    async def write(self) -> None:
        """Hand over what is queued now."""
        while self._queue:
            message, size = self._take()
            self.current = message
            self.begun = True
            # The host does not show progress inside a message, so a big one gets its time for every piece.
            self._deadline.set(self._timeout * (1 + size // PIECE))
            try:
                await self._send(message)
            except Exception as error:
                self._owner.failed(error)
                return
            finally:
                self.current = None
                self._deadline.set(float("inf"))
            self.unsent -= size
            self._owner.handed(message)

    def _take(self) -> tuple[Message, int]:
        """The next message; pieces of a body that wait together go together."""
        message, size = self._queue.popleft()
        if not self._queue or message["type"] != BODY:
            return message, size
        parts, more = [message["body"]], message["more_body"]
        while more and self._queue and size < PIECE:
            following, length = self._queue.popleft()  # behind a body there is only more of it
            parts.append(following["body"])
            size += length
            more = following["more_body"]
        return {"type": BODY, "body": b"".join(parts), "more_body": more}, size
