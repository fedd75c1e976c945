"""The client's machine beyond the flaws: attaching, back-off, giving up, acknowledging, posting, taking over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from channelkit.session import actions as act
from channelkit.session.actions import ClientAction, Kind
from channelkit.session.client import ClientConfig, ClientSession, Link
from channelkit.session.codec import encode_line
from channelkit.session.frames import Ack, Binary, End, Hello, Ping, Terms, Text
from channelkit.session.pacing import backoff
from channelkit.status import CloseStatus

POLL, STREAM, EVENTS, WEBSOCKET = Kind.POLL, Kind.STREAM, Kind.EVENTS, Kind.WEBSOCKET
TERMS = Terms(window=8, window_bytes=100, max_message=100, ping=20.0, grace=30.0)
HELLO = Hello(0, "S", 1, TERMS)


def client(kind: Kind, jitter: float = 0.5, config: ClientConfig | None = None) -> ClientSession:
    """Attached, at time 0."""
    machine = ClientSession(config or ClientConfig(), lambda: jitter)
    machine.start(kind, 0.0)
    if kind is WEBSOCKET:
        machine.opened(1, 0.0)
    else:
        machine.created(HELLO, 0.0)
    machine.received(1, HELLO, 0.0)
    assert machine.link is Link.UP
    return machine


def posts(actions: list[ClientAction]) -> list[act.Post]:
    return [action for action in actions if isinstance(action, act.Post)]


def attaches(actions: list[ClientAction]) -> list[act.Attach | act.Open]:
    return [action for action in actions if isinstance(action, act.Attach | act.Open)]


def test_creation() -> None:
    """The session is created by POST before HTTP attaches, and by the WebSocket's hello."""
    machine = ClientSession(ClientConfig(), lambda: 0.5)
    assert machine.start(STREAM, 0.0) == [act.Create(1)]
    machine.create_failed(0.0)
    assert machine.deadline == 0.25
    assert machine.tick(0.25) == [act.Create(1)]
    actions = machine.created(Hello(0, "S", 1, TERMS, secret="K"), 0.3)
    assert attaches(actions) == [act.Attach(1, STREAM, 1, 0)]
    assert (machine.sid, machine.secret, machine.has_room(100)) == ("S", "K", True)
    other = ClientSession(ClientConfig(), lambda: 0.5)
    assert other.start(WEBSOCKET, 0.0) == [act.Open(1)]
    assert not other.has_room(1)
    assert other.opened(1, 0.0) == [act.Attach(1, WEBSOCKET, 1, 0)]
    other.received(1, Hello(0, "S", 1, TERMS, secret="K"), 0.0)
    assert (other.sid, other.secret) == ("S", "K")


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("outage", [5.0, 15.0, 24.9])
def test_an_outage_shorter_than_the_grace_is_not_slept_over(outage: float, jitter: float) -> None:
    """F29: whatever the dice say, a client that failed until then tries again before its grace is over."""
    machine = client(STREAM, jitter=jitter)
    machine.received(machine.attachment, HELLO, 0.0)
    machine.ended(machine.attachment, 0.0)
    now = 0.0
    while now < outage:
        now = max(machine.deadline, now + 0.01)
        machine.tick(now)
        if now < outage and machine.link is not Link.NONE:
            machine.ended(machine.attachment, now)
    assert now < TERMS.grace
    assert machine.ending is None
    assert machine.link is Link.SENT


