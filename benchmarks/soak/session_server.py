"""The server whose sessions are soaked: prints its port, then what it saw, once its standard input ends."""

from __future__ import annotations

import functools
import json
import sys
from collections import Counter

import anyio
import anyio.to_thread

from benchmarks.process import raise_descriptor_limit
from benchmarks.soak.talk import VERDICT, Wrong, hear, say
from channelkit import Channel, ChannelClosed, Endpoint, Server, SessionConfig, serve

#: Silence is noticed within 6 s and not within 30, streams end every 20, the window is full now and then: so that a
#: short run sees all of it.
SESSIONS = SessionConfig(window=256, ping=4.0, ping_timeout=2.0, rotation=20.0, max_sessions_per_principal=20000)

counts: Counter[str] = Counter()
errors: list[str] = []


async def converse(channel: Channel) -> None:
    """One session."""
    try:
        terms = json.loads(await channel.receive())
    except ChannelClosed:
        counts["sessions whose client never came"] += 1  # its creation's answer was cut
        return
    verdict = await judge(channel, terms["seed"], terms["count"], terms["pause"])
    await channel.send(verdict)
    if verdict != VERDICT:
        errors.append(f"{verdict}, {channel.close_info}")
        return
    counts["sessions"] += 1
    info = await channel.wait_closed()
    counts[f"ended by {info.by} with {info.code}"] += 1


async def judge(channel: Channel, seed: int, count: int, pause: float) -> str:
    """Say and hear it all; the verdict."""
    verdict = VERDICT
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(say, channel, seed, "down", count, pause)
            tasks.start_soon(hear, channel, seed, "up", count, counts)
    except* (Wrong, ChannelClosed) as group:
        verdict = f"session {seed}: {group.exceptions!r}"
    return verdict


async def until_stdin_ends(server: Server) -> None:
    """Then say what was seen, and stop."""
    await anyio.to_thread.run_sync(sys.stdin.read)
    print(json.dumps({"counts": counts, "errors": errors, "limits": server.limit_counts}), flush=True)
    server.stop_soon(1.0)


async def main() -> None:
    """Serve."""
    endpoint = Endpoint(converse, session=SESSIONS)
    async with anyio.create_task_group() as tasks:
        server: Server = await tasks.start(functools.partial(serve, endpoint, port=0, backlog=1024))
        print(server.port, flush=True)
        tasks.start_soon(until_stdin_ends, server)


if __name__ == "__main__":
    raise_descriptor_limit()
    anyio.run(main, backend=sys.argv[1])
