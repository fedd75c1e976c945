"""The machine of the browser's module is the Python client's: told the same, both do the same, action by action."""

from __future__ import annotations

import base64
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channelkit.session import actions as act
from channelkit.session.actions import Kind
from channelkit.session.client import ClientConfig, ClientSession, Saved
from channelkit.session.codec import hello_members
from channelkit.session.frames import Ack, Binary, End, Frame, Hello, Ping, Terms, Text, numbered
from channelkit.session.identity import next_instance

sys.path.insert(0, str(Path(__file__).parents[1] / "session"))
sys.path.insert(0, str(Path(__file__).parent))

import node
from session_world import Event, Scope, World

pytestmark = pytest.mark.skipif(node.NODE is None, reason=node.MISSING)

TERMS = Terms(window=4, window_bytes=70, max_message=100, ping=20.0, grace=30.0)
WIDE = Terms(
    window=40, window_bytes=700, max_message=500, ping=20.0, grace=30.0
)  # one message is not a quarter: acks wait


@pytest.fixture(scope="module")
def twin() -> Iterator[node.Program]:
    """Lives the same life in JavaScript."""
    with node.program("machine.mjs") as program:
        yield program


# -- a life, written down ----------------------------------------------------------------------------------------------


def plain(frame: Frame) -> list[Any]:
    """A frame as both sides write it down."""
    if isinstance(frame, Text):
        return ["m", frame.n, frame.text]
    if isinstance(frame, Binary):
        return ["m", frame.n, {"base64": base64.b64encode(frame.data).decode()}]
    if isinstance(frame, End):
        return ["e", frame.n, frame.code, frame.reason]
    if isinstance(frame, Ack):
        return ["a", frame.n]
    if isinstance(frame, Ping):
        return ["p"]
    assert isinstance(frame, Hello)
    return ["h", hello_members(frame)]


def plain_action(action: act.ClientAction) -> dict[str, Any]:
    """An action as both sides write it down."""
    members = {name: getattr(action, name) for name in type(action).__slots__}
    if isinstance(action, act.Write | act.Post):
        members["frames"] = [plain(frame) for frame in action.frames]
    elif isinstance(action, act.Attach):
        members["kind"] = action.kind.value
    elif isinstance(action, act.Ended):
        members["ending"] = plain_ending(action.ending)
    return {"do": type(action).__name__.lower(), **members}


def plain_ending(ending: Any) -> dict[str, Any]:
    """All but the bytes of what may be lost: the browser's close info has no such member."""
    return {name: getattr(ending, name) for name in type(ending).__slots__ if name != "unacknowledged_bytes"}


def plain_saved(saved: Saved) -> dict[str, Any]:
    members = {name: getattr(saved, name) for name in type(saved).__slots__}
    return {**members, "frames": [plain(frame) for frame in saved.frames]}


def finite(time: float) -> float | None:
    """JSON has no infinity."""
    return None if time == float("inf") else time


def view(machine: ClientSession) -> dict[str, Any]:
    """What can be seen of the machine after a call."""
    sender, receiver = machine.sender, machine.receiver
    return {
        "ack": machine.ack,
        "deadline": finite(machine.deadline),
        "isOpen": machine.is_open,
        "drained": machine.drained,
        "link": machine.link.value,
        "attached": machine.attaching.attached,
        "kind": machine.kind.value,
        "wanted": machine.attaching.wanted.value,
        "attachment": machine.attachment,
        "hadHello": machine.had_hello,
        "sid": machine.sid,
        "ending": machine.ending and plain_ending(machine.ending),
        "closing": machine.closing and plain(machine.closing),
        "retryAt": finite(machine.attaching.retry_at),
        "uplink": [
            machine.uplink.taken,
            machine.uplink.failures,
            machine.uplink.not_before,
            finite(machine.uplink.most),
        ],
        "sent": sender.sent,
        "acked": sender.acked,
        "bytes": sender.bytes,
        "have": receiver.have,
        "recv": receiver.recv,
        "recvBytes": receiver.recv_bytes,
        "takenBytes": receiver.taken_bytes,
        "saved": None if machine.sid is None else plain_saved(machine.save()),
        "room": machine.has_room(1),
    }


