"""The server's machine beyond the flaws: bindings, rotation, liveness, acknowledgements, limits, closing, draining."""

from __future__ import annotations

import math

import pytest

from channelkit.config import SessionConfig
from channelkit.errors import ConfigError
from channelkit.session import actions as act
from channelkit.session.actions import Kind, ServerAction
from channelkit.session.frames import Ack, Binary, ClientHello, End, Frame, Hello, Numbered, Ping, Text
from channelkit.session.server import Admitted, Posted, Refused, ServerSession
from channelkit.status import CloseStatus

POLL, STREAM, EVENTS, WEBSOCKET = Kind.POLL, Kind.STREAM, Kind.EVENTS, Kind.WEBSOCKET


def session(**options: object) -> ServerSession:
    return ServerSession("S", SessionConfig(**options), 0.0)  # type: ignore[arg-type]


def attach(machine: ServerSession, kind: Kind, ack: int = 0, now: float = 0.0, wait: float = 0.0) -> list[ServerAction]:
    result = machine.attach(kind, 1, ack, now, wait=wait)
    assert isinstance(result, Admitted), result
    return result.actions


def written(actions: list[ServerAction]) -> list[Frame]:
    return [frame for action in actions if isinstance(action, act.Write) for frame in action.frames]


def finished(actions: list[ServerAction]) -> bool:
    return any(isinstance(action, act.Finish) for action in actions)


def take(machine: ServerSession, now: float = 0.0) -> list[ServerAction]:
    while machine.pull() is not None:
        pass
    return machine.settle(now)


def test_an_attach_brings_hello_and_all_that_is_not_acknowledged() -> None:
    """P4 step 9; nothing leaves the buffer by being written."""
    machine = session()
    for payload in ("a", b"b"):
        machine.send(payload, 0.0)
    for _ in range(2):
        hello, *rest = written(attach(machine, STREAM))
        assert isinstance(hello, Hello)
        assert rest == [Text(1, "a"), Binary(2, b"b")]
    assert written(attach(machine, STREAM, ack=1))[1:] == [Binary(2, b"b")]
    assert written(machine.send("c", 0.0)) == [Text(3, "c")]


def test_on_attach_and_on_detach() -> None:
    """They are told in turn; replacing is neither, and a poller is detached only after 5 s without a poll."""
    machine = session()
    assert act.Attached() in attach(machine, STREAM)
    assert act.Attached() not in attach(machine, WEBSOCKET)
    assert act.Detached() in machine.detached(2, 0.0)
    assert machine.detached(2, 0.0) == []
    assert act.Attached() in attach(machine, POLL)
    assert machine.deadline == 5.0
    assert attach(machine, POLL, now=4.0)[-1] == act.Finish(4)
    assert machine.tick(9.0) == [act.Detached()]


def test_a_poll_without_wait_is_answered_at_once_by_a_whole_hello() -> None:
    """And one that waits by `recv` alone; the same request gives the same lines."""
    machine = session()
    (hello,) = written(attach(machine, POLL))
    assert isinstance(hello, Hello)
    assert hello.sid == "S"
    machine.send("a", 0.0)
    for _ in range(2):
        actions = attach(machine, POLL, wait=25.0)
        assert written(actions) == [Hello(0), Text(1, "a")]
        assert finished(actions)


def test_a_waiting_poll() -> None:
    """It is answered by the next message, or 204 after its wait, which is at most 25 s; then grace runs."""
    machine = session()
    assert written(attach(machine, POLL, wait=1000.0)) == []
    assert machine.deadline == 25.0
    assert machine.tick(25.0) == [act.Finish(1)]
    assert machine.deadline == 30.0
    machine.tick(30.0)
    assert machine.deadline == 55.0
    attach(machine, POLL, wait=10.0, now=40.0)
    actions = machine.send("a", 41.0)
    assert written(actions) == [Hello(0), Text(1, "a")]
    assert finished(actions)


def test_a_poll_is_bounded() -> None:
    """It brings at most poll_bytes of payload, but always one message."""
    machine = session(poll_bytes=10)
    for size in (20, 4, 6, 1):
        machine.send("x" * size, 0.0)
    sizes = [[len(f.text) for f in written(attach(machine, POLL, ack=ack)) if isinstance(f, Text)] for ack in (0, 1)]
    assert sizes == [[20], [4, 6]]


