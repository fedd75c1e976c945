"""The hosts run for the whole session, all started at once; each test asks one of them."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hosting import table as tables
from hosting.clients import Client
from hosting.processes import HOSTS, Host, Process, until

_numbers = itertools.count()

#: hypercorn dies of a frame for a stream that is over (KeyError in its protocol/h2.py): one test's bad luck, not all's.
FRAGILE = frozenset(host.command for host in HOSTS if host.http2)


class Site:
    """A running host, and its clients of one test."""

    def __init__(self, host: Host, processes: dict[tuple[str, ...], Process], table: tables.Table) -> None:
        self.host = host
        if host.command in FRAGILE and processes[host.command].ended:
            processes[host.command].stop()
            processes[host.command] = Process(host.command)
        self.process = processes[host.command].wait_ready()
        self._processes = processes
        self._table = table
        self._clients: list[Client] = []

    def connect(self, receive_buffer: int | None = None) -> Client:
        client = self.host.client(self.process.port, receive_buffer)
        self._clients.append(client)
        return client

    def name(self) -> str:
        """A name for a channel that no other test has."""
        return f"channel{next(_numbers)}"

    def told(self, name: str) -> dict[str, Any]:
        """What the application has recorded under a name."""
        client = self.host.client(self.process.port)
        try:
            told: dict[str, Any] = json.loads(client.get(f"/told?id={name}").body)
        finally:
            client.close()
        return told

    def end(self, name: str) -> dict[str, Any]:
        """How the channel of that name ended; there must be one end."""
        ends = until(lambda: self.told(name)["ends"], f"the end of {name}")
        assert len(ends) == 1
        end: dict[str, Any] = ends[0]
        return end

    def notes(self, name: str) -> list[Any]:
        notes: list[Any] = self.told(name)["notes"]
        return notes

    def saw(self, ability: str, verdict: str) -> None:
        """What is to stand in the table."""
        self._table.saw(self.host.name, ability, verdict)

    def start_afresh(self) -> None:
        """For a test after which a host of HTTP/2 is not to be trusted: a new process for those that follow."""
        if self.host.http2:
            self.process.stop()
            self._processes[self.host.command] = Process(self.host.command)

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture(scope="session")
def table() -> Iterator[tables.Table]:
    """The table of docs/asgi-hosts.md."""
    table = tables.Table()
    yield table
    if tables.WRITING:
        table.write()


@pytest.fixture(scope="session")
def processes() -> Iterator[dict[tuple[str, ...], Process]]:
    """All hosts, by their command: those that differ only in the client share one."""
    made = {command: Process(command) for command in dict.fromkeys(host.command for host in HOSTS)}
    yield made
    for process in made.values():
        process.stop()


@pytest.fixture(params=HOSTS, ids=[host.name.replace(" ", "-") for host in HOSTS])
def site(
    request: pytest.FixtureRequest, processes: dict[tuple[str, ...], Process], table: tables.Table
) -> Iterator[Site]:
    """One of the hosts, after the other."""
    host: Host = request.param
    site = Site(host, processes, table)
    yield site
    site.close()
