"""S1 over the real HTTP and WebSocket code: whatever dies, nothing is lost, repeated or reordered.

A plain client that follows the client's rules of docs/protocol.md and nothing else, behind a box that cuts requests and
answers anywhere, tells one end of it or both, loses requests, repeats them, and brings them late, beside newer ones.
When the faults stop, everything must arrive.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channelkit import SessionConfig, registry
from channelkit.endpoint.endpoint import TRANSPORTS
from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.middlebox import Fate
from channelkit.testing.plans import Network, Pump
from channelkit.testing.strategies import payloads

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))

from channelkit_records import Records, RecordSessions
from session_plain_client import Asked, PlainClient
from session_room import CARRIED, Payload, Room

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]
HEALING = 12  # attachments in which everything must have arrived
# A grace that no plan outlives: within it nothing may be lost.
CONFIG = SessionConfig(window=6, window_bytes=5000, max_message=4000, poll_bytes=500, grace=10_000.0, rotation=25.0)


Carriers = tuple[str, ...]
BUILT_IN: Carriers = ("poll", "poll", "stream", "events", "websocket", "post", "post")
# One of another package among them, through the seam that everybody has: tests/plugins.
OTHERS: Carriers = ("records", "records", "records", "poll", "websocket", "post", "post")


@dataclass(frozen=True)
class Step:
    """What is not a request: a message of either side, time, a page's reload."""

    what: Literal["up", "down", "pause", "reload"]
    payload: Payload = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What happens, and what the network is like."""

    steps: list[Step | Asked]
    network: Network = Network()
    buffering: bool = False  # a proxy holds every answer back until it is whole, to the end of the plan


def fates() -> st.SearchStrategy[Fate]:
    """Half of all requests meet nothing."""
    cuts = st.none() | st.integers(0, 600)
    return st.just(Fate()) | st.builds(
        Fate,
        lost=st.sampled_from((False, False, False, True)),
        cut=cuts,
        cut_up=st.none() | st.none() | st.integers(0, 300),
        untold=st.sampled_from(("", "", "client", "server")),
        copy=st.sampled_from(("", "", "before", "beside", "after", "after")),
        late=st.sampled_from((0.0, 1.0, 5.0)),
        pace=st.sampled_from((0.0, 0.0, 0.0, 0.2)),
    )


def plans(kinds: Carriers) -> st.SearchStrategy[Plan]:
    """More messages than anything else."""
    says = st.builds(Step, st.sampled_from(("up", "down")), payloads())
    requests = st.builds(Asked, st.sampled_from(kinds), fates(), st.sampled_from((0.0, 0.5, 3.0)))
    others = st.builds(Step, st.sampled_from(("pause", "reload")), seconds=st.sampled_from((0.1, 4.0, 12.0)))
    networks = st.builds(
        Network,
        capacity=st.sampled_from((65536, 4096)),
        latency=st.sampled_from((0.0, 0.0, 0.05)),
        chunk=st.sampled_from((None, None, 1, 7)),
    )
    step = st.one_of(says, says, requests, requests, others)
    steps = st.lists(step, max_size=20) | st.lists(step, min_size=10, max_size=30)  # short to read, and long to find
    return st.builds(Plan, steps, networks, st.sampled_from((False, False, False, True)))


async def play(plan: Plan, pump: Pump) -> tuple[Room, PlainClient, list[Payload], list[Payload]]:
    room = Room(CONFIG, (*TRANSPORTS, "records"))
    up: list[Payload] = []
    down: list[Payload] = []
    async with room.open(pump, plan.network) as box:
        client = PlainClient(box, CONFIG)
        client.readers["records"] = Records
        await client.create()
        box.buffering = plan.buffering
        for step in plan.steps:
            if isinstance(step, Asked):
                await client.ask(step)
            elif step.what == "up":
                up.append(step.payload)
                client.waiting.append(step.payload)
            elif step.what == "down":
                down.append(step.payload)
                room.tell(step.payload)
            elif step.what == "pause":
                await anyio.sleep(step.seconds)
            else:
                client.a += 1  # it keeps its state
        await heal(client, room, up, down)
        await anyio.sleep(1)
    return room, client, up, down


async def heal(client: PlainClient, room: Room, up: list[Payload], down: list[Payload]) -> None:
    """No faults any more."""
    rounds = 0
    while room.received != up or client.received != down or not client.idle:
        assert rounds < HEALING + (len(up) + len(down)) // 2, (
            f"S1: up {room.received!r:.300} of {up!r:.300}, down {client.received!r:.300} of {down!r:.300}"
        )
        rounds += 1
        await anyio.sleep(1.1)  # below the rate at which attaches are refused
        await client.ask(Asked("poll"))
        await client.ask(Asked("post"))


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    """As installed: its entry point's class is registered, if it was not found by itself."""
    if all(one.name != "records" for one in registry.session_transports()):
        registry.register(RecordSessions())
    yield
    registry.unregister("records")


def check(backend: Backend, pump: Pump, plan: Plan) -> None:
    room, client, up, down = clock.run(play, plan, pump, backend=backend, max_ticks=300_000)
    assert room.received == up
    assert room.accepted == client.received == down
    assert [type(one) for one in room.received] == [type(one) for one in up]
    assert room.most <= CONFIG.window_bytes + 1 or room.most >= 1 << 60, "S5: more than a window is kept"
    assert len(room.ends) <= 1
    assert room.begun <= 1


@pytest.mark.parametrize("pump", CARRIED)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=CHECKS)
@given(plan=plans(BUILT_IN), randomness=st.random_module())
def test_nothing_is_lost_repeated_or_reordered(backend: Backend, pump: Pump, plan: Plan, randomness: Any) -> None:
    """S1, S3, S5, S7: what both sides said is what both sides heard, whatever happened to the requests between."""
    check(backend, pump, plan)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=CHECKS, max_examples=max(1, settings().max_examples // 3))
@given(plan=plans(BUILT_IN), randomness=st.random_module())
def test_nothing_is_lost_over_tls(backend: Backend, plan: Plan, randomness: Any) -> None:
    """The same over TLS, with a third of the examples: sessions stand two layers above it."""
    check(backend, "tls", plan)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=CHECKS, max_examples=max(1, settings().max_examples // 3))
@given(plan=plans(OTHERS), randomness=st.random_module())
def test_nothing_is_lost_over_another_packages_carrier(backend: Backend, plan: Plan, randomness: Any) -> None:
    """The same with a carrier that came through the public seam among the others."""
    check(backend, "stream", plan)
