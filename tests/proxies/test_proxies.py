"""Caddy, HAProxy and nginx of Debian in front of our server: what an operator would do, and what must work then."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from websockets.sync.client import connect as connect_websocket

from channelkit import Channel, Endpoint, Request, Server, as_channel, run_server
from channelkit.client import connect

sys.path.insert(0, str(Path(__file__).parent))

import front

Backend = Literal["asyncio", "trio"]
Front = Callable[..., int]

PATIENCE = 20.0
TRANSPORTS = ("websocket", "http_stream", "events", "long_poll")

NGINX_SITE = """
    upstream app {{ {servers} keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 75s;
            proxy_next_upstream error timeout http_503 non_idempotent;
        }}
    }}
"""

HAPROXY_HTTP = """
frontend web
    mode http
    bind 127.0.0.1:{port}
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    default_backend app
backend app
    mode http
    retry-on conn-failure empty-response 503
{servers}
"""

HAPROXY_TCP = """
frontend web
    mode tcp
    bind 127.0.0.1:{port}
    default_backend app
backend app
    mode tcp
{servers}
"""

CADDY_SITE = """
http://127.0.0.1:{port} {{
    reverse_proxy {servers} {{
        flush_interval -1
        lb_policy round_robin
        lb_try_duration 5s
    }}
}}
"""

# how the proxy is spoken to, what it needs of the server
WAYS: dict[str, dict[str, Any]] = {
    "caddy": {"forwarded": "x-forwarded", "trusted_proxies": ["127.0.0.1"]},
    "nginx": {"forwarded": "x-forwarded", "trusted_proxies": ["127.0.0.1"]},
    "haproxy": {"forwarded": "x-forwarded", "trusted_proxies": ["127.0.0.1"]},
    "haproxy-v1": {"proxy_protocol": "enable", "trusted_proxies": ["127.0.0.1"]},
    "haproxy-v2": {"proxy_protocol": "enable", "trusted_proxies": ["127.0.0.1"]},
}

pytestmark = [
    pytest.mark.skipif(front.CADDY is None, reason="no `caddy` (apt-get install caddy)"),
    pytest.mark.skipif(front.HAPROXY is None, reason="no `haproxy` (apt-get install haproxy)"),
    pytest.mark.skipif(front.NGINX is None, reason="no `nginx` (apt-get install nginx)"),
]


@contextmanager
def fronted(way: str, folder: Path, ports: list[int]) -> Iterator[int]:
    """The proxy of `way` in front of the servers at `ports`; its own port."""
    port = front.free_port()
    if way == "nginx":
        servers = " ".join(f"server 127.0.0.1:{each} max_fails=0;" for each in ports)
        started = front.nginx(folder, NGINX_SITE.format(servers=servers, port=port), port)
    elif way == "caddy":
        servers = " ".join(f"127.0.0.1:{each}" for each in ports)
        started = front.caddy(folder, CADDY_SITE.format(servers=servers, port=port), port)
    else:
        send = {"haproxy": "", "haproxy-v1": " send-proxy", "haproxy-v2": " send-proxy-v2"}[way]
        lines = "\n".join(f"    server s{each} 127.0.0.1:{each}{send}" for each in ports)
        text = HAPROXY_HTTP if way == "haproxy" else HAPROXY_TCP
        started = front.haproxy(folder, text.format(servers=lines, port=port), port)
    with started:
        yield port


class Site:
    """Handlers of every kind at one server."""

    def __init__(self) -> None:
        self.room = Endpoint(self.talk)
        self.seen: list[tuple[Any, str]] = []
        self.go_on: anyio.Event | None = None

    async def talk(self, channel: Channel) -> None:
        async for message in channel:
            await channel.send(message)

    async def handle(self, request: Request) -> Any:
        if request.path.startswith("/ck"):
            return await self.room(request)
        self.seen.append((request.client, request.scheme))
        if request.is_websocket:
            return as_channel(request, on_receive=lambda channel, message: channel.send_nowait(message))
        if request.path == "/stream":
            self.go_on = anyio.Event()
            return as_channel(request, streaming=True, on_open=self.stream)
        if request.path == "/go-on":
            assert self.go_on is not None
            self.go_on.set()
        return "hello"

    async def stream(self, channel: Channel) -> None:
        assert self.go_on is not None
        await channel.send("first\n")
        await self.go_on.wait()
        await channel.send("second\n", close_after_send=True)


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    name: Backend = request.param
    return name


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_everything_passes(way: str, backend: Backend, tmp_path: Path) -> None:
    """Requests, an upgrade, a stream that is not buffered, sessions on each transport; and the client is the client."""
    site = Site()
    server = run_server(site.handle, port=0, backend=backend, **WAYS[way])
    try:
        with fronted(way, tmp_path, [server.port]) as port:
            assert get(port, "/") == (200, b"hello")
            connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.connect()
            ours = connection.sock.getsockname()[1]
            connection.request("GET", "/stream")
            with connection.getresponse() as stream:
                assert stream.read1(100) == b"first\n"  # while there is no second
                client, scheme = site.seen[-1]
                assert (client[0], scheme) == ("127.0.0.1", "http")
                if "proxy_protocol" in WAYS[way]:
                    assert client[1] == ours
                assert get(port, "/go-on")[0] == 200
                assert stream.read() == b"second\n"
            connection.close()
            with connect_websocket(f"ws://127.0.0.1:{port}/ws") as websocket:
                for message in ("text", b"\0\xff", "x" * 100_000):
                    websocket.send(message)
                    assert websocket.recv(PATIENCE) == message
            anyio.run(converse, port, backend=backend)
    finally:
        server.stop(1)


async def converse(port: int) -> None:
    """A hundred messages there and back on each transport, moving from one to the next."""
    messages = [str(number) for number in range(100)]
    with anyio.fail_after(PATIENCE):
        for transport in TRANSPORTS:
            async with connect(f"http://127.0.0.1:{port}/", transport=transport) as channel:
                for message in messages:
                    assert await channel.send(message)
                assert [await channel.receive() for _ in messages] == messages


def test_draining_one_of_two_loses_no_request(way: str, backend: Backend, tmp_path: Path) -> None:
    """While one server stops and another takes over, every request is answered 200."""
    with ExitStack() as stack:
        servers: list[Server] = []
        for _ in range(2):
            server = run_server(Site().handle, port=0, backend=backend, **WAYS[way])
            stack.callback(server.stop, 1)
            servers.append(server)
        port = stack.enter_context(fronted(way, tmp_path, [server.port for server in servers]))
        answers: list[tuple[int, bytes] | Exception] = []
        enough, stop = threading.Event(), threading.Event()

        def ask() -> None:
            while not stop.is_set():
                try:
                    answers.append(get(port, "/"))
                except Exception as error:  # what went wrong is told below
                    answers.append(error)
                if len(answers) >= before + 200:
                    enough.set()

        before = 0
        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        try:
            assert enough.wait(PATIENCE)
            enough.clear()
            servers[0].stop(5)
            before = len(answers)
            assert enough.wait(PATIENCE)
        finally:
            stop.set()
            for asker in askers:
                asker.join()
        assert [answer for answer in answers if answer != (200, b"hello")] == []
