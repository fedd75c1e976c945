"""The two real machines over a hostile network: every interleaving of small scopes, and long random walks.

The search is breadth first, so what it reports is a shortest trace.  From every fourth state the faults stop and
everything must arrive, or its loss be told on both sides.  CHANNELKIT_MODEL=large searches large scopes too, with
convergence from every tenth state (polls, NDJSON streams and WebSockets; for the machines an event stream is an NDJSON
stream that says no acks, which the small scopes and the walks cover).  HYPOTHESIS_PROFILE=soak walks longer.

How far that has come.  All 18 large scopes were searched to their end without a fault, of these machines: the longest
is the reloads of polls (12 minutes, 2 GB), all together take 45 minutes.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from channelkit.session.actions import Kind

sys.path.insert(0, str(Path(__file__).parent))

from session_world import Event, Scope, World

LARGE = os.environ.get("CHANNELKIT_MODEL") == "large"
POLL, STREAM, EVENTS, WEBSOCKET = Kind.POLL, Kind.STREAM, Kind.EVENTS, Kind.WEBSOCKET
CONVERGE_EVERY, MOST_STATES = 4, 40_000
LARGE_CONVERGE_EVERY, LARGE_MOST_STATES = 10, 1_500_000

Trace = tuple[Any, Event] | None  # an event and what led to it


def search(scope: Scope, converge_every: int = CONVERGE_EVERY, most_states: int = MOST_STATES) -> int:
    """Visit every state of `scope`; how many there are.

    AssertionError with the shortest trace to one that breaks an invariant.
    """
    start = World(scope)
    seen = {hash(start.key())}  # 64 bits stand for some kB: two of a million states are alike once in 10**7 searches
    queue: deque[tuple[World, Trace]] = deque([(start, None)])
    visited = 0
    while queue:
        world, trace = queue.popleft()
        visited += 1
        if visited % converge_every == 0:
            _blame(trace, world.copy().converge)
        for event in world.events():
            after = world.copy()
            _blame((trace, event), lambda after=after, event=event: after.do(event))
            if (key := hash(after.key())) not in seen:
                seen.add(key)
                queue.append((after, (trace, event)))
        assert len(seen) < most_states, f"the scope is larger than {most_states} states"
    return len(seen)


def _blame(trace: Trace, step: Any) -> None:
    try:
        step()
    except Exception as error:
        lines = "\n".join(f"    {event}" for event in _events(trace))
        raise AssertionError(f"{error!r} after\n{lines}") from error


def _events(trace: Trace) -> list[Event]:
    events: list[Event] = []
    while trace is not None:
        trace, event = trace
        events.append(event)
    return events[::-1]


SMALL: dict[str, dict[str, Any]] = {
    "cut": {"up": 2, "down": 2, "cuts": 1},
    "copy": {"cuts": 1, "copies": 1},
    "slow": {"down": 2, "cuts": 1, "slow": True},
    "closes": {"cuts": 1, "client_closes": 1, "server_closes": 1},
    "grace": {"client_closes": 1, "server_closes": 1, "cuts": 0, "expiries": 2},
    "kill": {"cuts": 1, "kills": 1},
    "forget": {"cuts": 0, "copies": 1, "forgets": 1},
    "reload": {"cuts": 0, "copies": 1, "reloads": 1},
    "slow-twin": {"up": 1, "down": 0, "cuts": 0, "twins": 1, "slow": True},
    "twin": {"up": 2, "down": 0, "cuts": 0, "twins": 1},
}
SMALL_RUNS = [(name, kind) for kind in (POLL, STREAM, WEBSOCKET) for name in SMALL]


@pytest.mark.parametrize(("name", "kind"), SMALL_RUNS, ids=[f"{name}-{kind.value}" for name, kind in SMALL_RUNS])
def test_every_interleaving(name: str, kind: Kind) -> None:
    """No order of events in a small scope breaks an invariant, and from each state it comes to a good end."""
    search(Scope(kinds=(kind,), **SMALL[name]))


def test_every_interleaving_of_a_rotation() -> None:
    """The same where a stream's responses are ended for rotation."""
    search(Scope(kinds=(EVENTS,), rotations=1, cuts=1))


def test_every_interleaving_of_a_twin_and_a_reload() -> None:
    """The same where a tab is duplicated, both go on, and the older is reloaded."""
    search(Scope(kinds=(WEBSOCKET,), up=2, down=0, cuts=0, twins=1, reloads=1))


def test_every_interleaving_of_a_switch() -> None:
    """The same where the client goes on by another transport."""
    search(Scope(kinds=(POLL, STREAM, WEBSOCKET), cuts=1, switches=1))


BIG: dict[str, dict[str, Any]] = {
    "cuts": {"up": 2, "down": 2, "cuts": 2, "copies": 1},
    "slow": {"up": 2, "down": 2, "cuts": 1, "copies": 1, "slow": True},
    "closes": {"up": 2, "down": 1, "cuts": 1, "copies": 1, "client_closes": 1, "server_closes": 1, "expiries": 1},
    "reloads": {"up": 2, "down": 1, "cuts": 1, "copies": 1, "reloads": 1},
    "twins": {"up": 2, "down": 1, "cuts": 1, "twins": 1},
    "twin-reload": {"up": 2, "down": 0, "cuts": 0, "twins": 1, "reloads": 1},
}


if LARGE:
    BIG_RUNS = [(name, kind) for kind in (POLL, STREAM, WEBSOCKET) for name in BIG]

    @pytest.mark.parametrize(("name", "kind"), BIG_RUNS, ids=[f"{name}-{kind.value}" for name, kind in BIG_RUNS])
    def test_every_interleaving_of_large_scopes(name: str, kind: Kind) -> None:
        """The same in scopes that take minutes."""
        search(Scope(kinds=(kind,), **BIG[name]), LARGE_CONVERGE_EVERY, LARGE_MOST_STATES)


class Walk(RuleBasedStateMachine):
    """A long walk: many messages, all transports mixed, and every fault at once."""

    SCOPE = Scope(
        kinds=tuple(Kind),
        up=8,
        down=8,
        cuts=6,
        copies=5,
        switches=3,
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

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None

    @initialize(kind=st.sampled_from(Kind))
    def begin(self, kind: Kind) -> None:
        """Any transport first."""
        self.world = World(self.SCOPE, kind)

    def _choices(self, *, rare: bool) -> list[Event]:
        assert self.world is not None
        return [event for event in self.world.events() if (event[0] in self.RARE) == rare]

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """A message, a fault, a piece of the network's work."""
        assert self.world is not None
        for _ in range(3):
            if choices := self._choices(rare=False):
                self.world.do(data.draw(st.sampled_from(choices)))

    @precondition(lambda self: self.world is not None and self._choices(rare=True))
    @rule(data=st.data(), luck=st.integers(0, 9))
    def an_end_comes(self, data: st.DataObject, luck: int) -> None:
        """Now and then."""
        assert self.world is not None
        if luck == 0:
            self.world.do(data.draw(st.sampled_from(self._choices(rare=True))))

    @invariant()
    def ends_well_from_here(self) -> None:
        """From every state that was reached, faults stop and it comes to a good end."""
        if self.world is not None:
            self.world.copy().converge()


TestWalk = Walk.TestCase
TestWalk.settings = settings(stateful_step_count=40)
