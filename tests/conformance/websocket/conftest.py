"""The fixtures of the conformance tests: one echo server for each loop and module; and those of tests/server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3]))  # behind all else: channelkit stays the one under test

from tests.conformance.websocket.rows import Echo
from tests.server.conftest import backend, host

__all__ = ["backend", "host"]


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def echo(request: pytest.FixtureRequest) -> Iterator[Echo]:
    """One server for all rows of a module: what one connection did must not touch the next."""
    server = Echo(request.param)
    yield server
    server.close()
