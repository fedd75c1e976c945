"""An endpoint at /room on an in-memory host, and a client that sends one raw request a connection."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11

from channelkit import ASGIApp, ASGIHandler, Channel, Endpoint
from channelkit.testing import clock
from channelkit.testing.clock import Backend
from channelkit.testing.host import Host, open_host

HOSTS = ("own", "asgi")


@dataclass
class Answer:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def plain(self) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
        """Everything but the date: for answers that must be the same to the byte."""
        return self.status, tuple(sorted((k, v) for k, v in self.headers.items() if k != "date")), self.body


class Site:
    """A host with an endpoint at /room, and a client that sends one request a connection."""

    def __init__(self, host: Host, app: ASGIApp | None) -> None:
        self.host = host
        self._app = app
        self.address: tuple[str, int] | None = None  # where the client is
        self.sid = self.secret = ""

    async def drain(self, timeout: float) -> None:
        """As when the process is told to stop."""
        if self._app is not None:
            await self._app.drain(timeout)
        await self.host.core.drain(timeout)

    async def ask(self, method: str, path: str, body: bytes = b"", /, **headers: str) -> Answer:
        fields = {
            "Host": "test",
            "Connection": "close",
            **{name.replace("_", "-"): one for name, one in headers.items()},
        }
        if body or method == "POST":
            fields["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        data = await self.host.exchange(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body, address=self.address)
        return parse(data, method)

    async def create(self, query: str = "", **headers: str) -> Answer:
        answer = await self.ask("POST", f"/room/ck{query}", **headers)
        if answer.status == 201:
            self.sid, self.secret = answer.json["sid"], answer.json["secret"]
        return answer

    async def session(self, method: str, way: str = "", body: bytes = b"", /, **headers: str) -> Answer:
        """A request of the session, with its secret unless another credential is given."""
        if "Cookie" not in headers:
            headers.setdefault("Authorization", f"Bearer {self.secret}")
        return await self.ask(method, f"/room/ck/{self.sid}{way}", body, **headers)

    async def open(self, way: str) -> Any:
        """A streaming request of the session, its response still to be read."""
        stream = self.host.connect()
        head = f"GET /room/ck/{self.sid}{way} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {self.secret}\r\n\r\n"
        await stream.send(head.encode())
        return stream

    async def poll(self, ack: int = 0, wait: float = 0, /, **headers: str) -> Answer:
        return await self.session("GET", f"/poll?ack={ack}&wait={wait}", **headers)


def parse(data: bytes, method: str) -> Answer:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    answer = Answer(0, {}, b"")
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            answer.status = event.status_code
            answer.headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            answer.body += event.data
        elif event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
            break
    return answer


@asynccontextmanager
async def site(endpoint: Endpoint, where: str) -> AsyncIterator[Site]:
    handler: Any = endpoint
    app: ASGIApp | None = None
    if where == "asgi":
        app = ASGIApp(endpoint, handle_signals=False)
        handler = ASGIHandler(app)
    async with open_host(handler) as host:
        yield Site(host, app)


def run(endpoint: Endpoint, where: str, backend: Backend, talk: Callable[[Site], Awaitable[None]]) -> None:
    """`talk` to an endpoint in virtual time."""

    async def main() -> None:
        async with site(endpoint, where) as found:
            await talk(found)

    clock.run(main, backend=backend)


async def echo(channel: Channel) -> None:
    async for message in channel:
        await channel.send(message)


def endpoint_of(handler: Any = echo, **options: Any) -> Endpoint:
    return Endpoint(handler, **options)
