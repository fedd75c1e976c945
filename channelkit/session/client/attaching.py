"""A client's attaches (P4): the newest, the WebSocket that is being opened to follow it, and when the next is tried."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from channelkit.session.actions import Attach, Attached, ClientAction, Create, Detached, Drop, Kind, Open, Write
from channelkit.session.client.config import ClientConfig
from channelkit.session.client.instance import Instance
from channelkit.session.frames import Ping
from channelkit.session.life import Life
from channelkit.session.pacing import NEVER, backoff
from channelkit.session.receiver import Receiver

Actions = list[ClientAction]

#: A response that lasted that long and brought nothing is followed at once too: a poll, or a rotated stream.
TURN = 1.0


class Link(Enum):
    """How far the newest attach has come."""

    NONE = "none"
    SENT = "sent"  # no hello yet
    UP = "up"


class Attaching:
    """`number`, `kind`, `link`, `presented` are of the newest attach: its number, carrier, how far it came, its ack."""

    __slots__ = (
        "_asked",
        "_candidate_since",
        "_config",
        "_failures",
        "_first_since",
        "_heard",
        "_instance",
        "_jitter",
        "_last",
        "_life",
        "_met",
        "_older",
        "_receiver",
        "_since",
        "_wait",
        "alone",
        "asked_at",
        "attached",
        "candidate",
        "contacted",
        "creating",
        "kind",
        "link",
        "number",
        "presented",
        "progress",
        "retry_at",
        "wanted",
        "wrote",
    )

    def __init__(
        self, config: ClientConfig, jitter: Callable[[], float], instance: Instance, life: Life, receiver: Receiver
    ) -> None:
        self.number = 0
        self.kind = Kind.POLL
        self.link = Link.NONE
        self.presented = receiver.recv
        self.attached = False  # from a hello until something failed: between two turns of a poll or stream too
        self.wanted = Kind.POLL  # kind of the next attach
        self.candidate = 0  # a WebSocket being opened while the older attachment still serves
        self.creating = False
        self.progress = False  # since the newest attach: a number taken or acknowledged, or the first hello
        self.retry_at = NEVER
        self.wrote = 0.0
        self.contacted = self.alone = 0.0
        self.asked_at = 0.0  # when the server last answered a request: its own grace began no earlier
        self._config = config
        self._jitter = jitter
        self._instance = instance
        self._life = life
        self._receiver = receiver
        self._last = 0  # number given to an attach
        self._older: tuple[int, ...] = ()
        self._candidate_since = 0.0
        self._failures = 0
        self._since = self._heard = self._asked = 0.0
        self._wait = 0.0
        self._met = False  # since the newest attach was sent, anything of the server's came
        self._first_since = True  # the newest attach is the first since the last contact

    # -- what can be asked ---------------------------------------------------------------------------------------------

    @property
    def by_websocket(self) -> bool:
        """Whether the newest attach is by WebSocket, which carries both directions."""
        return self.kind is Kind.WEBSOCKET

    @property
    def only_posts(self) -> bool:
        """Closing over HTTP: the GET is ended, and the rest and the end are POSTed (F14)."""
        return self._life.closing is not None and self.kind is not Kind.WEBSOCKET and self._instance.had_hello

    @property
    def holds_poll(self) -> bool:
        """A poller whose messages wait for the inbox would get them again; it keeps contact by empty batches (F9)."""
        return self.wanted is Kind.POLL and self._instance.had_hello and bool(self._receiver.hold)

    def counts(self, attachment: int) -> bool:
        """Whether this attachment is the newest, of which alone anything is taken."""
        return attachment == self.number and self.link is not Link.NONE

    # -- attaching -----------------------------------------------------------------------------------------------------

    def start(self, kind: Kind, now: float, actions: Actions) -> None:
        """Begin."""
        self.wanted = self.kind = kind
        self.alone = now
        self.contact(now)
        self.connect(now, actions)

    def connect(self, now: float, actions: Actions) -> None:
        """Attach by `wanted`; first create the session, if there is none and a WebSocket would not do that too."""
        self.retry_at = NEVER
        self.drop_candidate(actions)
        if self._instance.sid is None and self.wanted is not Kind.WEBSOCKET:
            self.creating = True
            actions.append(Create(self._instance.a))
            return
        self._last += 1
        if self.wanted is Kind.WEBSOCKET:
            self.candidate = self._last
            self._candidate_since = now
            actions.append(Open(self._last))
        else:
            self._send_attach(self._last, now, actions)

    def opened(self, now: float, actions: Actions) -> None:
        """The candidate is open: P4 client step 1 begins with sending its hello."""
        number, self.candidate = self.candidate, 0
        self._send_attach(number, now, actions)

    def _send_attach(self, number: int, now: float, actions: Actions) -> None:
        if self.link is not Link.NONE:
            self._leave(now)
            self._older = (*self._older, self.number)
        if self.link is not Link.NONE or self.kind is not self.wanted:
            self.detach(actions)
        self.number = number
        self.kind = self.wanted
        self.link = Link.SENT
        self.presented = self._receiver.recv
        self.progress = False
        self._first_since, self._met = self._met, False
        self._since = self._heard = self._asked = self.wrote = now
        self._wait = self._config.wait if self.kind is Kind.POLL and self.attached else 0.0
        actions.append(Attach(number, self.kind, self._instance.a, self.presented, self._wait))

    def heard(self, now: float) -> None:
        """Bytes came on the newest attachment; before its hello they may be anybody's, as a network's login page."""
        self._heard = now
        if self.link is Link.UP:
            self.contact(now)

    def contact(self, now: float) -> None:
        """The server has answered something."""
        self.contacted = now
        self._met = True

    # -- how an attachment ends ----------------------------------------------------------------------------------------

    def attach(self, actions: Actions) -> None:
        """A hello came."""
        if not self.attached:
            self.attached = True
            actions.append(Attached())

    def detach(self, actions: Actions) -> None:
        """There is no attachment, and none that is sure to follow."""
        if self.attached:
            self.attached = False
            actions.append(Detached())

    def unlink(self, now: float, actions: Actions, *, drop: bool) -> None:
        """The newest attachment is over; `drop`: by us."""
        if drop:
            actions.append(Drop(self.number))
        self._turn(now, actions)
        self.detach(actions)

    def _turn(self, now: float, actions: Actions) -> None:
        """The newest attachment is over, and whether that is a failure is to be seen."""
        self._leave(now)
        self.link = Link.NONE
        self.release(actions)

    def release(self, actions: Actions) -> None:
        """Drop the older connections.

        They are kept until the newest attach is answered, though nothing is taken from them: the server ends them when
        it has the newer one, and never is without an attachment in between (S9).
        """
        actions.extend(map(Drop, self._older))
        self._older = ()

    def _leave(self, now: float) -> None:
        if self.link is Link.UP:
            self.alone = now
        elif self.kind is Kind.POLL and self._first_since:
            # It may have been held in good faith; but not one more of those that follow it unanswered, or a poller
            # would never believe that its server is gone.
            self.alone = max(self.alone, min(now, self._since + self._wait))

    def lost(self, now: float, actions: Actions, *, drop: bool) -> None:
        """The newest attachment failed: try again later, if nothing else is under way."""
        steady = self.link is Link.UP and (self.progress or now - self._since >= self._config.steady)
        self.unlink(now, actions, drop=drop)
        if steady:
            self._failures = 0
        if not self.only_posts and not self.candidate:
            self.fail(now, actions)

    def turned(self, now: float, actions: Actions) -> None:
        """A poll was answered, or a stream rotated.  The next follows at once if this was worth it.

        (A poll only once its messages are pulled.)  Else it is spaced like a failure, or a server that ends everything
        at once would be asked at network speed.  The poll that only asks for a hello is worth the one that waits.
        """
        asked = self.kind is Kind.POLL and self._wait <= 0.0 and self.link is Link.UP
        self._turn(now, actions)
        if self.progress or now - self._since >= TURN:
            self._failures = 0
            self.retry_at = now
        elif asked:
            self.retry_at = now
        else:
            self.fail(now, actions)
        self.contact(now)

    def candidate_failed(self, now: float, actions: Actions) -> None:
        """The WebSocket did not open: what serves goes on serving."""
        self.candidate = 0
        if self.link is Link.NONE and not self.attached:
            self.fail(now, actions)
            return
        self.wanted = self.kind
        if self.link is Link.NONE:  # a turn came meanwhile
            self.retry_at = now

    def drop_candidate(self, actions: Actions) -> None:
        """Open it no further."""
        if self.candidate:
            actions.append(Drop(self.candidate))
            self.candidate = 0

    def fail(self, now: float, actions: Actions, retry_after: float = 0.0) -> None:
        """Back off."""
        self.detach(actions)
        self._failures += 1
        self.retry_at = now + max(retry_after, backoff(self._failures, self._jitter(), self._instance.terms.grace))

    def again(self, now: float, actions: Actions) -> None:
        """Attach again if it is time and nothing is in the way."""
        if now >= self._again_at:
            self.connect(now, actions)

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `tick`, or `again`, must be called at the latest."""
        return min(self._link_at, self._candidate_at, self._again_at)

    @property
    def _again_at(self) -> float:
        """When to attach again, if nothing is in the way: a poll may have asked for it beside a WebSocket candidate."""
        busy = self.link is not Link.NONE or self.candidate or self.creating
        return NEVER if busy or self.only_posts or self.holds_poll else self.retry_at

    @property
    def grace_at(self) -> float:
        """When a client without attachment and contact must believe that the server has given it up."""
        if self._life.ending is None and self.link is Link.UP:
            return NEVER
        waiting = self._since + self._wait if self.link is Link.SENT and self._first_since else 0.0
        return max(self.contacted, self.alone, waiting) + self._instance.terms.grace

    @property
    def _link_at(self) -> float:
        """When the newest attach is given up, without hello or silent, or asked for a sign of life."""
        if self.link is Link.SENT:
            if self.kind is Kind.POLL:
                return self._since + self._wait + self._config.poll_margin
            return self._since + self._config.hello_timeout
        return min(self._silent_at, self._ping_at) if self.link is Link.UP else NEVER

    @property
    def _silent_at(self) -> float:
        return self._heard + self._instance.terms.ping + self._config.ping_timeout

    @property
    def _ping_at(self) -> float:
        """On a WebSocket each end asks for a sign of life; a stream's server speaks by itself.

        It asks when nothing came, whatever it wrote since, or it would give up without having asked; and when it wrote
        nothing, whatever comes in: that may be one long message, whose sender hears nothing.
        """
        if self.kind is not Kind.WEBSOCKET:
            return NEVER
        return max(self._asked, min(self._heard, self.wrote)) + self._instance.terms.ping

    @property
    def _candidate_at(self) -> float:
        return self._candidate_since + self._config.open_timeout if self.candidate else NEVER

    def tick(self, now: float, actions: Actions) -> None:
        """Give up what shows no life; ask what may have some."""
        if now >= self._candidate_at:
            actions.append(Drop(self.candidate))
            self.candidate_failed(now, actions)
        if now < self._link_at:
            return
        if self.link is Link.UP and now < self._silent_at:
            self.wrote = self._asked = now
            actions.append(Write(self.number, (Ping(),)))
            return
        if self.link is Link.SENT and self.kind in (Kind.STREAM, Kind.EVENTS):
            self.wanted = Kind.POLL  # a proxy holds the stream back until it ends
        self.lost(now, actions, drop=True)
