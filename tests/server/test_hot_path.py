"""The hot path by counting: how many of our own functions one request, and one message, goes through.

Time cannot be asserted on a machine that does other things; calls can.  One of them costs about a tenth of a
microsecond, and each that is added is paid by every message.  Who has a reason to add some raises the figure here.
"""

from __future__ import annotations

import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import channelkit
from channelkit import Channel, Request, Response, as_channel, with_channel
from channelkit._loop import open_loop
from channelkit.config import Config
from channelkit.server.core import ServerCore
from channelkit.server.pump.reactor import Reactor

pytestmark = pytest.mark.anyio

OURS = str(Path(channelkit.__file__).parent)
ROUNDS = 200
SLACK = 2  # calls more that nobody is asked for
GET = b"GET /hello HTTP/1.1\r\nHost: example\r\n\r\n"
HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MESSAGE = b"\x81\x85\0\0\0\0hello"  # masked by zeros
ECHO = b"\x81\x05hello"

Handler = Callable[[Request], Awaitable[Any]]


async def hello(_: Request) -> Response:
    return Response(200, {"Content-Type": "text/plain"}, b"hello")


async def echo(request: Request) -> Channel:
    return as_channel(request, on_receive=Channel.send_nowait)


async def iterate(request: Request) -> None:
    async with with_channel(request) as channel:
        async for message in channel:
            await channel.send(message)


async def answer(client: socket.socket) -> bytes:
    for _ in range(1000):
        try:
            return client.recv(1000)
        except BlockingIOError:
            await anyio.lowlevel.checkpoint()
    raise AssertionError("no answer came")


@contextmanager
def counting(calls: Counter[str]) -> Iterator[None]:
    """Count the calls of our own functions, the steps of coroutines included."""

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(OURS):
            calls[f"{Path(code.co_filename).stem}.{code.co_qualname}"] += 1

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


async def count(handler: Handler, opening: bytes, question: bytes, expected: bytes) -> Counter[str]:
    """The calls of `ROUNDS` questions on one connection, each asked when its predecessor was answered."""
    calls: Counter[str] = Counter()
    async with open_loop() as loop, anyio.create_task_group() as handlers:
        config = Config()
        reactor = Reactor(loop, config)
        core = ServerCore(handler, config, loop, handlers)
        ours, client = socket.socketpair()
        with client:
            client.setblocking(False)
            reactor.adopt(ours, core.connect)
            for data in (opening, question, question):  # what is made once is there then
                client.send(data)
                await answer(client)
            with counting(calls):
                for _ in range(ROUNDS):
                    client.send(question)
                    assert (await answer(client)).endswith(expected)
            reactor.close()
        handlers.cancel_scope.cancel()
    return calls


@pytest.mark.parametrize(
    ("handler", "opening", "question", "expected", "usual"),
    [
        pytest.param(hello, GET, GET, b"\r\n\r\nhello", {"asyncio": 72, "trio": 75}, id="get"),
        pytest.param(echo, HANDSHAKE, MESSAGE, ECHO, {"asyncio": 27, "trio": 28}, id="callback"),
        pytest.param(iterate, HANDSHAKE, MESSAGE, ECHO, {"asyncio": 50, "trio": 53}, id="iteration"),
    ],
)
async def test_calls(
    handler: Handler, opening: bytes, question: bytes, expected: bytes, usual: dict[str, int], anyio_backend: str
) -> None:
    """What goes through more functions than it did costs everybody."""
    calls = await count(handler, opening, question, expected)
    each = {name: round(times / ROUNDS, 2) for name, times in calls.most_common() if times >= ROUNDS / 10}
    assert sum(each.values()) <= usual[anyio_backend] + SLACK, "\n".join(f"{n:5.2f} {name}" for name, n in each.items())
