"""S1 to S4 with `channelkit.client` as the peer, over the real server code, behind the box of faults.

What the plain client of `test_sessions` cannot show: the rules a client keeps by itself, with all its timers, while it
moves among transports, is reloaded, is duplicated, and while either side closes in the midst of it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channelkit import SessionConfig
from channelkit.client import ClientChannel, ConnectFailed, Saved, connect
from channelkit.client.channel import KINDS
from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.middlebox import Fate, Middlebox
from channelkit.testing.plans import Network, Pump
from channelkit.testing.strategies import payloads

sys.path.insert(0, str(Path(__file__).parent))

from session_room import CARRIED, Closing, Payload, Raising, Room, quietly

URL = "http://test"
TRANSPORTS = tuple(KINDS)
# A grace that no plan outlives, and one that some do.
LASTING = SessionConfig(window=6, window_bytes=5000, max_message=4000, poll_bytes=500, grace=10_000.0, rotation=25.0)
SHORT = dataclasses.replace(LASTING, grace=60.0)
HEALING = 300.0  # when the faults stop: above each time-out, and what follows it
FEW = max(10, settings().max_examples // 2)
FEWER = max(10, settings().max_examples // 5)  # three clients each


@dataclass(frozen=True)
class Step:
    """One thing that happens; `tab` is whom of two clients it happens to."""

    what: Literal["up", "down", "move", "cut", "outage", "pause", "reload", "deaf"]
    payload: Payload = ""
    transport: str = "websocket"
    untold: Literal["", "client", "server"] = ""
    seconds: float = 0.0
    tab: int = 0


@dataclass(frozen=True)
class Plan:
    """What happens, and what the network is like."""

    steps: list[Step]
    fates: list[Fate]
    transport: str = "websocket"
    end: Literal["client", "server", "raise"] = "client"
    early: bool = False  # the end comes while the faults go on
    network: Network = Network()
    buffering: bool = False


def steps() -> st.SearchStrategy[Step]:
    """More messages than anything else."""
    tabs = st.integers(0, 1)
    says: Any = st.builds(Step, st.sampled_from(("up", "down")), payloads(), tab=tabs)
    moves: Any = st.builds(Step, st.just("move"), transport=st.sampled_from(TRANSPORTS), tab=tabs)
    cuts: Any = st.builds(Step, st.just("cut"), untold=st.sampled_from(("", "", "client", "server")))
    waits: Any = st.builds(
        Step, st.sampled_from(("outage", "pause", "pause", "deaf")), seconds=st.sampled_from((0.0, 0.3, 2.0, 9.0, 70.0))
    )
    reloads: Any = st.builds(Step, st.just("reload"), transport=st.sampled_from(TRANSPORTS))
    return st.one_of(says, says, says, moves, cuts, waits, reloads)


def fates() -> st.SearchStrategy[Fate]:
    """Half of all connections meet nothing."""
    return st.just(Fate()) | st.builds(
        Fate,
        lost=st.sampled_from((False, False, False, True)),
        cut=st.none() | st.integers(0, 1000),
        cut_up=st.none() | st.none() | st.integers(0, 600),
        untold=st.sampled_from(("", "", "client", "server")),
        copy=st.sampled_from(("", "", "before", "beside", "after", "after")),
        late=st.sampled_from((0.0, 1.0, 20.0)),
        pace=st.sampled_from((0.0, 0.0, 0.0, 0.2)),
    )


def plans() -> st.SearchStrategy[Plan]:
    """Short ones to read, and long ones to find."""
    networks = st.builds(
        Network,
        capacity=st.sampled_from((65536, 4096)),
        latency=st.sampled_from((0.0, 0.0, 0.05)),
        chunk=st.sampled_from((None, None, 7)),
    )
    return st.builds(
        Plan,
        st.lists(steps(), max_size=20) | st.lists(steps(), min_size=10, max_size=30),
        st.lists(fates(), max_size=15),
        st.sampled_from(TRANSPORTS),
        st.sampled_from(("client", "server", "raise")),
        st.booleans(),
        networks,
        st.sampled_from((False, False, False, True)),
    )


@dataclass
class Tab:
    """A client's program: what it wants to say, what of that was accepted, what it heard."""

    waiting: list[Payload] = field(default_factory=list)
    accepted: list[Payload] = field(default_factory=list)
    received: list[Payload] = field(default_factory=list)
    channel: ClientChannel | None = None
    deaf_until: float = 0.0
    failed: ConnectFailed | None = None

    async def say(self, channel: ClientChannel) -> None:
        """Cancelled while it waits for the window, nothing was accepted."""
        while True:
            while not self.waiting:
                await anyio.sleep(0.05)
            if not await channel.send(self.waiting[0]):
                return
            self.accepted.append(self.waiting.pop(0))

    async def hear(self, channel: ClientChannel) -> None:
        async for message in channel:
            self.received.append(message)
            await anyio.sleep(max(0.0, self.deaf_until - anyio.current_time()))

    def save(self) -> Saved:
        """For a successor; what was in the inbox counts as received."""
        assert self.channel is not None
        saved = self.channel.save()
        self.drain()
        return saved

    def drain(self) -> None:
        """What is in the inbox, the program has."""
        assert self.channel is not None
        self.received += self.channel._inbox
        self.channel._inbox.clear()


