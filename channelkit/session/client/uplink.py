"""A client's uplink by POST (P5): one batch in flight, sent again until it is acknowledged."""

from __future__ import annotations

import math
from collections.abc import Callable

from channelkit.session.actions import Post
from channelkit.session.frames import Numbered
from channelkit.session.pacing import NEVER, backoff
from channelkit.session.sender import Sender

#: With `post_timeout` 30 s: 240 s, in which a message of 1 MiB passes at 4 KiB/s.
MOST_PATIENCE = 8
#: Of a line, beside its payload: `["m",9007199254740991,""]`, and a little more.
LINE = 32


class Uplink:
    """`in_flight` is the batch without answer; `taken` what a 200 said the server has, acknowledged or not.

    `patience` is how many times `post_timeout` an answer may take: nobody can tell a large batch on a slow line from
    one that was lost, so each time that none came it is twice as long.  `most` is the size of a batch that passes, as
    far as is known: a proxy may take less than the server.
    """

    __slots__ = ("failures", "in_flight", "jitter", "most", "not_before", "number", "patience", "taken", "until")

    def __init__(self, jitter: Callable[[], float]) -> None:
        self.jitter = jitter
        self.in_flight: Post | None = None
        self.number = 0
        self.taken = 0
        self.failures = 0
        self.not_before = 0.0
        self.until = NEVER
        self.patience = 1
        self.most = math.inf

    def batch(self, sender: Sender, most_bytes: int) -> tuple[Numbered, ...]:
        """What the server is not known to have, from the lowest number, up to a size; one message at least."""
        frames: list[Numbered] = []
        size, most = 0, min(most_bytes, self.most)
        for frame in sender.after(max(sender.acked, self.taken)):
            size += frame.size + LINE
            if frames and size > most:
                break
            frames.append(frame)
        return tuple(frames)

    def halve(self, post: Post) -> bool:
        """A batch was too large for whoever answered: smaller ones from now on.  False: one message is not smaller."""
        if len(post.frames) < 2:
            return False
        self.most = sum(frame.size + LINE for frame in post.frames) // 2
        return True

    def asks(self, sender: Sender) -> bool:
        """Whether everything kept was taken and an acknowledgement is awaited: an empty batch asks for it."""
        return not sender.empty and self.taken >= sender.sent

    def owes(self, sender: Sender) -> bool:
        """Whether a batch would hold anything."""
        return not sender.empty and self.taken < sender.sent

    def begin(self, a: int, ack: int, frames: tuple[Numbered, ...], now: float, timeout: float) -> Post:
        """The next batch, now in flight."""
        self.number += 1
        self.in_flight = Post(self.number, a, ack, frames)
        self.until = now + timeout * self.patience
        return self.in_flight

    def unanswered(self) -> None:
        """The batch in flight had its time."""
        self.patience = min(2 * self.patience, MOST_PATIENCE)

    def landed(self) -> Post:
        """The batch is in flight no more: answered, failed, or given up."""
        post = self.in_flight
        assert post is not None
        self.in_flight = None
        self.until = NEVER
        return post

    def wait(self, now: float, grace: float, least: float = 0.0) -> None:
        """Back off: the next batch not before that."""
        self.failures += 1
        self.not_before = now + max(least, backoff(self.failures, self.jitter(), grace))

    def progress(self) -> None:
        """Something was acknowledged: no reason to wait."""
        self.failures = 0
        self.not_before = 0.0
