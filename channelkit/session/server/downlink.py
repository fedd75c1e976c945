"""The server's downlink (P4, P6): one attachment at a time, what is written to it, its clocks and those without one."""

from __future__ import annotations

from channelkit.config import SessionConfig
from channelkit.session import refusals
from channelkit.session.acks import Acks
from channelkit.session.actions import Attached, Detached, Finish, Kind, ServerAction, Write
from channelkit.session.ending import ENDED, Outcome
from channelkit.session.frames import Ack, Frame, Hello, Numbered, Ping
from channelkit.session.pacing import NEVER, AttachRate, Turnover
from channelkit.session.receiver import Receiver
from channelkit.session.sender import Sender
from channelkit.session.server.attachment import Attachment, until

Actions = list[ServerAction]


class Downlink:
    """Who has it decides the machine; here is what follows from it for the wire.

    Its clocks: `grace_at` while nobody is attached; `gap_at` between two polls, or two responses of a stream that is
    rotated, which do not count as detached yet: else the application would hear of the transport's own business (S9).
    """

    __slots__ = (
        "_announced",
        "_attachments",
        "_gap_at",
        "_receiver",
        "_sender",
        "acks",
        "attachment",
        "config",
        "grace_at",
        "spread",
        "turnover",
    )

    def __init__(self, config: SessionConfig, sender: Sender, receiver: Receiver, now: float, spread: float) -> None:
        self.config = config
        self.spread = spread
        self.attachment: Attachment | None = None
        self.grace_at = now + config.grace
        self.acks = Acks(config.ack_delay)
        self.turnover = Turnover(AttachRate(config.fruitless_attaches, config.attach_interval), config.rotation)
        self._sender = sender
        self._receiver = receiver
        self._attachments = 0
        self._announced = False  # on_attach was told, on_detach not yet
        self._gap_at = NEVER

    def current(self, attachment: int) -> Attachment | None:
        """The attachment of that number, if it is the one that counts."""
        current = self.attachment
        return current if current is not None and current.number == attachment else None

    def contact(self, now: float) -> None:
        """A request passed credential, fence and range: a running grace starts anew."""
        if self.attachment is None:
            self.grace_at = now + self.config.grace

    # -- attach (P4) ---------------------------------------------------------------------------------------------------

    def end_older(self, actions: Actions, *, superseded: bool) -> None:
        """P4 step 8: an older instance is told so, the same instance's older connection just ends."""
        if (old := self.attachment) is not None:
            refusal = refusals.superseded() if superseded else None
            actions.append(Finish(old.number, 1012, "replaced", refusal))
            self.attachment = None

    def become(self, kind: Kind, a: int, hello: Hello, ack: int, now: float, wait: float, actions: Actions) -> int:
        """P4 step 9: hello, then everything in (ack, sent].  Returns the attachment's number."""
        self._attachments += 1
        number = self._attachments
        end = until(kind, self.config, now, wait, self.spread)
        self.attachment = Attachment(number, kind, a, ack, now, now, now, end)
        self.grace_at = self._gap_at = NEVER
        if not self._announced:
            self._announced = True
            actions.append(Attached())
        if kind is not Kind.POLL:
            self.acks.tell(self._receiver)
            actions.append(Write(number, (hello, *self._sender.after(ack))))
            self._rotate_after_end(now, actions)
        elif not self._sender.empty or wait <= 0:
            self._answer_poll(hello if wait <= 0 else self._short_hello(), now, actions)
        return number

    def _short_hello(self) -> Hello:
        return Hello(self._receiver.recv)

    def _answer_poll(self, hello: Hello, now: float, actions: Actions) -> None:
        """Answer with hello and what is pending, up to a size: the same request gets the same lines."""
        attachment = self.attachment
        assert attachment is not None
        frames: list[Frame] = [hello]
        size = 0
        for frame in self._sender.after(0):
            if size and size + frame.size > self.config.poll_bytes:
                break
            frames.append(frame)
            size += frame.size
        self.acks.tell(self._receiver)
        actions.append(Write(attachment.number, tuple(frames)))
        self.finish(now, actions)

    # -- writing -------------------------------------------------------------------------------------------------------

    def write(self, frame: Numbered, now: float, actions: Actions) -> None:
        """Write a frame that was just numbered, if there is an attachment."""
        current = self.attachment
        if current is None:
            return
        if current.kind is Kind.POLL:
            self._answer_poll(self._short_hello(), now, actions)
            return
        actions.append(Write(current.number, (frame,)))
        self._rotate_after_end(now, actions)

    def _rotate_after_end(self, now: float, actions: Actions) -> None:
        """P6 rotation (b): behind the end a stream has nothing to say, and its next attach acknowledges it."""
        if self.attachment is not None and self._is_said(self.attachment):
            self.finish(now, actions)

    def _is_said(self, current: Attachment) -> bool:
        return current.is_stream and self._sender.ended and not current.lagging

    def owe_ack(self, now: float, actions: Actions) -> None:
        """More was received: say so in time."""
        current = self.attachment
        if current is None or not current.takes_acks:
            return
        if self.acks.is_much(self._receiver.recv, self._receiver):
            self.say_ack(now, actions)
        elif self.acks.at == NEVER:
            self.acks.soon(now)

    def say_ack(self, now: float, actions: Actions) -> None:
        """Acknowledge now, where that can be written."""
        self.acks.at = NEVER
        current = self.attachment
        if current is not None and current.takes_acks:
            current.wrote = now
            actions.append(Write(current.number, (Ack(self.acks.tell(self._receiver)),)))

    # -- how an attachment ends ----------------------------------------------------------------------------------------

    def finish(self, now: float, actions: Actions, code: int = 1012, reason: str = "") -> None:
        """End the attachment after what was written."""
        assert self.attachment is not None
        actions.append(Finish(self.attachment.number, code, reason))
        self.detach(now, actions, finished=True)

    def detach(self, now: float, actions: Actions, *, finished: bool = False) -> None:
        """The attachment is gone: grace runs.  A response that we finished is to be followed by the next at once."""
        current = self.attachment
        assert current is not None
        self.attachment = None
        self.acks.at = NEVER
        self.grace_at = now + self.config.grace
        if current.kind is Kind.POLL or (finished and current.is_stream):
            self._gap_at = now + self.config.poll_gap
        else:
            self._tell_detached(actions)

    def _tell_detached(self, actions: Actions) -> None:
        self._gap_at = NEVER
        if self._announced:
            self._announced = False
            actions.append(Detached())

    def end(self, outcome: Outcome, actions: Actions) -> None:
        """The session is over: so is its attachment."""
        if (current := self.attachment) is not None:
            refusal = refusals.over(outcome, self._receiver.recv)
            actions.append(Finish(current.number, 1000 if outcome == ENDED else 1012, outcome, refusal))
            self.attachment = None
        self.turnover.blocked = False
        self._tell_detached(actions)

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `tick` must be called at the latest, grace included."""
        first = min(self.grace_at, self._gap_at, self.acks.at)
        current = self.attachment
        if current is None:
            return first
        return min(first, self._ping_at(current), current.silent_at(self.config), self._finish_at(current))

    def _ping_at(self, current: Attachment) -> float:
        return current.ping_at(self._sender.numbered_at, self.config)

    def _finish_at(self, current: Attachment) -> float:
        """When we end it: a poll after its wait; a stream by rotation, but not before all that is there was taken."""
        if not current.is_stream:
            return current.until
        return NEVER if current.lagging else min(current.until, self.turnover.early(current.since))

    def tick(self, now: float, actions: Actions) -> None:
        """Do what is due; grace is the machine's to look at."""
        if now >= self._gap_at:
            self._tell_detached(actions)
        if now >= self.acks.at:
            self.say_ack(now, actions)
        current = self.attachment
        if current is None:
            return
        if now >= current.silent_at(self.config):
            self.finish(now, actions, 1001, "silent")
        elif now >= self._finish_at(current) or self._is_said(current):
            self.finish(now, actions)
        elif now >= self._ping_at(current):
            current.wrote = current.asked = now
            actions.append(Write(current.number, (Ping(),)))
