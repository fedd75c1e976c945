"""The flaws of earlier drafts, each by the shortest trace that showed it (docs/protocol.md, "Why the rules are so")."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from channelkit.config import SessionConfig
from channelkit.session import actions as act
from channelkit.session.actions import Kind
from channelkit.session.client import ClientConfig, ClientSession, Link
from channelkit.session.frames import Ack, Binary, End, Hello, Message, Ping, Text
from channelkit.session.server import Admitted, Posted, Refused, ServerSession

sys.path.insert(0, str(Path(__file__).parent))

from session_world import Scope, World

POLL, STREAM, EVENTS, WEBSOCKET = Kind.POLL, Kind.STREAM, Kind.EVENTS, Kind.WEBSOCKET
CONFIG = SessionConfig(window=4)


def server(config: SessionConfig = CONFIG) -> ServerSession:
    return ServerSession("S", config, 0.0)


def attach(session: ServerSession, a: int = 1, ack: int = 0, kind: Kind = STREAM, now: float = 0.0) -> Admitted:
    result = session.attach(kind, a, ack, now)
    assert isinstance(result, Admitted), result
    return result


def refusal(result: object) -> tuple[int, str]:
    assert isinstance(result, Refused), result
    return result.refusal.status, result.refusal.code


def post(session: ServerSession, *frames: Message | End, a: int = 1, ack: int = 0, pull: bool = True) -> object:
    result = session.post(a, ack, list(frames), 0.0)
    if not isinstance(result, Posted):
        return result
    if pull:
        received(session)
    session.settle(0.0)
    return session.answer(result)


def received(session: ServerSession | ClientSession) -> list[str | bytes]:
    found: list[str | bytes] = []
    while (message := session.pull()) is not None:
        found.append(message.payload)
    return found


def client(kind: Kind = STREAM, **more: object) -> ClientSession:
    """A client whose session was created and whose first attach was sent."""
    machine = ClientSession(ClientConfig(), lambda: 0.0, **more)  # type: ignore[arg-type]
    machine.start(kind, 0.0)
    if machine.sid is None:
        machine.created(server().hello("K"), 0.0)
    return machine


def up(machine: ClientSession, hello: Hello | None = None, now: float = 0.0) -> list[act.ClientAction]:
    """Its newest attach is answered by a hello."""
    return machine.received(machine.attachment, hello or server().hello(), now)


def numbers(actions: list[act.ClientAction]) -> list[int]:
    said = [action.frames for action in actions if isinstance(action, act.Post | act.Write)]
    return [frame.n for frames in said for frame in frames if isinstance(frame, Text | Binary | End)]


# -- silent loss -------------------------------------------------------------------------------------------------------


def test_f1_two_tabs_number_alike() -> None:
    """A duplicated tab's POST is fenced: the second "1" is refused, not taken for a duplicate."""
    session = server()
    attach(session, a=1)
    assert post(session, Text(1, "x")) == 1
    assert refusal(post(session, Text(1, "y"), a=2)) == (409, "superseded")
    attach(session, a=2)
    assert refusal(post(session, Text(2, "z"), a=1)) == (409, "superseded")


def test_f2_numbers_only_after_the_own_hello() -> None:
    """A new instance may not number, nor POST what it inherited, before its own first hello."""
    old = client()
    old.send("x", 0.0)
    new = ClientSession(ClientConfig(), lambda: 0.0, a=2, saved=old.save())
    started = new.start(STREAM, 0.0)
    assert not new.has_room(1)
    assert not any(isinstance(action, act.Post) for action in (*started, *new.tick(0.0)))
    assert numbers(up(new)) == [1]
    assert new.has_room(1)


def test_f3_a_reload_without_state_is_lost() -> None:
    """hello.recv above what the client ever numbered is another's numbering: lost, and nothing is adopted."""
    machine = client(sid="S", secret="K", a=2)
    up(machine, Hello(1, "S", 2, server().hello().terms, by=1))
    assert machine.ending is not None
    assert (machine.ending.outcome, machine.ending.clean) == ("lost", False)
    assert machine.sender.sent == 0