class Course:
    """One run of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.room = Room(SHORT if plan.early else LASTING)
        self.tab = Tab()
        self.down: list[Payload] = []

    async def play(self, pump: Pump) -> None:
        plan = self.plan
        saved: Saved | None = None
        transport = plan.transport
        rest: Sequence[Step] = plan.steps
        async with self.room.open(pump, plan.network) as box:
            while True:
                try:
                    async with connect(URL, transport=transport, dial=box.dial, saved=saved) as channel:
                        self.tab.channel = channel
                        if saved is None:
                            box.fates, box.buffering = list(plan.fates), plan.buffering
                        reload = await self._live(channel, box, rest)
                        if reload is None:
                            break
                        saved = self.tab.save()
                        rest, transport = rest[rest.index(reload) + 1 :], reload.transport
                except ConnectFailed as failed:
                    self.tab.failed = failed
                    break
            await anyio.sleep(HEALING)
            self.tab.drain()

    async def _live(self, channel: ClientChannel, box: Middlebox, rest: Sequence[Step]) -> Step | None:
        """One client's life: to the step that reloads it, or to the end."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.tab.say, channel)
            tasks.start_soon(self.tab.hear, channel)
            for step in rest:
                if step.what == "reload" and channel.close_info is None:
                    tasks.cancel_scope.cancel()
                    return step
                await self._act(step, channel, box)
            if self.plan.early:
                await self._end(channel)
            box.fates, box.refusing = [], False
            await self._heal()
            if not self.plan.early:
                await self._end(channel)
            tasks.cancel_scope.cancel()
        return None

    async def _act(self, step: Step, channel: ClientChannel, box: Middlebox) -> None:
        if step.what == "up":
            self.tab.waiting.append(step.payload)
        elif step.what == "down":
            self.down.append(step.payload)
            self.room.tell(step.payload)
        elif step.what == "move":
            channel.switch(step.transport)
        elif step.what == "cut":
            box.cut(step.untold)
        elif step.what == "deaf":
            self.tab.deaf_until = anyio.current_time() + step.seconds
        else:
            box.refusing = step.what == "outage"
            await anyio.sleep(step.seconds)
            box.refusing = False

    async def _heal(self) -> None:
        """No faults any more: wait until all has arrived, or nothing can."""
        channel = self.tab.channel
        assert channel is not None
        with anyio.move_on_after(HEALING):
            while channel.close_info is None and not self.arrived:  # virtual time is free
                await anyio.sleep(0.5)

    @property
    def arrived(self) -> bool:
        """Whether everything is where it should be, and known to be."""
        tab = self.tab
        up = not tab.waiting and self.room.received == tab.accepted
        return up and tab.received == self.down and tab.channel is not None and not tab.channel.unacknowledged

    async def _end(self, channel: ClientChannel) -> None:
        if self.plan.end == "client":
            with anyio.move_on_after(0.5 if self.plan.early else None):
                await channel.close(4000, "client's")
            return
        self.room.tell(Raising() if self.plan.end == "raise" else Closing(4001, "server's"))
        if not self.plan.early:
            await channel.wait_closed()

    # -- what must hold

    def judge(self) -> None:
        room, tab = self.room, self.tab
        assert room.received == tab.accepted[: len(room.received)], "S1: up is no prefix"
        assert tab.received == room.accepted[: len(tab.received)], "S1: down is no prefix"
        assert list(map(type, room.received)) == list(map(type, tab.accepted[: len(room.received)]))
        assert len(room.ends) <= 1, "S7: on_close twice"
        assert room.begun <= 1
        assert tab.channel is not None
        info = tab.channel.close_info
        if tab.failed is not None:  # a successor that found its session over; its predecessor was told nothing
            assert self.plan.early
            return
        assert info is not None, "nobody told the client"
        if not room.begun:  # lost between its creation and its first attach: no handler to be told
            assert self.plan.early
            assert not (info.delivered and tab.accepted), "S2: a clean end, and nobody was there"
            return
        assert len(room.ends) == 1, "nobody told the server"
        server = room.channel.close_info
        if info.delivered:  # into the inbox: a handler that raises leaves what is there, and is told how much
            assert len(room.received) + server.unread == len(tab.accepted), "S2: a clean end, and something is missing"
            assert self.plan.end == "raise" or not server.unread
        if server.delivered:
            assert tab.received == room.accepted, "S2: a clean end, and something is missing"
        if not self.plan.early:
            self._judge_whole()

    def _judge_whole(self) -> None:
        """Nothing ended before the faults did: everything arrived, both are told so, and by whom."""
        room, tab, end = self.room, self.tab, self.plan.end
        assert tab.channel is not None
        info = tab.channel.close_info
        assert info is not None
        ups = [step.payload for step in self.plan.steps if step.what == "up"]
        assert (room.received, tab.received) == (ups, self.down), "S1"
        assert room.accepted == self.down
        assert info.delivered
        assert room.channel.close_info.delivered
        wanted = {"client": (4000, "local"), "server": (4001, "peer"), "raise": (1011, "peer")}
        assert (info.code, info.by) == wanted[end], "S2: the end told is not the end"
        assert room.most <= LASTING.window_bytes + 1 or room.most >= 1 << 60, "S5: more than a window is kept"


