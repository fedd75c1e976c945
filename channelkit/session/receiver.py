"""The receiving half of a direction (P1): the take rule, and the hold beyond the application's inbox."""

from __future__ import annotations

from collections import deque
from enum import Enum

from channelkit.session.frames import End, Message, Numbered


class Take(Enum):
    """What became of a frame that arrived."""

    TAKEN = "taken"
    DUPLICATE = "duplicate"  # had it; not an error, but the answer is `recv`
    GAP = "gap"  # something before it is missing
    NO_ROOM = "no room"  # it lies beyond the window


class Receiver:
    """`have` is the highest number taken without gap, `recv` the highest that may be acknowledged.

    A message taken goes to the hold; `pull` hands it to the application's inbox.  With ack="inbox" that moves `recv`;
    with ack="processed" `processed` does.  The hold takes one window, so reading the wire never has to stop.
    """

    __slots__ = (
        "by_processing",
        "have",
        "hold",
        "recv",
        "recv_bytes",
        "taken_bytes",
        "unprocessed",
        "window",
        "window_bytes",
    )

    def __init__(self, window: int, window_bytes: int, recv: int = 0, *, by_processing: bool = False) -> None:
        self.window = window
        self.window_bytes = window_bytes
        self.have = recv
        self.recv = recv
        self.by_processing = by_processing
        self.hold: deque[Numbered] = deque()
        self.unprocessed: deque[int] = deque()  # sizes of what is in the inbox and not processed
        self.taken_bytes = 0  # of everything in (recv, have]
        self.recv_bytes = 0  # of everything that went into `recv` here

    def take(self, frame: Numbered) -> Take:
        """The take rule: n <= have is a duplicate, have + 1 is taken if the window holds it, more is a gap."""
        if frame.n <= self.have:
            return Take.DUPLICATE
        if frame.n != self.have + 1:
            return Take.GAP
        taken_bytes = self.taken_bytes + frame.size
        if (frame.n - self.recv > self.window or taken_bytes > self.window_bytes) and not isinstance(frame, End):
            return Take.NO_ROOM
        self.have = frame.n
        self.hold.append(frame)
        self.taken_bytes = taken_bytes
        return Take.TAKEN

    def pull(self) -> Message | None:
        """The next message for the inbox, None if there is none or the end is next."""
        if not self.hold:
            return None
        frame = self.hold[0]
        if isinstance(frame, End):
            return None
        self.hold.popleft()
        if self.by_processing:
            self.unprocessed.append(frame.size)
        else:
            self._received(frame.size)
        return frame

    def processed(self) -> None:
        """The handler has returned from the oldest message in the inbox (ack="processed")."""
        if self.unprocessed:  # empty once the session is over, or in the other mode
            self._received(self.unprocessed.popleft())

    def _received(self, size: int) -> None:
        self.recv += 1
        self.taken_bytes -= size
        self.recv_bytes += size

    def pull_end(self) -> End | None:
        """The peer's end, once everything before it may be acknowledged; it counts as received."""
        if self.hold and isinstance(self.hold[0], End) and self.hold[0].n == self.recv + 1:
            end = self.hold.popleft()
            assert isinstance(end, End)
            self.recv = end.n
            return end
        return None

    def forget_hold(self) -> None:
        """Take back what did not reach the inbox: its numbers are free again.

        A new instance does not know what an older one sent last; it would have its own message taken for a
        duplicate of one that is still held here (F28).
        """
        self.hold.clear()
        self.have = self.recv + len(self.unprocessed)
        self.taken_bytes = sum(self.unprocessed)

    def stop(self) -> End | None:
        """Take nothing more: what is held was not acknowledged and never will be.  The end, if one was held."""
        last = self.hold[-1] if self.hold else None
        self.hold.clear()
        self.unprocessed.clear()
        self.have = self.recv
        self.taken_bytes = 0
        return last if isinstance(last, End) else None
