"""What a client's session is made of, what can be asked of it, and what an event may come to: an ack, the end."""

from __future__ import annotations

from collections.abc import Callable

from channelkit.session.actions import ClientAction, Drained, Ended, Kind, Post, Room
from channelkit.session.client.attaching import Attaching, Link
from channelkit.session.client.config import ClientConfig
from channelkit.session.client.instance import FIRST_TERMS, Instance
from channelkit.session.client.saved import Saved
from channelkit.session.client.saying import Saying
from channelkit.session.client.uplink import Uplink
from channelkit.session.ending import ABANDONED, ENDED, LOST, Ending, Outcome
from channelkit.session.frames import End, Numbered, Terms
from channelkit.session.life import Life
from channelkit.session.pacing import NEVER
from channelkit.session.receiver import Receiver
from channelkit.session.sender import Sender
from channelkit.status import By

Actions = list[ClientAction]


class ClientState:
    """One instance of one session.  `jitter()` gives numbers in [0, 1).

    `saved` is a predecessor's state, to be taken over by `a` larger than its; `sid` and `secret` alone are for whoever
    knows the session and has received and sent nothing.  With neither the session is created.
    """

    __slots__ = ("attaching", "config", "drained", "instance", "left", "life", "receiver", "saying", "sender", "uplink")

    def __init__(
        self,
        config: ClientConfig,
        jitter: Callable[[], float],
        *,
        a: int = 1,
        saved: Saved | None = None,
        sid: str | None = None,
        secret: str | None = None,
    ) -> None:
        self.config = config
        self.drained = False  # nothing is left to do
        self.left: tuple[Numbered, ...] = ()  # at the end: messages not acknowledged, which may be lost
        self.instance = Instance(a, saved, sid, secret)
        self.sender = Sender(FIRST_TERMS.window, FIRST_TERMS.window_bytes)
        recv = saved.recv if saved else 0
        self.receiver = Receiver(1, FIRST_TERMS.window_bytes, recv, by_processing=config.ack == "processed")
        self.life = Life()
        if saved is not None:
            self._take_over(saved)
        self.uplink = Uplink(jitter)
        self.attaching = Attaching(config, jitter, self.instance, self.life, self.receiver)
        self.saying = Saying(config, self.instance, self.life, self.sender, self.receiver, self.attaching, self.uplink)

    def _take_over(self, saved: Saved) -> None:
        self.sender.sent = self.sender.acked = saved.acked
        for frame in saved.frames:
            self.sender.keep(frame)
        self.sender.sent = saved.sent
        if saved.frames and isinstance(saved.frames[-1], End):
            self.life.closing = saved.frames[-1]

    # -- what can be asked ---------------------------------------------------------------------------------------------

    @property
    def sid(self) -> str | None:
        """The session's id, once there is one."""
        return self.instance.sid

    @property
    def secret(self) -> str | None:
        """What proves that the session is ours; None where a cookie does."""
        return self.instance.secret

    @property
    def a(self) -> int:
        """This instance."""
        return self.instance.a

    @property
    def had_hello(self) -> bool:
        """Whether this instance had a hello of its own."""
        return self.instance.had_hello

    @property
    def terms(self) -> Terms:
        """What both ends go by."""
        return self.instance.terms

    @property
    def kind(self) -> Kind:
        """The newest attach's carrier."""
        return self.attaching.kind

    @property
    def attachment(self) -> int:
        """The newest attach's number."""
        return self.attaching.number

    @property
    def link(self) -> Link:
        """How far the newest attach has come."""
        return self.attaching.link

    @property
    def ack(self) -> int:
        """What may be acknowledged now."""
        return self.saying.ack

    @property
    def closing(self) -> End | None:
        """Our own end, once it is numbered."""
        return self.life.closing

    @property
    def ending(self) -> Ending | None:
        """How it ended."""
        return self.life.ending

    @property
    def is_open(self) -> bool:
        """Whether a message may ever be numbered again."""
        return self.life.is_open

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes may be numbered now: after this instance's own hello, in the window."""
        return self.had_hello and not self.saying.peer_closing and self.sender.has_room(size)

    def save(self) -> Saved:
        """The state for a successor, once there is a `sid`.  What was not pulled yet is the server's to send again."""
        return self.instance.save(self.sender, self.receiver.recv)

    # -- what an event may come to -------------------------------------------------------------------------------------

    def _acknowledged(self, n: int, now: float, actions: Actions) -> None:
        """The server has everything up to `n` <= sent; a lower number than before is old news (F9b)."""
        if not self.sender.acknowledge(n):
            return
        self.attaching.progress = True
        self.uplink.progress()
        actions.append(Room())
        if self.closing is not None and n == self.closing.n:
            self._over(ENDED, "local", self.closing.code, self.closing.reason, now, actions)

    def _judge(self, status: int, code: str | None, ack: int | None, now: float, actions: Actions) -> bool:
        """P4 client 4: what a refusal means; True if the session is over."""
        if ack is not None and self.had_hello and ack <= self.sender.sent:
            self._acknowledged(ack, now, actions)
        if self.ending is None:
            if status == 409 and code in (None, "superseded"):
                self._over("superseded", "network", 1006, "another instance took over", now, actions)
            elif status in (400, 403, 404, 410, 413):
                self._over(LOST, "network", 1006, code or "", now, actions)
        return self.ending is not None

    def _take_end(self, end: End, now: float, actions: Actions) -> None:
        """Who takes the peer's end is closed at once, and acknowledges it until any answer comes."""
        self.saying.farewell = True
        self._over(ENDED, "peer", end.code, end.reason, now, actions)
        if self.link is Link.UP:
            self.saying.write_ack(now, actions)
        else:
            self.uplink.progress()
            self.saying.post(now, actions)

    def _said_farewell(self, post: Post, now: float, actions: Actions) -> None:
        """Any answer to the acknowledgement will do (F19), but not one to a batch of before it."""
        if post.ack >= self.receiver.recv:
            self._drain(actions)
        else:
            self.saying.post(now, actions)

    def _farewell_cut(self, now: float, actions: Actions, *, clean: bool) -> None:
        self.attaching.link = Link.NONE
        if clean or not self.saying.farewell:
            self._drain(actions)
        else:
            self.saying.post(now, actions)

    def _over(self, outcome: Outcome, by: By, code: int, reason: str, now: float, actions: Actions) -> None:
        """The only way to the end, and there is no way back."""
        attaching, farewell = self.attaching, self.saying.farewell
        self.left = tuple(frame for frame in self.sender.frames if not isinstance(frame, End))
        ending = self.life.end(outcome, by, code, reason, self.sender, self.receiver)
        self.saying.acks.at = attaching.retry_at = NEVER
        attaching.alone = now
        attaching.drop_candidate(actions)
        stays = farewell and attaching.by_websocket and attaching.link is Link.UP
        if attaching.link is not Link.NONE and not stays:
            attaching.unlink(now, actions, drop=True)
        if not stays:
            attaching.detach(actions)
        actions.append(Ended(ending))
        if not farewell:
            self._drain(actions)

    def _drain(self, actions: Actions) -> None:
        self.saying.farewell = False
        if not self.drained:
            self.drained = True
            actions.append(Drained())

    def _expire(self, now: float, actions: Actions) -> None:
        if self.ending is not None:
            self._drain(actions)  # the farewell found nobody
        elif self.closing is not None:
            self._over(ABANDONED, "local", self.closing.code, self.closing.reason, now, actions)
        else:
            self._over(LOST, "network", 1006, "", now, actions)