#: The calls of the machine, by the names they have in JavaScript.
CALLS = {
    "start": "start",
    "switch": "switchTo",
    "created": "created",
    "create_failed": "createFailed",
    "opened": "opened",
    "received": "received",
    "heard": "heard",
    "ended": "ended",
    "refused": "refused",
    "send": "send",
    "posted": "posted",
    "post_failed": "postFailed",
    "pull": "pull",
    "settle": "settle",
    "close": "close",
    "tick": "tick",
}


class Life:
    """A machine in Python whose calls, and what came of them, are written down."""

    def __init__(self, jitter: Sequence[float] = (0.0,), **known: Any) -> None:
        saved: Saved | None = known.get("saved")
        options = {**known, "saved": plain_saved(saved)} if saved is not None else known
        self.question: dict[str, Any] = {"new": options, "jitter": list(jitter), "calls": []}
        self.results: list[dict[str, Any]] = []
        self.machine = ClientSession(ClientConfig(), cycle(jitter).__next__, **known)

    def __getattr__(self, name: str) -> Any:
        if name in CALLS:
            return lambda *args, **more: self._call(name, *args, **more)
        return getattr(self.machine, name)

    def _call(self, name: str, *args: Any, **more: Any) -> Any:
        result = getattr(self.machine, name)(*args, **more)
        said = [_argument(name, value) for value in (*args, *more.values())]
        self.question["calls"].append([CALLS[name], *said])
        if name == "pull":
            actions: list[Any] = [] if result is None else [plain(result)]
        else:
            actions = [plain_action(action) for action in result or ()]
        self.results.append({"actions": actions, "view": view(self.machine)})
        return result

    def check(self, twin: node.Program) -> None:
        """The same life in JavaScript came to the same."""
        theirs = twin.ask(self.question)
        for at, (mine, other) in enumerate(zip(self.results, theirs, strict=True)):
            assert other["actions"] == mine["actions"], self.question["calls"][: at + 1]
            assert other["view"] == mine["view"], self.question["calls"][: at + 1]


def _argument(call: str, value: Any) -> Any:
    if isinstance(value, Kind):
        return value.value
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Hello) and call == "created":
        return hello_members(value)
    if isinstance(value, Text | Binary | End | Ack | Ping | Hello):
        return plain(value)
    return value


# -- lives among real servers ------------------------------------------------------------------------------------------


class WrittenWorld(World):
    """A hostile network whose clients' lives are written down."""

    def make_client(self, **known: Any) -> Any:
        return Life(**known)


SCOPE = Scope(
    kinds=tuple(Kind),
    up=8,
    down=8,
    cuts=6,
    copies=3,
    switches=4,
    rotations=3,
    reloads=2,
    forgets=1,
    twins=2,
    client_closes=1,
    server_closes=1,
    kills=1,
    expiries=1,
    slow=True,
)
RARE = frozenset({"close", "server close", "kill", "delete", "expires", "server expires", "forgets"})


@given(kind=st.sampled_from(Kind), walk=st.lists(st.integers(0, 1 << 16), min_size=20, max_size=120))
@settings(max_examples=60)
def test_lives_in_a_hostile_network(twin: node.Program, kind: Kind, walk: list[int]) -> None:
    """Cut, copied, delayed, refused, superseded, reloaded, closed: against the real server machine."""
    world = WrittenWorld(SCOPE, kind)
    for luck in walk:
        events: list[Event] = [event for event in world.events() if event[0] not in RARE or luck % 10 == 0]
        if events:
            world.do(events[luck % len(events)])
    for tab in world.tabs:
        life: Any = tab.machine
        life.check(twin)


# -- lives that no server gives ----------------------------------------------------------------------------------------

