"""The stream pump over anyio's own TLS: for nothing, and with the same answers."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio.streams.tls import TLSStream

from channelkit import Request
from channelkit._loop import open_loop
from channelkit.config import Config
from channelkit.server.core import ServerCore
from channelkit.server.pump.stream import serve_stream
from channelkit.testing.network import pair
from channelkit.testing.tls import client_context, server_context


@pytest.mark.anyio
async def test_requests_over_a_tls_stream() -> None:
    """They know that it is https, and by what; the end has its close_notify."""
    seen: list[Any] = []

    async def handler(request: Request) -> str:
        seen.extend((request.scheme, request.tls and request.tls.version))
        return "hello"

    ours, theirs = pair()
    async with open_loop() as loop, anyio.create_task_group() as tasks:
        core = ServerCore(handler, Config(), loop, tasks)

        async def serve() -> None:
            stream = await TLSStream.wrap(ours, server_side=True, ssl_context=server_context())
            await serve_stream(loop, core.config, stream, core.connect)

        tasks.start_soon(serve)
        with anyio.fail_after(10):
            client = await TLSStream.wrap(theirs, hostname="test", ssl_context=client_context())
            await client.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            received = b""
            try:
                while True:
                    received += await client.receive()
            except anyio.EndOfStream:
                pass  # in order: otherwise anyio would say BrokenResourceError
            await client.aclose()
        await core.cut()
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert received.endswith(b"hello")
    assert seen == ["https", "TLSv1.3"]