def test_f27_a_stale_tabs_successor() -> None:
    """hello.recv is about a twin's numbers: the successor of a tab that numbered the same is lost."""
    stale = client()
    stale.send("x", 0.0)
    for by, outcome in ((2, "lost"), (1, None), (3, None)):
        machine = ClientSession(ClientConfig(), lambda: 0.0, a=3, saved=stale.save())
        machine.start(STREAM, 0.0)
        up(machine, Hello(1, "S", 3, server().hello().terms, by=by))
        assert (machine.ending and machine.ending.outcome) == outcome


def test_f27_an_ack_for_another_instance_is_not_told() -> None:
    """A closed session tells its final ack only to the instance whose numbers it is about."""
    session = server()
    attach(session, a=2)
    post(session, Text(1, "x"), End(2), a=2)
    for a, ack in ((1, None), (2, 2), (3, None)):
        result = session.attach(STREAM, a, 0, 0.0)
        assert isinstance(result, Refused)
        assert (result.refusal.status, result.refusal.ack) == (410, ack)


def test_f28_what_an_older_instance_left_on_hold() -> None:
    """A takeover gives back the numbers that did not reach the inbox: the new instance's own are no duplicates."""
    session = server()
    attach(session, a=1)
    assert post(session, Text(1, "x"), a=1, pull=False) == 0
    attach(session, a=2)
    assert session.hello().have is None
    assert post(session, Text(1, "y"), a=2) == 1
    assert received(session) == []
    assert session.by == 2


def test_f28_messages_in_process_are_told_as_had() -> None:
    """With ack="processed" hello tells `have` besides `recv`: what is in the inbox was taken, whoever comes."""
    session = server(SessionConfig(ack="processed"))
    attach(session, a=1)
    assert post(session, Text(1, "x"), a=1) == 0
    attach(session, a=2)
    hello = session.hello()
    assert (hello.recv, hello.have, hello.by) == (0, 1, 1)
    machine = client(sid="S", secret="K", a=2)
    up(machine, hello)
    assert machine.ending is not None
    assert machine.ending.outcome == "lost"


# -- a live session or client killed -----------------------------------------------------------------------------------


def test_f5_a_late_copy_changes_nothing() -> None:
    """A copy of an old attach is refused as out of range; the session, its attachment and its deadline stay."""
    session = server()
    attach(session)
    session.send("m", 0.0)
    live = attach(session, ack=1)
    session.detached(live.number, 10.0)
    before = session.deadline
    assert refusal(session.attach(STREAM, 1, 0, 20.0)) == (410, "lost")
    assert session.deadline == before == 40.0
    assert session.sender.acked == 1
    assert not session.over


def test_f6_order_comes_from_the_client() -> None:
    """An older page's attach that arrives late is refused and does not take over."""
    session = server()
    newer = attach(session, a=2)
    assert refusal(session.attach(STREAM, 1, 0, 0.0)) == (409, "superseded")
    assert session.attachment is not None
    assert session.attachment.number == newer.number


def test_f7_acknowledgements_of_a_superseded_tab() -> None:
    """They remove nothing, on any way."""
    session = server()
    old = attach(session, a=1, kind=WEBSOCKET)
    session.send("m", 0.0)
    attach(session, a=2, kind=WEBSOCKET)
    session.received(old.number, Ack(1), 0.0)
    assert refusal(post(session, a=1, ack=1)) == (409, "superseded")
    assert session.sender.acked == 0
    attach(session, a=2)