WHEN = st.sampled_from((0.0,) * 9 + (0.25, 0.5, 1.0, 1.0, 4.0, 10.0, 40.0))  # all exact in binary, so sums are too
FATAL = (
    (400, "malformed"),
    (403, "origin"),
    (404, "unknown"),
    (409, "superseded"),
    (409, None),
    (410, "ended"),
    (413, "size"),
)
PASSING = ((409, "gap"), (409, "closing"), (429, "full"), (503, "draining"), (500, "what"), (413, None))
NOTHING = st.just(0)
USUAL = (
    st.tuples(st.just("answer"), st.sampled_from((0, 0, 4, 5, 1)), st.just(1)),
    st.tuples(st.just("answer"), st.sampled_from((0, 4)), NOTHING),
    st.tuples(st.just("send"), st.sampled_from(("", "a", "é€😀", "x" * 20, b"", b"\0\xff")), NOTHING),
    st.tuples(st.just("message"), st.integers(0, 2), st.just(1)),
    st.tuples(st.just("acked"), st.integers(-2, 0), NOTHING),
    st.tuples(st.just("gone"), st.booleans(), NOTHING),
    st.tuples(st.just("posted"), st.sampled_from(PASSING), st.integers(-1, 1)),
    st.tuples(st.just("switch"), st.sampled_from(Kind), NOTHING),
    st.tuples(st.sampled_from(("pull", "wake", "wake", "tick", "settle", "ping", "heard")), NOTHING, NOTHING),
)
SELDOM = (
    st.tuples(st.just("answer"), st.integers(0, 47), st.integers(-1, 1)),
    st.tuples(st.just("message"), st.integers(0, 3), st.integers(-1, 2)),
    st.tuples(st.just("acked"), st.just(1), NOTHING),
    st.tuples(st.just("gone"), st.booleans(), st.just(-1)),
    st.tuples(st.sampled_from(("refused", "posted")), st.sampled_from(FATAL), st.integers(-1, 1)),
    st.tuples(st.just("refused"), st.sampled_from(PASSING), st.integers(-1, 1)),
    st.tuples(st.just("close"), st.sampled_from((None, 5.0)), NOTHING),
)
OPS = st.one_of(*USUAL * 6, *SELDOM)


