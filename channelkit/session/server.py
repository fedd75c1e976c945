"""A session as the server sees it (P1, P4 to P7): events in, actions out, time as an argument.

Sequential: whoever calls does so from one place at a time, so "closed once" and "one attachment" need no lock.  The
machine compares no secret and reads no header: who comes here has passed origin and credential (`admission`).

Every method that may change something returns actions, to be done in order before the next call.  After each call the
binding looks at `deadline` and arranges for `tick(now)` then; and, if the inbox takes messages, calls `pull` until it
gives None and then `settle(now)` once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from channelkit.config import SessionConfig
from channelkit.session import admission, refusals
from channelkit.session.actions import (
    Attached,
    Detached,
    Ended,
    Finish,
    Kind,
    Room,
    ServerAction,
    Start,
    Write,
)
from channelkit.session.admission import Standing
from channelkit.session.ending import ABANDONED, ENDED, KILLED, Ending, Outcome
from channelkit.session.frames import (
    Ack,
    Binary,
    End,
    Frame,
    Hello,
    Message,
    Numbered,
    Ping,
    Terms,
    Text,
)
from channelkit.session.pacing import AttachRate, rotation_delay
from channelkit.session.receiver import Receiver, Take
from channelkit.session.refusals import Refusal
from channelkit.session.sender import Sender
from channelkit.status import By

Actions = list[ServerAction]
NEVER = math.inf


@dataclass(slots=True)
class Attachment:
    """The connection that carries the downlink now."""

    number: int
    kind: Kind
    a: int
    ack: int
    since: float
    heard: float
    wrote: float
    until: float  # poll: answer by then; stream: rotate by then


@dataclass(frozen=True, slots=True)
class Admitted:
    """The attach is this session's attachment, `number`."""

    number: int
    actions: Actions


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer `refusal`; nothing else has changed but what `actions` say (an `ack` may have ended a closing session)."""

    refusal: Refusal
    actions: Actions


@dataclass(frozen=True, slots=True)
class Posted:
    """A batch went in as far as it could.  Pull, settle, then `answer` this, so that the answer's ack is fresh."""

    outcome: Take
    actions: Actions


@dataclass(frozen=True, slots=True)
class Deleted:
    """The session is over: answer 204."""

    actions: Actions