def test_f8_nothing_is_taken_from_older_attachments() -> None:
    """From sending an attach on nothing is taken from the older connection, which is dropped at the new hello."""
    machine = client(WEBSOCKET)
    machine.opened(1, 0.0)
    up(machine)
    (opening,) = machine.switch(WEBSOCKET, 0.0)
    assert isinstance(opening, act.Open)
    machine.received(1, Text(1, "still"), 0.0)
    assert received(machine) == ["still"]  # nothing is given up before the new way is known to work
    actions = machine.opened(2, 0.0)
    assert act.Drop(1) not in actions  # or the server would be without an attachment for a moment (S9)
    assert act.Attach(2, WEBSOCKET, 1, 1) in actions
    assert machine.received(1, Text(2, "late"), 0.0) == []
    assert received(machine) == []
    assert machine.link is Link.SENT
    assert act.Drop(1) in up(machine)


def test_f8b_no_ack_above_the_presented_before_hello() -> None:
    """While an attach is on its way a POST acknowledges nothing above the number it presented."""
    machine = client(STREAM)
    up(machine)
    machine.received(machine.attachment, Text(1, "m"), 0.0)
    machine.switch(STREAM, 0.0)  # presents 0: message 1 is on hold
    assert received(machine) == ["m"]
    machine.send("x", 0.0)
    assert machine.uplink.in_flight is not None
    assert machine.uplink.in_flight.ack == 0
    up(machine)
    assert machine.ack == 1


def test_f9_a_slow_application_is_alive() -> None:
    """A full inbox holds messages one window beyond it; frames are read, pings answered, nobody is abandoned."""
    session = server()
    number = attach(session, kind=WEBSOCKET).number
    for n in range(1, 5):
        assert session.received(number, Text(n, "m"), float(n)) == []
    assert session.receiver.recv == 0
    assert any(isinstance(action, act.Write) for action in session.received(number, Ping(), 9.0))
    assert session.tick(session.deadline)  # a ping of its own
    assert not session.over


def test_f9_a_poller_with_a_full_inbox_stays_in_contact() -> None:
    """It does not poll for the same again but posts an empty batch every grace/3."""
    machine = client(POLL)
    up(machine)
    machine.received(machine.attachment, Text(1, "m"), 0.0)
    machine.ended(machine.attachment, 0.0, clean=True)
    assert machine.settle(0.0) == []
    assert machine.deadline == 10.0
    (contact,) = machine.tick(10.0)
    assert isinstance(contact, act.Post)
    assert (contact.frames, contact.ack) == ((), 0)
    machine.posted(contact.number, 200, None, 0, 10.0)
    assert received(machine) == ["m"]
    assert any(isinstance(action, act.Attach) for action in machine.settle(10.0))


def test_f9b_a_lower_recv_is_old_news() -> None:
    """A hello that was overtaken by a POST's answer is not an error."""
    machine = client(STREAM)
    (sent,) = machine.send("x", 0.0)
    assert isinstance(sent, act.Post)
    machine.posted(sent.number, 200, None, 1, 0.0)
    up(machine)
    assert machine.ending is None
    assert machine.sender.acked == 1


# -- livelock, storms, hot loops ---------------------------------------------------------------------------------------


def test_f10_two_pollers() -> None:
    """An older instance's waiting poll is answered 409, and 204 only if the same instance polls again."""
    session = server()
    session.attach(POLL, 1, 0, 0.0, wait=25.0)
    same = session.attach(POLL, 1, 0, 0.0, wait=25.0)
    assert act.Finish(1, 1012, "replaced", None) in same.actions
    newer = session.attach(POLL, 2, 0, 0.0, wait=25.0)
    (finish,) = [action for action in newer.actions if isinstance(action, act.Finish)]
    assert finish.refusal is not None
    assert finish.refusal.status == 409


def test_f11_rotation_that_brings_nothing_slows_down() -> None:
    """A full window rotates a stream at once after progress, else after 1, 2, 4 ... s, at most the normal interval."""
    session = server()
    attach(session)
    for _ in range(4):
        session.send("m", 0.0)
    now, ages = 0.0, []
    for _ in range(12):
        assert not session.has_room(1)
        assert session.blocked(now) == []
        ages.append(session.deadline - now)
        now = session.deadline
        while not any(isinstance(action, act.Finish) for action in session.tick(now)):
            now = session.deadline
        attach(session, now=now + 2.0)
        now += 2.0
    assert ages[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]
    attach(session, ack=4, now=now)
    for _ in range(4):
        session.send("m", now)
    assert any(isinstance(action, act.Finish) for action in session.blocked(now))


