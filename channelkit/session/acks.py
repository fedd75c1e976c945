"""When a side says what it has: it may wait for company, but not long."""

from __future__ import annotations

from channelkit.session.pacing import NEVER
from channelkit.session.receiver import Receiver


class Acks:
    """`told` is the highest number the peer was told of; `at` when the next acknowledgement is due."""

    __slots__ = ("_told_bytes", "at", "delay", "told")

    def __init__(self, delay: float, told: int = 0) -> None:
        self.delay = delay  # the longest an acknowledgement waits for company
        self.told = told
        self.at = NEVER
        self._told_bytes = 0  # of what was received up to there

    def soon(self, now: float) -> None:
        """One is owed: it waits at most `delay`."""
        self.at = min(self.at, now + self.delay)

    def is_much(self, ack: int, receiver: Receiver) -> bool:
        """Whether a quarter of a window is owed, which does not wait."""
        owed, owed_bytes = ack - self.told, receiver.recv_bytes - self._told_bytes
        return owed * 4 >= receiver.window or owed_bytes * 4 >= receiver.window_bytes

    def tell(self, receiver: Receiver) -> int:
        """`recv`, about to be told to the peer."""
        self.at = NEVER
        self.told = receiver.recv
        self.tell_bytes(receiver)
        return self.told

    def tell_bytes(self, receiver: Receiver) -> None:
        """Count afresh what is owed in bytes: a batch says it, and its answer will show up to which number."""
        self._told_bytes = receiver.recv_bytes
