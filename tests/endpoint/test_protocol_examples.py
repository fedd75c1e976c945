"""The console of docs/protocol.md does what it says."""

from __future__ import annotations

from typing import Literal

import pytest

from channelkit import Channel, Endpoint, run_server
from tests import console


async def echo(channel: Channel) -> None:
    async for message in channel:
        await channel.send(message)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_console(backend: Literal["asyncio", "trio"]) -> None:
    """Every command prints what the page says."""
    server = run_server(Endpoint(echo), port=0, backend=backend)
    try:
        console.check("protocol.md", server.port)
    finally:
        server.stop(timeout=0.1)
