"""Sessions among several workers: whichever accepts a connection, the one that has the session serves it."""

from __future__ import annotations

import os
import signal
import ssl
import sys
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
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount
from channelkit.asgi import ASGIApp

async def see(request, call_next):
    response = await call_next(request)
    response.headers["seen"] = str(response.status_code)
    return response

routes = [Mount("/room", ASGIApp(handle))]
handle = Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=see)])
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
    time.sleep(20)
    os._exit(0)
"""


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    """Its sessions are gone, and their clients told so, whatever processes it has left; the others' go on, and find
    the worker that replaces it."""
    with serving(tmp_path, "--workers", "2", source=APP + CHILD) as command:
        url = f"http://localhost:{command.port}"
        numbers = command.workers(2)

        async def main() -> None:
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    channels = {number: await open_at(url, number, tasks) for number in numbers}
                    victim, other = numbers
                    os.kill(victim, signal.SIGKILL)
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
