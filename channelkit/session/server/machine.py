"""A session as the server sees it (P1, P4 to P7): events in, actions out, time as an argument.

Sequential: whoever calls does so from one place at a time, so "closed once" and "one attachment" need no lock.  The
machine compares no secret and reads no header: who comes here has passed origin and credential (`admission`).  It
decides who has the session and how it ends; what is written and when is its `downlink`'s.

Every method that may change something returns actions, to be done in order before the next call.  After each call the
binding looks at `deadline` and arranges for `tick(now)` then; and, if the inbox takes messages, calls `pull` until it
gives None and then `settle(now)` once.
"""

from __future__ import annotations

from channelkit.config import SessionConfig
from channelkit.session import admission, refusals
from channelkit.session.actions import Ended, Kind, Room, ServerAction, Start
from channelkit.session.admission import Standing
from channelkit.session.ending import ABANDONED, ENDED, KILLED, Ending, Outcome
from channelkit.session.frames import Ack, End, Frame, Hello, Message, Numbered, Ping, Terms, numbered, payload_size
from channelkit.session.life import Life
from channelkit.session.pacing import NEVER
from channelkit.session.receiver import Receiver, Take
from channelkit.session.refusals import Refusal
from channelkit.session.sender import Sender
from channelkit.session.server.attachment import Attachment
from channelkit.session.server.downlink import Downlink
from channelkit.session.server.results import Admitted, Deleted, Posted, Refused
from channelkit.status import By

Actions = list[ServerAction]


