"""A session as a client sees it (P4, P5, P7): events in, actions out, time as an argument, chance as a function.

The rules that look odd are there because a shortest trace broke without them:

* From sending an attach on, nothing is taken from older attachments (F8), and until its hello nothing above the
  number it presented is acknowledged elsewhere (F8b).
* Numbers are given only after *this instance's own* first hello (F2).  A hello that has received more than this
  instance ever numbered speaks of somebody else's numbers: lost (F3); and so does one whose last was sent by an
  instance that is not of this one's line (F27).  A lower one is old news (F9b).
* A client that closes over HTTP ends its GET and only POSTs (F14).

Use: `start(kind, now)`; then tell what happens, and do what comes back, in order.  After each call pull until None and
`settle(now)` if the inbox takes messages, and call `tick(now)` at `deadline`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from channelkit.session.actions import (
    Attach,
    Attached,
    ClientAction,
    Create,
    Delete,
    Detached,
    Drained,
    Drop,
    Ended,
    Kind,
    Open,
    Room,
    Write,
)
from channelkit.session.ending import ABANDONED, ENDED, KILLED, LOST, Ending, Outcome
from channelkit.session.frames import Ack, Binary, End, Frame, Hello, Message, Numbered, Ping, Terms, Text
from channelkit.session.pacing import backoff
from channelkit.session.receiver import Receiver, Take
from channelkit.session.sender import Sender
from channelkit.session.uplink import Uplink
from channelkit.status import By

Actions = list[ClientAction]
NEVER = math.inf

#: Until a hello tells the real ones.
FIRST_TERMS = Terms(window=1, window_bytes=1 << 20, max_message=1 << 20, ping=20.0, grace=30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """A client's own times, in seconds, and sizes, in bytes."""

    wait: float = 25.0  # of one poll, once there was a hello
    hello_timeout: float = 5.0  # a stream that shows no hello is behind a buffering proxy: poll instead (P4 client 5)
    open_timeout: float = 10.0  # for a WebSocket to open
    post_timeout: float = 30.0  # an answer that has not come by then will not
    poll_margin: float = 10.0  # a poll's answer may come that much after its wait
    ping_timeout: float = 10.0  # silence beyond hello's ping
    ack_delay: float = 1.0  # the longest an acknowledgement waits for company
    steady: float = 30.0  # attached that long: the next failure counts as the first
    batch_bytes: int = 1 << 20  # payload of one POST; a larger message goes alone
    ack: Literal["inbox", "processed"] = "inbox"


@dataclass(frozen=True, slots=True)
class Saved:
    """What a page keeps for its successor, a new instance that takes over the numbering with a larger `a`."""

    sid: str
    secret: str | None
    a: int
    recv: int
    sent: int
    acked: int
    frames: tuple[Numbered, ...] = field(repr=False)
    line: int | None = None  # the last instance of this line that had its own hello
    verified: int = 0  # the highest number known to be this line's in the server's hands

    def __repr__(self) -> str:
        return f"Saved(sid={self.sid!r}, a={self.a}, recv={self.recv}, sent={self.sent})"  # never the secret


class Link(Enum):
    """How far the newest attach has come."""

    NONE = "none"
    SENT = "sent"  # no hello yet
    UP = "up"


