"""Sessions among several workers: whichever accepts a connection, the one that has the session serves it."""

from __future__ import annotations

import os
import signal
import ssl
import sys
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from urllib.request import urlopen

import anyio
import pytest
import trustme

sys.path.insert(0, str(Path(__file__).parent))

from commands import PATIENCE, Command, serving

from channelkit import ChannelClosed, CloseStatus
from channelkit.client import ClientChannel, connect

APP = """
import os
from channelkit import Endpoint

async def echo(channel):
    await channel.send(str(os.getpid()))
    async for message in channel:
        await channel.send(message)

handle = Endpoint(echo)
"""

FRAMEWORK = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from channelkit.asgi import ASGIApp

class Watchful:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        seen = set()

        async def take():
            message = await receive()
            seen.add(message["type"])
            return message

        async def give(message):
            seen.add(message["type"])
            await send(message)

        await self.app(scope, take, give)
        if scope["type"] == "http" and not seen & {"http.response.start", "http.disconnect"}:
            raise RuntimeError("no answer, and nobody has left")

routes = [Mount("/room", ASGIApp(handle))]
handle = Starlette(routes=routes, middleware=[Middleware(Watchful)])
"""

TRANSPORTS = ("long_poll", "websocket", "http_stream", "events")


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def handed_over(command: Command) -> int:
    """How many connections have changed their worker, a second ago."""
    port = command.line(r"the metrics of all workers: http://127.0.0.1:(\d+), path /metrics")[1]
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("channelkit_connections_handed_over_total "))


async def talk(url: str, number: int, trust: ssl.SSLContext | None) -> None:
    """One client, which goes round all transports: each is another connection, or several."""
    with anyio.fail_after(PATIENCE):
        async with connect(url, transport=TRANSPORTS[number % 4], ssl=trust) as channel:
            assert str(await channel.receive()).isdecimal()
            for message in range(40):
                if message % 5 == 4:
                    channel.switch(TRANSPORTS[(number + message) % 4])
                assert await channel.send(f"{message} of {number}")
                assert await channel.receive() == f"{message} of {number}"


async def talk_all(url: str, trust: ssl.SSLContext | None = None) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(talk, url, number, trust)


def play(command: Command, scheme: str = "http", path: str = "", trust: ssl.SSLContext | None = None) -> None:
    """Twelve clients at once; then the workers end in order."""
    command.workers(3)
    anyio.run(talk_all, f"{scheme}://localhost:{command.port}{path}", trust)
    command.process.send_signal(signal.SIGHUP)  # the numbers of those that have ended are whole
    command.workers(3)
    for _ in range(3):
        command.line(r"\) has stopped\n")
    assert handed_over(command) > 0
    assert command.end() == 0
    assert not [line for line in command.seen if "WARNING" in line or "ERROR" in line or "Traceback" in line]


def test_every_transport(tmp_path: Path, backend: str) -> None:
    """Nothing is lost, though most connections meet a worker that does not have the session."""
    with serving(tmp_path, "--workers", "3", "--metrics", "0", "--backend", backend, source=APP) as command:
        play(command)


def test_every_transport_over_tls(tmp_path: Path, backend: str) -> None:
    """The same."""
    ca = trustme.CA()
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    trust = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
    options = ("--workers", "3", "--metrics", "0", "--backend", backend, "--ssl-certificate", "server.pem")
    with serving(tmp_path, *options, source=APP) as command:
        play(command, "https", trust=trust)


def test_every_transport_in_a_framework(tmp_path: Path, backend: str) -> None:
    """An Endpoint that is mounted in an ASGI application of ours to host, behind its middleware."""
    options = ("--workers", "3", "--metrics", "0", "--backend", backend, "--asgi")
    with serving(tmp_path, *options, source=APP + FRAMEWORK) as command:
        play(command, path="/room")


CHILD = """
import time
if not os.fork():
    os.close(2)  # or the test would wait for it; all else that its parent has open it has open too
    while os.path.exists("served.py"):
        time.sleep(0.1)
    os._exit(0)
"""


@pytest.fixture
def with_children(tmp_path: Path) -> Iterator[Path]:
    """A folder for an application whose workers leave children behind; they end with the test."""
    yield tmp_path
    (tmp_path / "served.py").unlink()


def test_a_worker_that_is_killed(with_children: Path) -> None:
    """Its sessions are gone, and their clients told so, whatever processes it has left; the others' go on, and find
    the worker that replaces it."""
    with serving(with_children, "--workers", "2", source=APP + CHILD) as command:
        url = f"http://localhost:{command.port}"
        numbers = command.workers(2)

        async def main() -> None:
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    channels = {number: await open_at(url, number, tasks) for number in numbers}
                    victim, other = numbers
                    os.kill(victim, signal.SIGKILL)
                    command.line(r"died \(killed by SIGKILL\)")
                    path = f"/ck/{channels[victim].session_id}/poll"
                    statuses = [await anyio.to_thread.run_sync(status, command.port, path) for _ in range(5)]
                    assert statuses == [404] * 5
                    with pytest.raises(ChannelClosed) as caught:
                        await channels[victim].receive()
                    assert caught.value.info.status == CloseStatus.LOST
                    (successor,) = command.workers(1)
                    third = await open_at(url, successor, tasks)
                    for channel in (channels[other], third):
                        for transport in TRANSPORTS * 3:
                            channel.switch(transport)
                            assert await channel.send(transport)
                            assert await channel.receive() == transport
                    tasks.cancel_scope.cancel()

        anyio.run(main)
        assert command.end() == 0


def status(port: int, path: str) -> int:
    """What a request is answered, on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


async def open_at(url: str, number: int, tasks: anyio.abc.TaskGroup) -> ClientChannel:
    """A session of the worker with this process number."""

    async def hold(*, task_status: anyio.abc.TaskStatus[ClientChannel | None]) -> None:
        async with connect(url, transport="long_poll") as channel:
            if int(await channel.receive()) == number:
                task_status.started(channel)
                await channel.wait_closed()
            else:
                task_status.started(None)

    while (channel := await tasks.start(hold)) is None:
        pass
    found: ClientChannel = channel
    return found


def test_what_a_worker_has_left_behind(with_children: Path) -> None:
    """A connection that was on its way to a worker when it died is closed, and the client comes again."""
    with serving(with_children, "--workers", "2", source=APP + CHILD) as command:
        victim, _ = sorted(command.workers(2))
        url = f"http://localhost:{command.port}"

        async def main() -> str:
            async with anyio.create_task_group() as tasks:
                channel = await open_at(url, victim, tasks)
                tasks.cancel_scope.cancel()
            return str(channel.session_id)

        session_id = anyio.run(main)
        os.kill(victim, signal.SIGSTOP)  # its mailbox fills, and nobody takes anything out
        waiting = [HTTPConnection("127.0.0.1", command.port, timeout=PATIENCE) for _ in range(12)]
        for one in waiting:
            one.request("GET", f"/ck/{session_id}/poll")
        os.kill(victim, signal.SIGKILL)
        ends = Counter(_end(one) for one in waiting)
        assert set(ends) <= {404, "closed"}
        assert command.end() == 0


def _end(connection: HTTPConnection) -> int | str:
    try:
        return connection.getresponse().status
    except (RemoteDisconnected, ConnectionResetError):
        return "closed"
    finally:
        connection.close()
