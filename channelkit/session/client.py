"""A session as a client sees it (P4, P5, P7): events in, actions out, time as an argument, chance as a function.

The rules that look odd are there because a shortest trace broke without them:

* From sending an attach on, nothing is taken from older attachments (F8), and until its hello nothing above the
  number it presented is acknowledged elsewhere (F8b).
* Numbers are given only after *this instance's own* first hello (F2); a hello that has received more than this
  instance ever numbered is somebody else's numbering: lost (F3).  A lower one is old news (F9b).
* A client that closes over HTTP ends its GET and only POSTs (F14).

Use: `start(kind, now)`, then feed what happens and do what comes out; `pull` and `settle` as on the server;
`deadline` and `tick` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from channelkit.session.actions import (
    Attach,
    Attached,
    ClientAction,
    Create,
    Delete,
    Detached,
    Drop,
    Kind,
    Open,
    Post,
    Room,
    Write,
)
from channelkit.session.ending import ENDED, KILLED, LOST, Ending
from channelkit.session.frames import Ack, Binary, End, Frame, Hello, Message, Numbered, Ping, Terms, Text
from channelkit.session.pacing import backoff
from channelkit.session.receiver import Receiver, Take
from channelkit.session.sender import Sender

Actions = list[ClientAction]
NEVER = math.inf

#: Before a hello says so: small, so that nothing depends on it.
FIRST_TERMS = Terms(window=1, window_bytes=1 << 20, max_message=1 << 20, ping=20.0, grace=30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Times of a client, in seconds."""

    wait: float = 25.0  # of one poll, once there was a hello
    hello_timeout: float = 5.0  # a stream that shows no hello is behind a buffering proxy: poll instead (P4 client 5)
    post_timeout: float = 30.0  # an answer that has not come by then will not
    poll_margin: float = 10.0  # a poll's answer may come that much after its wait
    ping_timeout: float = 10.0  # silence beyond hello's ping
    ack_delay: float = 1.0  # the longest an acknowledgement waits for company
    steady: float = 30.0  # attached that long: the next failure is the first again
    batch_bytes: int = 1 << 20  # payload of one POST; a larger message goes alone
    ack: str = "inbox"  # or "processed"


@dataclass(frozen=True, slots=True)
class Saved:
    """What a page keeps for its successor: a new instance takes over the numbering with a larger `a`."""

    sid: str
    secret: str | None
    a: int
    recv: int
    sent: int
    acked: int
    frames: tuple[Numbered, ...] = field(repr=False)

    def __repr__(self) -> str:
        return f"Saved(sid={self.sid!r}, a={self.a}, recv={self.recv}, sent={self.sent})"  # never the secret


class Link(Enum):
    """How far the newest attach has come."""

    NONE = "none"
    SENT = "sent"  # no hello yet
    UP = "up"