class ServerSession:
    """One session.  `spread` in [0, 1) moves its rotations apart from those of others."""

    __slots__ = (
        "_ack_at",
        "_announced",
        "_attachments",
        "_blocked",
        "_close_at",
        "_fruitless",
        "_gap_at",
        "_grace_at",
        "_progress",
        "_rate",
        "_started",
        "_told",
        "_told_bytes",
        "a",
        "attachment",
        "by",
        "closing",
        "config",
        "ending",
        "forget_at",
        "receiver",
        "sender",
        "sid",
        "spread",
    )

    def __init__(self, sid: str, config: SessionConfig, now: float, *, a: int = 1, spread: float = 0.5) -> None:
        self.sid = sid
        self.config = config
        self.a = a
        self.by: int | None = None  # the instance that sent the highest number taken (F27)
        self.spread = spread
        self.sender = Sender(config.window, config.window_bytes)
        self.receiver = Receiver(config.window, config.window_bytes, by_processing=config.ack == "processed")
        self.attachment: Attachment | None = None
        self.closing: End | None = None
        self.ending: Ending | None = None
        self.forget_at = NEVER  # when an ended session may be forgotten: one grace later (F18)
        self._attachments = 0
        self._started = False
        self._announced = False  # on_attach was told, on_detach not yet
        self._told = 0  # highest recv the client was told, and the bytes up to there
        self._told_bytes = 0
        self._ack_at = NEVER
        self._grace_at = now + config.grace
        self._close_at = NEVER
        self._gap_at = NEVER
        self._rate = AttachRate(config.fruitless_attaches, config.attach_interval)
        self._fruitless = 0
        self._progress = False
        self._blocked = False

    # -- what can be asked ---------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether messages may be numbered."""
        return self.ending is None and self.closing is None

    @property
    def over(self) -> bool:
        """Whether it has ended; then it only remembers, until `forget_at`."""
        return self.ending is not None

    @property
    def standing(self) -> Standing:
        """What admission depends on."""
        over = None if self.ending is None else self.ending.outcome
        return Standing(self.a, self.sender.acked, self.sender.sent, self.receiver.recv, over)

    def hello(self, secret: str | None = None) -> Hello:
        """The whole hello; with `secret` the body of a creation's 201."""
        config = self.config
        terms = Terms(config.window, config.window_bytes, config.max_message, config.ping, config.grace)
        recv, have = self.receiver.recv, self.receiver.have
        return Hello(recv, self.sid, self.a, terms, self.by, have if have > recv else None, secret)

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes may be numbered now."""
        return self.sender.has_room(size)

    # -- attach (P4) ---------------------------------------------------------------------------------------------------

    def attach(
        self, kind: Kind, a: int, ack: int, now: float, *, wait: float = 0.0, draining: bool = False
    ) -> Admitted | Refused:
        """An attach that passed origin and credential: P4 steps 3 to 9."""
        if (refusal := admission.attach(self.standing, a, ack)) is not None:
            return Refused(refusal, [])
        self._contact(now)
        progress = ack > self.sender.acked
        ends = self.closing is not None and ack == self.sender.sent
        if not ends and (refusal := self._too_much(a, now, progress=progress, draining=draining)) is not None:
            return Refused(refusal, [])
        actions: Actions = []
        superseded = a > self.a
        if superseded:
            self.a = a
            self.receiver.forget_hold()
        self._acknowledge(ack, now, actions)
        if self.ending is not None:
            return Refused(refusals.over(self.ending.outcome, self.receiver.recv), actions)
        self._fruitless = 0 if self._progress else self._fruitless + 1
        self._progress = False
        self._rate.admitted(now, progress=progress)
        self._begin(actions)
        self._end_older(actions, superseded=superseded)
        return Admitted(self._become(kind, a, ack, now, wait, actions), actions)

    def _too_much(self, a: int, now: float, *, progress: bool, draining: bool) -> Refusal | None:
        """P4 step 6.  A closing session admits while draining: the attach brings its end to the client."""
        recv = self.standing.ack_for(a)
        if draining and self.closing is None:
            return refusals.draining(recv)
        delay = self._rate.refused(now, progress=progress)
        return None if delay is None else refusals.rate(recv, delay)

    def _end_older(self, actions: Actions, *, superseded: bool) -> None:
        """P4 step 8: an older instance is told so, the same instance's older connection just ends."""
        if (old := self.attachment) is not None:
            refusal = refusals.superseded() if superseded else None
            actions.append(Finish(old.number, 1012, "replaced", refusal))
            self.attachment = None

    def _become(self, kind: Kind, a: int, ack: int, now: float, wait: float, actions: Actions) -> int:
        """P4 step 9: hello, then everything in (ack, sent]."""
        self._attachments += 1
        until = NEVER
        if kind is Kind.POLL:
            until = now + min(wait, self.config.max_wait)
        elif kind is not Kind.WEBSOCKET:
            until = now + self.config.rotation * (0.9 + 0.2 * self.spread)
        self.attachment = Attachment(self._attachments, kind, a, ack, now, now, now, until)
        self._grace_at = self._gap_at = NEVER
        if not self._announced:
            self._announced = True
            actions.append(Attached())
        number = self._attachments
        if kind is Kind.POLL:
            if self.sender.frames or wait <= 0:
                self._answer_poll(now, actions, whole=wait <= 0)
            return number
        self._tell_recv()
        actions.append(Write(number, (self.hello(), *self.sender.after(ack))))
        self._rotate_after_end(now, actions)
        return number

    def _answer_poll(self, now: float, actions: Actions, *, whole: bool) -> None:
        """Answer with hello and what is pending, up to a size: the same request gets the same lines."""
        attachment = self.attachment
        assert attachment is not None
        frames: list[Frame] = [self.hello() if whole else Hello(self.receiver.recv)]
        size = 0
        for frame in self.sender.frames:
            if size and size + frame.size > self.config.poll_bytes:
                break
            frames.append(frame)
            size += frame.size
        self._tell_recv()
        actions += (Write(attachment.number, tuple(frames)), Finish(attachment.number))
        self._detach(now, actions)

    # -- the attachment ------------------------------------------------------------------------------------------------

    def received(self, attachment: int, frame: Frame, now: float) -> Actions:
        """A frame of a WebSocket.  What comes on an older one is ignored (P4 step 8)."""
        actions: Actions = []
        current = self.attachment
        if current is None or current.number != attachment or self.ending is not None:
            return actions
        current.heard = now
        if isinstance(frame, Text | Binary | End):
            self._receive(frame, now, actions)
        elif isinstance(frame, Ack):
            if frame.n > self.sender.sent:
                self.broke(attachment, 1008, "ack above everything that was sent", now, actions)
            else:
                self._acknowledge(frame.n, now, actions)
        elif isinstance(frame, Ping):
            self._say_ack(now, actions)
        else:
            self.broke(attachment, 1008, "a second hello", now, actions)
        return actions

    def _receive(self, frame: Numbered, now: float, actions: Actions) -> None:
        current = self.attachment
        assert current is not None
        if self.closing is not None:
            if isinstance(frame, End):
                self._both_closed(frame, now, actions)
            return
        taken = self._take(frame)
        if taken is Take.DUPLICATE:
            self._ack_at = min(self._ack_at, now + self.config.ack_delay)
        elif taken is not Take.TAKEN:
            detail = "a gap in the numbers" if taken is Take.GAP else "beyond the window"
            self.broke(current.number, 1008, detail, now, actions)

    def _take(self, frame: Numbered) -> Take:
        taken = self.receiver.take(frame)
        if taken is Take.TAKEN:
            self.by = self.a
        return taken

    def broke(self, attachment: int, code: int, reason: str, now: float, actions: Actions | None = None) -> Actions:
        """The peer broke the protocol on this attachment, which ends; the session remains."""
        actions = [] if actions is None else actions
        if self.attachment is not None and self.attachment.number == attachment:
            actions.append(Finish(attachment, code, reason))
            self._detach(now, actions)
        return actions

    def heard(self, attachment: int, now: float) -> None:
        """Bytes came on this WebSocket, whatever they hold: it lives."""
        if self.attachment is not None and self.attachment.number == attachment:
            self.attachment.heard = now

    def detached(self, attachment: int, now: float) -> Actions:
        """This attachment's connection is gone: an error, a close of any code, a stalled write."""
        actions: Actions = []
        if self.attachment is not None and self.attachment.number == attachment:
            self._detach(now, actions)
        return actions

    def _detach(self, now: float, actions: Actions) -> None:
        current = self.attachment
        assert current is not None
        self.attachment = None
        self._ack_at = NEVER
        if self.ending is not None:
            return
        self._grace_at = now + self.config.grace
        if current.kind is Kind.POLL:
            self._gap_at = now + self.config.poll_gap
        else:
            self._tell_detached(actions)

    def _tell_detached(self, actions: Actions) -> None:
        self._gap_at = NEVER
        if self._announced:
            self._announced = False
            actions.append(Detached())

    # -- the uplink by POST (P5) ---------------------------------------------------------------------------------------

    def post(self, a: int, ack: int, frames: list[Numbered], now: float) -> Posted | Refused:
        """A batch that passed origin, credential and codec; empty: an acknowledgement and a contact."""
        if (refusal := admission.post(self.standing, a, ack)) is not None:
            return Refused(refusal, [])
        self._contact(now)
        actions: Actions = []
        self._begin(actions)
        self._acknowledge(ack, now, actions)
        if self.ending is None and self.closing is not None and frames:
            if isinstance(frames[-1], End):
                self._both_closed(frames[-1], now, actions)
            else:
                return Refused(refusals.closing(self.receiver.recv), actions)
        if self.ending is not None:
            return Refused(refusals.over(self.ending.outcome, self.receiver.recv), actions)
        outcome = Take.TAKEN
        for frame in frames:
            taken = self._take(frame)
            if taken in (Take.GAP, Take.NO_ROOM):
                outcome = taken
                break
        return Posted(outcome, actions)

    def answer(self, posted: Posted) -> Refusal | int:
        """The answer of a batch: 200 with this ack, or the refusal.  Call it after `pull` and `settle`."""
        recv = self._tell_recv()
        if posted.outcome is Take.GAP:
            return refusals.gap(recv)
        if posted.outcome is Take.NO_ROOM:
            return refusals.full(recv)
        return recv

    def delete(self, a: int, now: float) -> Deleted | Refused:
        """DELETE: over now, un-numbered.  Fenced like POST; an ended session says the same again."""
        if self.ending is not None:
            return Deleted([])
        if a != self.a:
            return Refused(refusals.superseded(), [])
        actions: Actions = []
        self._end(KILLED, "peer", 1000, "", now, actions)
        return Deleted(actions)

    # -- the application -----------------------------------------------------------------------------------------------

    def send(self, payload: str | bytes, now: float) -> Actions:
        """Number a message and write it if there is an attachment.  The caller looked at `is_open` and `has_room`."""
        frame = self.sender.number(payload)
        actions: Actions = []
        self._write(frame, now, actions)
        return actions

    def blocked(self, now: float) -> Actions:
        """A sender waits for the window: a stream may have to end, so that its client acknowledges (P6 rotation c)."""
        self._blocked = True
        return self.tick(now)

    def pull(self) -> Message | None:
        """The next message for the application's inbox; it counts as received (or when `processed`)."""
        return self.receiver.pull()

    def processed(self) -> None:
        """The handler has returned from the oldest message pulled (ack="processed"); then `settle`."""
        self.receiver.processed()

    def settle(self, now: float) -> Actions:
        """After pulling: the peer's end takes effect, acknowledgements go out in time."""
        actions: Actions = []
        if self.ending is None and (end := self.receiver.pull_end()) is not None:
            self._say_ack(now, actions)
            self._end(ENDED, "peer", end.code, end.reason, now, actions)
        elif self.receiver.recv > self._told:
            self._owe_ack(now, actions)
        return actions

    def close(self, code: int, reason: str, now: float, timeout: float | None = None) -> Actions:
        """Close in order: everything numbered, then the end; over when the peer confirms or at the timeout."""
        actions: Actions = []
        if not self.is_open:
            return actions
        if self.receiver.recv > self._told:
            self._say_ack(now, actions)  # or the peer would count what arrived among what may be lost
        self.closing = self.sender.end(code, reason)
        self._close_at = now + (self.config.grace if timeout is None else timeout)
        crossed = self.receiver.stop()
        self._write(self.closing, now, actions)
        if crossed is not None:
            self._both_closed(crossed, now, actions)
        return actions

    def kill(self, code: int, reason: str, now: float) -> Actions:
        """End it now, from our side, without telling the peer what it lacks."""
        actions: Actions = []
        if self.ending is None:
            self._end(KILLED, "local", code, reason, now, actions)
        return actions

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `tick` must be called at the latest; math.inf: not before something else happens."""
        if self.ending is not None:
            return NEVER
        first = min(self._grace_at, self._close_at, self._gap_at, self._ack_at)
        current = self.attachment
        if current is None:
            return first
        first = min(first, current.until, self._ping_at(current), self._silent_at(current))
        return min(first, self._rotate_at(current)) if self._blocked else first

    def _ping_at(self, current: Attachment) -> float:
        if current.kind is Kind.POLL:
            return NEVER
        last = max(current.heard, current.wrote) if current.kind is Kind.WEBSOCKET else current.wrote
        return last + self.config.ping

    def _silent_at(self, current: Attachment) -> float:
        if current.kind is not Kind.WEBSOCKET:
            return NEVER
        return current.heard + self.config.ping + self.config.ping_timeout

    def _rotate_at(self, current: Attachment) -> float:
        if current.kind is Kind.POLL or current.kind is Kind.WEBSOCKET:
            return NEVER
        return current.since + rotation_delay(self._fruitless, self.config.rotation)

    def tick(self, now: float) -> Actions:
        """Do what is due."""
        actions: Actions = []
        if self.ending is not None:
            return actions
        if now >= min(self._close_at, self._grace_at):
            self._expire(now, actions)
            return actions
        if now >= self._gap_at:
            self._tell_detached(actions)
        if now >= self._ack_at:
            self._say_ack(now, actions)
        if self.attachment is not None:
            self._tick_attachment(self.attachment, now, actions)
        return actions

    def _expire(self, now: float, actions: Actions) -> None:
        if self.closing is not None:
            self._end(ABANDONED, "local", self.closing.code, self.closing.reason, now, actions)
        else:
            self._end(ABANDONED, "network", 1006, "", now, actions)

    def _tick_attachment(self, current: Attachment, now: float, actions: Actions) -> None:
        if now >= self._silent_at(current):
            self.broke(current.number, 1001, "silent", now, actions)
        elif now >= current.until or (self._blocked and now >= self._rotate_at(current)):
            actions.append(Finish(current.number))
            self._detach(now, actions)
        elif now >= self._ping_at(current):
            current.wrote = now
            actions.append(Write(current.number, (Ping(),)))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _begin(self, actions: Actions) -> None:
        if not self._started:
            self._started = True
            actions.append(Start())

    def _contact(self, now: float) -> None:
        """A request passed credential, fence and range: a running grace starts anew."""
        if self.attachment is None:
            self._grace_at = now + self.config.grace

    def _write(self, frame: Numbered, now: float, actions: Actions) -> None:
        current = self.attachment
        if current is None:
            return
        if current.kind is Kind.POLL:
            self._answer_poll(now, actions, whole=False)
            return
        current.wrote = now
        actions.append(Write(current.number, (frame,)))
        self._rotate_after_end(now, actions)

    def _rotate_after_end(self, now: float, actions: Actions) -> None:
        """P6 rotation (b): behind the end a stream has nothing to say, and its next attach acknowledges it."""
        current = self.attachment
        if current is not None and self.closing is not None and current.kind in (Kind.STREAM, Kind.EVENTS):
            actions.append(Finish(current.number))
            self._detach(now, actions)

    def _acknowledge(self, ack: int, now: float, actions: Actions) -> None:
        if not self.sender.acknowledge(ack):
            return
        self._progress = True
        self._fruitless = 0
        self._blocked = False
        actions.append(Room())
        if self.closing is not None and ack == self.closing.n:
            self._end(ENDED, "local", self.closing.code, self.closing.reason, now, actions)

    def _owe_ack(self, now: float, actions: Actions) -> None:
        """An acknowledgement waits at most `ack_delay`, and goes at once when a quarter of a window is owed."""
        current = self.attachment
        if current is None or current.kind in (Kind.POLL, Kind.EVENTS):
            return
        receiver = self.receiver
        owed, owed_bytes = receiver.recv - self._told, receiver.recv_bytes - self._told_bytes
        if owed * 4 >= receiver.window or owed_bytes * 4 >= receiver.window_bytes:
            self._say_ack(now, actions)
        elif self._ack_at == NEVER:
            self._ack_at = now + self.config.ack_delay

    def _say_ack(self, now: float, actions: Actions) -> None:
        self._ack_at = NEVER
        current = self.attachment
        if current is None or current.kind in (Kind.POLL, Kind.EVENTS):
            return
        current.wrote = now
        actions.append(Write(current.number, (Ack(self._tell_recv()),)))

    def _tell_recv(self) -> int:
        """`recv`, about to be told to the client."""
        self._ack_at = NEVER
        self._told, self._told_bytes = self.receiver.recv, self.receiver.recv_bytes
        return self._told

    def _both_closed(self, end: End, now: float, actions: Actions) -> None:
        """The peer's end, seen while closing: both are closed (F16).

        It is acknowledged if everything before it was: then the peer's close is clean too.
        """
        if end.n == self.receiver.recv + 1:
            self.receiver.recv = end.n
        own = self.closing or end
        self._end(ENDED, "local", own.code, own.reason, now, actions)

    def _end(self, outcome: Outcome, by: By, code: int, reason: str, now: float, actions: Actions) -> None:
        """The only way out of open and closing, and there is no way back."""
        assert self.ending is None
        left = self.sender.unacknowledged
        clean = left == 0 and outcome == ENDED
        self.ending = Ending(outcome, by, code, reason, clean, left)
        self.forget_at = now + self.config.grace
        current = self.attachment
        if current is not None:
            refusal = refusals.over(outcome, self.receiver.recv)
            actions.append(Finish(current.number, 1000 if outcome == ENDED else 1012, outcome, refusal))
            self.attachment = None
        self.sender.clear()
        self.receiver.stop()
        self._blocked = False
        self._tell_detached(actions)
        actions.append(Ended(self.ending))