class Player:
    """Plays what was drawn; numbers are drawn relative to the machine's.  When a life is over the next begins."""

    def __init__(self, make: Callable[[], Any], kind: Kind, terms: Terms = TERMS) -> None:
        self.make = make
        self.kind = kind
        self.terms = terms
        self.lives: list[Any] = []
        self.begin()

    def begin(self) -> None:
        self.life = self.make()
        self.lives.append(self.life)
        self.now = 0.0
        self.pending: list[act.ClientAction] = []
        self.opened = 0  # the newest connection asked for
        self.do(self.life.start(self.kind, self.now))

    def established(self) -> None:
        """As it goes when nothing is in the way."""
        while not self.life.had_hello:
            self.on_answer(0, 1)

    def do(self, actions: list[act.ClientAction]) -> None:
        for action in actions:
            if isinstance(action, act.Open | act.Attach):
                self.opened = action.attachment
            if isinstance(action, act.Create | act.Open | act.Attach | act.Post):
                self.pending.append(action)

    def play(self, what: str, one: Any, two: int) -> None:
        if self.life.drained:
            self.begin()
            self.established()
        getattr(self, f"on_{what}")(one, two)

    def hello(self, luck: int) -> Hello:
        """A server's: its numbers around the machine's; their sender this instance, its line, nobody, a stranger."""
        sender, life = self.life.sender, self.life
        recv = (sender.acked, sender.sent, sender.sent + 1, sender.acked + 1)[luck % 4]
        by = (life.instance.line, life.a, 7, None)[luck // 4 % 4]
        have = (None, recv + 1, sender.sent)[luck // 16 % 3]
        return Hello(recv, "S", life.a, None if luck >= 44 else self.terms, by, have)

    def on_answer(self, luck: int, off: int) -> None:
        if not self.pending:
            return
        action = self.pending.pop(0)
        life, now = self.life, self.now
        if isinstance(action, act.Create):
            hello = Hello(0, "S", life.a, self.terms, None, None, "K")
            self.do(life.create_failed(now, float(luck)) if luck % 8 == 7 else life.created(hello, now))
        elif isinstance(action, act.Open):
            self.do(life.ended(action.attachment, now) if luck % 8 == 7 else life.opened(action.attachment, now))
        elif isinstance(action, act.Attach):
            if off == 0 and action.kind is Kind.POLL and luck % 2:
                self.do(life.ended(action.attachment, now, clean=True))  # 204
            else:
                self.do(life.received(action.attachment, self.hello(luck), now))
        elif isinstance(action, act.Post):
            ack = max(0, life.sender.sent - luck % 2)
            if luck % 8 == 7:
                self.do(life.post_failed(action.number + off, now))
            else:
                self.do(life.posted(action.number, 200, None, ack, now))

    def on_send(self, payload: str | bytes, _: int) -> None:
        size = len(payload.encode() if isinstance(payload, str) else payload)
        if self.life.is_open and self.life.has_room(size):
            self.do(self.life.send(payload, self.now))

    def on_message(self, which: int, step: int) -> None:
        n = max(1, self.life.receiver.have + step)
        frame = (Text(n, "é"), Binary(n, b"x" * 15), Text(n, "y" * 20), End(n, 1000, "bye"))[which]
        self.do(self.life.received(self.life.attachment, frame, self.now))

    def on_acked(self, off: int, _: int) -> None:
        self.do(self.life.received(self.life.attachment, Ack(max(0, self.life.sender.sent + off)), self.now))

    def on_ping(self, *_: Any) -> None:
        self.do(self.life.received(self.life.attachment, Ping(), self.now))

    def on_heard(self, *_: Any) -> None:
        self.life.heard(self.life.attachment, self.now)

    def on_gone(self, clean: bool, off: int) -> None:
        self.do(self.life.ended(self.opened + off, self.now, clean=clean))

    def on_refused(self, refusal: tuple[int, str | None], off: int) -> None:
        ack = self.life.sender.acked + off if off >= 0 else None
        self.do(self.life.refused(self.life.attachment, *refusal, ack, self.now, float(off == 1)))

    def on_posted(self, refusal: tuple[int, str | None], off: int) -> None:
        ack = self.life.sender.acked + off if off >= 0 else None
        self.do(self.life.posted(self.life.uplink.number, *refusal, ack, self.now, float(off == 1)))

    def on_switch(self, kind: Kind, _: int) -> None:
        self.do(self.life.switch(kind, self.now))

    def on_pull(self, *_: Any) -> None:
        while self.life.pull() is not None:
            pass
        self.do(self.life.settle(self.now))

    def on_settle(self, *_: Any) -> None:
        self.life.pull()
        self.do(self.life.settle(self.now))

    def on_tick(self, *_: Any) -> None:
        self.do(self.life.tick(self.now))

    def on_wake(self, *_: Any) -> None:
        deadline = self.life.deadline
        if deadline < 1e6:
            self.now = max(self.now, deadline)
        self.do(self.life.tick(self.now))

    def on_close(self, timeout: float | None, _: int) -> None:
        self.do(self.life.close(4000, "bye", self.now, timeout))


@given(
    kind=st.sampled_from(Kind),
    plan=st.lists(st.tuples(WHEN, OPS), min_size=20, max_size=80),
    jitter=st.lists(st.integers(0, 63).map(lambda sixtyfourths: sixtyfourths / 64), min_size=1, max_size=5),
)
@settings(max_examples=80)
def test_lives_that_no_server_gives(
    twin: node.Program, kind: Kind, plan: list[tuple[float, tuple[str, Any, int]]], jitter: list[float]
) -> None:
    """Any order of anything, at any time: nonsense too is taken alike."""
    player = Player(lambda: Life(jitter), kind)
    for pause, op in plan:
        player.now += pause
        player.play(*op)
    for life in player.lives:
        life.check(twin)


#: What may be drawn for each op, with the seldom among the usual.
DRAWS: dict[str, tuple[Sequence[Any], Sequence[int]]] = {
    "answer": ((0, 0, 4, 4, 5, 1, 7, 18, 33), (0, 1, 1)),
    "send": (("a", "é€😀", "x" * 20, b"", b"\0\xff"), (0,)),
    "message": ((0, 0, 1, 2, 2, 3), (1, 1, 1, 1, 0, -1, 2)),
    "acked": ((-2, -1, 0, 0), (0,)),
    "gone": ((True, False), (0, 0, 0, -1)),
    "posted": ((*PASSING, *PASSING, (410, "ended")), (-1, 0, 1)),
    "refused": ((*PASSING, (404, "unknown")), (-1, 0, 1)),
    "switch": (tuple(Kind), (0,)),
    "pull": ((0,), (0,)),
    "settle": ((0,), (0,)),
    "wake": ((0,), (0,)),
    "tick": ((0,), (0,)),
    "ping": ((0,), (0,)),
    "heard": ((0,), (0,)),
    "close": ((None, 5.0), (0,)),
}
MOOD = 25  # ops for which some kinds of op are left out, so that what they would put right piles up


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("seed", range(4))
def test_long_lives(twin: node.Program, kind: Kind, seed: int) -> None:
    """The same in moods: nobody pulls for a while, nothing is answered, no time passes, every batch is refused."""
    luck = random.Random(seed)
    player = Player(lambda: Life([luck.randrange(64) / 64 for _ in range(3)]), kind, (TERMS, WIDE)[seed % 2])
    for _ in range(40):
        ops = luck.sample([*DRAWS], 7)
        pauses = luck.sample((0.0, 0.0, 0.0, 0.25, 1.0, 4.0, 10.0, 40.0), 3)
        for _ in range(MOOD):
            player.now += luck.choice(pauses)
            what = luck.choice(ops)
            one, two = DRAWS[what]
            player.play(what, luck.choice(one), luck.choice(two))
    for life in player.lives:
        life.check(twin)


small = st.integers(0, 5)
strangers = st.sampled_from((None, 3, 4, 9))


@given(
    kind=st.sampled_from(Kind),
    acked=st.integers(0, 3),
    frames=st.lists(st.sampled_from(("a", b"b")), max_size=3),
    closed=st.booleans(),
    told=st.tuples(small, strangers, st.sampled_from((0, 0, 2))),  # recv, line, verified of the state
    hello=st.tuples(small, st.none() | small, strangers),  # recv, have, by
)
@settings(max_examples=80)
def test_successors(
    twin: node.Program,
    kind: Kind,
    acked: int,
    frames: list[str | bytes],
    closed: bool,
    told: tuple[int, int | None, int],
    hello: tuple[int, int | None, int | None],
) -> None:
    """F3, F27: which hello is of a successor's own line, and what it does then, to the end of its grace."""
    kept: list[Any] = [numbered(acked + at, payload) for at, payload in enumerate(frames, 1)]
    if closed:
        kept.append(End(acked + len(kept) + 1, 1000, "bye"))
    recv, line, verified = told
    saved = Saved("S", "K", 3, recv, acked + len(kept), acked, tuple(kept), line, verified, 45.0)
    above, have, by = hello
    theirs = acked + above % (len(kept) + 2)
    player = Player(lambda: Life((0.5,), a=9, saved=saved), kind)
    life = player.life
    while any(isinstance(action, act.Open) for action in player.pending):
        player.on_answer(0, 0)
    player.do(life.received(life.attachment, Hello(theirs, "S", 9, TERMS, by, have), 1.0))
    for _ in range(4):
        player.on_pull()
        player.on_wake()
    life.check(twin)


@given(
    a=st.integers(1, 2**53 - 2),
    milliseconds=st.sampled_from((0, 1_795_000_000_000, 2**53 - 1)),
    digits=st.integers(0, 999),
)
@settings(max_examples=20)
def test_numbers_of_instances(twin: node.Program, a: int, milliseconds: int, digits: int) -> None:
    """A successor's number is the same rule on both sides."""
    assert twin.ask({"nextInstance": [a, milliseconds, digits]}) == next_instance(a, milliseconds, digits)
