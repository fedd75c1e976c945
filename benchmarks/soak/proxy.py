"""A TCP proxy that breaks things: prints its port, then what it did, once its standard input ends.

    python -m benchmarks.soak.proxy PORT SEED

Each connection gets a fate when it is accepted: refused before any byte, cut inside or behind what it carries (by FIN
or RST, on one side first or on both), stalled half-open for a while, delayed, or left alone for some seconds and then
cut.  None lasts longer than a session's grace, so none excuses a loss.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from collections import Counter
from dataclasses import dataclass

from benchmarks.process import raise_descriptor_limit

RST = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds
STALL = 8.0  # seconds at most
LIFE = 4.0  # seconds a connection is left alone, on average
FATES = {"refuse": 4, "cut": 40, "stall": 6, "delay": 10, "live": 40}  # of a hundred connections
REACH = (300, 3000, 100_000)  # bytes after which a cut comes: inside heads, among the first frames, late
DELAY = 0.02  # seconds at most, for each piece

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


@dataclass
class Fate:
    """What is to become of one connection."""

    kind: str
    after: int  # bytes, of one direction
    downlink: bool  # which
    life: float


def draw(rng: random.Random) -> Fate:
    """The fate of the next connection."""
    kind = rng.choices(list(FATES), list(FATES.values()))[0]
    return Fate(kind, rng.randrange(rng.choice(REACH)), rng.random() < 0.5, rng.expovariate(1 / LIFE))


class Proxy:
    """All connections, and what happened to them."""

    def __init__(self, port: int, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._port = port
        self._rng = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    async def accepted(self, client: Reader, outward: Writer) -> None:
        """One connection from its beginning to its end."""
        self.counts["connections"] += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            fate = draw(self._rng)
            if fate.kind == "refuse":
                self._cut("refused", outward)
                return
            server, inward = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                await self._between(fate, (client, inward), (server, outward))
            finally:
                inward.transport.abort()
        except OSError:
            pass
        finally:
            self._tasks.discard(task)
            outward.transport.abort()

    async def _between(self, fate: Fate, up: tuple[Reader, Writer], down: tuple[Reader, Writer]) -> None:
        ways = [
            asyncio.create_task(self._way(fate, *up, counts=not fate.downlink)),
            asyncio.create_task(self._way(fate, *down, counts=fate.downlink)),
        ]
        try:
            life = None if fate.kind == "delay" and fate.life > LIFE else fate.life
            done, _ = await asyncio.wait(ways, timeout=life, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self._cut("cut in time", up[1], down[1])
            elif any(way.exception() is None and way.result() for way in done):
                self._cut("cut in bytes", up[1], down[1])
            else:
                await asyncio.wait(ways, timeout=0.5)  # an end of one direction is passed on, the other may finish
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _way(self, fate: Fate, reader: Reader, writer: Writer, *, counts: bool) -> bool:
        """Pass on one direction; True if it was cut inside."""
        left = fate.after if counts else sys.maxsize
        while data := await reader.read(65536):
            if left <= len(data) and fate.kind == "cut":
                writer.write(data[:left])
                with contextlib.suppress(OSError):
                    await writer.drain()
                return True
            if left <= len(data) and fate.kind == "stall":
                self.counts["stalls"] += 1
                left = sys.maxsize
                await asyncio.sleep(self._rng.uniform(0.1, STALL))
            left -= len(data)
            if fate.kind == "delay":
                self.counts["delayed pieces"] += 1
                await asyncio.sleep(self._rng.uniform(0, DELAY))
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
        return False

    def _cut(self, what: str, *writers: Writer) -> None:
        """End it on one side at least, by RST or by FIN; the other side hears of it when this connection is done."""
        hard = self._rng.random() < 0.5
        self.counts[f"{what}, {'RST' if hard else 'FIN'}"] += 1
        for writer in writers:
            sock = writer.get_extra_info("socket")
            if hard and sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
                writer.transport.abort()
            else:
                writer.close()
            if self._rng.random() < 0.3:
                break  # one side only

    async def close(self) -> None:
        """End what is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def main(port: int, seed: int) -> None:
    """Until standard input ends."""
    proxy = Proxy(port, seed)
    server = await asyncio.start_server(proxy.accepted, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    await proxy.close()
    print(json.dumps(proxy.counts), flush=True)


if __name__ == "__main__":
    raise_descriptor_limit()
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