def test_the_window() -> None:
    """Messages and bytes, text as UTF-8; the end needs no room; an acknowledgement makes room and is told."""
    machine = session(window=2, window_bytes=10, max_message=10)
    assert machine.has_room(10)
    assert not machine.has_room(11)
    machine.send("\u00e9" * 3, 0.0)
    assert machine.has_room(4)
    assert not machine.has_room(5)
    machine.send("", 0.0)
    assert not machine.has_room(0)
    attach(machine, WEBSOCKET)
    assert act.Room() in machine.received(1, Ack(1), 0.0)
    assert machine.has_room(10)
    assert written(machine.close(1000, "", 0.0)) == [End(3)]


def test_a_receiver_holds_one_window() -> None:
    """On a WebSocket more is a broken protocol, on POST 429 full with the ack; the session remains."""
    machine = session(window=2, window_bytes=100, max_message=100)
    attach(machine, WEBSOCKET)
    for n in (1, 2):
        assert machine.received(1, Text(n, "x"), 0.0) == []
    posted = machine.post(1, 0, [Text(3, "x"), End(4)], 0.0)
    assert isinstance(posted, Posted)
    answer = machine.answer(posted)
    assert not isinstance(answer, int)
    assert (answer.status, answer.code, answer.ack) == (429, "full", 0)
    assert machine.received(1, Text(3, "x"), 0.0)[0] == act.Finish(1, 1008, "beyond the window")
    take(machine)
    posted = machine.post(1, 0, [Binary(3, bytes(60)), Binary(4, bytes(41))], 0.0)
    assert isinstance(posted, Posted)
    assert machine.receiver.have == 3


@pytest.mark.parametrize(
    ("frame", "told"),
    [(Text(2, "x"), "gap"), (Ack(1), "ack above"), (ClientHello(), "second hello"), (Hello(0), "second hello")],
)
def test_what_breaks_the_protocol_on_a_websocket(frame: Frame, told: str) -> None:
    """Close 1008; the session remains and grace runs."""
    machine = session()
    attach(machine, WEBSOCKET)
    finish, detached = machine.received(1, frame, 3.0)
    assert isinstance(finish, act.Finish)
    assert finish.code == 1008
    assert told in finish.reason
    assert detached == act.Detached()
    assert machine.deadline == 33.0


def test_posts() -> None:
    """In order, what there is room for; duplicates are acknowledged; a gap is told; empty is contact and ack."""
    machine = session()

    def post(*frames: Numbered, ack: int = 0, now: float = 0.0) -> object:
        result = machine.post(1, ack, list(frames), now)
        assert isinstance(result, Posted)
        take(machine, now)
        answer = machine.answer(result)
        return answer if isinstance(answer, int) else (answer.status, answer.code, answer.ack)

    assert post(Text(1, "a"), Text(2, "b")) == 2
    assert post(Text(1, "a"), Text(2, "b")) == 2
    assert post(Text(2, "b"), Text(3, "c")) == 3
    assert post(Text(5, "e")) == (409, "gap", 3)
    machine.send("x", 0.0)
    assert post(ack=1, now=20.0) == 3
    assert machine.sender.acked == 1
    assert machine.deadline == 50.0
    assert post(ack=0) == 3
    assert machine.sender.acked == 1


def test_a_held_post_is_taken_and_not_acknowledged() -> None:
    """200 says that all was taken; `ack` says what is in the inbox, and a stream tells when that moves."""
    machine = session(window=8)
    attach(machine, STREAM)
    posted = machine.post(1, 0, [Text(1, "a")], 0.0)
    assert isinstance(posted, Posted)
    machine.settle(0.0)
    assert machine.answer(posted) == 0
    assert take(machine) == []
    assert machine.deadline == 1.0
    assert written(machine.tick(1.0)) == [Ack(1)]


def test_acknowledgements_wait_for_company() -> None:
    """At most 1 s; a quarter of the window, in messages or bytes, goes at once."""
    machine = session(window=8, window_bytes=100, max_message=100)
    attach(machine, WEBSOCKET)
    machine.received(1, Text(1, "a"), 0.0)
    assert take(machine) == []
    assert machine.deadline == 1.0
    machine.received(1, Text(2, "b"), 0.5)
    assert written(take(machine, 0.5)) == [Ack(2)]
    machine.received(1, Binary(3, bytes(25)), 2.0)
    assert written(take(machine, 2.0)) == [Ack(3)]
    machine.received(1, Text(3, "again"), 3.0)
    assert written(machine.tick(4.0)) == [Ack(3)]


