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

from channelkit.session.actions import Delete, Kind, Room
from channelkit.session.client.attaching import Link
from channelkit.session.client.state import Actions, ClientState
from channelkit.session.ending import ENDED, KILLED, LOST
from channelkit.session.frames import (
    Ack,
    Binary,
    End,
    Frame,
    Hello,
    Message,
    Numbered,
    Ping,
    Text,
    numbered,
    payload_size,
)
from channelkit.session.pacing import NEVER
from channelkit.session.receiver import Take


class ClientSession(ClientState):
    """One instance of one session, told what happens."""

    __slots__ = ()

    # -- attaching -----------------------------------------------------------------------------------------------------

    def start(self, kind: Kind, now: float) -> Actions:
        """Begin: create the session if there is none, and attach by `kind`."""
        actions: Actions = []
        if self.closing is not None:
            self.life.close_at = now + self.terms.grace
        self.attaching.start(kind, now, actions)
        return actions

    def switch(self, kind: Kind, now: float) -> Actions:
        """Go on by another transport, or by a fresh connection of the same: just another attach."""
        actions: Actions = []
        if self.ending is None and not self.attaching.only_posts and not self.attaching.creating:
            self.attaching.wanted = kind
            self.attaching.connect(now, actions)
        return actions

    def created(self, hello: Hello, now: float) -> Actions:
        """POST /ck was answered 201: this instance's own hello, since nobody else can have numbered."""
        actions: Actions = []
        if not self.attaching.creating or self.ending is not None:
            return actions
        self.attaching.creating = False
        self.attaching.contact(now)
        self.instance.named(hello)
        self._first_hello(hello, actions)
        self.attaching.connect(now, actions)
        return actions

    def create_failed(self, now: float, retry_after: float = 0.0) -> Actions:
        """It was not, and nothing is known of it: a session that nobody uses expires by itself."""
        actions: Actions = []
        if self.attaching.creating and self.ending is None:
            self.attaching.creating = False
            self.attaching.fail(now, actions, retry_after)
        return actions

    def opened(self, attachment: int, now: float) -> Actions:
        """The WebSocket is open."""
        actions: Actions = []
        if self.ending is None and attachment == self.attaching.candidate:
            self.attaching.opened(now, actions)
        return actions

    # -- what an attachment brings -------------------------------------------------------------------------------------

    def received(self, attachment: int, frame: Frame, now: float) -> Actions:
        """A frame of a response or WebSocket.  Only those of the newest attach count."""
        actions: Actions = []
        if not self.attaching.counts(attachment):
            return actions
        self.attaching.heard(now)
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
        elif isinstance(frame, Ping) and self.attaching.by_websocket:
            self.saying.write_ack(now, actions)
        return actions

    def heard(self, attachment: int, now: float) -> None:
        """Bytes came, such as a comment or an empty line: the connection lives."""
        if self.attaching.counts(attachment):
            self.attaching.heard(now)

    def _hello(self, hello: Hello, now: float, actions: Actions) -> None:
        attaching = self.attaching
        if attaching.link is Link.UP:
            return
        self.instance.named(hello)
        attaching.link = Link.UP
        attaching.contact(now)
        attaching.asked_at = now
        attaching.release(actions)
        self.saying.acks.told = max(self.saying.acks.told, attaching.presented)
        if not self.instance.owns(hello, self.sender):
            self._over(LOST, "network", 1006, "", now, actions)
            return
        if not self.had_hello:
            attaching.progress = True
            self._first_hello(hello, actions)
        attaching.attach(actions)
        self._acknowledged(hello.recv, now, actions)
        if self.ending is not None:
            return
        if attaching.only_posts:
            attaching.unlink(now, actions, drop=True)
        self.saying.say_again(now, actions)

    def _first_hello(self, hello: Hello, actions: Actions) -> None:
        self.instance.first_hello(hello, self.sender, self.receiver)
        actions.append(Room())

    def _receive(self, frame: Numbered, now: float, actions: Actions) -> None:
        if self.closing is not None:  # takes nothing more; but the peer's end, seen, closes both (F16)
            if isinstance(frame, End):
                self._over(ENDED, "local", self.closing.code, self.closing.reason, now, actions)
            return
        taken = self.receiver.take(frame)
        if taken is Take.TAKEN:
            self.attaching.progress = True
        elif taken is Take.DUPLICATE:
            self.saying.acks.soon(now)
        else:
            self._broke(now, actions)  # P4 client 3: a gap inside a stream is a protocol error

    def _broke(self, now: float, actions: Actions) -> None:
        self.attaching.lost(now, actions, drop=True)

    # -- how an attachment ends ----------------------------------------------------------------------------------------

    def ended(self, attachment: int, now: float, *, clean: bool = False) -> Actions:
        """A response or WebSocket is over, or could not be had.  `clean`: whole, a 204, a WebSocket close 1000."""
        actions: Actions = []
        attaching = self.attaching
        if attachment == attaching.candidate and attachment:
            attaching.candidate_failed(now, actions)
        elif attaching.counts(attachment):
            if self.ending is not None:
                self._farewell_cut(now, actions, clean=clean)
            elif clean and (self.kind is Kind.POLL or (self.link is Link.UP and not attaching.by_websocket)):
                attaching.turned(now, actions)
            else:
                attaching.lost(now, actions, drop=False)
        return actions

    def refused(
        self, attachment: int, status: int, code: str | None, ack: int | None, now: float, retry_after: float = 0.0
    ) -> Actions:
        """The newest attach was answered by a refusal: a status, or a WebSocket close of 4000 + status."""
        actions: Actions = []
        attaching = self.attaching
        if not attaching.counts(attachment) or self.ending is not None:
            return actions
        attaching.contact(now)
        superseded = status == 409 and code == "superseded"  # said once, true for ever
        if attaching.link is Link.UP and not superseded:  # behind a hello any other close is a detach
            attaching.lost(now, actions, drop=False)
            return actions
        if attaching.link is Link.UP:
            attaching.unlink(now, actions, drop=False)
        attaching.link = Link.NONE
        attaching.release(actions)
        if not self._judge(status, code, ack, now, actions):
            attaching.fail(now, actions, retry_after)
        return actions

    # -- how a batch ends ----------------------------------------------------------------------------------------------

    def posted(
        self, number: int, status: int, code: str | None, ack: int | None, now: float, retry_after: float = 0.0
    ) -> Actions:
        """A batch was answered."""
        actions: Actions = []
        if self.uplink.in_flight is None or self.uplink.in_flight.number != number:
            return actions
        post = self.uplink.landed()
        self.attaching.contact(now)
        self.attaching.asked_at = now
        if self.saying.farewell:
            self._said_farewell(post, now, actions)
        if self.ending is not None:
            return actions
        if status == 200 and ack is not None and ack <= self.sender.sent:
            self.saying.acks.told = max(self.saying.acks.told, post.ack)
            self.uplink.taken = max(self.uplink.taken, post.frames[-1].n if post.frames else 0)
            self._acknowledged(ack, now, actions)
            if self.sender.acked < self.uplink.taken:
                self.uplink.wait(now, self.terms.grace)  # taken, but not in the inbox yet: ask again later
        elif status == 413 and self.uplink.halve(post):
            pass  # the same messages again, at once, in smaller batches
        elif not self._post_refused(status, code, ack, now, actions):
            self.uplink.wait(now, self.terms.grace, retry_after)
        if self.ending is None:
            self.saying.owe_ack(now, actions)
            self.saying.post(now, actions)
        return actions

    def _post_refused(self, status: int, code: str | None, ack: int | None, now: float, actions: Actions) -> bool:
        if status == 409 and code in ("gap", "closing"):
            self.uplink.taken = 0
            self.saying.peer_closing = self.saying.peer_closing or code == "closing"
            if ack is not None and ack <= self.sender.sent:
                self._acknowledged(ack, now, actions)
            return self.ending is not None
        return self._judge(status, code, ack, now, actions)

    def post_failed(self, number: int, now: float) -> Actions:
        """A batch got no answer, or none that is ours."""
        actions: Actions = []
        if self.uplink.in_flight is not None and self.uplink.in_flight.number == number:
            self.saying.failed(now, actions)
        return actions

    # -- the application -----------------------------------------------------------------------------------------------

    def send(self, payload: str | bytes, now: float) -> Actions:
        """Number a message and send it if that is possible now.  The caller looked at `is_open` and `has_room`."""
        actions: Actions = []
        frame = numbered(self.sender.number(payload, payload_size(payload), now), payload)
        self.saying.say(frame, now, actions)
        return actions

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
            self.saying.owe_ack(now, actions)
            self.attaching.again(now, actions)
        return actions

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
        self.saying.last_ack(now, actions)
        end = self.life.closing = self.sender.end(code, reason)
        self.life.close_at = now + (self.terms.grace if timeout is None else timeout)
        if self.receiver.stop() is not None:  # the peer's end was here already: both are closed
            self._over(ENDED, "local", code, reason, now, actions)
            return actions
        if self.attaching.only_posts:
            self.attaching.drop_candidate(actions)
            if self.link is not Link.NONE:
                self.attaching.unlink(now, actions, drop=True)
            self.attaching.retry_at = NEVER
        self.saying.say(end, now, actions)
        return actions

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `tick` must be called at the latest."""
        if self.drained:
            return NEVER
        first = min(self.attaching.grace_at, self.life.close_at, self.saying.deadline)
        return min(first, self.attaching.deadline) if self.ending is None else first

    def tick(self, now: float) -> Actions:
        """Do what is due."""
        actions: Actions = []
        if self.drained:
            return actions
        if now >= min(self.attaching.grace_at, self.life.close_at):
            self._expire(now, actions)
            return actions
        if now >= self.uplink.until:
            self.uplink.unanswered()
            self.saying.failed(now, actions)
        if self.ending is None:
            self.attaching.tick(now, actions)
            if now >= self.saying.acks.at:
                self.saying.say_ack(now, actions)
            self.attaching.again(now, actions)
        self.saying.post(now, actions)
        return actions