class ClientSession:
    """One instance of one session.  `jitter()` gives numbers in [0, 1).

    `saved` is a predecessor's state, to be taken over by `a` larger than its; `sid` and `secret` alone are for whoever
    knows the session and has received and sent nothing.  With neither the session is created.
    """

    __slots__ = (
        "_ack_at",
        "_alone",
        "_candidate",
        "_candidate_since",
        "_close_at",
        "_contacted",
        "_creating",
        "_drained",
        "_failures",
        "_farewell",
        "_heard",
        "_number",
        "_peer_closing",
        "_progress",
        "_retry_at",
        "_since",
        "_told",
        "_told_bytes",
        "_wait",
        "_wanted",
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
        "line",
        "presented",
        "receiver",
        "secret",
        "sender",
        "sid",
        "terms",
        "uplink",
        "verified",
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
        self.line = saved.line if saved else None
        self.verified = saved.verified if saved else 0
        self.sid, self.secret = (saved.sid, saved.secret) if saved else (sid, secret)
        self.terms = FIRST_TERMS
        recv = saved.recv if saved else 0
        self.sender = Sender(FIRST_TERMS.window, FIRST_TERMS.window_bytes)
        self.receiver = Receiver(1, FIRST_TERMS.window_bytes, recv, by_processing=config.ack == "processed")
        self.uplink = Uplink(jitter)
        self.had_hello = False
        self.kind = Kind.POLL  # of the newest attach
        self.attachment = 0  # its number
        self.link = Link.NONE  # how far it has come
        self.presented = recv  # its ack
        self.closing: End | None = None
        self.ending: Ending | None = None
        self._wanted = Kind.POLL  # of the next attach
        self._number = 0
        self._candidate = 0  # a WebSocket being opened while the older attachment still serves
        self._candidate_since = 0.0
        self._creating = False
        self._failures = 0
        self._progress = False  # since the newest attach: a number taken or acknowledged, or the first hello
        self._retry_at = NEVER
        self._since = self._heard = self._wrote = 0.0
        self._wait = 0.0
        self._contacted = self._alone = 0.0
        self._close_at = NEVER
        self._told = recv  # the highest recv the server was surely, or by a WebSocket, told
        self._told_bytes = 0
        self._ack_at = NEVER
        self._peer_closing = False
        self._farewell = False  # over, and the peer's end must still be acknowledged
        self._drained = False
        if saved is not None:
            self._take_over(saved)

    def _take_over(self, saved: Saved) -> None:
        self.sender.sent = self.sender.acked = saved.acked
        for frame in saved.frames:
            self.sender.keep(frame)
        self.sender.sent = saved.sent
        if saved.frames and isinstance(saved.frames[-1], End):
            self.closing = saved.frames[-1]

    # -- what can be asked ---------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether a message may ever be numbered again."""
        return self.ending is None and self.closing is None

    @property
    def drained(self) -> bool:
        """Whether nothing is left to do."""
        return self._drained

    @property
    def ack(self) -> int:
        """What may be acknowledged now: nothing above the number of an attach that has no answer yet (F8b)."""
        recv = self.receiver.recv
        return min(recv, self.presented) if self.link is Link.SENT else recv

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes may be numbered now: after this instance's own hello, in the window."""
        return self.had_hello and not self._peer_closing and self.sender.has_room(size)

    def save(self) -> Saved:
        """The state for a successor, once there is a `sid`.  What was not pulled yet is the server's to send again."""
        assert self.sid is not None
        sender = self.sender
        frames = tuple(sender.frames)
        line = self.a if self.had_hello else self.line
        recv = self.receiver.recv
        return Saved(self.sid, self.secret, self.a, recv, sender.sent, sender.acked, frames, line, self.verified)

    # -- attaching -----------------------------------------------------------------------------------------------------

    def start(self, kind: Kind, now: float) -> Actions:
        """Begin: create the session if there is none, and attach by `kind`."""
        self._wanted = self.kind = kind
        self._contacted = self._alone = now
        if self.closing is not None:
            self._close_at = now + self.terms.grace
        actions: Actions = []
        self._connect(now, actions)
        return actions

    def switch(self, kind: Kind, now: float) -> Actions:
        """Go on by another transport, or by a fresh connection of the same: just another attach."""
        actions: Actions = []
        if self.ending is None and not self._only_posts and not self._creating:
            self._wanted = kind
            self._connect(now, actions)
        return actions

    def _connect(self, now: float, actions: Actions) -> None:
        self._retry_at = NEVER
        self._drop_candidate(actions)
        if self.sid is None and self._wanted is not Kind.WEBSOCKET:
            self._creating = True
            actions.append(Create(self.a))
            return
        self._number += 1
        if self._wanted is Kind.WEBSOCKET:
            self._candidate = self._number
            self._candidate_since = now
            actions.append(Open(self._number))
        else:
            self._send_attach(self._number, now, actions)

    def created(self, hello: Hello, now: float) -> Actions:
        """POST /ck was answered 201: this instance's own hello, since nobody else can have numbered."""
        actions: Actions = []
        if not self._creating or self.ending is not None:
            return actions
        self._creating = False
        self._contacted = now
        self.sid, self.secret = hello.sid, hello.secret
        self._first_hello(hello, actions)
        self._connect(now, actions)
        return actions

    def create_failed(self, now: float, retry_after: float = 0.0) -> Actions:
        """It was not, and nothing is known of it: a session that nobody uses expires by itself."""
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
            self._unlink(now, actions, drop=True)
        self.attachment = attachment
        self.kind = self._wanted
        self.link = Link.SENT
        self.presented = self.receiver.recv
        self._progress = False
        self._since = self._heard = self._wrote = now
        self._wait = self.config.wait if self.kind is Kind.POLL and self.had_hello else 0.0
        actions.append(Attach(attachment, self.kind, self.a, self.presented, self._wait))

    # -- what an attachment brings -------------------------------------------------------------------------------------

    def received(self, attachment: int, frame: Frame, now: float) -> Actions:
        """A frame of a response or WebSocket.  Only those of the newest attach count."""
        actions: Actions = []
        if attachment != self.attachment or self.link is Link.NONE:
            return actions
        self._heard = self._contacted = now
        if self.ending is not None:
            return actions
        if isinstance(frame, Hello):
            self._hello(frame, now, actions)
        elif self.link is not Link.UP:
            self._broke(now, actions)  # a frame before hello: not our protocol
        elif isinstance(frame, Text | Binary | End):
            self._receive(frame, now, actions)
        elif isinstance(frame, Ack):
            if frame.n > self.sender.sent:
                self._broke(now, actions)
            else:
                self._acknowledged(frame.n, now, actions)
        elif isinstance(frame, Ping) and self.kind is Kind.WEBSOCKET:
            self._write_ack(now, actions)
        return actions

    def heard(self, attachment: int, now: float) -> None:
        """Bytes came, such as a comment or an empty line: the connection lives."""
        if attachment == self.attachment and self.link is not Link.NONE:
            self._heard = self._contacted = now

    def _hello(self, hello: Hello, now: float, actions: Actions) -> None:
        if self.link is Link.UP:
            return
        if self.sid is None:
            self.sid, self.secret = hello.sid, hello.secret
        self.link = Link.UP
        self._told = max(self._told, self.presented)
        if not self._is_ours(hello):
            self._over(LOST, "network", 1006, "", now, actions)
            return
        if not self.had_hello:
            self._progress = True
            self._first_hello(hello, actions)
        actions.append(Attached())
        self._acknowledged(hello.recv, now, actions)
        if self.ending is not None:
            return
        if self._only_posts:
            self._unlink(now, actions, drop=True)
        self._send_again(now, actions)

    def _is_ours(self, hello: Hello) -> bool:
        """Whether the numbers hello has received can only be this instance's and its predecessors'."""
        have = hello.recv if hello.have is None else hello.have
        if have > self.sender.sent:
            return False
        if self.had_hello or have <= max(self.sender.acked, self.verified):
            return True
        self.verified = have
        return hello.by in (None, self.a, self.line)

    def _first_hello(self, hello: Hello, actions: Actions) -> None:
        """From here on this instance may number, within the terms it was told."""
        self.had_hello = True
        if hello.terms is not None:
            self.terms = hello.terms
            self.sender.window = self.receiver.window = hello.terms.window
            self.sender.window_bytes = self.receiver.window_bytes = hello.terms.window_bytes
        actions.append(Room())

    def _send_again(self, now: float, actions: Actions) -> None:
        if self.kind is not Kind.WEBSOCKET:
            self._post(now, actions)
        elif frames := self.sender.after(max(self.sender.acked, self.uplink.taken)):
            self._wrote = now
            actions.append(Write(self.attachment, frames))

    def _receive(self, frame: Numbered, now: float, actions: Actions) -> None:
        if self.closing is not None:  # takes nothing more; but the peer's end, seen, closes both (F16)
            if isinstance(frame, End):
                self._over(ENDED, "local", self.closing.code, self.closing.reason, now, actions)
            return
        taken = self.receiver.take(frame)
        if taken is Take.TAKEN:
            self._progress = True
        elif taken is Take.DUPLICATE:
            self._ack_at = min(self._ack_at, now + self.config.ack_delay)
        else:
            self._broke(now, actions)  # P4 client 3: a gap inside a stream is a protocol error

    # -- how an attachment ends ----------------------------------------------------------------------------------------

    def ended(self, attachment: int, now: float, *, clean: bool = False) -> Actions:
        """A response or WebSocket is over, or could not be had.  `clean`: whole, a 204, a WebSocket close 1000."""
        actions: Actions = []
        if attachment == self._candidate and attachment:
            self._candidate_failed(now)
        elif attachment == self.attachment and self.link is not Link.NONE:
            if self.ending is not None:
                self._farewell_cut(now, actions, clean=clean)
            elif clean and self.kind is Kind.POLL:
                self._polled(now, actions)
            else:
                self._lost_link(now, actions, drop=False)
        return actions

    def refused(
        self, attachment: int, status: int, code: str | None, ack: int | None, now: float, retry_after: float = 0.0
    ) -> Actions:
        """The newest attach was answered by a refusal: a status, or a WebSocket close of 4000 + status."""
        actions: Actions = []
        if attachment != self.attachment or self.link is Link.NONE or self.ending is not None:
            return actions
        self._contacted = now
        if self.link is Link.UP:  # behind a hello any close is a detach
            self._lost_link(now, actions, drop=False)
            return actions
        self.link = Link.NONE
        if not self._judge(status, code, ack, now, actions):
            self._fail(now, retry_after)
        return actions

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

    def _polled(self, now: float, actions: Actions) -> None:
        """A poll was answered.  The next follows at once if this was worth it, and once its messages are pulled."""
        self._unlink(now, actions, drop=False)
        if self._progress or now - self._since >= 1.0:
            self._failures = 0
            self._retry_at = now
        else:
            self._fail(now, 0.0)
        self._contacted = now

    def _candidate_failed(self, now: float) -> None:
        self._candidate = 0
        if self.ending is None:
            if self.link is Link.NONE:
                self._fail(now, 0.0)
            else:
                self._wanted = self.kind  # what serves goes on serving

    def _broke(self, now: float, actions: Actions) -> None:
        self._lost_link(now, actions, drop=True)

    def _lost_link(self, now: float, actions: Actions, *, drop: bool) -> None:
        steady = self.link is Link.UP and (self._progress or now - self._since >= self.config.steady)
        self._unlink(now, actions, drop=drop)
        if steady:
            self._failures = 0
        if not self._only_posts and not self._candidate:
            self._fail(now, 0.0)

    def _unlink(self, now: float, actions: Actions, *, drop: bool) -> None:
        if drop:
            actions.append(Drop(self.attachment))
        if self.link is Link.UP:
            self._alone = now
            actions.append(Detached())
        elif self.kind is Kind.POLL:
            self._alone = max(self._alone, min(now, self._since + self._wait))  # it may have been held in good faith
        self.link = Link.NONE

    def _fail(self, now: float, retry_after: float) -> None:
        self._failures += 1
        self._retry_at = now + max(retry_after, backoff(self._failures, self.jitter()))

    def _attach_again(self, now: float, actions: Actions) -> None:
        """Attach again if it is time and nothing is in the way."""
        if now < self._retry_at or self.link is not Link.NONE or self._candidate or self._creating:
            return
        if self.ending is None and not self._only_posts and not self._holds_poll:
            self._connect(now, actions)

    @property
    def _holds_poll(self) -> bool:
        """A poller whose messages wait for the inbox would get them again; it keeps contact by empty batches (F9)."""
        return self._wanted is Kind.POLL and self.had_hello and bool(self.receiver.hold)

    # -- the uplink ----------------------------------------------------------------------------------------------------

    def send(self, payload: str | bytes, now: float) -> Actions:
        """Number a message and send it if that is possible now.  The caller looked at `is_open` and `has_room`."""
        actions: Actions = []
        self._say(self.sender.number(payload), now, actions)
        return actions

    def _say(self, frame: Numbered, now: float, actions: Actions) -> None:
        if self.kind is not Kind.WEBSOCKET:
            self._post(now, actions)
        elif self.link is Link.UP:
            self._wrote = now
            actions.append(Write(self.attachment, (frame,)))

    @property
    def _only_posts(self) -> bool:
        """Closing over HTTP: the GET is ended, and the rest and the end are POSTed (F14)."""
        return self.closing is not None and self.kind is not Kind.WEBSOCKET and self.had_hello

    @property
    def _may_post(self) -> bool:
        if self.uplink.in_flight is not None or self.sid is None or not self.had_hello:
            return False
        if self._farewell:
            return self.link is Link.NONE
        return self.ending is None and self.kind is not Kind.WEBSOCKET

    def _batch(self) -> tuple[Numbered, ...]:
        if self._farewell or (self._peer_closing and self.closing is None):
            return ()
        return self.uplink.batch(self.sender, self.config.batch_bytes)

    def _post_due(self, now: float, frames: tuple[Numbered, ...]) -> bool:
        return bool(
            frames
            or self._farewell
            or now >= self._ack_at
            or now >= self._contact_at
            or (self.uplink.failures and self.uplink.asks(self.sender))
        )

    def _post(self, now: float, actions: Actions) -> None:
        """POST what is owed: messages, else an empty batch if an acknowledgement or a contact is due."""
        if self._may_post and now >= self.uplink.not_before:
            frames = self._batch()
            if self._post_due(now, frames):
                self._ack_at = NEVER
                actions.append(self.uplink.begin(self.a, self.ack, frames, now + self.config.post_timeout))

    def posted(
        self, number: int, status: int, code: str | None, ack: int | None, now: float, retry_after: float = 0.0
    ) -> Actions:
        """A batch was answered."""
        actions: Actions = []
        if self.uplink.in_flight is None or self.uplink.in_flight.number != number:
            return actions
        post = self.uplink.landed()
        self._contacted = now
        if self._farewell:
            self._drain(actions)
        if self.ending is not None:
            return actions
        if status == 200 and ack is not None and ack <= self.sender.sent:
            self._told = max(self._told, post.ack)
            self.uplink.taken = max(self.uplink.taken, post.frames[-1].n if post.frames else 0)
            self._acknowledged(ack, now, actions)
            if self.sender.acked < self.uplink.taken:
                self.uplink.wait(now)  # taken, but not in the inbox yet: ask again later
        elif not self._post_refused(status, code, ack, now, actions):
            self.uplink.wait(now, retry_after)
        if self.ending is None:
            self._owe_ack(now, actions)
            self._post(now, actions)
        return actions

    def _post_refused(self, status: int, code: str | None, ack: int | None, now: float, actions: Actions) -> bool:
        if status == 409 and code in ("gap", "closing"):
            self.uplink.taken = 0
            self._peer_closing = self._peer_closing or code == "closing"
            if ack is not None and ack <= self.sender.sent:
                self._acknowledged(ack, now, actions)
            return self.ending is not None
        return self._judge(status, code, ack, now, actions)

    def post_failed(self, number: int, now: float) -> Actions:
        """A batch got no answer, or none that is ours."""
        actions: Actions = []
        if self.uplink.in_flight is not None and self.uplink.in_flight.number == number:
            self.uplink.landed()
            self.uplink.wait(now)
            if self.ending is None:
                self._owe_ack(now, actions)
        return actions

    def _acknowledged(self, n: int, now: float, actions: Actions) -> None:
        """The server has everything up to `n` <= sent; a lower number than before is old news (F9b)."""
        if not self.sender.acknowledge(n):
            return
        self._progress = True
        self.uplink.progress()
        actions.append(Room())
        if self.closing is not None and n == self.closing.n:
            self._over(ENDED, "local", self.closing.code, self.closing.reason, now, actions)

    # -- the application -----------------------------------------------------------------------------------------------

    def pull(self) -> Message | None:
        """The next message for the application's inbox."""
        return None if self.ending is not None else self.receiver.pull()

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
        else:
            self._owe_ack(now, actions)
            self._attach_again(now, actions)
        return actions

    def _owe_ack(self, now: float, actions: Actions) -> None:
        """An acknowledgement waits at most `ack_delay`, and goes at once when a quarter of a window is owed."""
        receiver = self.receiver
        owed, owed_bytes = self.ack - self._told, receiver.recv_bytes - self._told_bytes
        if owed <= 0 or (self._wanted is Kind.POLL and self.kind is Kind.POLL and not self._holds_poll):
            return  # a poller's next poll says it
        if owed * 4 >= receiver.window or owed_bytes * 4 >= receiver.window_bytes:
            self._ack_at = now
            self._say_ack(now, actions)
        else:
            self._ack_at = min(self._ack_at, now + self.config.ack_delay)

    def _say_ack(self, now: float, actions: Actions) -> None:
        if self.kind is not Kind.WEBSOCKET:
            self._told_bytes = self.receiver.recv_bytes
            self._post(now, actions)
        elif self.link is Link.UP:
            self._write_ack(now, actions)
        else:
            self._ack_at = NEVER  # the next hello presents it

    def _write_ack(self, now: float, actions: Actions) -> None:
        self._ack_at = NEVER
        self._wrote = now
        self._told, self._told_bytes = self.receiver.recv, self.receiver.recv_bytes
        actions.append(Write(self.attachment, (Ack(self._told),)))

    # -- closing -------------------------------------------------------------------------------------------------------

    def close(self, code: int, reason: str, now: float, timeout: float | None = None) -> Actions:
        """Close in order.  Before this instance's own hello it may number nothing: DELETE."""
        actions: Actions = []
        if not self.is_open:
            return actions
        if not self.had_hello:
            if self.sid is not None:
                actions.append(Delete(self.a))
            self._over(KILLED, "local", code, reason, now, actions)
            return actions
        self.closing = self.sender.end(code, reason)
        self._close_at = now + (self.terms.grace if timeout is None else timeout)
        if self.receiver.stop() is not None:  # the peer's end was here already: both are closed
            self._over(ENDED, "local", code, reason, now, actions)
            return actions
        if self._only_posts:
            self._drop_candidate(actions)
            if self.link is not Link.NONE:
                self._unlink(now, actions, drop=True)
            self._retry_at = NEVER
        self._say(self.closing, now, actions)
        return actions

    def _take_end(self, end: End, now: float, actions: Actions) -> None:
        """Who takes the peer's end is closed at once, and acknowledges it until any answer comes."""
        self._farewell = True
        self._over(ENDED, "peer", end.code, end.reason, now, actions)
        if self.link is Link.UP:
            self._write_ack(now, actions)
        else:
            self.uplink.progress()
            self._post(now, actions)

    def _farewell_cut(self, now: float, actions: Actions, *, clean: bool) -> None:
        self.link = Link.NONE
        if clean or not self._farewell:
            self._drain(actions)
        else:
            self._post(now, actions)

    def _over(self, outcome: Outcome, by: By, code: int, reason: str, now: float, actions: Actions) -> None:
        """The only way to the end, and there is no way back."""
        assert self.ending is None
        left = self.sender.unacknowledged
        self.ending = Ending(outcome, by, code, reason, left == 0 and outcome == ENDED, left)
        self._alone = now
        self._retry_at = self._ack_at = self._close_at = NEVER
        self.sender.clear()
        self.receiver.stop()
        self._drop_candidate(actions)
        stays = self._farewell and self.kind is Kind.WEBSOCKET and self.link is Link.UP
        if self.link is not Link.NONE and not stays:
            self._unlink(now, actions, drop=True)
        actions.append(Ended(self.ending))
        if not self._farewell:
            self._drain(actions)

    def _drop_candidate(self, actions: Actions) -> None:
        if self._candidate:
            actions.append(Drop(self._candidate))
            self._candidate = 0

    def _drain(self, actions: Actions) -> None:
        self._farewell = False
        if not self._drained:
            self._drained = True
            actions.append(Drained())

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `tick` must be called at the latest."""
        if self._drained:
            return NEVER
        first = min(self._grace_at, self.uplink.until, self._close_at)
        if self._may_post and self._post_due(NEVER, self._batch()):
            first = min(first, max(self.uplink.not_before, self._post_at))
        if self.ending is None:
            first = min(first, self._link_at, self._candidate_at)
            if self.kind is Kind.WEBSOCKET:
                first = min(first, self._ack_at)
            if not self._holds_poll and not self._only_posts:
                first = min(first, self._retry_at)
        return first

    @property
    def _post_at(self) -> float:
        """When a batch is due, back-off aside: now if there are messages."""
        if self._farewell or self._batch() or (self.uplink.failures and self.uplink.asks(self.sender)):
            return 0.0
        return min(self._ack_at, self._contact_at)

    @property
    def _contact_at(self) -> float:
        """A poller that does not poll, since its inbox is full, stays in contact."""
        holds = self._holds_poll and self.link is Link.NONE and self.ending is None
        return self._contacted + self.terms.grace / 3 if holds else NEVER

    @property
    def _grace_at(self) -> float:
        if self.ending is None and self.link is Link.UP:
            return NEVER
        waiting = self._since + self._wait if self.link is Link.SENT else 0.0
        return max(self._contacted, self._alone, waiting) + self.terms.grace

    @property
    def _link_at(self) -> float:
        """When the newest attach is given up: without hello, or silent."""
        if self.link is Link.SENT:
            if self.kind is Kind.POLL:
                return self._since + self._wait + self.config.poll_margin
            return self._since + self.config.hello_timeout
        if self.link is Link.UP:
            silent = self._heard + self.terms.ping + self.config.ping_timeout
            return min(silent, self._ping_at)
        return NEVER

    @property
    def _ping_at(self) -> float:
        """An idle WebSocket is asked for a sign of life; a stream's server speaks by itself."""
        return max(self._heard, self._wrote) + self.terms.ping if self.kind is Kind.WEBSOCKET else NEVER

    @property
    def _candidate_at(self) -> float:
        return self._candidate_since + self.config.open_timeout if self._candidate else NEVER

    def tick(self, now: float) -> Actions:
        """Do what is due."""
        actions: Actions = []
        if self._drained:
            return actions
        if now >= self._grace_at or now >= self._close_at:
            self._expire(now, actions)
            return actions
        if now >= self.uplink.until and self.uplink.in_flight is not None:
            actions += self.post_failed(self.uplink.in_flight.number, now)
        if self.ending is None:
            self._tick_links(now, actions)
            if now >= self._ack_at:
                self._say_ack(now, actions)
            self._attach_again(now, actions)
        self._post(now, actions)
        return actions

    def _tick_links(self, now: float, actions: Actions) -> None:
        if now >= self._candidate_at:
            actions.append(Drop(self._candidate))
            self._candidate_failed(now)
        if now < self._link_at:
            return
        if self.link is Link.UP and now < self._heard + self.terms.ping + self.config.ping_timeout:
            self._wrote = now
            actions.append(Write(self.attachment, (Ping(),)))
            return
        if self.link is Link.SENT and self.kind in (Kind.STREAM, Kind.EVENTS):
            self._wanted = Kind.POLL  # a proxy holds the stream back until it ends
        self._lost_link(now, actions, drop=True)

    def _expire(self, now: float, actions: Actions) -> None:
        if self.ending is not None:
            self._drain(actions)  # the farewell found nobody
        elif self.closing is not None:
            self._over(ABANDONED, "local", self.closing.code, self.closing.reason, now, actions)
        else:
            self._over(LOST, "network", 1006, "", now, actions)
