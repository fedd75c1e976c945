"""Clients that others wrote: `websockets`, `aiohttp` and `curl` get what they expect."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from channelkit import CloseStatus, Request, as_channel, with_channel

if TYPE_CHECKING:
    from tests.server.conftest import Host


def serve(host: Host) -> None:
    async def handler(request: Request) -> Any:
        if request.is_websocket:
            return as_channel(
                request,
                on_open=host.opened,
                on_receive=lambda channel, message: channel.send_nowait(message),
                on_close=host.closed,
                subprotocols=["chat"],
            )
        framing = {"/sse": "sse", "/ndjson": "ndjson"}.get(request.path)
        if framing is None and request.path != "/stream":
            return "hello"
        async with with_channel(request, streaming=True, framing=framing) as channel:
            for message in ("one", "two\nlines", "three"):
                await channel.send(message)
        return None

    host.serve(handler)


def opened(host: Host) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{host.port}/", subprotocols=[Subprotocol("chat")], proxy=None, open_timeout=10)


def test_websockets_messages(host: Host) -> None:
    """`websockets` gets back text, bytes, fragments and pongs, and its subprotocol."""
    serve(host)
    with opened(host) as client:
        assert client.subprotocol == "chat"
        for message in ("text", b"bytes", "", "x" * 100_000):
            client.send(message)
            assert client.recv(timeout=10) == message
        client.send(["a", "b", "c"])
        assert client.recv(timeout=10) == "abc"
        assert client.ping(b"data").wait(10)


def test_websockets_closes(host: Host) -> None:
    """Code and reason of a `websockets` client arrive."""
    serve(host)
    with opened(host) as client:
        client.close(3005, "my reason")
    info = host.end()
    assert (info.code, info.reason, info.by) == (3005, "my reason", "peer")


def test_websockets_is_closed(host: Host) -> None:
    """Our code and reason arrive at a `websockets` client, and its reply confirms."""
    serve(host)
    with opened(host) as client:
        host.call(host.channel().close_nowait, 4000, "our reason")
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=10)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "our reason")
    info = host.end()
    assert (info.status, info.delivered) == (CloseStatus.SERVER_CLOSE, True)


async def _talk(port: int) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"http://127.0.0.1:{port}/", protocols=["chat"], compress=15) as client:
            assert client.protocol == "chat"
            await client.send_str("text")
            assert await client.receive_str(timeout=10) == "text"
            await client.send_bytes(b"bytes")
            assert await client.receive_bytes(timeout=10) == b"bytes"
            await client.ping(b"data")
            await client.close(code=3006, message=b"its reason")
            assert client.close_code == 3006
        async with session.get(f"http://127.0.0.1:{port}/stream") as response:
            assert await response.text() == "onetwo\nlinesthree"
        async with session.get(f"http://127.0.0.1:{port}/") as response:
            assert await response.text() == "hello"


def test_aiohttp(host: Host) -> None:
    """`aiohttp` talks over a WebSocket, closes it with its own code, and reads a stream."""
    serve(host)
    asyncio.run(_talk(host.port))
    info = host.end()
    assert (info.code, info.reason) == (3006, "its reason")


def curl(host: Host, path: str, *options: str) -> bytes:
    executable = shutil.which("curl")
    if executable is None:
        pytest.skip("no `curl` on the PATH (apt-get install curl)")
    command = [
        executable,
        "-sSN",
        "--noproxy",
        "*",
        "--max-time",
        "20",
        *options,
        f"http://127.0.0.1:{host.port}{path}",
    ]
    return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_curl_streams(host: Host, version: str) -> None:
    """`curl` reads a raw stream and a plain answer to their ends, in both versions of HTTP."""
    serve(host)
    assert curl(host, "/stream", version) == b"onetwo\nlinesthree"
    assert curl(host, "/", version) == b"hello"


def test_curl_head(host: Host) -> None:
    """`curl -I` gets the head and does not wait for a body."""
    serve(host)
    assert b"content-length: 5" in curl(host, "/", "-I").lower()
    assert curl(host, "/stream", "-I").startswith(b"HTTP/1.1 200")


def test_curl_sse(host: Host) -> None:
    """What `curl` gets of an event stream is what an EventSource dispatches as the messages sent."""
    serve(host)
    assert _events(curl(host, "/sse").decode()) == ["one", "two\nlines", "three"]
    assert b"text/event-stream" in curl(host, "/sse", "-I")


def test_curl_ndjson(host: Host) -> None:
    """NDJSON has one line for each message."""
    serve(host)
    lines = [line for line in curl(host, "/ndjson").split(b"\n") if line]
    assert len(lines) == 3
    assert b"one" in lines[0]


def _events(stream: str) -> list[str]:
    """The data of the events of a stream, as the HTML standard reads it (9.2.6)."""
    events: list[str] = []
    data: list[str] = []
    for line in stream.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        name, _, value = line.partition(":")
        if not line:
            if data:
                events.append("\n".join(data))
            data = []
        elif name == "data":
            data.append(value.removeprefix(" "))
    return events
