"""Two servers of one process that hand each other connections, as two workers do; and a client's view of a session."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from channelkit import Channel, CloseStatus, Endpoint, Request, Response, SessionConfig
from channelkit.workers.neighbours import Neighbours, mailbox
from tests.server.conftest import Host as AnyHost

if TYPE_CHECKING:
    from tests.server.conftest import Backend, Peer, Reply


BIG = bytes(range(256)) * 80_000  # 20 MB: more than a kernel takes


class Site:
    """What each of the two serves: sessions that echo, and say where they are."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.ends: list[CloseStatus] = []
        self.principals: list[Any] = []
        self.pulled = 0  # bytes of what has no end
        self.endpoint = Endpoint(
            on_open=lambda channel: channel.send_nowait(f"in {name}"),
            on_receive=self.echo,
            on_close=lambda channel, status: self.ends.append(status),
            authenticate=self.authenticate,
            **options,
        )

    async def echo(self, channel: Channel, text: str) -> None:
        await channel.send(f"{self.name}: {text}")

    async def endless(self) -> AsyncIterator[bytes]:
        """Much more than whoever does not read should be given."""
        for _ in range(1000):
            self.pulled += 65536
            yield bytes(65536)

    def authenticate(self, request: Request) -> None:
        self.principals.append((request.client, request.scheme, request.tls))

    async def __call__(self, request: Request) -> Any:
        if request.path == "/big":
            return Response(200, {}, BIG)
        if request.path == "/endless":
            return self.endless()
        if request.path == "/":
            return self.name
        return await self.endpoint(request)


class Pair:
    """Two servers that know each other."""

    def __init__(self, backend: Backend) -> None:
        self.hosts = [AnyHost(backend), AnyHost(backend)]
        self.sites: list[Site] = []
        self.neighbours: list[Neighbours] = []
        self.trust: ssl.SSLContext | None = None  # of the clients, if TLS is spoken

    def connect(self, number: int, **options: Any) -> Peer:
        """A new client of one of them."""
        peer = self.hosts[number].connect(**options)
        if self.trust is not None:
            peer.sock = self.trust.wrap_socket(peer.sock, server_hostname="localhost", suppress_ragged_eofs=False)
        return peer

    def serve(self, session: SessionConfig | None = None, **options: Any) -> Pair:
        self.sites = [Site(name, session=session) for name in ("1", "2")]
        for host, site in zip(self.hosts, self.sites, strict=True):
            host.serve(site, **options)
        boxes = [mailbox(), mailbox()]
        for number, (host, (out, way_in)) in enumerate(zip(self.hosts, boxes, strict=True)):
            other = {str(2 - number): os.dup(boxes[1 - number][1].fileno())}
            neighbours = Neighbours(str(number + 1), os.dup(out.fileno()), os.dup(way_in.fileno()), other)
            self.neighbours.append(neighbours)
            host.call(neighbours.started, host.server)
        for ends in boxes:
            for end in ends:
                end.close()
        return self

    def session(self, number: int) -> Session:
        """A new session of a server, asked for there."""
        return Session(self.connect(number), self.sites[number].name)

    def close(self) -> None:
        for host in self.hosts:
            if host.server is not None:
                host.server.stop(0)  # the clients acknowledge nothing
            host.close()
        for neighbours in self.neighbours:
            neighbours.close()


class Session:
    """What a client knows of its session; it has had its hello, and the first message."""

    def __init__(self, peer: Peer, place: str) -> None:
        reply = peer.ask("POST", "/ck")
        assert reply.status == 201
        self.path = str(reply.get("location"))
        self.secret = json.loads(reply.body)["secret"]
        self.authorization = f"Authorization: Bearer {self.secret}"
        self.hello = b"h " + json.dumps({"v": 1, "a": 1, "secret": self.secret}).encode()
        self.peer = peer
        assert peer.ask("GET", f"{self.path}/poll?wait=0", self.authorization).status == 200
        assert self.poll(peer) == [f"in {place}"]

    def poll(self, peer: Peer) -> list[str]:
        """All messages: none is ever acknowledged."""
        reply = peer.ask("GET", f"{self.path}/poll?wait=9", self.authorization)
        assert reply.status == 200
        return [line[2] for line in map(json.loads, reply.body.splitlines()) if line[0] == "m"]

    def post(self, peer: Peer, number: int, text: str) -> Reply:
        lines = (self.authorization, "Content-Type: text/plain")
        return peer.ask("POST", f"{self.path}?n={number}", *lines, body=text.encode())


def texts(peer: Peer, count: int) -> list[str]:
    """The next messages of a WebSocket, with pings answered."""
    found: list[str] = []
    while len(found) < count:
        first, payload = peer.read_frame()
        if first == 0x89:
            peer.send_frame(10, payload)
        else:
            assert first == 0x81
            found.append(payload.decode())
    return found


def totals(pair: Pair, name: str) -> list[int]:
    return [getattr(host.server.statistics(), name) for host in pair.hosts if host.server is not None]