@pytest.mark.parametrize("pump", CARRIED)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=FEW)
@given(plan=plans(), randomness=st.random_module())
def test_the_client(backend: Backend, pump: Pump, plan: Plan, randomness: Any) -> None:
    """S1, S2, S5, S7: within the grace all arrives in order; where an end came first, what is told is true."""
    course = Course(plan)
    with quietly():
        clock.run(course.play, pump, backend=backend, max_ticks=300_000)
    course.judge()


# -- two tabs ----------------------------------------------------------------------------------------------------------


class Twins:
    """A tab is duplicated: two successors of one saved state, each of which goes on."""

    def __init__(self, plan: Plan, order: Sequence[int]) -> None:
        self.plan = plan
        self.order = order  # the instance of each tab, by size
        self.room = Room(LASTING)
        self.first = Tab()
        self.tabs: list[Tab] = []

    async def play(self, pump: Pump) -> None:
        plan = self.plan
        half = len(plan.steps) // 2
        async with self.room.open(pump, plan.network) as box:
            async with connect(URL, transport=plan.transport, dial=box.dial) as channel:
                box.fates = list(plan.fates)
                self.first.channel = channel
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self.first.say, channel)
                    tasks.start_soon(self.first.hear, channel)
                    await self._steps(plan.steps[:half], [self.first], box)
                    tasks.cancel_scope.cancel()
                saved = self.first.save()
            self.tabs = [
                Tab(list(self.first.waiting), list(self.first.accepted), list(self.first.received)) for _ in range(2)
            ]
            async with anyio.create_task_group() as tasks:
                for tab, place in zip(self.tabs, self.order, strict=True):
                    older = dataclasses.replace(saved, a=(1 << 52) + place)  # so that the clock does not decide
                    tasks.start_soon(self._live, tab, older, box)
                    await anyio.sleep(0.2)
                await self._steps(plan.steps[half:], self.tabs, box)
                box.fates, box.refusing = [], False
                await anyio.sleep(HEALING)
                self.judge()
                tasks.cancel_scope.cancel()

    async def _live(self, tab: Tab, saved: Saved, box: Middlebox) -> None:
        try:
            async with connect(URL, transport=self.plan.transport, dial=box.dial, saved=saved) as channel:
                tab.channel = channel
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(tab.say, channel)
                    tasks.start_soon(tab.hear, channel)
        except ConnectFailed as failed:
            tab.failed = failed

    async def _steps(self, steps: Sequence[Step], tabs: Sequence[Tab], box: Middlebox) -> None:
        for step in steps:
            tab = tabs[step.tab % len(tabs)]
            if step.what == "up":
                tab.waiting.append(step.payload)
            elif step.what == "down":
                self.room.tell(step.payload)
            elif step.what == "move" and tab.channel is not None:
                tab.channel.switch(step.transport)
            elif step.what == "cut":
                box.cut(step.untold)
            elif step.what == "pause":
                await anyio.sleep(step.seconds)

    def judge(self) -> None:
        """The newest keeps the session, the other is told; the log is one tab's, and nobody's acknowledgement lies."""
        newest = self.tabs[self.order.index(2)]
        for tab in self.tabs:
            assert tab.received == self.room.accepted[: len(tab.received)], "S1: down is no prefix"
            if tab.channel is not None:
                acked = tab.channel.machine.sender.acked
                assert self.room.received[:acked] == tab.accepted[:acked], "acknowledged, and the other has else"
        assert "superseded" not in self.told(newest), "S4: the newest was refused"
        living = [tab for tab in self.tabs if not self.told(tab)]
        assert len(living) <= 1, "S4: both go on"
        for tab in living:
            assert self.room.received == tab.accepted, "S1: something is missing up"
            assert tab.received == self.room.accepted, "S1: something is missing down"
        logs = [tab.accepted[: len(self.room.received)] for tab in self.tabs]
        assert self.room.received in logs, "S1: the log is no tab's"
        assert self.room.ends == []

    def told(self, tab: Tab) -> str:
        """Why it may not go on, superseded, or lost since the other one's numbers were taken; nothing if it may."""
        if tab.failed is not None:
            return str(tab.failed)
        ending = None if tab.channel is None else tab.channel.machine.ending
        assert ending is None or ending.outcome in ("lost", "superseded"), ending
        return "" if ending is None else str(ending.outcome)


@pytest.mark.parametrize("pump", CARRIED)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=FEWER)
@given(plan=plans(), order=st.permutations((1, 2)), randomness=st.random_module())
def test_two_tabs(backend: Backend, pump: Pump, plan: Plan, order: list[int], randomness: Any) -> None:
    """S1, S3, S4: of two tabs with the same past one keeps the session; the other is told, and spoils nothing."""
    with quietly():
        clock.run(Twins(plan, order).play, pump, backend=backend, max_ticks=300_000)
