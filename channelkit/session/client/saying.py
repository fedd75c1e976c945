"""What a client says, and by which way: messages and acknowledgements, over the WebSocket or by POST (P5)."""

from __future__ import annotations

from channelkit.session.acks import Acks
from channelkit.session.actions import ClientAction, Kind, Write
from channelkit.session.client.attaching import Attaching, Link
from channelkit.session.client.config import ClientConfig
from channelkit.session.client.instance import Instance
from channelkit.session.client.uplink import Uplink
from channelkit.session.frames import Ack, Numbered
from channelkit.session.life import Life
from channelkit.session.pacing import NEVER
from channelkit.session.receiver import Receiver
from channelkit.session.sender import Sender

Actions = list[ClientAction]


class Saying:
    """`farewell`: the session is over, and the peer's end must still be acknowledged, until any answer comes.

    `peer_closing`: the server takes no message any more.
    """

    __slots__ = (
        "_attaching",
        "_config",
        "_instance",
        "_life",
        "_receiver",
        "_sender",
        "acks",
        "farewell",
        "peer_closing",
        "uplink",
    )

    def __init__(
        self,
        config: ClientConfig,
        instance: Instance,
        life: Life,
        sender: Sender,
        receiver: Receiver,
        attaching: Attaching,
        uplink: Uplink,
    ) -> None:
        self.acks = Acks(config.ack_delay, receiver.recv)  # `told`: surely, or by a WebSocket
        self.uplink = uplink
        self.farewell = False
        self.peer_closing = False
        self._config = config
        self._instance = instance
        self._life = life
        self._sender = sender
        self._receiver = receiver
        self._attaching = attaching

    @property
    def ack(self) -> int:
        """What may be acknowledged now: nothing above the number of an attach that has no answer yet (F8b)."""
        recv = self._receiver.recv
        return min(recv, self._attaching.presented) if self._attaching.link is Link.SENT else recv

    # -- messages ------------------------------------------------------------------------------------------------------

    def say(self, frame: Numbered, now: float, actions: Actions) -> None:
        """Send a frame that was just numbered, if that is possible now."""
        if not self._attaching.by_websocket:
            self.post(now, actions)
        elif self._attaching.link is Link.UP:
            self._write((frame,), now, actions)

    def say_again(self, now: float, actions: Actions) -> None:
        """Behind a hello: everything the server is not known to have."""
        if not self._attaching.by_websocket:
            self.post(now, actions)
        elif frames := tuple(self._sender.after(max(self._sender.acked, self.uplink.taken))):
            self._write(frames, now, actions)

    def _write(self, frames: tuple[Numbered | Ack, ...], now: float, actions: Actions) -> None:
        self._attaching.wrote = now
        actions.append(Write(self._attaching.number, frames))

    # -- acknowledgements ----------------------------------------------------------------------------------------------

    def owe_ack(self, now: float, actions: Actions) -> None:
        """More may have been received: say so in time.  A poller's next poll says it."""
        ack, attaching = self.ack, self._attaching
        polls = attaching.wanted is Kind.POLL and attaching.kind is Kind.POLL and not attaching.holds_poll
        if ack <= self.acks.told or polls:
            return
        if self.acks.is_much(ack, self._receiver):
            self.acks.at = now
            self.say_ack(now, actions)
        else:
            self.acks.soon(now)

    def say_ack(self, now: float, actions: Actions) -> None:
        """Acknowledge now, or as soon as a batch can go."""
        if not self._attaching.by_websocket:
            self.acks.tell_bytes(self._receiver)
            self.post(now, actions)
        elif self._attaching.link is Link.UP:
            self.write_ack(now, actions)
        else:
            self.acks.at = NEVER  # the next hello presents it

    def last_ack(self, now: float, actions: Actions) -> None:
        """Before a close over the WebSocket: or the server would count what arrived among what may be lost."""
        up = self._attaching.by_websocket and self._attaching.link is Link.UP
        if up and self._receiver.recv > self.acks.told:
            self.write_ack(now, actions)

    def write_ack(self, now: float, actions: Actions) -> None:
        """Acknowledge over the WebSocket."""
        self._write((Ack(self.acks.tell(self._receiver)),), now, actions)

    # -- batches -------------------------------------------------------------------------------------------------------

    @property
    def _may_post(self) -> bool:
        if self.uplink.in_flight is not None or self._instance.sid is None or not self._instance.had_hello:
            return False
        if self.farewell:
            return self._attaching.link is Link.NONE
        return self._life.ending is None and not self._attaching.by_websocket

    @property
    def _owes(self) -> bool:
        """Whether there are messages to post."""
        if self.farewell or (self.peer_closing and self._life.closing is None):
            return False
        return self.uplink.owes(self._sender)

    @property
    def _due_at(self) -> float:
        """When a batch is due, back-off aside: now if there are messages or a question."""
        if self._owes or self.farewell or (self.uplink.failures and self.uplink.asks(self._sender)):
            return 0.0
        return min(self.acks.at, self._contact_at)

    @property
    def _contact_at(self) -> float:
        """A poller stays in contact while it does not poll, since its inbox is full or an answer takes so long."""
        attaching = self._attaching
        if self._life.ending is not None:
            return NEVER
        if attaching.holds_poll and attaching.link is Link.NONE:
            return attaching.contacted + self._instance.terms.grace / 3
        if attaching.kind is Kind.POLL and attaching.link is Link.UP:
            return attaching.asked_at + self._instance.terms.grace / 3
        return NEVER

    def post(self, now: float, actions: Actions) -> None:
        """POST what is owed: messages, else an empty batch if an acknowledgement or a contact is due."""
        if self._may_post and now >= max(self.uplink.not_before, self._due_at):
            # The server's limit, with which no line and no escape can make a batch too large for it.
            most = min(self._config.batch_bytes, self._instance.terms.max_message)
            frames = self.uplink.batch(self._sender, most) if self._owes else ()
            self.acks.at = NEVER
            actions.append(self.uplink.begin(self._instance.a, self.ack, frames, now, self._config.post_timeout))

    def failed(self, now: float, actions: Actions) -> None:
        """The batch got no answer, or none that is ours."""
        self.uplink.landed()
        self.uplink.wait(now, self._instance.terms.grace)
        if self._life.ending is None:
            self.owe_ack(now, actions)

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `tick` must be called at the latest."""
        first = self.uplink.until
        if self._may_post:
            first = min(first, max(self.uplink.not_before, self._due_at))
        if self._life.ending is None and self._attaching.by_websocket:
            first = min(first, self.acks.at)
        return first