def test_f14_a_client_that_closes_over_http_only_posts() -> None:
    """It ends its GET, sends the rest and `e` in one batch, and attaches no more."""
    machine = client(STREAM)
    (first,) = machine.send("x", 0.0)
    assert isinstance(first, act.Post)
    machine.post_failed(first.number, 0.0)
    up(machine)
    machine.post_failed(2, 0.0)
    actions = machine.close(1000, "", 0.0)
    assert any(isinstance(action, act.Drop) for action in actions)
    assert numbers(actions) == [1, 2]
    machine.post_failed(3, 0.0)
    for _ in range(20):
        assert not any(isinstance(action, act.Attach) for action in machine.tick(0.0))
    assert machine.received(machine.attachment, Text(1, "m"), 0.0) == []


# -- closing -----------------------------------------------------------------------------------------------------------


def test_f15_one_end_suffices() -> None:
    """A server's close is clean when its end is acknowledged, be it by the next attach of a plain EventSource."""
    session = server()
    attach(session, kind=EVENTS)
    session.send("m", 0.0)
    closing = session.close(1000, "bye", 0.0)
    assert isinstance(closing[-1], act.Finish)  # behind the end the response ends, so that it comes again
    assert refusal(session.attach(EVENTS, 1, 2, 0.5)) == (410, "ended")
    assert session.ending is not None
    assert (session.ending.outcome, session.ending.by, session.ending.clean) == ("ended", "local", True)


def test_f16_a_side_that_closes_takes_nothing_more() -> None:
    """It neither takes nor acknowledges, and the peer's end, seen meanwhile, closes both."""
    session = server()
    attach(session)
    session.close(1000, "", 0.0)
    assert refusal(post(session, Text(1, "x"))) == (409, "closing")
    assert session.receiver.recv == 0
    result = session.post(1, 0, [Text(1, "x"), End(2)], 0.0)
    assert isinstance(result, Refused)
    assert (result.refusal.status, result.refusal.ack) == (410, 0)
    assert session.over


def test_f16_two_closers_with_nothing_left_are_clean() -> None:
    """If everything before the peer's end was acknowledged, so is the end."""
    session = server()
    attach(session)
    session.close(1000, "", 0.0)
    result = session.post(1, 0, [End(1)], 0.0)
    assert isinstance(result, Refused)
    assert (result.refusal.code, result.refusal.ack) == ("ended", 1)


def test_f17_a_late_post_behind_delete() -> None:
    """DELETE is un-numbered and idempotent; a POST that it overtook learns what was taken."""
    session = server()
    attach(session)
    assert post(session, Text(1, "x")) == 1
    assert refusal(session.delete(2, 0.0)) == (409, "superseded")
    assert any(isinstance(action, act.Ended) for action in session.delete(1, 0.0).actions)
    assert session.delete(1, 0.0).actions == []
    result = post(session, Text(2, "y"))
    assert isinstance(result, Refused)
    assert (result.refusal.status, result.refusal.code, result.refusal.ack) == (410, "killed", 1)


def test_f18_a_closed_session_is_remembered() -> None:
    """For one grace the repeat of a POST whose answer was lost gets 410 with the ack."""
    session = server()
    attach(session)
    assert post(session, Text(1, "x"), End(2)) == 2
    assert refusal(post(session, Text(1, "x"), End(2))) == (410, "ended")
    assert session.forget_at == 30.0
    assert session.deadline == math.inf


