"""The server's machine rule by rule, by hand: events in, actions out, no clock and no wire."""

from __future__ import annotations

import math
from typing import Any

import pytest

from channelkit.config import SessionConfig
from channelkit.session.actions import Attached, Detached, Ended, Finish, Kind, Room, Start, Write
from channelkit.session.frames import Ack, Binary, End, Hello, Ping, Text
from channelkit.session.receiver import Take
from channelkit.session.server import Admitted, Deleted, Posted, Refused, ServerSession

CONFIG = SessionConfig()
POLL, STREAM, EVENTS, WEBSOCKET = Kind.POLL, Kind.STREAM, Kind.EVENTS, Kind.WEBSOCKET


def session(**options: Any) -> ServerSession:
    return ServerSession("S" * 22, SessionConfig(**options), 0.0)


def kinds(actions: list[Any]) -> list[type]:
    return [type(action) for action in actions]


def written(actions: list[Any]) -> list[Any]:
    """The frames that went out, hellos left out."""
    return [
        frame
        for action in actions
        if isinstance(action, Write)
        for frame in action.frames
        if not isinstance(frame, Hello)
    ]


def attach(
    machine: ServerSession, kind: Kind, a: int = 1, ack: int = 0, now: float = 0.0, wait: float = 0.0
) -> Admitted:
    result = machine.attach(kind, a, ack, now, wait=wait)
    assert isinstance(result, Admitted), result
    return result


def refused(result: Any) -> tuple[int, str]:
    assert isinstance(result, Refused), result
    return result.refusal.status, result.refusal.code


def test_the_first_admitted_request_starts_the_handler_once() -> None:
    """Creation does not (F23): a repeated creation leaves a session whose handler never ran."""
    machine = session()
    assert kinds(attach(machine, STREAM).actions) == [Start, Attached, Write]
    assert Start not in kinds(attach(machine, STREAM).actions)
    other = session()
    posted = other.post(1, 0, [], 0.0)
    assert isinstance(posted, Posted)
    assert kinds(posted.actions) == [Start]


def test_an_attach_replays_what_it_lacks_and_nothing_leaves_by_being_written() -> None:
    """P4 step 9: everything in (ack, sent], as often as it is asked for; an acknowledgement removes (F5)."""
    machine = session()
    attach(machine, STREAM)
    for text in "abc":
        machine.send(text, 0.0)
    for _ in range(2):
        assert written(attach(machine, STREAM).actions) == [Text(1, "a"), Text(2, "b"), Text(3, "c")]
    assert written(attach(machine, WEBSOCKET, ack=2).actions) == [Text(3, "c")]
    assert refused(machine.attach(STREAM, 1, 1, 0.0)) == (410, "lost")
    assert refused(machine.attach(STREAM, 1, 4, 0.0)) == (410, "lost")
    assert machine.ending is None


def test_a_larger_instance_takes_over_an_equal_one_replaces_a_smaller_is_refused() -> None:
    """P4 steps 4, 7, 8 (F6, F10)."""
    machine = session()
    first = attach(machine, WEBSOCKET, a=5)
    second = attach(machine, POLL, a=5, wait=20)
    assert [(one.attachment, one.code, one.refusal) for one in second.actions if isinstance(one, Finish)] == [
        (first.number, 1012, None)
    ]
    third = attach(machine, STREAM, a=6)
    finish = next(one for one in third.actions if isinstance(one, Finish))
    assert finish.attachment == second.number
    assert finish.refusal is not None
    assert finish.refusal.code == "superseded"
    before = machine.deadline
    assert refused(machine.attach(STREAM, 5, 0, 9.0)) == (409, "superseded")
    assert machine.deadline == before
    assert machine.attachment is not None
    assert machine.attachment.number == third.number


def test_what_comes_on_an_older_attachment_is_ignored() -> None:
    """P4 step 8 (F7)."""
    machine = session()
    old = attach(machine, WEBSOCKET)
    machine.send("a", 0.0)
    attach(machine, WEBSOCKET)
    assert machine.received(old.number, Ack(1), 1.0) == []
    assert machine.received(old.number, Text(1, "x"), 1.0) == []
    assert machine.sender.acked == 0
    assert machine.receiver.have == 0


def test_the_take_rule() -> None:
    """n <= have is a duplicate, have + 1 is taken, more is a gap; beyond the window there is no room."""
    machine = session(window=2)
    attach(machine, STREAM)

    def post(*frames: Any) -> tuple[Take, Any]:
        posted = machine.post(1, 0, list(frames), 0.0)
        assert isinstance(posted, Posted)
        return posted.outcome, posted

    assert post(Text(1, "a"))[0] is Take.TAKEN
    assert post(Text(1, "a"))[0] is Take.TAKEN  # a repeated batch is no error
    outcome, posted = post(Text(3, "c"))
    assert outcome is Take.GAP
    answer = machine.answer(posted)
    assert not isinstance(answer, int)
    assert (answer.status, answer.code, answer.ack) == (409, "gap", 0)
    assert post(Binary(2, b"b"), Text(3, "c"))[0] is Take.NO_ROOM
    assert [machine.pull(), machine.pull(), machine.pull()] == [Text(1, "a"), Binary(2, b"b"), None]
    assert post(Text(3, "c"))[0] is Take.TAKEN


