"""A box between clients and a server: what networks, proxies and dying machines do to whole connections.

`network` breaks one stream; this joins two of them and knows both sides, so it can tell one end of a break and not the
other, say a request again on a connection of its own, or hold an answer back as a buffering proxy does.  The server's
side is any `Hangable`, so the same faults happen in memory and on real sockets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import anyio
import h11
from anyio.abc import TaskGroup

from channelkit.testing.network import MemoryStream, pair
from channelkit.testing.peers import Hangable

#: A request is whole when nothing more of it came for so many virtual seconds.
QUIET = 0.01
#: How long the answer to a copy is read, before whoever made the copy loses interest.
INTEREST = 0.2
#: What a slow reader takes at once.
MORSEL = 64
STATUS = len("HTTP/1.1 101")
BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one connection.

    `copy` is when everything the client said is said once more, to nobody's use: before it arrives itself (a proxy that
    tried, and tries again), beside it, or `late` seconds after the connection's end (past whatever is newer by then).
    """

    lost: bool = False  # what the client says never arrives, and nobody is told
    cut: int | None = None  # broken when the client was given so many bytes
    cut_up: int | None = None  # broken when the server was given so many bytes
    untold: Literal["", "client", "server"] = ""  # who does not hear of the end: half-open
    copy: Literal["", "before", "beside", "after"] = ""
    late: float = 1.0
    pace: float = 0.0  # seconds for each MORSEL of the answer


HEALTHY = Fate()


class Middlebox:
    """Made by `open_middlebox`.  `fates` are used up in turn, one a connection; then all is well."""

    def __init__(self, upstream: Callable[[], Hangable], tasks: TaskGroup) -> None:
        self.upstream = upstream
        self.tasks = tasks
        self.fates: list[Fate] = []
        self.buffering = False  # every answer is held back until it is whole
        self.refusing = False  # nobody gets a connection
        self.passages: list[_Passage] = []

    async def dial(self) -> MemoryStream:
        """The client's end of a new connection."""
        if self.refusing:
            raise ConnectionRefusedError(111, "Connection refused")
        return self.connect()

    def connect(self, fate: Fate | None = None) -> MemoryStream:
        """The same at once, with a fate of its own if one is given."""
        if fate is None:
            fate = self.fates.pop(0) if self.fates else HEALTHY
        ours, theirs = pair()
        passage = _Passage(self, ours, fate)
        self.passages.append(passage)
        self.tasks.start_soon(passage.run)
        return theirs

    def cut(self, untold: Literal["", "client", "server"] = "") -> None:
        """Break every connection there is."""
        for passage in self.passages:
            passage.sever(untold)

    async def say(self, data: bytes, after: float = 0.0) -> None:
        """A copy of a request; its answer is read for a while, and goes to nobody."""
        await anyio.sleep(after)
        stream = self.upstream()
        try:
            with anyio.move_on_after(INTEREST):
                await stream.send(data)
                while True:
                    await stream.receive()
        except BROKEN:
            pass
        finally:
            stream.reset()


class _Passage:
    """One connection through the box."""

    def __init__(self, box: Middlebox, client: MemoryStream, fate: Fate) -> None:
        self._box = box
        self._client = client
        self._server = box.upstream()
        self._fate = fate
        self._said = b""
        self._given_up = 0  # bytes given to the server
        self._given_down = 0
        self._hold = _Hold() if box.buffering else None
        self._over = anyio.Event()
        self._told: Hangable | None = None  # the end that is told in order that the other one has ended

    async def run(self) -> None:
        """Move bytes until either end is gone, and tell the other, or not."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._up)
                tasks.start_soon(self._down)
                await self._over.wait()
                tasks.cancel_scope.cancel()
            if self._told is not None:
                await self._told.aclose()  # what is under way to it still arrives
            if self._fate.copy == "after":
                self._box.tasks.start_soon(self._box.say, self._said, self._fate.late)
            await anyio.sleep_forever()  # an end that is told nothing stays as it is
        finally:
            self._client.reset()
            self._server.reset()

    def sever(self, untold: str) -> None:
        """Break it: both ends are told, or one is not."""
        if self._over.is_set():
            return
        self._over.set()
        if untold != "client":
            self._client.reset()
        if untold != "server":
            self._server.reset()

    async def _up(self) -> None:
        first = True
        try:
            while True:
                data = await self._client.receive()
                if first and self._fate.copy in ("before", "beside"):
                    data += await self._rest()
                    if self._fate.copy == "before":
                        await self._box.say(data)
                    else:
                        self._box.tasks.start_soon(self._box.say, data)
                first = False
                self._said += data
                if not self._fate.lost:
                    await self._give_up(data)
        except BROKEN:
            self._ended("server", self._server)

    async def _rest(self) -> bytes:
        """What else belongs to a request that has begun."""
        data = b""
        while True:
            with anyio.move_on_after(QUIET) as scope:
                data += await self._client.receive()
            if scope.cancelled_caught:
                return data

    async def _give_up(self, data: bytes) -> None:
        left = len(data) if self._fate.cut_up is None else self._fate.cut_up - self._given_up
        await self._server.send(data[:left])
        self._given_up += len(data[:left])
        if self._fate.cut_up is not None and self._given_up >= self._fate.cut_up:
            self.sever(self._fate.untold)

    async def _down(self) -> None:
        slow = self._fate.pace > 0
        try:
            while True:
                data = await self._server.receive(MORSEL) if slow else await self._server.receive()
                if self._hold is not None:
                    data = self._hold.feed(data)
                await self._give_down(data)
                await anyio.sleep(self._fate.pace)
        except BROKEN:
            self._ended("client", self._client)

    async def _give_down(self, data: bytes) -> None:
        left = len(data) if self._fate.cut is None else self._fate.cut - self._given_down
        if data:
            await self._client.send(data[:left])
        self._given_down += len(data[:left])
        if self._fate.cut is not None and self._given_down >= self._fate.cut:
            self.sever(self._fate.untold)

    def _ended(self, name: str, other: Hangable) -> None:
        """One end has ended in order, and the other is to hear of it, or not."""
        if not self._over.is_set():
            self._over.set()
            self._told = other if self._fate.untold != name else None


class _Hold:
    """The answers of a server, each held back until it is whole; a 101 and what follows it pass."""

    def __init__(self) -> None:
        self._held = b""
        self._parsed = 0  # of it
        self._passing = False
        self._parser = self._fresh()

    @staticmethod
    def _fresh() -> h11.Connection:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="GET", target="/", headers=[("Host", "box")]))
        parser.send(h11.EndOfMessage())
        return parser

    def feed(self, data: bytes) -> bytes:
        """What may pass now."""
        if self._passing:
            return data
        self._held += data
        if self._held.startswith(b"HTTP/1.1 101"):
            self._passing = True
            return self._all()
        if len(self._held) < STATUS:
            return b""
        self._parser.receive_data(self._held[self._parsed :])
        self._parsed = len(self._held)
        while True:
            event = self._parser.next_event()
            if isinstance(event, h11.EndOfMessage):
                self._parser = self._fresh()  # requests are answered one at a time here: nothing is behind it
                return self._all()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return b""

    def _all(self) -> bytes:
        held, self._held, self._parsed = self._held, b"", 0
        return held


@asynccontextmanager
async def open_middlebox(upstream: Callable[[], Hangable]) -> AsyncIterator[Middlebox]:
    """A box before `upstream`, which gives a new connection to the server; on leaving everything is cut."""
    async with anyio.create_task_group() as tasks:
        yield Middlebox(upstream, tasks)
        tasks.cancel_scope.cancel()
