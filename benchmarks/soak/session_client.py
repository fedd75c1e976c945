"""The clients of the soaked sessions: one process with many of them, that prints its figures every second.

python -m benchmarks.soak.session_client BACKEND PORT SEED MESSAGES SESSIONS EACH PAUSE
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter

import anyio

from benchmarks.process import raise_descriptor_limit
from benchmarks.soak.talk import VERDICT, Wrong, expect, hear, say
from channelkit.client import ClientChannel, ConnectFailed, connect
from channelkit.errors import ChannelClosed

TRANSPORTS = ("websocket", "events", "http_stream", "long_poll")
SWITCH = 6.0  # seconds from one switch to the next, at most


class Clients:
    """`sessions` at once, each of `each` messages each way, until `messages` were said."""

    def __init__(self, port: int, seed: int, messages: int, each: int, pause: float) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self._url = f"http://127.0.0.1:{port}/"
        self._rng = random.Random(seed)
        self._next = seed * 1_000_000
        self._left = messages
        self._each = each
        self._pause = pause

    async def run(self, sessions: int) -> None:
        """All of them."""
        async with anyio.create_task_group() as reporting:
            reporting.start_soon(self._report)
            async with anyio.create_task_group() as tasks:
                for _ in range(sessions):
                    tasks.start_soon(self._one_after_another)
            reporting.cancel_scope.cancel()
        self._print()

    def _print(self) -> None:
        print(json.dumps({"counts": self.counts, "errors": self.errors}), flush=True)

    async def _report(self) -> None:
        while True:
            self._print()
            await anyio.sleep(1)

    async def _one_after_another(self) -> None:
        while self._left > 0:
            count = min(self._each, self._left)
            self._left -= count
            self._next += 1
            await self._session(self._next, count)

    async def _session(self, seed: int, count: int) -> None:
        """A session with a seed of its own; one that cannot be had at all is asked for again."""
        while True:
            try:
                async with connect(self._url, transport=self._any(), on_change=self._changed) as channel:
                    await self._judge(channel, seed, count)
            except ConnectFailed:
                self.counts["not connected"] += 1
                await anyio.sleep(0.1)
            else:
                info = channel.close_info
                if info is None or info.delivered is not True:
                    self.errors.append(f"session {seed}: not closed in order but {info}")
                return

    async def _judge(self, channel: ClientChannel, seed: int, count: int) -> None:
        try:
            await self._talk(channel, seed, count)
        except* (Wrong, ChannelClosed) as group:
            self.errors.append(f"session {seed}: {group.exceptions!r}, {channel.close_info}")

    async def _talk(self, channel: ClientChannel, seed: int, count: int) -> None:
        await channel.send(json.dumps({"seed": seed, "count": count, "pause": self._pause}))
        async with anyio.create_task_group() as switching:
            switching.start_soon(self._switch, channel)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(say, channel, seed, "up", count, self._pause)
                tasks.start_soon(hear, channel, seed, "down", count, self.counts)
            expect(await channel.receive(), VERDICT)
            switching.cancel_scope.cancel()
        self.counts["sessions"] += 1

    def _any(self) -> str:
        return self._rng.choice(TRANSPORTS)

    async def _switch(self, channel: ClientChannel) -> None:
        while True:
            await anyio.sleep(self._rng.uniform(0, SWITCH))
            channel.switch(self._any())
            self.counts["switches"] += 1

    def _changed(self, text: str) -> None:
        if not text.startswith("closed"):
            self.counts[text] += 1


if __name__ == "__main__":
    raise_descriptor_limit()
    backend, port, seed, messages, sessions, each, pause = sys.argv[1:]
    clients = Clients(int(port), int(seed), int(messages), int(each), float(pause))
    anyio.run(clients.run, int(sessions), backend=backend)
