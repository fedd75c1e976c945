"""What the HTTP conformance tests share: the raw peers of tests/server, and one server for a whole module."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from channelkit import Request, Response

sys.path.append(str(Path(__file__).parents[3]))  # behind all else: channelkit stays the one under test

from tests.server.conftest import Host, Peer, backend, host

__all__ = ["Host", "Peer", "backend", "host"]  # the last two are fixtures


async def mirror(request: Request) -> Response:
    """Answers with what it was asked; `/unread` leaves the body alone."""
    body = b"" if request.path == "/unread" else await request.body()
    seen: dict[str, Any] = {
        "method": request.method,
        "path": request.raw_path,
        "query": request.query_string,
        "version": request.http_version,
        "headers": request.raw_headers,
        "body": body.decode("latin-1"),
    }
    return Response(200, {"Content-Type": "application/json"}, json.dumps(seen))


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def mirroring(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A server, one for the module, whose answers say what its handler saw."""
    host = Host(request.param).serve(mirror)
    yield host
    host.close()
