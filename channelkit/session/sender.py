"""The sending half of a direction (P1): numbers, and what is not acknowledged yet."""

from __future__ import annotations

import math
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

    __slots__ = ("_kept", "acked", "bytes", "numbered_at", "sent", "window", "window_bytes")

    def __init__(self, window: int, window_bytes: int, sent: int = 0, acked: int = 0) -> None:
        self.window = window
        self.window_bytes = window_bytes
        self.sent = sent
        self.acked = acked
        self.bytes = 0
        self.numbered_at = -math.inf  # when the last number was given
        self._kept: deque[str | bytes | End] = deque()

    @property
    def unsent(self) -> int:
        """`spi.Outbox`: bytes not acknowledged, an empty message too, or more than any mark where numbers ran out."""
        if not self._kept:
            return 0
        return self.bytes + 1 if self.sent - self.acked < self.window else FULL

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

    def number(self, payload: str | bytes, size: int, now: float) -> int:
        """Give the next number to `payload`, of `size` bytes, and keep it; the caller has looked for room."""
        self.numbered_at = now
        self.sent = n = self.sent + 1
        self._kept.append(payload)
        self.bytes += size
        return n

    def end(self, code: int, reason: str) -> End:
        """Give the last number to an end, which needs no room."""
        frame = End(self.sent + 1, code, reason)
        self.keep(frame)
        return frame

    def keep(self, frame: Numbered) -> None:
        """Keep a frame that has its number: `sent` + 1."""
        self.sent = frame.n
        self._kept.append(frame if isinstance(frame, End) else frame.payload)
        self.bytes += frame.size

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
        return True

    def after(self, n: int) -> Iterator[Numbered]:
        """Everything kept with a number above `n`, in order; to be read before anything else happens."""
        first = self.sent - len(self._kept) + 1
        skipped = max(0, n + 1 - first)
        for number, payload in enumerate(islice(self._kept, skipped, None), first + skipped):
            yield payload if isinstance(payload, End) else numbered(number, payload)

    def clear(self) -> None:
        """Drop what is kept: the session is over.  The numbers stay."""
        self._kept.clear()
        self.bytes = 0
