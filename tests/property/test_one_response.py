"""G16: whatever handlers do, pipelined requests get one response each, in order, and h11 can read every byte."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channelkit.config import Config
from channelkit.handlers import as_channel, with_channel
from channelkit.http import Request, Response
from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.peers import HttpPeer, PeerConnection
from channelkit.testing.plans import PUMPS, Network, Pump, serving

WAYS = (
    "text",
    "response",
    "nothing",
    "raise",
    "pieces",
    "held",
    "stream",
    "twice",
    "both",
    "closed",
    "second",
    "block",
)


async def handler(request: Request) -> Any:
    """Answers as the request's path asks, rightly or wrongly; every body names its request."""
    way, name = request.path.strip("/").split("/")
    if way == "text":
        return name
    if way == "response":
        return Response(200, {}, name)
    if way == "nothing":
        return None
    if way == "raise":
        raise RuntimeError(name)
    if way == "pieces":
        return Response(200, {}, iter([name[:1], name[1:]]))
    if way == "block":
        async with with_channel(request, streaming=True) as channel:
            await channel.send(name)
        return "again"
    return await with_a_channel(request, way, name)


async def with_a_channel(request: Request, way: str, name: str) -> Any:
    channel = as_channel(request, streaming=way == "stream")
    if way == "closed":
        await channel.close()
        return channel
    if way == "held":
        await anyio.sleep(1)
    await channel.send(name)
    if way == "twice":
        await channel.send("again")
    if way == "second":
        as_channel(request)
    if way == "both":
        return "again"
    if way == "stream":
        await channel.send("")
        await channel.close()
    return channel


@pytest.mark.parametrize("pump", PUMPS)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    ways=st.lists(st.sampled_from(WAYS), min_size=1, max_size=8),
    chunk=st.sampled_from((None, 1, 7)),
    randomness=st.random_module(),
)
def test_one_response_each(backend: Backend, pump: Pump, ways: list[str], chunk: int | None, randomness: Any) -> None:
    """The bytes on the wire are exactly one response a request, in the order of the requests."""
    peer = clock.run(converse, ways, chunk, pump, backend=backend, max_ticks=100_000)
    assert peer.error is None, f"G16: {peer.error}"
    assert not peer.junk, f"G16: behind the last response: {peer.junk!r}"
    for number, (way, response) in enumerate(zip(ways, peer.responses, strict=False)):
        body = bytes(response.body)
        if way in ("nothing", "raise", "closed"):
            assert response.status == {"nothing": 404, "raise": 500, "closed": 204}[way], f"G16: {way}"
        else:
            assert body == f"name{number}".encode(), f"G16: {way} was answered {body!r}"
    assert len(peer.responses) == len(ways), "G16: a request has no response"
    assert all(response.complete for response in peer.responses), "G16: a response is not whole"


async def converse(ways: list[str], chunk: int | None, pump: Pump) -> HttpPeer:
    peer = HttpPeer()
    async with serving(handler, Config(), pump) as server, anyio.create_task_group() as tasks:
        connection = PeerConnection(server.connect(Network(chunk=chunk)), peer, chunk=chunk)
        tasks.start_soon(connection.run)
        connection.say(b"".join(peer.request(f"/{way}/name{number}") for number, way in enumerate(ways)))
        await anyio.sleep(30)
        connection.hang_up()
    return peer