def test_acknowledged_when_processed() -> None:
    """With ack="processed" `recv` follows the handler, and the peer's end waits for it."""
    machine = session(ack="processed", window=4)
    attach(machine, WEBSOCKET)
    for frame in (Text(1, "a"), Text(2, "b"), End(3)):
        machine.received(1, frame, 0.0)
    assert take(machine) == []
    assert machine.receiver.recv == 0
    machine.processed()
    assert written(machine.settle(0.0)) == [Ack(1)]
    machine.processed()
    actions = machine.settle(0.0)
    assert written(actions) == [Ack(3)]
    assert isinstance(actions[-1], act.Ended)
    machine.processed()
    assert machine.receiver.recv == 3


def test_a_websocket_is_given_up_when_silent() -> None:
    """After `ping` seconds it is asked, after 10 more without a byte it is gone; any byte counts."""
    machine = session()
    attach(machine, WEBSOCKET)
    assert machine.deadline == 20.0
    assert written(machine.tick(20.0)) == [Ping()]
    machine.heard(1, 25.0)
    assert machine.deadline == 40.0
    assert written(machine.tick(40.0)) == [Ping()]
    actions = machine.tick(55.0)
    assert finished(actions)
    assert machine.deadline == 85.0
    assert written(machine.received(1, Ping(), 60.0)) == []


@pytest.mark.parametrize("at", [1.0, 12.0, 19.0])
def test_a_websocket_is_asked_before_it_is_given_up_whatever_else_is_said(at: float) -> None:
    """A message in between, which a client with a full inbox does not acknowledge, puts the question off no further."""
    machine = session()
    attach(machine, WEBSOCKET)
    machine.send("x", at)
    assert machine.deadline == 20.0
    assert written(machine.tick(20.0)) == [Ping()]
    assert machine.deadline == 30.0
    assert finished(machine.tick(30.0))


def test_a_peer_that_talks_is_told_of_us_all_the_same() -> None:
    """What it hears of us is its sign of life: while a long message of its own comes in there is no other."""
    machine = session()
    attach(machine, WEBSOCKET)
    machine.heard(1, 19.0)
    assert written(machine.tick(machine.deadline)) == [Ping()]
    machine.heard(1, 39.0)
    assert machine.deadline == 40.0


def test_a_ping_is_answered_by_an_ack() -> None:
    """On a WebSocket."""
    machine = session()
    attach(machine, WEBSOCKET)
    assert written(machine.received(1, Ping(), 0.0)) == [Ack(0)]


@pytest.mark.parametrize(("spread", "age"), [(0.0, 270.0), (0.5, 300.0), (0.999, 329.94)])
def test_streams_rotate(spread: float, age: float) -> None:
    """At 300 s +- 10 %; until then an idle one says something every `ping`."""
    machine = ServerSession("S", SessionConfig(), 0.0, spread=spread)
    attach(machine, EVENTS)
    now = 0.0
    while not finished(actions := machine.tick(now)):
        assert written(actions) in ([], [Ping()])
        assert machine.deadline - now <= 20.0
        now = machine.deadline
    assert now == pytest.approx(age)
    assert machine.deadline == pytest.approx(age + 5.0)  # the next is expected at once: not detached yet
    assert machine.tick(machine.deadline) == [act.Detached()]
    assert machine.deadline == pytest.approx(age + 30.0)


def test_a_full_window_does_not_rotate_a_websocket() -> None:
    """It acknowledges by itself, and so does the next poll."""
    for kind in (WEBSOCKET, POLL):
        machine = session(window=1)
        attach(machine, kind, wait=25.0)
        machine.send("a", 0.0)
        assert not finished(machine.blocked(0.0))


