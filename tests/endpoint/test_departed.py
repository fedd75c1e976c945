"""Requests whose client goes away while they are served, on our own server (an ASGI host tells too late)."""

from __future__ import annotations

import anyio
import pytest

from channelkit import Request
from channelkit.testing.clock import BACKENDS, Backend
from tests.endpoint.site import Site, endpoint_of, run

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def test_who_left_while_authenticate_was_asked_is_not_attached(backend: Backend) -> None:
    """Nor does it end the attachment that there is, nor make a session: nobody would use either."""

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
