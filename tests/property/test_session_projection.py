"""S9: a conversation looks the same over every transport, and over any walk among them.

A conversation is played by `channelkit.client` over each transport alone, and once wandering among them.  What the
handler saw and what the client saw after each step, each in its order, must not differ in anything.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from anyio.abc import TaskGroup
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channelkit import SessionConfig
from channelkit.client import ClientChannel, connect
from channelkit.client.channel import KINDS
from channelkit.status import CloseInfo
from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.middlebox import Middlebox
from channelkit.testing.plans import Pump
from channelkit.testing.strategies import payloads

sys.path.insert(0, str(Path(__file__).parent))

from session_room import CARRIED, Closing, Payload, Raising, Room, quietly

TRANSPORTS = tuple(KINDS)
CONFIG = SessionConfig(window=4, window_bytes=5000, max_message=4000, grace=60.0)
REST = 45.0  # above every back-off, wait and delay: after it nothing is under way
FEW = max(10, settings().max_examples // 5)  # each is played five times
SHORT, LONG = 7.0, 200.0  # outages: above `poll_gap`, and above the grace


@dataclass(frozen=True)
class Step:
    """Both sides speak, perhaps while nobody can be reached; then one may end it."""

    up: tuple[Payload, ...] = ()
    down: tuple[Payload, ...] = ()
    outage: float = 0.0
    end: Literal["", "client", "server", "raise"] = ""


@dataclass(frozen=True)
class Seen:
    """What both sides could see after a step."""

    received: tuple[Payload, ...]
    accepted: tuple[Payload, ...]
    moves: tuple[str, ...]
    ends: tuple[str, ...]
    server_close: Any
    client_received: tuple[Payload, ...]
    client_sends: tuple[bool, ...]
    client_close: Any
    open: tuple[bool, bool]


def conversations() -> st.SearchStrategy[list[Step]]:
    """More than a window at a time now and then; something may follow an end."""
    said = st.lists(payloads(), max_size=3).map(tuple) | st.lists(payloads(), max_size=9).map(tuple)
    outages = st.sampled_from((0.0, 0.0, 0.0, SHORT, SHORT, LONG))
    talk = st.builds(Step, said, said, outages)
    # A client that closes while it is detached attaches by WebSocket, and only POSTs over HTTP: not in an outage here.
    ends = st.builds(Step, said, said, end=st.sampled_from(("client", "server", "raise")))
    # Before a server's end in an outage it says little, or the window would keep the end back until after it.
    little = st.lists(payloads(), max_size=1).map(tuple)
    apart = st.builds(Step, said, little, outages, st.sampled_from(("server", "raise")))
    return st.lists(st.one_of(talk, talk, talk, ends, apart), min_size=1, max_size=5)


class Conversation:
    """One run: `route` gives the transport of each step."""

    def __init__(self, steps: Sequence[Step], route: Sequence[str]) -> None:
        self.steps = steps
        self.route = route
        self.room = Room(CONFIG)
        self.received: list[Payload] = []
        self.sends: list[bool] = []

    async def play(self, pump: Pump) -> list[Seen]:
        seen: list[Seen] = []
        async with (
            self.room.open(pump) as box,
            connect("http://test", transport=self.route[0], dial=box.dial) as channel,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._listen, channel)
            await anyio.sleep(REST)
            for step, transport in zip(self.steps, self.route, strict=True):
                channel.switch(transport)
                await self._step(step, channel, box, tasks)
                seen.append(self._see(channel))
            if channel.is_open:
                await channel.close()
                await anyio.sleep(REST)
                seen.append(self._see(channel))
            tasks.cancel_scope.cancel()
        return seen

    async def _step(self, step: Step, channel: ClientChannel, box: Middlebox, tasks: TaskGroup) -> None:
        if step.outage:
            box.refusing = True
            box.cut()
        tasks.start_soon(self._say, channel, step.up)
        for payload in step.down:
            self.room.tell(payload)
        await anyio.sleep(1.0 if step.outage else REST)  # what an end finds under way is a matter of luck
        if step.end == "client":
            tasks.start_soon(channel.close, 4000, "client's")
        elif step.end:
            self.room.tell(Raising() if step.end == "raise" else Closing(4001, "server's"))
        await anyio.sleep(step.outage)
        box.refusing = False
        await anyio.sleep(REST)

    async def _say(self, channel: ClientChannel, said: tuple[Payload, ...]) -> None:
        for payload in said:
            self.sends.append(await channel.send(payload))

    async def _listen(self, channel: ClientChannel) -> None:
        async for message in channel:
            self.received.append(message)

    def _see(self, channel: ClientChannel) -> Seen:
        room = self.room
        return Seen(
            tuple(room.received),
            tuple(room.accepted),
            tuple(room.moves),
            tuple(room.ends),
            _without_unread(room.channel.close_info),
            tuple(self.received),
            tuple(self.sends),
            _without_unread(channel.close_info),
            (room.channel.is_open, channel.is_open),
        )


def _without_unread(info: CloseInfo | None) -> CloseInfo | None:
    """How much of what arrived was not read yet when the end came: a matter of how it was cut into packets."""
    return None if info is None else dataclasses.replace(info, unread=0)


@pytest.mark.parametrize("pump", CARRIED)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=FEW)
@given(steps=conversations(), data=st.data(), randomness=st.random_module())
def test_the_same_projection(
    backend: Backend, pump: Pump, steps: list[Step], data: st.DataObject, randomness: Any
) -> None:
    """S9: handler and client see the same, in the same order, whatever carries the session."""
    walk = data.draw(st.lists(st.sampled_from(TRANSPORTS), min_size=len(steps), max_size=len(steps)), label="walk")
    routes = {name: [name] * len(steps) for name in TRANSPORTS} | {"walk": walk}
    with quietly():
        seen = {
            name: clock.run(Conversation(steps, route).play, pump, backend=backend, max_ticks=300_000)
            for name, route in routes.items()
        }
    for name in routes:
        assert seen[name] == seen["websocket"], f"{name} is not what a WebSocket would be"
