"""Fifty requests, streams, polls and WebSockets are open when the signal comes: each ends as promised."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from commands import PATIENCE, Command, serving

from tests.plain_sockets import read_rest, read_until

MANY = 50
HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
GOING_AWAY = b"\x88\x02\x03\xe9"
MASKED_ANSWER = b"\x88\x82\0\0\0\0\x03\xe9"

APP = """
import anyio
from channelkit import Endpoint, as_channel

class Site:
    def __init__(self):
        self.room = Endpoint(self.talk)
        self.stopping = None

    async def __call__(self, request):
        if self.stopping is None:
            self.stopping = anyio.Event()
        if request.path.startswith("/ck"):
            return await self.room(request)
        if request.path == "/slow":  # runs until the end has begun, and a little longer
            await self.stopping.wait()
            await anyio.sleep(0.05)
            return "finished"
        if request.path == "/stream":
            return as_channel(request, streaming=True, on_open=lambda channel: channel.send_nowait("begun"))
        return as_channel(request)

    async def talk(self, channel):
        async for message in channel:
            pass

    async def on_stop(self):
        if self.stopping is not None:
            self.stopping.set()

handle = Site()
"""


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def opened(command: Command, request: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", command.port), timeout=PATIENCE)
    sock.sendall(request.encode())
    return sock


def get(path: str, *headers: str) -> str:
    return "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: here", *headers, ""))


class Clients:
    """What is open, and what each is owed."""

    def __init__(self, command: Command) -> None:
        self.requests = [opened(command, get("/slow")) for _ in range(MANY)]
        self.streams = [opened(command, get("/stream")) for _ in range(MANY)]
        self.sockets = [opened(command, HANDSHAKE) for _ in range(MANY)]
        self.polls = [self._poll(command) for _ in range(MANY)]
        for stream in self.streams:
            read_until(stream, b"begun")
        for sock in self.sockets:
            assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")

    def _poll(self, command: Command) -> socket.socket:
        """A session whose second poll waits (the first answers with the hello)."""
        sock = opened(command, "POST /ck HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n")
        session = json.loads(read_until(sock, b"}").partition(b"\r\n\r\n")[2])
        header = f"Authorization: Bearer {session['secret']}"
        sock.sendall(get(f"/ck/{session['sid']}/poll?ack=0&a=1", header).encode())
        read_until(sock, b"]\n")
        sock.sendall(get(f"/ck/{session['sid']}/poll?ack=0&a=1&wait=20", header).encode())
        return sock

    def judge(self) -> None:
        for sock in self.requests:
            answer = read_rest(sock)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            assert b"\r\nConnection: close\r\n" in answer
            assert answer.endswith(b"finished")
        for sock in self.streams:
            assert read_rest(sock).endswith(b"0\r\n\r\n")
        for sock in self.sockets:
            assert read_until(sock, GOING_AWAY).endswith(GOING_AWAY)  # behind a ping, which asks what arrived
            sock.sendall(MASKED_ANSWER)
            assert read_rest(sock) == b""
        for sock in self.polls:
            answer = read_rest(sock)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            assert json.loads(answer.splitlines()[-1])[0] == "e", answer
            assert b"1001" in answer


def test_sigterm(tmp_path: Path, backend: str) -> None:
    """All of them end in their own way, and the command with 0."""
    with serving(tmp_path, "--backend", backend, source=APP) as command:
        clients = Clients(command)
        command.process.send_signal(signal.SIGTERM)
        clients.judge()
        assert command.process.wait(PATIENCE) == 0


def test_reload(tmp_path: Path, backend: str) -> None:
    """The same when workers are replaced; the next one answers already."""
    with serving(tmp_path, "--backend", backend, "--workers", "2", source=APP) as command:
        command.workers(2)
        clients = Clients(command)
        command.process.send_signal(signal.SIGHUP)
        new = command.workers(2)
        clients.judge()
        for _ in new:
            command.line("has stopped$")
        stream = opened(command, get("/stream"))
        read_until(stream, b"begun")
        stream.close()
        assert command.end() == 0
