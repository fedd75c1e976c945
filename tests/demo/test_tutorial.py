"""The console of docs/tutorial.md: the demo by hand."""

from __future__ import annotations

from typing import Literal

import pytest

from channelkit import run_server
from channelkit.demo import Chat
from tests import console


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_console(backend: Literal["asyncio", "trio"]) -> None:
    """Every command prints what the page says."""
    server = run_server(Chat().handle, port=0, backend=backend)
    try:
        console.check("tutorial.md", server.port)
    finally:
        server.stop(timeout=0.1)
