"""Messages larger than what the server allows others: hello's `max` is kept, or the loss is told."""

from __future__ import annotations

import json

import anyio
import pytest
from wsproto.events import CloseConnection

from channelkit import Channel, SessionConfig
from channelkit.client import connect
from channelkit.config import MIB
from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.host import open_host
from tests.endpoint.site import Site, endpoint_of, run

everywhere = pytest.mark.parametrize("backend", BACKENDS)


async def sizes(channel: Channel) -> None:
    async for message in channel:
        await channel.send(str(len(message)))


@everywhere
def test_a_message_above_the_limit_of_other_websockets(backend: Backend) -> None:
    """Not `max_ws` counts: such a message would cut every connection that brings it, for ever."""
    size = 5 * MIB

    async def talk(site: Site) -> None:
        peer = await site.host.websocket("/room/ck/ws", subprotocols=["ck.v1"])
        await peer.send('h {"v":1}')
        assert json.loads(str(await peer.receive())[2:])["max"] == size
        await peer.send(b"m 1 " + bytes(size))
        assert f"m 1 {size}" in [await peer.receive(), await peer.receive()]
        await peer.send(b"m 2 " + bytes(size + 1))
        while not isinstance(answer := await peer.receive(), CloseConnection):
            pass
        assert answer.code == 1009

    run(endpoint_of(sizes, session=SessionConfig(max_message=size, window_bytes=2 * size)), "own", backend, talk)


@everywhere
@pytest.mark.parametrize("transport", ["http_stream", "long_poll"])
def test_a_body_that_the_server_does_not_take_is_a_told_loss(transport: str, backend: Backend) -> None:
    """413 of whoever stands before the endpoint (here: `max_body`) will come each time: no trying again for ever."""

    async def main() -> None:
        endpoint = endpoint_of(sizes, session=SessionConfig(max_message=2 * MIB, window_bytes=4 * MIB))
        async with open_host(endpoint) as host:

            async def dial() -> object:
                return host.connect()

            with anyio.fail_after(100):
                async with connect("http://test", transport=transport, dial=dial) as channel:  # type: ignore[arg-type]
                    await channel.send("small")
                    assert await channel.receive() == "5"
                    await channel.send("\0" * (2 * MIB))  # twelve MiB as JSON
                    info = await channel.wait_closed()
            assert (info.delivered, channel.left) == (False, ("\0" * (2 * MIB),))

    clock.run(main, backend=backend)


@everywhere
@pytest.mark.parametrize(("kind", "most"), [("application/x-ndjson", 6 * 1000 + 1024), ("text/plain", 1000)])
def test_a_body_that_is_announced_too_large_is_not_asked_for(kind: str, most: int, backend: Backend) -> None:
    """413 and not 100 (Continue), to the byte."""

    async def talk(site: Site) -> None:
        await site.create()
        for size, wanted in ((most, b" 100 "), (most + 1, b" 413 ")):
            stream = site.host.connect()
            head = f"POST /room/ck/{site.sid}?n=1 HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {site.secret}\r\n"
            await stream.send(f"{head}Content-Type: {kind}\r\nContent-Length: {size}\r\n".encode())
            await stream.send(b"Expect: 100-continue\r\n\r\n")
            assert wanted in (await stream.receive()).partition(b"\r\n")[0]
            await stream.aclose()

    run(endpoint_of(sizes, session=SessionConfig(max_message=1000)), "own", backend, talk)