def test_back_off() -> None:
    """0.5 s doubling to a sixth of the grace with full jitter; progress starts it anew, and so do 30 s attached."""
    assert [backoff(failures, 1.0, 30.0) for failures in range(7)] == [0.0, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff(8, 1.0, 600.0) == 30.0
    assert backoff(3, 0.25, 30.0) == 0.5
    assert backoff(10**6, 1.0, 30.0) == 5.0
    machine = client(STREAM, jitter=0.99)
    now, delays = 0.0, []
    for _ in range(5):
        machine.ended(machine.attachment, now)
        delays.append(round(machine.deadline - now, 3))
        now = machine.deadline
        machine.tick(now)
        machine.received(machine.attachment, HELLO, now)
    assert delays == [0.495, 0.99, 1.98, 3.96, 4.95]
    machine.received(machine.attachment, Text(1, "m"), now)
    machine.ended(machine.attachment, now)
    assert round(machine.deadline - now, 3) == 0.495


def test_refusals_that_will_pass() -> None:
    """429 and 503 are tried again, not before Retry-After."""
    machine = client(STREAM, jitter=0.0)
    machine.ended(1, 0.0)
    machine.tick(0.0)
    machine.refused(2, 503, "draining", 0, 0.0, retry_after=7.0)
    assert machine.ending is None
    assert machine.deadline == 7.0


def test_refusals_that_will_not() -> None:
    """404 and 410 are lost, 409 superseded, 400 the client's own fault; each is told as not clean."""
    for status, code, outcome in [
        (404, "unknown", "lost"),
        (410, "ended", "lost"),
        (409, "superseded", "superseded"),
        (400, "malformed", "lost"),
    ]:
        machine = client(STREAM, jitter=0.0)
        machine.ended(1, 0.0)
        machine.tick(0.0)
        actions = machine.refused(2, status, code, 0, 0.0)
        assert machine.ending is not None
        assert (machine.ending.outcome, machine.ending.clean) == (outcome, False)
        assert machine.ending.close_info(server=False).status is CloseStatus.LOST
        assert actions[-1] == act.Drained()


def test_a_410_that_covers_the_own_end_is_clean() -> None:
    """All arrived, and the session is over as this side wished."""
    machine = client(STREAM)
    (post,) = posts(machine.close(1000, "", 0.0))
    machine.posted(post.number, 410, "ended", 1, 0.0)
    assert machine.ending is not None
    assert (machine.ending.outcome, machine.ending.clean) == ("ended", True)


def test_grace_without_contact_is_lost() -> None:
    """It runs from the last moment attached, not from the last failure."""
    machine = client(STREAM, jitter=0.0)
    machine.ended(1, 100.0)
    for now in range(100, 130):
        machine.tick(float(now))
        machine.ended(machine.attachment, float(now))
        assert machine.ending is None
    machine.tick(130.0)
    assert machine.ending is not None
    assert machine.ending.outcome == "lost"


def test_a_silent_stream_is_dropped() -> None:
    """After ping + 10 s; on a WebSocket the client asks first."""
    machine = client(STREAM)
    assert machine.deadline == 30.0
    machine.heard(1, 10.0)
    assert machine.deadline == 40.0
    assert act.Drop(1) in machine.tick(40.0)
    other = client(WEBSOCKET)
    assert other.deadline == 20.0
    assert other.tick(20.0) == [act.Write(1, (Ping(),))]
    assert other.deadline == 30.0
    assert act.Drop(1) in other.tick(30.0)


@pytest.mark.parametrize("at", [1.0, 12.0, 19.0])
def test_a_websocket_is_asked_before_it_is_given_up_whatever_else_is_said(at: float) -> None:
    """As by an acknowledgement that comes late, since the inbox was full; and it is told of us while it talks."""
    machine = client(WEBSOCKET)
    machine.send("x", at)
    assert machine.deadline == 20.0
    assert machine.tick(20.0) == [act.Write(1, (Ping(),))]
    assert machine.deadline == 30.0
    assert act.Drop(1) in machine.tick(30.0)
    talking = client(WEBSOCKET)
    talking.heard(1, 19.0)  # a part of a long message
    assert talking.tick(20.0) == [act.Write(1, (Ping(),))]
    talking.heard(1, 39.0)
    assert talking.tick(40.0) == [act.Write(1, (Ping(),))]


def test_a_buffering_proxy() -> None:
    """A stream that shows no hello in 5 s is given up for poll."""
    machine = ClientSession(ClientConfig(), lambda: 0.0)
    machine.start(EVENTS, 0.0)
    machine.created(HELLO, 0.0)
    assert machine.deadline == 5.0
    actions = machine.tick(5.0)
    assert act.Drop(1) in actions
    (poll,) = attaches(actions)
    assert isinstance(poll, act.Attach)
    assert poll.kind is POLL


def test_a_candidate_that_does_not_open() -> None:
    """What serves goes on serving."""
    machine = client(STREAM)
    assert machine.switch(WEBSOCKET, 0.0) == [act.Open(2)]
    machine.received(1, Text(1, "m"), 1.0)
    assert machine.receiver.have == 1
    assert act.Drop(2) in machine.tick(10.0)
    assert machine.link is Link.UP
    machine.ended(1, 11.0)
    assert isinstance(attaches(machine.tick(12.0))[0], act.Attach)


def test_polls() -> None:
    """The first asks for hello at once, the next wait; each follows the one before when that was worth it."""
    machine = ClientSession(ClientConfig(), lambda: 1.0, sid="S", secret="K")
    assert machine.start(POLL, 0.0) == [act.Attach(1, POLL, 1, 0, 0.0)]
    assert machine.received(1, HELLO, 0.0) == [act.Room(), act.Attached()]
    machine.ended(1, 0.0, clean=True)
    assert machine.settle(0.0) == [act.Attach(2, POLL, 1, 0, 25.0)]
    assert machine.ended(2, 25.0, clean=True) == []  # a 204 after its wait is no news
    assert machine.settle(25.0) == [act.Attach(3, POLL, 1, 0, 25.0)]
    assert machine.received(3, Hello(0), 26.0) == []
    machine.received(3, Text(1, "m"), 26.0)
    assert machine.ended(3, 26.0, clean=True) == []
    assert machine.pull() == Text(1, "m")
    assert machine.settle(26.0) == [act.Attach(4, POLL, 1, 1, 25.0)]
    assert machine.deadline == 61.0
    assert machine.tick(61.0)[:2] == [act.Drop(4), act.Detached()]
    assert machine.ending is None


def test_a_poller_that_created_its_session_asks_for_a_hello_first() -> None:
    """It had one, in the 201; but whether its polls get through it must see: silence would say nothing for 25 s."""
    machine = ClientSession(ClientConfig(), lambda: 0.5)
    machine.start(POLL, 0.0)
    assert machine.created(HELLO, 0.0)[-1] == act.Attach(1, POLL, 1, 0, 0.0)
    assert machine.deadline == 10.0  # so it knows by then, not after 35 s
    assert machine.received(1, HELLO, 0.1) == [act.Attached()]
    assert machine.ended(1, 0.1, clean=True) == []
    assert machine.settle(0.1) == [act.Attach(2, POLL, 1, 0, 25.0)]


def test_polls_that_come_back_at_once() -> None:
    """Empty 204s at once are spaced, though each poll that asks for a hello gets one: failures are counted on."""
    machine = ClientSession(ClientConfig(), lambda: 0.99)
    machine.start(POLL, 0.0)
    machine.created(HELLO, 0.0)
    now, delays = 0.0, []
    for _ in range(5):
        assert machine.received(machine.attachment, HELLO, now) == [act.Attached()]
        machine.ended(machine.attachment, now, clean=True)
        (poll,) = attaches(machine.settle(now))
        assert isinstance(poll, act.Attach)
        assert poll.wait == 25.0
        assert machine.ended(poll.attachment, now, clean=True) == [act.Detached()]
        delays.append(round(machine.deadline - now, 3))
        now = machine.deadline
        (poll,) = attaches(machine.tick(now))
        assert isinstance(poll, act.Attach)
        assert poll.wait == 0.0
    assert delays == [0.495, 0.99, 1.98, 3.96, 4.95]


@pytest.mark.parametrize("kind", [STREAM, EVENTS])
def test_a_rotation_is_no_failure(kind: Kind) -> None:
    """Whole, and it brought something or lasted a second: the next follows at once, and nobody is told anything."""
    machine = client(kind)
    machine.ended(1, 0.0)
    machine.tick(machine.deadline)
    machine.received(2, HELLO, 1.0)
    assert machine.ended(2, 300.0, clean=True) == []
    assert machine.settle(300.0) == [act.Attach(3, kind, 1, 0)]
    assert machine.received(3, Hello(0, "S", 1), 300.0) == []
    machine.received(3, Text(1, "m"), 300.0)
    machine.pull()
    assert machine.ended(3, 300.0, clean=True) == []
    assert attaches(machine.settle(300.0)) == [act.Attach(4, kind, 1, 1)]
    machine.received(4, Hello(0, "S", 1), 300.0)
    assert machine.ended(4, 300.5, clean=True) == [act.Detached()]  # F11: nothing, and at once
    assert machine.attaching.retry_at == 300.75  # the first failure in a row
    assert attaches(machine.tick(300.75)) == [act.Attach(5, kind, 1, 1)]
    assert machine.ended(5, 400.0, clean=True) == []  # no hello: no stream of ours
    assert machine.attaching.retry_at == 400.5  # the second


def test_a_rotation_that_nothing_follows_is_a_detach() -> None:
    """It is told when the next attach fails; and a cut stream at once."""
    machine = client(STREAM)
    machine.ended(1, 300.0, clean=True)
    assert machine.settle(300.0) == [act.Attach(2, STREAM, 1, 0)]
    assert machine.refused(2, 503, "draining", None, 300.0, 3.0) == [act.Detached()]
    assert machine.deadline == 303.0
    assert client(STREAM).ended(1, 300.0) == [act.Detached()]


def test_a_turn_while_a_websocket_is_tried() -> None:
    """The poll that was answered meanwhile goes on when the WebSocket does not open: nothing failed but that."""
    machine = ClientSession(ClientConfig(), lambda: 0.5, sid="S", secret="K")
    machine.start(POLL, 0.0)
    machine.received(1, HELLO, 0.0)
    machine.ended(1, 0.0, clean=True)
    machine.settle(0.0)
    assert machine.switch(WEBSOCKET, 20.0) == [act.Open(3)]
    assert machine.ended(2, 25.0, clean=True) == []
    assert machine.settle(25.0) == []
    assert machine.ended(3, 26.0) == []
    assert machine.settle(26.0) == [act.Attach(4, POLL, 1, 0, 25.0)]
    assert machine.switch(WEBSOCKET, 27.0) == [act.Open(5)]
    assert machine.opened(5, 28.0) == [act.Detached(), act.Attach(5, WEBSOCKET, 1, 0)]
    assert machine.received(5, Hello(0, "S", 1), 28.0) == [act.Drop(4), act.Attached()]


def test_what_a_stream_must_not_say() -> None:
    """A gap, a frame before hello, an ack above what was sent: the connection is dropped, the session goes on."""
    for frame in (Text(2, "m"), Ack(1)):
        machine = client(STREAM)
        assert act.Drop(1) in machine.received(1, frame, 0.0)
        assert machine.ending is None
    machine = ClientSession(ClientConfig(), lambda: 0.0, sid="S")
    machine.start(STREAM, 0.0)
    assert act.Drop(1) in machine.received(1, Text(1, "m"), 0.0)


def test_websocket_traffic() -> None:
    """Messages are written as they are numbered, and again behind the next hello; acks go within 1 s or window/4."""
    machine = client(WEBSOCKET, jitter=0.0)
    assert machine.send("a", 0.0) == [act.Write(1, (Text(1, "a"),))]
    machine.received(1, Text(1, "m"), 0.0)
    machine.pull()
    assert machine.settle(0.0) == []
    assert machine.tick(1.0) == [act.Write(1, (Ack(1),))]
    machine.received(1, Binary(2, bytes(25)), 2.0)
    machine.pull()
    assert machine.settle(2.0) == [act.Write(1, (Ack(2),))]
    assert machine.received(1, Ping(), 2.0) == [act.Write(1, (Ack(2),))]
    machine.ended(1, 3.0)
    assert machine.send("b", 3.0) == []
    machine.tick(3.0)
    assert machine.opened(2, 3.0) == [act.Attach(2, WEBSOCKET, 1, 2)]
    assert act.Write(2, (Text(1, "a"), Text(2, "b"))) in machine.received(2, HELLO, 3.0)


def test_posts_one_at_a_time() -> None:
    """The rest goes with the next batch; what a 200 took is not sent again but asked for; a failure backs off."""
    machine = client(STREAM, jitter=0.5)
    (first,) = posts(machine.send("a", 0.0))
    assert posts(machine.send("b", 0.0)) == []
    assert machine.posted(first.number, 200, None, 0, 0.0) == []
    assert machine.deadline == 0.25
    (second,) = posts(machine.tick(0.25))
    assert second.frames == (Text(2, "b"),)
    machine.post_failed(second.number, 0.25)
    (third,) = posts(machine.tick(machine.deadline))
    assert third.frames == (Text(2, "b"),)
    machine.posted(third.number, 200, None, 0, 2.0)
    (asking,) = posts(machine.tick(machine.deadline))
    assert asking.frames == ()
    machine.posted(asking.number, 200, None, 2, 9.0)
    assert not machine.sender.frames
    assert machine.deadline > 9.0


def test_post_answers() -> None:
    """gap and full are sent again from ack+1 after a pause; closing keeps the messages; no answer in 30 s is none."""
    machine = client(STREAM, jitter=0.5)
    (post,) = posts(machine.send("a", 0.0))
    machine.posted(post.number, 409, "gap", 0, 0.0)
    (post,) = posts(machine.tick(machine.deadline))
    machine.posted(post.number, 429, "full", 0, 1.0, retry_after=2.0)
    assert machine.deadline == 3.0
    (post,) = posts(machine.tick(3.0))
    machine.heard(1, 20.0)
    assert machine.deadline == 33.0
    machine.tick(33.0)
    (post,) = posts(machine.tick(machine.deadline))
    machine.posted(post.number, 409, "closing", 0, 34.0)
    assert not machine.has_room(1)
    assert posts(machine.tick(40.0)) == []
    machine.received(1, End(1, 1001, "x"), 35.0)
    machine.settle(35.0)
    assert machine.ending is not None
    assert (machine.ending.by, machine.ending.clean, machine.ending.unacknowledged) == ("peer", False, 1)


def test_batches_are_bounded() -> None:
    """A batch carries at most batch_bytes, with 32 for each line, but always one message."""
    machine = client(STREAM, config=ClientConfig(batch_bytes=74))
    (post,) = posts(machine.send("a" * 20, 0.0))
    for size in (6, 4, 1):
        machine.send("b" * size, 0.0)
    (post,) = posts(machine.posted(post.number, 200, None, 1, 0.0))
    assert [frame.n for frame in post.frames] == [2, 3]


def test_a_stream_is_acknowledged_by_posts() -> None:
    """Within 1 s, alone or with a batch; one that fails is owed again."""
    machine = client(EVENTS, jitter=0.5)
    machine.received(1, Text(1, "m"), 0.0)
    machine.pull()
    assert machine.settle(0.0) == []
    assert machine.deadline == 1.0
    (post,) = posts(machine.tick(1.0))
    assert (post.ack, post.frames) == (1, ())
    machine.post_failed(post.number, 1.0)
    assert machine.deadline == 2.0
    (post,) = posts(machine.tick(2.0))
    machine.posted(post.number, 200, None, 0, 2.0)
    assert machine.deadline > 3.0


@pytest.mark.parametrize("grace", [10.0, 300.0])
def test_a_successor_goes_by_the_grace_it_was_told(grace: float) -> None:
    """While nothing answers it gives up no sooner, and no later, than its server does."""
    old = ClientSession(ClientConfig(), lambda: 0.5)
    old.start(WEBSOCKET, 0.0)
    old.opened(1, 0.0)
    old.received(1, Hello(0, "S", 1, replace(TERMS, grace=grace), secret="K"), 0.0)
    new = ClientSession(ClientConfig(), lambda: 0.5, a=9, saved=old.save())
    new.start(WEBSOCKET, 100.0)
    while new.ending is None:
        now = new.deadline
        new.tick(now)
    assert now == 100.0 + grace
    assert new.save().grace == grace


def test_taking_over() -> None:
    """A successor goes on with the numbers, and sends what is not acknowledged behind its own hello."""
    old = client(STREAM)
    old.send("a", 0.0)
    old.received(1, Text(1, "m"), 0.0)
    old.pull()
    saved = old.save()
    assert "K" not in repr(saved)
    new = ClientSession(ClientConfig(), lambda: 0.0, a=9, saved=saved)
    assert new.start(STREAM, 5.0) == [act.Attach(1, STREAM, 9, 1)]
    (post,) = posts(new.received(1, Hello(0, "S", 9, TERMS), 5.0))
    assert (post.a, post.frames) == (9, (Text(1, "a"),))
    assert new.send("b", 5.0) == []
    (post,) = posts(new.posted(post.number, 200, None, 1, 5.0))
    assert post.frames == (Text(2, "b"),)


def test_taking_over_a_close() -> None:
    """A predecessor's end is owed too."""
    old = client(STREAM)
    old.close(1000, "bye", 0.0)
    new = ClientSession(ClientConfig(), lambda: 0.0, a=9, saved=old.save())
    new.start(STREAM, 0.0)
    assert not new.is_open
    (post,) = posts(new.received(1, Hello(0, "S", 9, TERMS), 0.0))
    assert post.frames == (End(1, 1000, "bye"),)
    new.posted(post.number, 200, None, 1, 0.0)
    assert new.ending is not None
    assert new.ending.clean


def test_closing_before_the_own_hello() -> None:
    """Nothing may be numbered, so the session is deleted."""
    machine = ClientSession(ClientConfig(), lambda: 0.0, sid="S", secret="K", a=2)
    machine.start(STREAM, 0.0)
    actions = machine.close(1000, "", 0.0)
    assert actions[0] == act.Delete(2)
    assert actions[-1] == act.Drained()
    assert machine.close(1000, "", 0.0) == []


def test_a_close_that_nobody_answers() -> None:
    """It ends at its timeout, not clean."""
    machine = client(WEBSOCKET)
    assert machine.close(1000, "", 0.0, timeout=2.0) == [act.Write(1, (End(1, 1000, ""),))]
    assert machine.deadline == 2.0
    machine.tick(2.0)
    assert machine.ending is not None
    assert (machine.ending.outcome, machine.ending.clean) == ("abandoned", False)


def test_a_side_that_closes_takes_nothing_more() -> None:
    """F16: neither messages nor their acknowledgement; the peer's end, seen meanwhile, closes both."""
    machine = client(WEBSOCKET)
    machine.send("a", 0.0)
    machine.close(1000, "", 0.0)
    machine.received(1, Text(1, "m"), 0.0)
    assert (machine.pull(), machine.receiver.have) == (None, 0)
    assert isinstance(machine.received(1, End(2), 0.0)[-1], act.Drained)
    assert machine.ending is not None
    assert (machine.ending.by, machine.ending.clean, machine.ending.unacknowledged) == ("local", False, 1)


def test_the_farewell_on_a_websocket() -> None:
    """The ack of the peer's end is written; a close 1000 confirms it, any other way of ending does not."""
    for clean in (True, False):
        machine = client(WEBSOCKET)
        machine.received(1, End(1, 1000, ""), 0.0)
        actions = machine.settle(0.0)
        assert act.Write(1, (Ack(1),)) in actions
        assert act.Drop(1) not in actions
        actions = machine.ended(1, 0.0, clean=clean)
        assert (act.Drained() in actions, bool(posts(actions))) == (clean, not clean)


def test_acknowledged_when_processed() -> None:
    """With ack="processed" nothing is acknowledged before the application is done with it."""
    machine = client(WEBSOCKET, config=ClientConfig(ack="processed"))
    machine.received(1, Text(1, "m"), 0.0)
    machine.received(1, Text(2, "m"), 0.0)
    machine.pull()
    machine.pull()
    assert machine.settle(0.0) == []
    machine.processed()
    machine.processed()
    assert machine.settle(0.0) == [act.Write(1, (Ack(2),))]


def test_a_poll_answered_beside_a_candidate() -> None:
    """A poll that ends while a WebSocket is being opened leaves nothing due, or the client's clock would spin."""
    machine = client(POLL)
    machine.ended(1, 0.0, clean=True)
    machine.tick(machine.deadline)
    assert (machine.kind, machine.link) == (POLL, Link.SENT)
    (opening,) = machine.switch(WEBSOCKET, 1.0)
    assert isinstance(opening, act.Open)
    machine.ended(machine.attachment, 2.0, clean=True)
    machine.opened(opening.attachment, 2.0)
    machine.received(opening.attachment, HELLO, 2.0)
    assert machine.link is Link.UP
    assert machine.tick(2.0) == []
    assert machine.deadline > 2.0


def test_a_poller_believes_in_the_end_too() -> None:
    """One poll may have been held in good faith beyond the last contact; those that fail after it prolong nothing."""
    machine = client(POLL)
    machine.ended(1, 0.0, clean=True)
    machine.tick(machine.deadline)
    assert machine.link is Link.SENT
    machine.ended(machine.attachment, 20.0)  # cut: until now the server had it
    now = 20.0
    while machine.ending is None and now < 200.0:
        now = machine.deadline
        machine.tick(now)
        machine.ended(machine.attachment, now)
    assert (now, str(machine.ending and machine.ending.outcome)) == (50.0, "lost")


def test_a_farewell_is_not_an_older_batchs_answer() -> None:
    """The peer's end is acknowledged by a POST that says so; the answer to one that was under way says nothing."""
    machine = client(STREAM)
    (batch,) = posts(machine.send("late", 0.0))
    machine.received(1, End(1, 1000, ""), 0.0)
    machine.settle(0.0)
    assert machine.ending is not None
    (farewell,) = posts(machine.posted(batch.number, 409, "closing", 0, 0.0))
    assert (farewell.ack, farewell.frames, machine.drained) == (1, (), False)
    machine.posted(farewell.number, 410, "ended", None, 0.0)
    assert machine.drained


def test_a_close_acknowledges_what_arrived() -> None:
    """Over a WebSocket the last acknowledgement goes before the end: the server's close is clean too."""
    machine = client(WEBSOCKET)
    machine.received(1, Text(1, "m"), 0.0)
    machine.pull()
    machine.settle(0.0)
    writes = [action.frames for action in machine.close(1000, "", 0.0) if isinstance(action, act.Write)]
    assert writes == [(Ack(1),), (End(1, 1000, ""),)]


def many(count: int, config: ClientConfig | None = None) -> tuple[ClientSession, act.Post]:
    """A client whose batch of `count` messages is in flight."""
    terms = Terms(window=64, window_bytes=4000, max_message=1000, ping=20.0, grace=30.0)
    machine = ClientSession(config or ClientConfig(), lambda: 0.5)
    machine.start(STREAM, 0.0)
    machine.created(Hello(0, "S", 1, terms), 0.0)
    machine.received(1, Hello(0, "S", 1), 0.0)
    (first,) = posts(machine.send("0", 0.0))
    for n in range(count):
        machine.send(f"{n % 10}", 0.0)
    (post,) = posts(machine.posted(first.number, 200, None, 1, 0.0))
    assert len(post.frames) == count
    return machine, post


@pytest.mark.parametrize("passes", [1, 2, 3, 7])
def test_a_batch_that_is_too_large_is_halved(passes: int) -> None:
    """A proxy takes smaller bodies than the server: 413.  Every message passes, at once; the limit is remembered."""
    machine, post = many(20)
    refused = 0
    while post.frames:
        assert [frame.n for frame in post.frames] == [*range(machine.sender.acked + 1, post.frames[-1].n + 1)]
        if len(post.frames) > passes:
            refused += 1
            actions = machine.posted(post.number, 413, "size", None, 1.0)
        else:
            actions = machine.posted(post.number, 200, None, post.frames[-1].n, 1.0)
        if not machine.sender.frames:
            break
        (post,) = posts(actions)
    assert (machine.ending, machine.sender.acked, machine.uplink.failures) == (None, 21, 0)
    assert refused <= 5


def test_one_message_that_is_too_large_ends_the_session() -> None:
    """It would never pass, and nothing behind it may: the loss is told.  What was before it has arrived."""
    machine, post = many(2)
    (post,) = posts(machine.posted(post.number, 413, "size", None, 1.0))
    assert len(post.frames) == 1
    (post,) = posts(machine.posted(post.number, 200, None, 2, 1.0))
    machine.posted(post.number, 413, "size", None, 1.0)
    assert machine.ending is not None
    assert (machine.ending.outcome, machine.ending.reason, machine.ending.unacknowledged) == ("lost", "size", 1)


def test_a_batch_is_not_larger_than_the_server_takes() -> None:
    """A body is 6 * max + 1024 bytes at most: hello's `max` bounds the batch, escapes and lines and all."""
    terms = Terms(window=500, window_bytes=4000, max_message=100, ping=20.0, grace=30.0)
    machine = ClientSession(ClientConfig(), lambda: 0.5)
    machine.start(STREAM, 0.0)
    machine.created(Hello(0, "S", 1, terms), 0.0)
    (first,) = posts(machine.send("\0", 0.0))
    for _ in range(400):
        machine.send("\0", 0.0)
    for _ in range(3):
        (first,) = posts(machine.posted(first.number, 200, None, first.frames[-1].n, 0.0))
        assert len(first.frames) > 1
        assert sum(len(encode_line(frame)) for frame in first.frames) <= 6 * 100 + 1024