def test_attaches_that_bring_nothing_are_rated() -> None:
    """More than 10 in 10 s, within 1 s of the one before, without a higher ack: 429, and the session lives on."""
    machine = session()
    now = 0.0
    attach(machine, STREAM)
    for _ in range(10):
        now += 0.5
        attach(machine, STREAM, now=now)
    result = machine.attach(STREAM, 1, 0, now + 0.5)
    assert isinstance(result, Refused)
    assert (result.refusal.status, result.refusal.code, result.actions) == (429, "rate", [])
    assert result.refusal.retry_after == 1.0
    attach(machine, STREAM, now=now + 1.0)
    assert isinstance(machine.attach(STREAM, 1, 0, now + 1.5), Refused)
    attach(machine, STREAM, now=now + 20.0)


def test_attaches_that_acknowledge_are_not_rated() -> None:
    """A poller whose every poll brings a message is welcome at any speed."""
    machine = session()
    for n in range(50):
        machine.send("m", n / 100)
        attach(machine, POLL, ack=n, now=n / 100)


def test_a_timeout_ends_a_close() -> None:
    """An end that nobody acknowledges: over at the deadline, not clean, with the count of what may be lost."""
    machine = session()
    attach(machine, WEBSOCKET)
    machine.send("a", 0.0)
    machine.close(1001, "bye", 0.0, timeout=3.0)
    assert machine.close(1000, "", 0.0) == []
    assert not machine.is_open
    assert machine.deadline == 3.0
    ended = machine.tick(3.0)[-1]
    assert isinstance(ended, act.Ended)
    assert ended.ending.unacknowledged == 1
    info = ended.ending.close_info(server=True)
    assert info.unsent == 1
    assert (info.status, info.code, info.by, info.delivered) == (CloseStatus.SERVER_CLOSE, 1001, "local", False)
    assert machine.tick(99.0) == []


def test_a_websocket_closes_1000_behind_the_ack_of_the_end() -> None:
    """Whichever side ended."""
    machine = session()
    attach(machine, WEBSOCKET)
    machine.close(1000, "", 0.0)
    assert close_codes(machine.received(1, Ack(1), 0.0)) == [1000]
    other = session()
    attach(other, WEBSOCKET)
    other.received(1, End(1, 3000, "x"), 0.0)
    actions = other.settle(0.0)
    assert written(actions) == [Ack(1)]
    assert close_codes(actions) == [1000]
    assert other.ending is not None
    assert (other.ending.by, other.ending.code, other.ending.reason, other.ending.clean) == ("peer", 3000, "x", True)


def close_codes(actions: list[ServerAction]) -> list[int]:
    return [action.code for action in actions if isinstance(action, act.Finish)]


def test_draining() -> None:
    """Attaches get 503; but one to a closing session is how its end reaches the client."""
    machine = session()
    result = machine.attach(STREAM, 1, 0, 0.0, draining=True)
    assert isinstance(result, Refused)
    assert (result.refusal.status, result.refusal.code, result.refusal.ack) == (503, "draining", 0)
    machine.close(1001, "", 0.0)
    admitted = machine.attach(STREAM, 1, 0, 0.0, draining=True)
    assert isinstance(admitted, Admitted)
    assert written(admitted.actions)[1:] == [End(1, 1001, "")]


def test_kill() -> None:
    """Over at once, from our side; a waiting poll learns it, and later requests get 410 killed."""
    machine = session()
    attach(machine, POLL, wait=25.0)
    finish, *_, ended = machine.kill(1011, "x", 0.0)
    assert isinstance(finish, act.Finish)
    assert finish.refusal is not None
    assert (finish.refusal.status, finish.refusal.code) == (410, "killed")
    assert isinstance(ended, act.Ended)
    assert machine.kill(1000, "", 0.0) == []
    assert machine.deadline == math.inf


def test_an_ended_session_keeps_no_messages() -> None:
    """Only its numbers, for one grace."""
    machine = session()
    machine.send("a" * 1000, 0.0)
    machine.post(1, 0, [Text(1, "b")], 0.0)
    machine.kill(1000, "", 0.0)
    assert machine.sender.bytes == 0
    assert not machine.sender.frames
    assert not machine.receiver.hold


def test_options_are_checked() -> None:
    """A window that cannot hold one message cannot work."""
    with pytest.raises(ConfigError, match="window_bytes"):
        SessionConfig(window_bytes=10, max_message=11)
    with pytest.raises(ConfigError, match="ack must"):
        SessionConfig(ack="never")  # type: ignore[arg-type]
