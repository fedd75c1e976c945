"""Who this client is: one instance of one session, of a line of instances, and what the server's hellos told it."""

from __future__ import annotations

from dataclasses import replace

from channelkit.session.client.saved import FIRST_GRACE, Saved
from channelkit.session.frames import Hello, Terms
from channelkit.session.receiver import Receiver
from channelkit.session.sender import Sender

#: Until a hello tells the real ones.
FIRST_TERMS = Terms(window=1, window_bytes=1 << 20, max_message=1 << 20, ping=20.0, grace=FIRST_GRACE)


class Instance:
    """`a` orders the instances of a session.  `had_hello`: this one's own, without which it numbers nothing (F2)."""

    __slots__ = ("a", "had_hello", "line", "secret", "sid", "terms", "verified")

    def __init__(self, a: int, saved: Saved | None, sid: str | None, secret: str | None) -> None:
        self.a = a
        self.line = saved.line if saved else None
        self.verified = saved.verified if saved else 0
        self.sid, self.secret = (saved.sid, saved.secret) if saved else (sid, secret)
        self.terms = replace(FIRST_TERMS, grace=saved.grace) if saved else FIRST_TERMS
        self.had_hello = False

    def named(self, hello: Hello) -> None:
        """The session has an id, which this hello tells."""
        if self.sid is None:
            self.sid, self.secret = hello.sid, hello.secret

    def owns(self, hello: Hello, sender: Sender) -> bool:
        """Whether the numbers hello has received can only be this instance's and its predecessors'."""
        have = max(hello.recv, hello.have or 0)  # `have` is never below `recv`, says a server that tells the truth
        if have > sender.sent:
            return False
        if self.had_hello or have <= max(sender.acked, self.verified):
            return True
        self.verified = have
        return hello.by in (None, self.a, self.line)

    def first_hello(self, hello: Hello, sender: Sender, receiver: Receiver) -> None:
        """From here on this instance may number, within the terms it was told."""
        self.had_hello = True
        if hello.terms is not None:
            self.terms = hello.terms
            sender.window = receiver.window = hello.terms.window
            sender.window_bytes = receiver.window_bytes = hello.terms.window_bytes

    def save(self, sender: Sender, recv: int) -> Saved:
        """The state for a successor, once there is a `sid`."""
        assert self.sid is not None
        frames = sender.frames
        line = self.a if self.had_hello else self.line
        numbers = (recv, sender.sent, sender.acked)
        return Saved(self.sid, self.secret, self.a, *numbers, frames, line, self.verified, self.terms.grace)