@pytest.mark.parametrize(("status", "code"), [(409, "superseded"), (410, "ended"), (404, "unknown"), (200, None)])
def test_f19_any_answer_ends_the_farewell(status: int, code: str | None) -> None:
    """Who took the peer's end acknowledges it until any answer, and stops by itself after one grace."""
    machine = client(STREAM)
    up(machine)
    machine.received(machine.attachment, End(1, 1000, "bye"), 0.0)
    actions = machine.settle(0.0)
    (farewell,) = [action for action in actions if isinstance(action, act.Post)]
    assert farewell.ack == 1
    machine.post_failed(farewell.number, 0.0)
    assert machine.deadline == 0.0
    (again,) = machine.tick(0.0)
    assert isinstance(again, act.Post)
    assert act.Drained() in machine.posted(again.number, status, code, 1, 0.0)
    assert machine.drained
    assert machine.deadline == math.inf


def test_f19_a_farewell_that_finds_nobody() -> None:
    """It is given up after one grace."""
    machine = client(STREAM)
    up(machine)
    machine.received(machine.attachment, End(1), 0.0)
    machine.settle(0.0)
    assert machine.tick(30.0) == [act.Drained()]


# -- side effects ------------------------------------------------------------------------------------------------------


def test_f23_the_handler_starts_at_the_first_admitted_request() -> None:
    """A repeated creation leaves a session whose handler never ran; the first attach or POST starts it, once."""
    session = server()
    assert session.deadline == 30.0
    assert act.Start() in attach(session).actions
    assert act.Start() not in attach(session).actions
    other = server()
    posted = other.post(1, 0, [], 0.0)
    assert isinstance(posted, Posted)
    assert act.Start() in posted.actions
    assert isinstance(server().tick(30.0)[-1], act.Ended)


def test_f25_failures_of_others_do_not_keep_a_session() -> None:
    """A fenced tab and a wrong range restart no grace and use up no rate."""
    session = server()
    number = attach(session, a=2).number
    session.detached(number, 5.0)
    for now in range(6, 30):
        session.attach(STREAM, 1, 0, float(now))
        session.attach(STREAM, 2, 9, float(now))
        session.post(1, 0, [], float(now))
        session.post(2, 9, [], float(now))
        session.delete(1, float(now))
    assert session.deadline == 35.0
    ended = session.tick(35.0)[-1]
    assert isinstance(ended, act.Ended)
    assert (ended.ending.outcome, ended.ending.by) == ("abandoned", "network")


# -- shortest traces that the search found in drafts of these machines -------------------------------------------------


TRACES: dict[str, tuple[Kind, list[tuple[object, ...]]]] = {
    "close-before-attach": (POLL, [("server close",), ("up", 0), ("down", 0)]),
    "crossed-closes": (STREAM, [("server close",), ("close", 0), ("up", 1), ("down", 1)]),
    "switch-while-closing": (POLL, [("close", 0), ("reloads", 0), ("switch", 1, WEBSOCKET)]),
    "hold-of-an-older": (EVENTS, [("twins", 0), ("send", 0), ("up", 0), ("down", 0), ("up", 2), ("up", 1)]),
    "stale-successor": (
        POLL,
        [
            *(("twins", 0), ("up", 1), ("down", 1), ("send", 0), ("reloads", 0)),
            *(("send", 1), ("up", 4), ("up", 3), ("down", 3)),
        ],
    ),
    "its-twin": (
        EVENTS,
        [("twins", 0), ("up", 1), ("send", 0), ("down", 1), ("send", 1), ("reloads", 0), ("twins", 2)],
    ),
}


@pytest.mark.parametrize(("kind", "trace"), TRACES.values(), ids=list(TRACES))
def test_traces(kind: Kind, trace: list[tuple[object, ...]]) -> None:
    """Each of them broke an invariant once, or did not come to a good end."""
    scope = Scope(
        kinds=tuple(Kind),
        up=2,
        switches=1,
        reloads=1,
        twins=2,
        client_closes=1,
        server_closes=1,
        slow=kind is EVENTS,
    )
    world = World(scope, kind)
    for event in trace:
        assert event in list(world.events())
        world.do(event)
    world.converge()