def test_the_uplink_is_fenced() -> None:
    """P5 (F1, F7): only the current instance numbers and acknowledges; a future acknowledgement is malformed."""
    machine = session()
    attach(machine, STREAM, a=2)
    assert refused(machine.post(1, 0, [Text(1, "x")], 0.0)) == (409, "superseded")
    assert refused(machine.post(3, 0, [Text(1, "x")], 0.0)) == (409, "superseded")
    assert refused(machine.post(2, 1, [], 0.0)) == (400, "malformed")
    assert refused(machine.delete(1, 0.0)) == (409, "superseded")
    assert machine.receiver.have == 0


def test_the_window_holds_messages_and_bytes() -> None:
    """`has_room` counts what is not acknowledged; an acknowledgement makes room and says so."""
    machine = session(window=2, window_bytes=10, max_message=10)
    attach(machine, STREAM)
    machine.send("12345", 0.0)
    assert machine.has_room(5)
    assert not machine.has_room(6)
    machine.send("1", 0.0)
    assert not machine.has_room(1)
    posted = machine.post(1, 1, [], 0.0)
    assert isinstance(posted, Posted)
    assert Room in kinds(posted.actions)
    assert machine.has_room(5)


def test_a_poll_answers_at_once_if_it_can_and_again_the_same() -> None:
    """P6: pending frames up to a size; the same ack gives the same lines; then the gap until `on_detach`."""
    machine = session(poll_bytes=4, max_message=10)
    attach(machine, POLL)
    for text in ("abc", "def", "g"):
        machine.send(text, 0.0)
    for _ in range(2):
        assert written(attach(machine, POLL, wait=20).actions) == [Text(1, "abc")]
    assert written(attach(machine, POLL, ack=1).actions) == [Text(2, "def"), Text(3, "g")]
    assert Detached not in kinds(machine.tick(CONFIG.poll_gap - 0.1))
    assert kinds(machine.tick(CONFIG.poll_gap)) == [Detached]


def test_a_poll_without_news_is_204_after_its_wait() -> None:
    """At most `max_wait`, whatever it asks for."""
    machine = session()
    attach(machine, POLL)
    poll = attach(machine, POLL, wait=1000)
    assert machine.deadline == CONFIG.max_wait
    assert machine.tick(CONFIG.max_wait) == [Finish(poll.number)]


def test_grace_runs_from_the_last_contact() -> None:
    """S7: a refused request does not restart it (F25); an admitted one does."""
    machine = session()
    one = attach(machine, STREAM, a=2)
    machine.detached(one.number, 10.0)
    machine.attach(STREAM, 1, 0, 30.0)
    machine.post(7, 0, [], 30.0)
    assert machine.deadline == 10.0 + CONFIG.grace
    machine.post(2, 0, [], 35.0)
    assert machine.deadline == 35.0 + CONFIG.grace
    ended = [one for one in machine.tick(35.0 + CONFIG.grace) if isinstance(one, Ended)]
    assert [(one.ending.outcome, one.ending.by, one.ending.clean) for one in ended] == [("abandoned", "network", False)]
    assert machine.tick(math.inf) == []


def test_closing_is_confirmed_by_the_ack_of_the_end() -> None:
    """P7: everything numbered, then the end; takes nothing more meanwhile (F16); clean when all is acknowledged."""
    machine = session()
    attach(machine, STREAM)
    machine.send("a", 0.0)
    actions = machine.close(1001, "bye", 0.0)
    assert written(actions) == [End(2, 1001, "bye")]
    assert kinds(actions)[-1] is Finish or Finish in kinds(actions)
    assert refused(machine.post(1, 1, [Text(1, "late")], 0.0)) == (409, "closing")
    assert refused(machine.attach(STREAM, 1, 2, 0.0)) == (410, "ended")
    assert machine.ending is not None
    assert (machine.ending.clean, machine.ending.by, machine.ending.code) == (True, "local", 1001)


def test_what_arrived_is_acknowledged_before_the_end() -> None:
    """A handler that closes on a message: its sender must not count that message among those that may be lost."""
    machine = session()
    socket = attach(machine, WEBSOCKET)
    machine.received(socket.number, Text(1, "go"), 0.0)
    machine.pull()
    assert written(machine.settle(0.0)) == []  # an acknowledgement waits for company
    assert written(machine.close(1000, "", 0.0)) == [Ack(1), End(1, 1000, "")]


