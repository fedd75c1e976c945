"""The sending half of a direction (P1): numbers, and what is not acknowledged yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from channelkit.session.frames import End, Numbered, numbered, payload_size

FULL = 1 << 62  # `unsent` of a window whose messages are used up: more than any mark


class Sender:
    """`sent` is the highest number given, `acked` the highest acknowledged; what lies between is kept.

    Nothing leaves because it was written: only an acknowledgement removes.  Payloads are kept as they came, so that
    the members of a group share them; their numbers follow from their places, since the last one's is `sent`.
    """

    __slots__ = ("_kept", "acked", "bytes", "sent", "unsent", "window", "window_bytes")

    def __init__(self, window: int, window_bytes: int, sent: int = 0, acked: int = 0) -> None:
        self.window = window
        self.window_bytes = window_bytes
        self.sent = sent
        self.acked = acked
        self.bytes = 0
        #: `spi.Outbox`: what is not acknowledged, against the window.  An attribute, since every message looks at it.
        self.unsent = 0
        self._kept: deque[str | bytes | End] = deque()

    @property
    def empty(self) -> bool:
        """Whether nothing is kept: all is acknowledged, or the session is over."""
        return not self._kept

    @property
    def frames(self) -> tuple[Numbered, ...]:
        """Everything that is kept, in order."""
        return tuple(self.after(0))

    @property
    def unacknowledged(self) -> int:
        """Messages, the end not counted, that the peer has not acknowledged."""
        return len(self._kept) - (1 if self.ended else 0)

    @property
    def ended(self) -> bool:
        """Whether the last number was given to an end."""
        return bool(self._kept) and isinstance(self._kept[-1], End)

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes may be numbered now: the window counts messages and bytes."""
        return self.sent - self.acked < self.window and self.bytes + size <= self.window_bytes

    def number(self, payload: str | bytes, size: int) -> int:
        """Give the next number to `payload`, of `size` bytes, and keep it; the caller has looked for room."""
        self.sent = n = self.sent + 1
        self._kept.append(payload)
        self.bytes = size = self.bytes + size
        self.unsent = size + 1 if n - self.acked < self.window else FULL
        return n

    def end(self, code: int, reason: str) -> End:
        """Give the last number to an end, which needs no room."""
        frame = End(self.sent + 1, code, reason)
        self.keep(frame)
        return frame

    def keep(self, frame: Numbered) -> None:
        """Keep a frame that has its number: `sent` + 1."""
        if isinstance(frame, End):
            self.sent = frame.n
            self._kept.append(frame)
            self._measure()
        else:
            self.number(frame.payload, frame.size)

    def acknowledge(self, n: int) -> bool:
        """Merge an acknowledgement (max); whether it brought anything.  `n` <= `sent`: the caller has looked."""
        if n <= self.acked:
            return False
        self.acked = n
        kept = self._kept
        if n == self.sent:
            self.clear()
        else:
            for _ in range(len(kept) - (self.sent - n)):
                payload = kept.popleft()
                self.bytes -= 0 if isinstance(payload, End) else payload_size(payload)
            self._measure()
        return True

    def _measure(self) -> None:
        if not self._kept:
            self.unsent = 0
        else:
            self.unsent = self.bytes + 1 if self.sent - self.acked < self.window else FULL

    def after(self, n: int) -> Iterator[Numbered]:
        """Everything kept with a number above `n`, in order; to be read before anything else happens."""
        first = self.sent - len(self._kept) + 1
        skipped = max(0, n + 1 - first)
        for number, payload in enumerate(islice(self._kept, skipped, None), first + skipped):
            yield payload if isinstance(payload, End) else numbered(number, payload)

    def clear(self) -> None:
        """Drop what is kept: the session is over.  The numbers stay."""
        self._kept.clear()
        self.bytes = self.unsent = 0
