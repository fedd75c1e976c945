"""Ctrl-C and SIGTERM under every host, with a stream, a held answer and a WebSocket open.

Every case is a process of its own; they mostly wait, so they run side by side, and the tests look at what came out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hosting.clients import Client, Cut, Exchange, Http1, WebSocket
from hosting.processes import HOSTS, Host, Process, hypercorn, until, uvicorn

pytestmark = pytest.mark.xdist_group("asgi-hosts-shutdown")  # the hosts are started once, not once a core

if TYPE_CHECKING:
    from hosting.table import Table

AT_ONCE = 4
LONGEST = 12.0  # seconds for a host to end: more than the patience of any
SOON = 2.5  # seconds that tell "when the signal came" from "after the grace of hypercorn", which is 3

TWICE = tuple({host.command: host for host in reversed(HOSTS)}.values())  # HTTP/2 makes no difference to it

SIGNALS: dict[str, Callable[[Process], None]] = {"ctrl-c": Process.interrupt, "sigterm": Process.terminate}


@dataclass
class Outcome:
    """What came of stopping a host."""

    status: int | None
    log: str
    told: str  # what the clients saw
    soon: bool  # whether they saw it at once


def stop(host: Host, signal: Callable[[Process], None]) -> Outcome:
    """Start, open one of each kind, stop, watch."""
    process = Process(host.command)
    clients: list[Client] = []
    try:
        process.wait_ready()
        clients += [host.client(process.port) for _ in range(3)]
        stream = clients[0].request("GET", "/stream?id=stream&framing=sse")
        stream.head()
        stream.until(b"\n\n")
        held = clients[1].request("GET", "/held?id=held")
        websocket = clients[2].websocket("/echo")
        websocket.send("x")
        websocket.receive()
        until(lambda: _asks(host, process, "/get"))
        signal(process)
        begun = time.monotonic()
        for client in clients:
            client.sock.settimeout(LONGEST)
        told = f"{_websocket(websocket)}, {_stream(stream)}, "
        soon = time.monotonic() - begun < SOON
        told += _held(held)
        for client in clients:
            client.close()
        return Outcome(process.wait(LONGEST), process.log(), told, soon)
    finally:
        for client in clients:
            client.close()
        process.stop()


def interrupt_twice(host: Host) -> Outcome:
    """Ctrl-C, and again once the first was heard, while a handler takes a minute."""
    process = Process(host.command)
    clients: list[Client] = []
    try:
        process.wait_ready()
        clients += [host.client(process.port) for _ in range(2)]
        websocket = clients[0].websocket("/echo")
        clients[1].request("GET", "/long?id=long")
        until(lambda: _asks(host, process, "/get"))
        process.interrupt()
        clients[0].sock.settimeout(LONGEST)
        told = _websocket(websocket)
        process.interrupt()
        return Outcome(process.wait(LONGEST), process.log(), told, soon=True)
    finally:
        for client in clients:
            client.close()
        process.stop()


def _asks(host: Host, process: Process, path: str) -> bool:
    client = host.client(process.port)
    try:
        return client.get(path).body == b"get"
    finally:
        client.close()


def _websocket(websocket: WebSocket) -> str:
    return f"WebSocket {websocket.end().code}"


def _stream(exchange: Exchange) -> str:
    try:
        return "stream ended" if exchange.rest() == b"" else "stream went on"
    except Cut:
        return "stream cut"


def _held(exchange: Exchange) -> str:
    try:
        return f"held {exchange.reply().status}"
    except Cut:
        return "held cut"


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[tuple[str, str], Future[Outcome]]]:
    """All cases, running."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = {(host.name, name): pool.submit(stop, host, send) for host in HOSTS for name, send in SIGNALS.items()}
        yield made | {(host.name, "twice"): pool.submit(interrupt_twice, host) for host in TWICE}


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name.replace(" ", "-"))
def test_stopping(host: Host, signal: str, outcomes: dict[tuple[str, str], Future[Outcome]], table: Table) -> None:
    """The host ends within its grace; what its clients see and what it leaves on the terminal is in the table."""
    outcome = outcomes[host.name, signal].result()
    if "channelkit" not in host.name and outcome.told != table.cells.get((host.name, f"{signal}-told")):
        outcome = stop(host, SIGNALS[signal])  # beside others its own patience may be short; alone it is as told
    assert outcome.status is not None, f"did not end:\n{outcome.log}"
    if not _noise(outcome.log):
        assert "Traceback" not in outcome.log, outcome.log
    table.saw(host.name, signal, "at the signal" if outcome.soon else "when the host cancels it, after its grace")
    table.saw(host.name, f"{signal}-told", outcome.told)
    noise = _noise(outcome.log) or "nothing"
    table.saw(host.name, f"{signal}-exit", f"{outcome.status}; {noise}")