class ServerSession:
    """One session.  `spread` in [0, 1) moves its rotations apart from those of others."""

    __slots__ = ("_started", "a", "by", "config", "downlink", "forget_at", "life", "receiver", "sender", "sid")

    def __init__(self, sid: str, config: SessionConfig, now: float, *, a: int = 1, spread: float = 0.5) -> None:
        self.sid = sid
        self.config = config
        self.a = a
        self.by: int | None = None  # the instance that sent the highest number taken (F27)
        self.life = Life()
        self.sender = Sender(config.window, config.window_bytes)
        self.receiver = Receiver(config.window, config.window_bytes, by_processing=config.ack == "processed")
        self.downlink = Downlink(config, self.sender, self.receiver, now, spread)
        self.forget_at = NEVER  # when an ended session may be forgotten: one grace later (F18)
        self._started = False

    # -- what can be asked ---------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether messages may be numbered."""
        return self.life.is_open

    @property
    def over(self) -> bool:
        """Whether it has ended; then it only remembers, until `forget_at`."""
        return self.life.ending is not None

    @property
    def ending(self) -> Ending | None:
        """How it ended."""
        return self.life.ending

    @property
    def closing(self) -> End | None:
        """Our own end, once it is numbered."""
        return self.life.closing

    @property
    def ack_at(self) -> float:
        """When an acknowledgement is due: what `pull` and `settle` may move nearer, and nothing else."""
        return self.downlink.acks.at

    @property
    def attachment(self) -> Attachment | None:
        """The connection that carries the downlink now."""
        return self.downlink.attachment

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
        self.downlink.contact(now)
        # A poller that talks says by POST what it has received, and its polls bring no more than that.
        progress = ack > self.sender.acked or self.downlink.turnover.progress
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
        self.downlink.turnover.admitted(now, progress=progress)
        self._begin(actions)
        self.downlink.end_older(actions, superseded=superseded)
        return Admitted(self.downlink.become(kind, a, self.hello(), ack, now, wait, actions), actions)

    def _too_much(self, a: int, now: float, *, progress: bool, draining: bool) -> Refusal | None:
        """P4 step 6.  A closing session admits while draining: the attach brings its end to the client."""
        recv = self.standing.ack_for(a)
        if draining and self.closing is None:
            return refusals.draining(recv)
        delay = self.downlink.turnover.rate.refused(now, progress=progress)
        return None if delay is None else refusals.rate(recv, delay)

    def _begin(self, actions: Actions) -> None:
        if not self._started:
            self._started = True
            actions.append(Start())

    def _acknowledge(self, ack: int, now: float, actions: Actions) -> None:
        if not self.sender.acknowledge(ack):
            return
        self.downlink.turnover.acknowledged()
        actions.append(Room())
        if self.closing is not None and ack == self.closing.n:
            self._end(ENDED, "local", self.closing.code, self.closing.reason, now, actions)

    # -- the attachment ------------------------------------------------------------------------------------------------

    def received(self, attachment: int, frame: Frame, now: float) -> Actions:
        """A frame of a WebSocket.  What comes on an older one is ignored (P4 step 8)."""
        actions: Actions = []
        current = self.downlink.current(attachment)
        if current is None:
            return actions
        current.heard = now
        if isinstance(frame, Numbered):
            self._receive(frame, now, actions)
        elif isinstance(frame, Ack):
            if frame.n > self.sender.sent:
                self._broke("ack above everything that was sent", now, actions)
            else:
                self._acknowledge(frame.n, now, actions)
        elif isinstance(frame, Ping):
            self.downlink.say_ack(now, actions)
        else:
            self._broke("a second hello", now, actions)
        return actions

    def _receive(self, frame: Numbered, now: float, actions: Actions) -> None:
        if self.closing is not None:
            if isinstance(frame, End):
                self._both_closed(frame, now, actions)
            return
        taken = self._take(frame)
        if taken is Take.DUPLICATE:
            self.downlink.acks.soon(now)
        elif taken is not Take.TAKEN:
            self._broke("a gap in the numbers" if taken is Take.GAP else "beyond the window", now, actions)

    def _take(self, frame: Numbered) -> Take:
        taken = self.receiver.take(frame)
        if taken is Take.TAKEN:
            self.by = self.a
        return taken

    def _broke(self, detail: str, now: float, actions: Actions) -> None:
        self.downlink.finish(now, actions, 1008, detail)

    def broke(self, attachment: int, code: int, reason: str, now: float) -> Actions:
        """This attachment ends: the peer broke the protocol, or the application lets it go.  The session remains."""
        actions: Actions = []
        if self.downlink.current(attachment) is not None:
            self.downlink.finish(now, actions, code, reason)
        return actions

    def heard(self, attachment: int, now: float) -> None:
        """Bytes came on this WebSocket, whatever they hold: it lives."""
        if (current := self.downlink.current(attachment)) is not None:
            current.heard = now

    def lags(self, attachment: int, lagging: bool) -> None:
        """Whether this stream has not taken all that was written yet; while it has not, no rotation cuts it short."""
        if (current := self.downlink.current(attachment)) is not None:
            current.lagging = lagging

    def detached(self, attachment: int, now: float) -> Actions:
        """This attachment's connection is gone: an error, a close of any code, a stalled write."""
        actions: Actions = []
        if self.downlink.current(attachment) is not None:
            self.downlink.detach(now, actions)
        return actions

    # -- the uplink by POST (P5) ---------------------------------------------------------------------------------------

    def post(self, a: int, ack: int, frames: list[Numbered], now: float) -> Posted | Refused:
        """A batch that passed origin, credential and codec; empty: an acknowledgement and a contact."""
        if (refusal := admission.post(self.standing, a, ack)) is not None:
            return Refused(refusal, [])
        self.downlink.contact(now)
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
        return Posted(self._take_all(frames), actions)

    def _take_all(self, frames: list[Numbered]) -> Take:
        for frame in frames:
            taken = self._take(frame)
            if taken in (Take.GAP, Take.NO_ROOM):
                return taken
        return Take.TAKEN

    def answer(self, posted: Posted) -> Refusal | int:
        """The answer of a batch: 200 with this ack, or the refusal.  Call it after `pull` and `settle`."""
        recv = self.downlink.acks.tell(self.receiver)
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
        """Number a message and write it if there is an attachment.  The caller looked at `is_open` and `has_room`.

        Where a stream or a WebSocket is attached, `sender.number` is all of it, for a caller who writes that message
        there himself: the way of nearly all of them, which makes nothing besides.
        """
        actions: Actions = []
        n = self.sender.number(payload, payload_size(payload), now)
        self.downlink.write(numbered(n, payload), now, actions)
        return actions

    def blocked(self, now: float) -> Actions:
        """A sender waits for the window: a stream may have to end, so that its client acknowledges (P6 rotation c)."""
        self.downlink.turnover.blocked = True
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
        if self.receiver.hold and (end := self.receiver.pull_end()) is not None:
            self.downlink.say_ack(now, actions)
            self._end(ENDED, "peer", end.code, end.reason, now, actions)
        elif self.receiver.recv > self.downlink.acks.told:
            self.downlink.owe_ack(now, actions)
        return actions

    def close(self, code: int, reason: str, now: float, timeout: float | None = None) -> Actions:
        """Close in order: everything numbered, then the end; over when the peer confirms or at the timeout."""
        actions: Actions = []
        if not self.is_open:
            return actions
        if self.receiver.recv > self.downlink.acks.told:
            self.downlink.say_ack(now, actions)  # or the peer would count what arrived among what may be lost
        end = self.life.closing = self.sender.end(code, reason)
        self.life.close_at = now + (self.config.grace if timeout is None else timeout)
        crossed = self.receiver.stop()
        self.downlink.write(end, now, actions)
        if crossed is not None:
            self._both_closed(crossed, now, actions)
        return actions

    def kill(self, code: int, reason: str, now: float) -> Actions:
        """End it now, from our side, without telling the peer what it lacks."""
        actions: Actions = []
        if self.ending is None:
            self._end(KILLED, "local", code, reason, now, actions)
        return actions

    # -- the end -------------------------------------------------------------------------------------------------------

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
        ending = self.life.end(outcome, by, code, reason, self.sender, self.receiver)
        self.forget_at = now + self.config.grace
        self.downlink.end(outcome, actions)
        actions.append(Ended(ending))

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `tick` must be called at the latest; math.inf: not before something else happens."""
        return NEVER if self.over else min(self.life.close_at, self.downlink.deadline)

    def tick(self, now: float) -> Actions:
        """Do what is due."""
        actions: Actions = []
        if self.ending is not None:
            return actions
        if now >= min(self.life.close_at, self.downlink.grace_at):
            self._expire(now, actions)
        else:
            self.downlink.tick(now, actions)
        return actions

    def _expire(self, now: float, actions: Actions) -> None:
        if self.closing is not None:
            self._end(ABANDONED, "local", self.closing.code, self.closing.reason, now, actions)
        else:
            self._end(ABANDONED, "network", 1006, "", now, actions)
