"""How fast a session's frames go into one connection: as it takes them, since the session keeps them anyway.

Without that a client that reads nothing, and comes again and again, would have a copy of the whole window in each of
its connections, encoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING, Any

from channelkit.session.frames import End, Frame, Message

if TYPE_CHECKING:
    from channelkit.spi import Exchange, Outbox, Session


class PacedCarrier(ABC):
    """A `spi.Carrier` that goes on, and stops writing messages while more than `soft_mark` is unsent.

    What it skipped follows when there is `room`, from what the session keeps.  All else is written at once: a ping too
    comes sooner then than behind a whole window.
    """

    __slots__ = ("_behind", "_exchange", "_mark", "_number", "_outbox", "_session")

    _session: Session | None

    def __init__(self, exchange: Exchange) -> None:
        self._exchange: Any = exchange
        self._outbox: Outbox = exchange.outbox
        self._mark = exchange.config.soft_mark
        self._number = 0
        self._behind = 0  # the lowest number that was skipped; 0: none was

    @property
    def lagging(self) -> bool:
        """Whether there is something that the connection would not take yet."""
        return self._behind > 0

    @abstractmethod
    def _encoded(self, frame: Frame) -> Sized:
        """The form of `frame` here."""

    @abstractmethod
    def _put(self, pieces: list[Any]) -> None:
        """Write what was encoded."""

    def write(self, frames: Iterable[Frame]) -> None:
        room = self._mark - self._outbox.unsent
        pieces = []
        for frame in frames:
            if (room < 0 or self._behind) and isinstance(frame, Message | End):
                self._skip(frame.n)
                continue
            piece = self._encoded(frame)
            room -= len(piece)
            pieces.append(piece)
        if pieces:
            self._put(pieces)

    def _skip(self, n: int) -> None:
        """Message `n` comes later, and so do those behind it."""
        if not self._behind:
            self._behind = n
            self._exchange.want_room()

    def room(self) -> None:
        """`spi.Listener`: some of what was written has left."""
        if self._behind and self._session is not None:
            first, self._behind = self._behind, 0
            self.write(self._session.after(first - 1))
            if not self._behind:
                self._session.caught_up(self._number)
