"""Handlers that fork: what the new process has of the server, and what a signal is to it."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from channelkit import Config, Request, Response
from channelkit.cli.last_resort import LastResort
from channelkit.server.signals import by_default

if TYPE_CHECKING:
    from tests.server.conftest import Host


@pytest.fixture
def children() -> Iterator[list[int]]:
    """Processes that are killed in the end."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_it_holds_neither_port_nor_connections(host: Host, children: list[int]) -> None:
    """While it lives, a stopped server's port is free, and what was cut is over for its client."""

    forked = anyio.Event()

    async def body() -> AsyncIterator[str]:
        yield "begun"
        await forked.wait()
        raise RuntimeError("it goes no further")

    async def handler(request: Request) -> Any:
        if request.path != "/fork":
            return Response(200, {}, body())
        pid = os.fork()
        if not pid:
            while True:
                signal.pause()
        children.append(pid)
        forked.set()
        return "forked"

    response = host.serve(handler).connect()
    response.request("GET", "/")
    assert response.head().status == 200
    assert host.connect().ask("GET", "/fork").body == b"forked"
    response.cut_off()
    port = host.port
    assert host.server is not None
    host.server.stop(timeout=0)
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_it_is_none_to_the_server(number: signal.Signals) -> None:
    """It does what it does by default; that a process was told to stop is not counted in another one."""
    last_resort = LastResort(Config(), lifespan=False)
    told: list[int] = []
    hear = last_resort._behind(lambda number, frame: told.append(number))
    pid = os.fork()
    if not pid:
        hear(number, None)
        try:
            by_default(number)
        except KeyboardInterrupt:
            os._exit(99)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (99 if number == signal.SIGINT else -number)
    assert select.select([last_resort._heard], [], [], 0)[0] == []
    hear(number, None)
    assert select.select([last_resort._heard], [], [], 0)[0] == [last_resort._heard]
    assert told == [number]
