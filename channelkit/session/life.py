"""The one way of a session's side: open, closing, over."""

from __future__ import annotations

from channelkit.session.ending import ENDED, Ending, Outcome
from channelkit.session.frames import End
from channelkit.session.pacing import NEVER
from channelkit.session.receiver import Receiver
from channelkit.session.sender import Sender
from channelkit.status import By


class Life:
    """`closing` is this side's own end, once numbered; `ending` is set once and never again."""

    __slots__ = ("close_at", "closing", "ending")

    def __init__(self, closing: End | None = None) -> None:
        self.closing = closing
        self.close_at = NEVER  # when the peer's confirmation is waited for no longer
        self.ending: Ending | None = None

    @property
    def is_open(self) -> bool:
        """Whether a message may ever be numbered again."""
        return self.ending is None and self.closing is None

    def end(self, outcome: Outcome, by: By, code: int, reason: str, sender: Sender, receiver: Receiver) -> Ending:
        """The only way to the end: what is kept and what is held are dropped."""
        assert self.ending is None
        left = sender.unacknowledged
        clean = left == 0 and outcome == ENDED
        self.ending = Ending(outcome, by, code, reason, clean, left, sender.bytes if left else 0)
        self.close_at = NEVER
        sender.clear()
        receiver.stop()
        return self.ending