class ClientSession:
    """One instance of one session.  `jitter()` gives numbers in [0, 1)."""

    __slots__ = (
        "_ack_at",
        "_attach_failures",
        "_attach_kind",
        "_candidate",
        "_candidate_since",
        "_closed_kind",
        "_creating",
        "_drained",
        "_farewell",
        "_grace_at",
        "_had_attached",
        "_heard",
        "_numbers",
        "_peer_closing",
        "_post_at",
        "_post_failures",
        "_post_numbers",
        "_post_until",
        "_posting",
        "_progress",
        "_retry_at",
        "_since",
        "_taken",
        "_told",
        "_told_bytes",
        "_wrote",
        "a",
        "attachment",
        "closing",
        "config",
        "ending",
        "had_hello",
        "jitter",
        "kind",
        "link",
        "presented",
        "receiver",
        "secret",
        "sender",
        "sid",
        "terms",
    )

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
        self.jitter = jitter
        self.a = a
        self.sid = saved.sid if saved else sid
        self.secret = saved.secret if saved else secret
        self.terms = FIRST_TERMS
        sent, acked, recv = (saved.sent, saved.acked, saved.recv) if saved else (0, 0, 0)
        self.sender = Sender(FIRST_TERMS.window, FIRST_TERMS.window_bytes, acked, acked)
        for frame in saved.frames if saved else ():
            self.sender.keep(frame)
        self.sender.sent = sent
        self.receiver = Receiver(1, 1, recv, by_processing=config.ack == "processed")
        self.had_hello = False
        self.kind = Kind.POLL
        self.attachment = 0  # the newest attach that was sent
        self.link = Link.NONE
        self.presented = recv  # the ack of the newest attach
        self.closing: End | None = None
        self.ending: Ending | None = None
        self._numbers = 0
        self._candidate = 0  # a WebSocket that is being opened, beside the attachment
        self._candidate_since = 0.0
        self._attach_kind = Kind.POLL
        self._creating = False
        self._had_attached = False
        self._attach_failures = 0
        self._progress = False  # since the newest attach: a number taken or acknowledged
        self._retry_at = NEVER
        self._since = self._heard = self._wrote = 0.0
        self._grace_at = NEVER
        self._posting: Post | None = None
        self._post_numbers = 0
        self._post_until = NEVER
        self._post_at = NEVER  # not before: back-off
        self._post_failures = 0
        self._taken = 0  # what a 200 said the server has taken, though it may not acknowledge it yet
        self._told = recv
        self._told_bytes = 0
        self._ack_at = NEVER
        self._peer_closing = False
        self._farewell = False  # over, and the peer's end must still be acknowledged
        self._closed_kind = Kind.POLL
        self._drained = False
        if closed := next((frame for frame in self.sender.frames if isinstance(frame, End)), None):
            self.closing = closed

    # -- what can be asked ---------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether a message may ever be numbered again."""
        return self.ending is None and self.closing is None

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes may be numbered now: after this instance's own hello, in the window."""
        return self.had_hello and not self._peer_closing and self.sender.has_room(size)

    @property
    def ack(self) -> int:
        """What may be acknowledged now: nothing above the number of an attach that has no answer yet (F8b)."""
        recv = self.receiver.recv
        return min(recv, self.presented) if self.link is Link.SENT else recv

    def save(self) -> Saved:
        """The state for a successor.  Messages not pulled yet are the server's to send again."""
        assert self.sid is not None
        frames = self.sender.after(self.sender.acked)
        return Saved(self.sid, self.secret, self.a, self.receiver.recv, self.sender.sent, self.sender.acked, frames)

    # -- attaching -----------------------------------------------------------------------------------------------------

    def start(self, kind: Kind, now: float) -> Actions:
        """Begin, by creating the session if there is none, and attach by `kind`."""
        self._attach_kind = kind
        self._grace_at = now + self.terms.grace
        actions: Actions = []
        self._connect(now, actions)
        return actions

    def switch(self, kind: Kind, now: float) -> Actions:
        """Go on by another transport, or by a fresh connection of the same: just another attach."""
        self._attach_kind = kind
        self._attach_failures = 0
        actions: Actions = []
        if self.ending is None and not self._closes_by_post:
            self._connect(now, actions)
        return actions

    def _connect(self, now: float, actions: Actions) -> None:
        self._retry_at = NEVER
        if self._candidate:
            actions.append(Drop(self._candidate))
            self._candidate = 0
        if self.sid is None and self._attach_kind is not Kind.WEBSOCKET:
            self._creating = True
            actions.append(Create(self.a))
            return
        self._numbers += 1
        if self._attach_kind is Kind.WEBSOCKET:
            self._candidate = self._numbers
            self._candidate_since = now
            actions.append(Open(self._numbers))
        else:
            self._send_attach(self._numbers, now, actions)

    def created(self, hello: Hello, now: float) -> Actions:
        """POST /ck was answered 201.  This is this instance's own hello: nobody else can have numbered."""
        actions: Actions = []
        if not self._creating or self.ending is not None:
            return actions
        self._creating = False
        self._contact(now)
        self.sid, self.secret = hello.sid, hello.secret
        self._first_hello(hello, actions)
        if self._closes_by_post:
            self._uplink(now, actions)
        else:
            self._connect(now, actions)
        return actions

    def create_failed(self, now: float, retry_after: float = 0.0) -> Actions:
        """It was not."""
        if self._creating and self.ending is None:
            self._creating = False
            self._fail(now, retry_after)
        return []

    def opened(self, attachment: int, now: float) -> Actions:
        """The WebSocket is open: P4 client step 1 begins with sending its hello."""
        actions: Actions = []
        if self.ending is None and attachment == self._candidate:
            self._candidate = 0
            self._send_attach(attachment, now, actions)
        return actions

    def _send_attach(self, attachment: int, now: float, actions: Actions) -> None:
        if self.link is not Link.NONE:
            actions.append(Drop(self.attachment))
        self.attachment = attachment
        self.kind = self._attach_kind
        self.link = Link.SENT
        self.presented = self.receiver.recv
        self._drop_hold()
        self._progress = False
        self._since = self._heard = self._wrote = now
        self._ack_at = NEVER
        wait = self.config.wait if self.kind is Kind.POLL and self.had_hello and self._had_attached else 0.0
        actions.append(Attach(attachment, self.kind, self.a, self.presented, wait))

    def _drop_hold(self) -> None:
        """An attach presents `recv`, so what is held comes again; keeping it would be as good, and is what we do."""

    def received(self, attachment: int, frame: Frame, now: float) -> Actions:
        """A frame of a response or WebSocket.  Only the newest attach's count."""
        actions: Actions = []
        if attachment != self.attachment or self.link is Link.NONE:
            return actions
        self._heard = now
        if self.ending is not None:
            return actions
        self._contact(now)
        if isinstance(frame, Hello):
            self._hello(frame, now, actions)
        elif self.link is not Link.UP:
            self._lose_link(now, actions, drop=True)  # a frame before hello: not our protocol
        elif isinstance(frame, Text | Binary | End):
            self._receive(frame, now, actions)
        elif isinstance(frame, Ack):
            self._acknowledged(frame.n, now, actions)
        elif isinstance(frame, Ping) and self.kind is Kind.WEBSOCKET:
            self._write_ack(now, actions)
        return actions

    def _hello(self, hello: Hello, now: float, actions: Actions) -> None:
        if self.link is Link.UP:
            return
        if hello.sid is not None and self.sid is None:
            self.sid, self.secret = hello.sid, hello.secret
        self.link = Link.UP
        self._told = max(self._told, self.presented)
        if not self.had_hello:
            self._first_hello(hello, actions)
            self._progress = True
        self._had_attached = True
        if hello.recv > self.sender.sent:
            self._over(LOST, "network", 1006, "", now, actions)
            return
        self._acknowledged(hello.recv, now, actions)
        if self.ending is None:
            actions.append(Attached())
            self._resend(now, actions)

    def _first_hello(self, hello: Hello, actions: Actions) -> None:
        """From here on this instance may number, within the terms it was told."""
        self.had_hello = True
        if hello.terms is not None:
            self.terms = hello.terms
            for half in (self.sender, self.receiver):
                half.window, half.window_bytes = hello.terms.window, hello.terms.window_bytes
        actions.append(Room())

    def _resend(self, now: float, actions: Actions) -> None:
        if self.kind is Kind.WEBSOCKET:
            frames = self.sender.after(max(self.sender.acked, self._taken))
            if frames:
                self._wrote = now
                actions.append(Write(self.attachment, frames))
        else:
            self._uplink(now, actions)

    def _receive(self, frame: Numbered, now: float, actions: Actions) -> None:
        if self.closing is not None:
            if isinstance(frame, End):
                self._over(ENDED, "local", self.closing.code, self.closing.reason, now, actions)
            return
        taken = self.receiver.take(frame)
        if taken is Take.TAKEN:
            self._progress = True
        elif taken is not Take.DUPLICATE:
            self._lose_link(now, actions, drop=True)  # P4 client 3: a gap inside a stream is a protocol error

    # -- how an attachment ends ----------------------------------------------------------------------------------------

    def ended(self, attachment: int, now: float, *, clean: bool = False) -> Actions:
        """A response or WebSocket is over, whole or cut, or could not be had.  `clean`: a whole response, a 204, a close 1000."""
        actions: Actions = []
        if attachment == self._candidate and self._candidate:
            self._candidate = 0
            if self.ending is None and self.link is Link.NONE:
                self._fail(now, 0.0)
            return actions
        if attachment != self.attachment or self.link is Link.NONE:
            return actions
        if self.ending is not None:
            self.link = Link.NONE
            if self._farewell and self.kind is Kind.WEBSOCKET:
                if clean:
                    self._no_farewell(actions)
                else:
                    self._uplink(now, actions)
            return actions
        if clean and self.kind is Kind.POLL:
            self._polled(now, actions)
        else:
            self._lose_link(now, actions, drop=False)
        return actions

    def refused(
        self, attachment: int, status: int, code: str | None, ack: int | None, now: float, retry_after: float = 0.0
    ) -> Actions:
        """The newest attach was answered by a refusal (or a WebSocket close 4000 + status)."""
        actions: Actions = []
        if attachment != self.attachment or self.link is Link.NONE or self.ending is not None:
            return actions
        self._contact(now)
        self.link = Link.NONE
        if not self._judge(status, code, ack, now, actions):
            self._fail(now, retry_after)
        return actions

    def _judge(self, status: int, code: str | None, ack: int | None, now: float, actions: Actions) -> bool:
        """P4 client 4: what a refusal means; True if the session is over by it."""
        if ack is not None and self.had_hello and ack <= self.sender.sent:
            self._acknowledged(ack, now, actions)
            if self.ending is not None:
                return True
        if status == 409 and code in (None, "superseded"):
            self._over("superseded", "network", 1006, "another instance took over", now, actions)
        elif status in (404, 410) or status in (400, 403, 413):
            self._over(LOST, "network", 1006, code or "", now, actions)
        else:
            return False
        return True

    def _polled(self, now: float, actions: Actions) -> None:
        """A poll was answered.  The next follows when what it brought is in the inbox; at once, if it was worth it."""
        self.link = Link.NONE
        if self._progress or now - self._since >= 1.0:
            self._attach_failures = 0
            self._retry_at = now
        else:
            self._fail(now, 0.0)
        self._contact(now)
        if not self.receiver.hold:
            self._again(now, actions)

    def _lose_link(self, now: float, actions: Actions, *, drop: bool) -> None:
        if drop:
            actions.append(Drop(self.attachment))
        up = self.link is Link.UP
        self.link = Link.NONE
        if up:
            actions.append(Detached())
            self._grace_at = now + self.terms.grace
            if self._progress or now - self._since >= self.config.steady:
                self._attach_failures = 0
        if not self._closes_by_post:
            self._fail(now, 0.0)

    def _fail(self, now: float, retry_after: float) -> None:
        self._attach_failures += 1
        self._retry_at = now + max(retry_after, backoff(self._attach_failures, self.jitter()))

    def _again(self, now: float, actions: Actions) -> None:
        """Attach again if it is time and nothing is in the way."""
        if self.ending is not None or self._closes_by_post or now < self._retry_at or self._creating:
            return
        if self.link is Link.NONE and not self._candidate:
            if self._attach_kind is Kind.POLL and self.receiver.hold and self.had_hello:
                return  # it would bring the same again; contact is kept by empty batches (F9)
            self._connect(now, actions)

    # -- the uplink ----------------------------------------------------------------------------------------------------

    def send(self, payload: str | bytes, now: float) -> Actions:
        """Number a message and send it if that is possible now.  The caller looked at `is_open` and `has_room`."""
        actions: Actions = []
        self._say(self.sender.number(payload), now, actions)
        return actions

    def _say(self, frame: Numbered, now: float, actions: Actions) -> None:
        if self.link is Link.UP and self.kind is Kind.WEBSOCKET:
            self._wrote = now
            actions.append(Write(self.attachment, (frame,)))
        else:
            self._uplink(now, actions)

    @property
    def _closes_by_post(self) -> bool:
        """Whether this client, closing, only POSTs any more (F14)."""
        return self.closing is not None and self._closed_kind is not Kind.WEBSOCKET

    @property
    def _may_post(self) -> bool:
        if self._posting is not None or self.sid is None or not self.had_hello:
            return False
        if self._farewell:
            return not (self.link is Link.UP and self.kind is Kind.WEBSOCKET)
        return self.ending is None and self._attach_kind is not Kind.WEBSOCKET and self.kind is not Kind.WEBSOCKET

    def _uplink(self, now: float, actions: Actions, *, contact: bool = False) -> None:
        """POST what is owed: messages not taken yet, else an acknowledgement if `contact` or it is time."""
        if not self._may_post or now < self._post_at:
            return
        frames = self._batch()
        owed = self._ack_at <= now or contact or self._farewell
        asks = not frames and bool(self.sender.frames)  # taken, not acknowledged: ask again
        if frames or owed or (asks and self._post_failures):
            self._post_numbers += 1
            ack = self.ack
            self._posting = Post(self._post_numbers, self.a, ack, frames)
            self._post_until = now + self.config.post_timeout
            self._ack_at = NEVER
            actions.append(self._posting)

    def _batch(self) -> tuple[Numbered, ...]:
        if self._farewell or (self._peer_closing and self.closing is None):
            return ()
        frames: list[Numbered] = []
        size = 0
        for frame in self.sender.after(max(self.sender.acked, self._taken)):
            if size and size + frame.size > self.config.batch_bytes:
                break
            frames.append(frame)
            size += frame.size
        return tuple(frames)

    def posted(
        self, number: int, status: int, code: str | None, ack: int | None, now: float, retry_after: float = 0.0
    ) -> Actions:
        """A batch was answered."""
        actions: Actions = []
        post = self._posting
        if post is None or post.number != number:
            if self.ending is None and status == 200 and ack is not None and ack <= self.sender.sent:
                self._acknowledged(ack, now, actions)  # a late answer is still true
            return actions
        self._posting = None
        self._post_until = NEVER
        if self._farewell:
            self._no_farewell(actions)
        if self.ending is not None:
            return actions
        self._contact(now)
        if status == 200 and ack is not None:
            self._post_well(post, ack, now, actions)
        elif status == 409 and code in ("gap", "closing"):
            self._taken = 0
            self._peer_closing = self._peer_closing or code == "closing"
            self._acknowledged(min(ack or 0, self.sender.sent), now, actions)
            self._post_badly(now, retry_after)
        elif not self._judge(status, code, ack, now, actions):
            self._post_badly(now, retry_after)
        self._uplink(now, actions)
        return actions

    def _post_well(self, post: Post, ack: int, now: float, actions: Actions) -> None:
        if ack > self.sender.sent:
            self._over(LOST, "network", 1006, "", now, actions)
            return
        self._told = max(self._told, post.ack)
        if post.frames:
            self._taken = max(self._taken, post.frames[-1].n)
        self._acknowledged(ack, now, actions)
        if post.frames and ack < post.frames[-1].n:
            self._post_badly(now, 0.0)  # taken, but not in the inbox yet: ask again later
        elif not self.sender.frames:
            self._post_failures = 0

    def post_failed(self, number: int, now: float) -> Actions:
        """A batch got no answer, or none that is ours."""
        if self._posting is not None and self._posting.number == number:
            self._posting = None
            self._post_until = NEVER
            self._post_badly(now, 0.0)
        return []

    def _post_badly(self, now: float, retry_after: float) -> None:
        self._post_failures += 1
        self._post_at = now + max(retry_after, backoff(self._post_failures, self.jitter()))

    def _acknowledged(self, n: int, now: float, actions: Actions) -> None:
        """The server has everything up to `n`; a lower number than before is old news (F9b)."""
        if n > self.sender.sent:
            self._lose_link(now, actions, drop=True)
            return
        if not self.sender.acknowledge(n):
            return
        self._progress = True
        self._post_failures = 0
        self._post_at = NEVER if False else 0.0
        actions.append(Room())
        if self.closing is not None and n == self.closing.n:
            self._over(ENDED, "local", self.closing.code, self.closing.reason, now, actions)

    # -- the application -----------------------------------------------------------------------------------------------

    def pull(self) -> Message | None:
        """The next message for the application's inbox."""
        return self.receiver.pull()

    def processed(self) -> None:
        """The application has returned from the oldest message pulled (ack="processed"); then `settle`."""
        self.receiver.processed()

    def settle(self, now: float) -> Actions:
        """After pulling: the peer's end takes effect, acknowledgements go out in time, a poller polls again."""
        actions: Actions = []
        if self.ending is not None:
            return actions
        if (end := self.receiver.pull_end()) is not None:
            self._take_end(end, now, actions)
            return actions
        self._owe_ack(now, actions)
        self._again(now, actions)
        return actions

    def _owe_ack(self, now: float, actions: Actions) -> None:
        receiver = self.receiver
        if self.ack <= self._told:
            return
        if self.kind is Kind.POLL and not receiver.hold:
            return  # the next poll says it
        owed, owed_bytes = receiver.recv - self._told, receiver.recv_bytes - self._told_bytes
        urgent = owed * 4 >= receiver.window or owed_bytes * 4 >= receiver.window_bytes
        self._ack_at = now if urgent else min(self._ack_at, now + self.config.ack_delay)
        if urgent:
            self._say_ack(now, actions)

    def _say_ack(self, now: float, actions: Actions) -> None:
        if self.link is Link.UP and self.kind is Kind.WEBSOCKET:
            self._write_ack(now, actions)
        else:
            self._told_bytes = self.receiver.recv_bytes
            self._uplink(now, actions)

    def _write_ack(self, now: float, actions: Actions) -> None:
        self._ack_at = NEVER
        self._wrote = now
        self._told, self._told_bytes = self.receiver.recv, self.receiver.recv_bytes
        actions.append(Write(self.attachment, (Ack(self._told),)))

    def _take_end(self, end: End, now: float, actions: Actions) -> None:
        """Who takes the peer's end is closed at once, and acknowledges it until any answer comes."""
        self._over(ENDED, "peer", end.code, end.reason, now, actions, farewell=True)
        if self.link is Link.UP and self.kind is Kind.WEBSOCKET:
            self._write_ack(now, actions)
        else:
            self._uplink(now, actions)

    def close(self, code: int, reason: str, now: float, timeout: float | None = None) -> Actions:
        """Close in order.  Before this instance's own hello there is nothing to number: DELETE."""
        actions: Actions = []
        if not self.is_open:
            return actions
        if not self.had_hello:
            if self.sid is not None:
                actions.append(Delete(self.a))
            self._over(KILLED, "local", code, reason, now, actions)
            return actions
        self.closing = self.sender.end(code, reason)
        self._closed_kind = self._attach_kind
        self._grace_at = min(self._grace_at, NEVER)
        crossed = self.receiver.stop()
        self._close_deadline(now, timeout)
        if crossed is not None:
            self._over(ENDED, "local", code, reason, now, actions)
            return actions
        if self._closes_by_post:
            if self.link is not Link.NONE or self._candidate:
                actions.append(Drop(self._candidate or self.attachment))
                self._candidate = 0
                self.link = Link.NONE
            self._retry_at = NEVER
        self._say(self.closing, now, actions)
        return actions

    def _close_deadline(self, now: float, timeout: float | None) -> None:
        self._grace_at = now + (self.terms.grace if timeout is None else timeout)

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `tick` must be called at the latest."""
        if self._drained:
            return NEVER
        times = [self._grace_at, self._post_until]
        if self._posting is None and (self._farewell or self._post_failures or self._may_post_later):
            times.append(self._post_at)
        if self.ending is None:
            times += (self._retry_at, self._ack_at, self._link_deadline)
        return min(times)
