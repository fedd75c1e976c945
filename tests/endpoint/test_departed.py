"""Requests whose client goes away while they are served."""

from __future__ import annotations

import anyio
import pytest

from channelkit import Channel, Request
from channelkit.testing.clock import BACKENDS, Backend
from tests.endpoint.site import HOSTS, Site, endpoint_of, run

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def test_who_left_while_authenticate_was_asked_is_not_attached(backend: Backend) -> None:
    """Nor does it end the attachment that there is, nor make a session: nobody would use either.

    On our own server: an ASGI host tells too late.
    """

    async def authenticate(request: Request) -> None:
        if request.query_params.get("slow"):
            await anyio.sleep(5)

    async def talk(site: Site) -> None:
        await site.create()
        stream = await site.open("/stream?ack=0")
        assert b'["h",' in await stream.receive()
        for way in ("/poll?slow=1&wait=20", "/stream?slow=1", "/events?slow=1", "/ws?slow=1"):
            late = await site.open(way)
            await anyio.sleep(1)
            late.reset()
            await anyio.sleep(5)
        late = site.host.connect()
        await late.send(b"POST /room/ck?slow=1 HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
        await anyio.sleep(1)
        late.reset()
        await anyio.sleep(5)
        assert endpoint.session_count == 1
        channel = endpoint.session(site.sid)
        assert channel is not None
        assert channel.attached
        channel.send_nowait("still here")
        received = b""
        while b"still here" not in received:
            received += await stream.receive()

    endpoint = endpoint_of(authenticate=authenticate)
    run(endpoint, "own", backend, talk)


@pytest.mark.parametrize("where", HOSTS)
@pytest.mark.parametrize("leave", ["reset", "half_close"])
@pytest.mark.parametrize(("way", "gap"), [("/poll?wait=25", 5.0), ("/stream?ack=0", 0.0), ("/events", 0.0)])
def test_who_leaves_is_detached(way: str, gap: float, leave: str, where: str, backend: Backend) -> None:
    """At once, or after the pause that two polls may have between them; a held poll is not waited for."""
    told: list[float] = []

    async def handler(channel: Channel) -> None:
        channel.on_detach(lambda: told.append(anyio.current_time()))
        await channel.wait_closed()

    async def talk(site: Site) -> None:
        await site.create()
        await site.poll()
        connection = await site.open(way)
        await anyio.sleep(1)
        left = anyio.current_time()
        getattr(connection, leave)()
        await anyio.sleep(10)
        assert told == [pytest.approx(left + gap, abs=0.1)]
        await anyio.sleep(left + 30.1 - anyio.current_time())
        assert endpoint.session_count == 0

    endpoint = endpoint_of(handler)
    run(endpoint, where, backend, talk)