def test_closing_that_nobody_confirms_ends_at_its_timeout() -> None:
    """Unconfirmed, and the messages that may be lost are counted."""
    machine = session()
    attach(machine, STREAM)
    machine.send("a", 0.0)
    machine.close(1000, "", 0.0, timeout=7.0)
    assert machine.deadline <= 7.0
    machine.tick(7.0)
    assert machine.ending is not None
    assert (machine.ending.clean, machine.ending.unacknowledged) == (False, 1)


def test_the_peers_end_closes_at_once_and_is_acknowledged() -> None:
    """One end suffices (F15); what came before it is delivered first."""
    machine = session()
    socket = attach(machine, WEBSOCKET)
    machine.received(socket.number, Text(1, "last"), 0.0)
    machine.received(socket.number, End(2, 1000, "bye"), 0.0)
    assert machine.settle(0.0) == [] or machine.ending is None
    assert machine.pull() == Text(1, "last")
    actions = machine.settle(0.0)
    assert written(actions) == [Ack(2)]
    assert machine.ending is not None
    assert (machine.ending.by, machine.ending.code, machine.ending.reason) == ("peer", 1000, "bye")


def test_both_may_close_at_once() -> None:
    """Two ends that cross close both sides (F16), not clean while anything is unacknowledged."""
    machine = session()
    socket = attach(machine, WEBSOCKET)
    machine.close(1000, "", 0.0)
    machine.received(socket.number, End(1, 1000, ""), 0.0)
    assert machine.ending is not None
    assert machine.ending.by == "local"


def test_a_closed_session_is_remembered_and_repeats_its_answers() -> None:
    """F18: 410 with the final ack; DELETE says 204 again."""
    machine = session()
    attach(machine, STREAM)
    machine.post(1, 0, [Text(1, "x")], 0.0)
    machine.pull()
    machine.settle(0.0)
    assert isinstance(machine.delete(1, 1.0), Deleted)
    assert isinstance(machine.delete(1, 2.0), Deleted)
    over = machine.post(1, 0, [Text(1, "x")], 3.0)
    assert refused(over) == (410, "killed")
    assert isinstance(over, Refused)
    assert over.refusal.ack == 1
    assert machine.forget_at == 1.0 + CONFIG.grace


def test_a_websocket_that_falls_silent_is_detached() -> None:
    """A ping after `ping` of silence, detached `ping_timeout` later; any byte is life."""
    machine = session()
    socket = attach(machine, WEBSOCKET)
    assert machine.deadline == CONFIG.ping
    assert written(machine.tick(CONFIG.ping)) == [Ping()]
    machine.heard(socket.number, CONFIG.ping + 5)
    machine.tick(CONFIG.ping + 5 + CONFIG.ping)
    assert machine.attachment is not None
    actions = machine.tick(CONFIG.ping + 5 + CONFIG.ping + CONFIG.ping_timeout)
    assert kinds(actions) == [Finish, Detached]


@pytest.mark.parametrize(
    ("frame", "reason"), [(Text(3, "gap"), "gap"), (Ack(9), "ack above"), (Hello(0), "second hello")]
)
def test_a_frame_that_breaks_the_protocol_ends_the_connection(frame: Any, reason: str) -> None:
    """1008 on this attachment; the session remains."""
    machine = session()
    socket = attach(machine, WEBSOCKET)
    finish = next(one for one in machine.received(socket.number, frame, 0.0) if isinstance(one, Finish))
    assert finish.code == 1008
    assert reason in finish.reason
    assert machine.ending is None
    assert machine.attachment is None


def test_rotation_and_its_backoff() -> None:
    """A stream ends at `rotation`; with a sender that waits for the window sooner, and later each time that brings
    nothing (F11)."""
    machine = session()
    stream = attach(machine, STREAM)
    assert machine.deadline <= CONFIG.rotation * 1.1
    assert Finish(stream.number) in machine.tick(CONFIG.rotation * 1.1)
    waits = []
    now = 1000.0
    for _ in range(4):
        attach(machine, EVENTS, now=now)
        machine.blocked(now)
        waits.append(machine.deadline - now)
        now += waits[-1]
        machine.tick(now)
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]


def test_attaches_that_bring_nothing_are_slowed() -> None:
    """P7: more than `fruitless_attaches` in `attach_interval`, close together: 429 with Retry-After."""
    machine = session()
    results = [machine.attach(STREAM, 1, 0, number * 0.1) for number in range(CONFIG.fruitless_attaches + 5)]
    assert isinstance(results[0], Admitted)
    assert refused(results[-1]) == (429, "rate")
    assert isinstance(machine.attach(STREAM, 1, 0, 100.0), Admitted)


def test_a_poller_that_talks_is_not_slowed() -> None:
    """Its POSTs acknowledge what its polls would have: they count as if the next poll had said it."""
    machine = session()
    now = 0.0
    for number in range(3 * CONFIG.fruitless_attaches):
        now += 0.01
        assert isinstance(machine.attach(POLL, 1, number, now, wait=20.0), Admitted)
        machine.send("x", now)
        machine.post(1, number + 1, [], now)
