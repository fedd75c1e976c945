"""The sending half of a direction (P1): numbers, and what is not acknowledged yet."""

from __future__ import annotations

from collections import deque

from channelkit.session.frames import End, Numbered, numbered


class Sender:
    """`sent` is the highest number given, `acked` the highest acknowledged; the frames between are kept.

    Nothing leaves because it was written: only an acknowledgement removes.
    """

    __slots__ = ("acked", "bytes", "frames", "sent", "window", "window_bytes")

    def __init__(self, window: int, window_bytes: int, sent: int = 0, acked: int = 0) -> None:
        self.window = window
        self.window_bytes = window_bytes
        self.sent = sent
        self.acked = acked
        self.frames: deque[Numbered] = deque()
        self.bytes = 0

    @property
    def unacknowledged(self) -> int:
        """Messages, the end not counted, that the peer has not acknowledged."""
        return len(self.frames) - (1 if self.ended else 0)

    @property
    def ended(self) -> bool:
        """Whether the last number was given to an end."""
        return bool(self.frames) and isinstance(self.frames[-1], End)

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes may be numbered now: the window counts messages and bytes."""
        return self.sent - self.acked < self.window and self.bytes + size <= self.window_bytes

    def number(self, payload: str | bytes) -> Numbered:
        """Give the next number to `payload` and keep it; the caller has looked for room."""
        frame = numbered(self.sent + 1, payload)
        self.keep(frame)
        return frame

    def end(self, code: int, reason: str) -> End:
        """Give the last number to an end, which needs no room."""
        frame = End(self.sent + 1, code, reason)
        self.keep(frame)
        return frame

    def keep(self, frame: Numbered) -> None:
        """Keep a frame that has its number: `sent` + 1."""
        self.sent = frame.n
        self.frames.append(frame)
        self.bytes += frame.size

    def acknowledge(self, n: int) -> bool:
        """Merge an acknowledgement (max); whether it brought anything.  `n` <= `sent`: the caller has looked."""
        if n <= self.acked:
            return False
        self.acked = n
        while self.frames and self.frames[0].n <= n:
            self.bytes -= self.frames.popleft().size
        return True

    def after(self, n: int) -> tuple[Numbered, ...]:
        """Everything kept with a number above `n`, in order."""
        return tuple(frame for frame in self.frames if frame.n > n)

    def clear(self) -> None:
        """Drop what is kept: the session is over.  The numbers stay."""
        self.frames.clear()
        self.bytes = 0
