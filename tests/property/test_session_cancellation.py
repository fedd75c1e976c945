"""G18 for sessions: a small scene is played again and again, and one task of it is cancelled one turn later each time.

By turns of the loop, not by time: so every await of the scene is met.  By a cancel scope, and natively where the
backend knows that (asyncio's Task.cancel).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest

from channelkit import Endpoint, SessionConfig
from channelkit.client import connect
from channelkit.client.channel import KINDS
from channelkit.config import Config
from channelkit.testing import clock
from channelkit.testing.clock import Backend
from channelkit.testing.middlebox import open_middlebox
from channelkit.testing.plans import Network, serving

sys.path.insert(0, str(Path(__file__).parent))

from session_room import quietly

MESSAGES = ["one", "two", "three", "four", "five"]
# A window of two, so that senders wait; acknowledged at once, so that no time has to pass.
CONFIG = SessionConfig(window=2, grace=60.0)
MOST_TURNS = 500
Whom = Literal["server sender", "handler", "client sender"]
WAYS: list[tuple[Backend, bool]] = [("asyncio", False), ("asyncio", True), ("trio", False)]


class Victim:
    """A task of the scene: what it was able to say, and how it can be cancelled."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.accepted: list[str] = []
        self.begun = anyio.Event()
        self.done = anyio.Event()
        self.native: asyncio.Task[Any] | None = None

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, and absorb the cancellation that the scene itself made."""
        try:
            with self.scope:
                self.native = asyncio.current_task() if _on_asyncio() else None
                self.begun.set()
                try:
                    await work()
                except asyncio.CancelledError:
                    if self.native is None or self.scope.cancel_called or not self.native.cancelling():
                        raise
                    self.native.uncancel()
        finally:
            self.done.set()

    async def speak(self, send: Callable[[str], Awaitable[bool]]) -> None:
        for message in MESSAGES:
            if await send(message):
                self.accepted.append(message)

    async def cancel_after(self, turns: int, *, native: bool) -> bool:
        """Cancel it `turns` turns after it began; False if it was through before."""
        await self.begun.wait()
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        if self.done.is_set():
            return False
        if native:
            assert self.native is not None
            self.native.cancel()
        else:
            self.scope.cancel()
        return True


def _on_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


@dataclass
class Scene:
    """Both sides say five messages; then both are asked for one more."""

    transport: str
    whom: Whom
    up: Victim = field(default_factory=Victim)
    down: Victim = field(default_factory=Victim)
    handler: Victim = field(default_factory=Victim)
    received: list[Any] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    channel: Any = None
    client: Any = None

    async def handle(self, channel: Any) -> None:
        self.channel = channel
        channel.on_close(lambda status: self.ends.append(str(status)))
        await self.handler.run(lambda: self._serve(channel))

    async def _serve(self, channel: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.down.run, lambda: self.down.speak(channel.send))
            async for message in channel:
                self.received.append(message)
            tasks.cancel_scope.cancel()

    async def play(self, turns: int, native: bool) -> bool:
        """True if somebody was cancelled."""
        victim = {"server sender": self.down, "handler": self.handler, "client sender": self.up}[self.whom]
        async with (
            serving(Endpoint(self.handle, session=CONFIG), Config(server_header=None), "stream") as server,
            open_middlebox(lambda: server.connect(Network())) as box,
            connect("http://test", transport=self.transport, dial=box.dial) as self.client,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self.up.run, lambda: self.up.speak(self.client.send))
            tasks.start_soon(self._listen)
            cancelled = await victim.cancel_after(turns, native=native)
            await anyio.sleep(20)
            if self.whom != "handler":
                await self._once_more()
            self.judge(cancelled)
            tasks.cancel_scope.cancel()
        assert len(self.ends) == 1
        return cancelled

    async def _listen(self) -> None:
        async for message in self.client:
            self.heard.append(message)

    async def _once_more(self) -> None:
        """The channel is as usable as before."""
        with anyio.fail_after(20):
            assert await self.channel.send("more")
            assert await self.client.send("more")
            assert await self.channel.flush()
            assert await self.client.flush()
        await anyio.sleep(1)
        self.down.accepted.append("more")
        self.up.accepted.append("more")

    def judge(self, cancelled: bool) -> None:
        if self.whom == "handler" and cancelled:
            # It is over for both, and told; what was accepted arrived, and nothing else.
            assert self.client.close_info is not None
            assert self.channel.close_info is not None
            assert self.received == self.up.accepted[: len(self.received)]
            assert self.heard == self.down.accepted[: len(self.heard)]
            assert not self.channel.close_info.delivered or self.heard == self.down.accepted
            return
        assert self.heard == self.down.accepted, "accepted is not what arrived"
        assert self.received == self.up.accepted, "accepted is not what arrived"
        if not cancelled and self.whom != "handler":
            assert self.heard == self.received == [*MESSAGES, "more"]


async def perform(transport: str, whom: Whom, turns: int, native: bool) -> bool:
    return await Scene(transport, whom).play(turns, native)


@pytest.mark.parametrize("whom", ["server sender", "handler", "client sender"])
@pytest.mark.parametrize("transport", KINDS)
@pytest.mark.parametrize(("backend", "native"), WAYS)
def test_cancelled_at_every_turn(backend: Backend, native: bool, transport: str, whom: Whom) -> None:
    """G18: whatever await a cancellation meets, accepted is exactly what arrives, and the channel is usable or over."""
    turns = 0
    with quietly():
        while clock.run(perform, transport, whom, turns, native, backend=backend, max_ticks=50_000):
            turns += 1
            if whom == "handler" and turns > 40:
                break  # it waits for messages, once all were said
            assert turns < MOST_TURNS
    assert turns > 5, "nothing was there to be cancelled"