@pytest.mark.parametrize("host", TWICE, ids=lambda host: host.name.replace(" ", "-"))
def test_ctrl_c_twice(host: Host, outcomes: dict[tuple[str, str], Future[Outcome]], table: Table) -> None:
    """The second does no harm, and the host ends."""
    outcome = outcomes[host.name, "twice"].result()
    assert outcome.status is not None, f"did not end:\n{outcome.log}"
    noise = "a traceback of the request it cancelled" if "Traceback" in outcome.log else "nothing"
    for one in HOSTS:
        if one.command == host.command:
            table.saw(one.name, "twice", f"{outcome.status}; {noise}")


def test_reload(tmp_path: Path) -> None:
    """uvicorn --reload: a changed file ends what is open, the next process serves, and Ctrl-C ends it all."""
    watched = tmp_path / "watched.py"
    watched.write_text("")
    options = ("--reload", "--reload-dir", str(tmp_path), "--http", "h11", "--ws", "wsproto")
    process = Process(uvicorn(*options))
    clients: list[Client] = []
    try:
        process.wait_ready()
        host = Host("uvicorn reload", process.command)
        until(lambda: _serves(host, process), "the first process")
        streaming, talking = Http1(process.port), Http1(process.port)
        clients += [streaming, talking]
        stream = streaming.request("GET", "/stream?id=stream")
        stream.head()
        stream.until(b"begun\n")
        websocket = talking.websocket("/echo")
        watched.write_text("# changed\n")
        for client in clients:
            client.sock.settimeout(LONGEST)
        assert _websocket(websocket) == "WebSocket 1001"
        assert _stream(stream) == "stream ended"
        until(lambda: _serves(host, process), "the second process")
        process.interrupt()
        assert process.wait(LONGEST) == 0
        assert "Traceback" not in process.log()
    finally:
        for client in clients:
            client.close()
        process.stop()


@pytest.mark.parametrize("signal", SIGNALS)
def test_hypercorn_without_workers(signal: str) -> None:
    """With `-w 0` hypercorn serves in the process that gets the signal, and the application learns it at once."""
    host = Host("hypercorn -w 0", hypercorn("asyncio", "-w", "0"))
    outcome = stop(host, SIGNALS[signal])
    assert (outcome.told, outcome.soon) == ("WebSocket 1001, stream ended, held 503", True)
    assert outcome.status == 0
    assert "Traceback" not in outcome.log


def test_a_pre_stop_hook() -> None:
    """`drain()` from an endpoint of the parent application ends all that is open, and refuses what comes after."""
    process = Process(uvicorn("--root-path", "/front", app="hosting.application:site"))
    clients: list[Client] = []
    try:
        process.wait_ready()
        clients += [Http1(process.port) for _ in range(4)]
        info = json.loads(clients[3].get("/fastapi/chat/info/a%20b").body)
        assert (info["path"], info["root_path"]) == ("/info/a b", "/front/fastapi/chat")
        stream = clients[0].request("GET", "/fastapi/chat/stream?id=stream")
        stream.head()
        stream.until(b"begun\n")
        held = clients[1].request("GET", "/fastapi/chat/held?id=held")
        websocket = clients[2].websocket("/fastapi/chat/echo")
        assert clients[3].get("/fastapi/chat/get").body == b"get"
        assert clients[3].get("/pre-stop").body == b"drained"
        assert (_websocket(websocket), _stream(stream), _held(held)) == ("WebSocket 1001", "stream ended", "held 503")
        assert clients[3].get("/fastapi/chat/get").status == 503
        process.interrupt()
        assert process.wait(LONGEST) == 0
        assert "Traceback" not in process.log()
    finally:
        for client in clients:
            client.close()
        process.stop()


def _serves(host: Host, process: Process) -> bool:
    try:
        return _asks(host, process, "/get")
    except (OSError, Cut):
        return False


def _noise(log: str) -> str:
    """Tracebacks that are the host's own and known."""
    return (
        "a traceback of its own (CancelledError in asyncio.streams)"
        if "asyncio.exceptions.CancelledError" in log
        else ""
    )
