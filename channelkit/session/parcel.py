"""A message on its way out, before it has a number."""

from __future__ import annotations

from channelkit.session.codec import Halves, around, event_halves, line_halves


class Parcel:
    """What a session accepts.  A group's members share it, and the forms in which streams carry it."""

    __slots__ = ("_event", "_line", "payload", "size")

    def __init__(self, payload: str | bytes, size: int) -> None:
        self.payload = payload
        self.size = size  # bytes that count against the window
        self._line: Halves | None = None
        self._event: Halves | None = None

    def __len__(self) -> int:
        return self.size

    def line(self, n: int) -> bytes:
        """The line of JSON that says it is message `n`."""
        if self._line is None:
            self._line = line_halves(self.payload)
        return around(self._line, n)

    def event(self, n: int) -> bytes:
        """The same as a block of an event stream."""
        if self._event is None:
            self._event = event_halves(self.payload)
        return around(self._event, n)
