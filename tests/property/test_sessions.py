"""S1 over the real HTTP and WebSocket code: whatever dies, nothing is lost, repeated or reordered.

A plain client that follows the client's rules of docs/protocol.md and nothing else, on a network that cuts responses
anywhere, loses requests, repeats them, and brings them late.  When the faults stop, everything must arrive.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import h11
import pytest
from anyio.abc import TaskGroup
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsproto.events import CloseConnection

from channelkit import ASGIApp, ASGIHandler, Channel, Endpoint, SessionConfig
from channelkit.session.codec import EventFrames, LineFrames, decode_websocket, encode_line, encode_websocket
from channelkit.session.frames import Ack, Binary, End, Frame, Hello, Text, numbered
from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.host import Host, open_host
from channelkit.testing.strategies import payloads

Payload = str | bytes
HEALING = 12  # attachments in which everything must have arrived
# A grace that no plan outlives: within it nothing may be lost.
CONFIG = SessionConfig(window=6, window_bytes=5000, max_message=4000, poll_bytes=500, grace=10_000.0)


@dataclass(frozen=True)
class Step:
    """One thing that happens."""

    what: Literal["up", "down", "poll", "stream", "events", "websocket", "post", "pause", "reload"]
    payload: Payload = ""
    cut: int | None = None  # the response is cut behind so many bytes
    lost: bool = False  # the request never arrives
    twice: bool = False  # a proxy repeats it, and throws the first answer away
    late: bool = False  # it arrives once more, after whatever comes next
    seconds: float = 0.0


def steps() -> st.SearchStrategy[Step]:
    """More messages than anything else; one request in two meets a fault."""
    says = st.builds(Step, st.sampled_from(("up", "down")), payloads())
    requests = st.builds(
        Step,
        st.sampled_from(("poll", "poll", "stream", "events", "websocket", "post", "post")),
        cut=st.none() | st.none() | st.integers(0, 600),
        lost=st.sampled_from((False, False, False, True)),
        twice=st.sampled_from((False, False, True)),
        late=st.sampled_from((False, False, True)),
        seconds=st.sampled_from((0.0, 0.5, 3.0)),
    )
    others = st.builds(Step, st.sampled_from(("pause", "reload")), seconds=st.sampled_from((0.1, 4.0, 12.0)))
    return st.one_of(says, says, requests, requests, others)


@dataclass
class Told:
    """What the server's handler saw and said."""

    received: list[Payload] = field(default_factory=list)
    accepted: list[Payload] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    most: int = 0  # messages unacknowledged at once


class Client:
    """Follows P1 and P4, one request at a time."""

    def __init__(self, host: Host, tasks: TaskGroup) -> None:
        self.host = host
        self.tasks = tasks
        self.a = 1
        self.recv = 0  # taken
        self.acked = 0
        self.sent = 0
        self.waiting: list[Payload] = []  # numbered only after a hello (F2)
        self.pending: list[Text | Binary] = []  # numbered, not acknowledged
        self.received: list[Payload] = []
        self.greeted = False
        self.late: list[bytes] = []

    # -- requests

    async def create(self) -> None:
        raw = await self._exchange("POST", "", b"", Step("post"))
        body = json.loads(raw)
        self.path = f"/ck/{body['sid']}"
        self.secret = body["secret"]

    def _request(self, method: str, way: str, body: bytes) -> bytes:
        path = f"{getattr(self, 'path', '/ck')}{way}"
        lines = [f"{method} {path} HTTP/1.1", "Host: test"]
        if hasattr(self, "secret"):
            lines.append(f"Authorization: Bearer {self.secret}")
        if method == "POST":
            lines += ["Content-Type: application/x-ndjson", f"Content-Length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body

    async def _exchange(self, method: str, way: str, body: bytes, step: Step) -> bytes:
        """The body of the response, as far as it came."""
        data = self._request(method, way, body)
        if step.late:
            self.late.append(data)
        if step.lost:
            return b""
        if step.twice:
            await self._converse(data, method, 0, 0.01)
        return await self._converse(data, method, step.cut, step.seconds + 1)

    async def _converse(self, data: bytes, method: str, cut: int | None, seconds: float) -> bytes:
        stream = self.host.connect()
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
        parser.send(h11.EndOfMessage())
        body, size = b"", 0
        try:
            with anyio.move_on_after(seconds):
                await stream.send(data)
                while cut is None or size < cut:
                    piece = await stream.receive()
                    parser.receive_data(piece if cut is None else piece[: cut - size])
                    size += len(piece)
                    while isinstance(event := parser.next_event(), h11.Response | h11.Data):
                        if isinstance(event, h11.Data):
                            body += event.data
                    if isinstance(event, h11.EndOfMessage):
                        break
        except (anyio.EndOfStream, anyio.BrokenResourceError, h11.RemoteProtocolError):
            pass
        stream.reset()
        return body

    async def stale(self) -> None:
        """Requests of before arrive now; nobody reads their answers."""
        for data in self.late:
            await self._converse(data, "GET", 0, 0.01)
        self.late = []

    # -- the client's rules

    def take(self, frame: Frame | None) -> None:
        if isinstance(frame, Hello):
            assert frame.recv <= self.sent, "the server has what was never sent"
            self.greeted = True
            self.acknowledge(frame.recv)
        elif isinstance(frame, Text | Binary):
            if frame.n == self.recv + 1:
                self.recv = frame.n
                self.received.append(frame.payload)
            else:
                assert frame.n <= self.recv, f"a gap in a stream: {frame.n} after {self.recv}"
        elif isinstance(frame, Ack):
            self.acknowledge(frame.n)
        assert not isinstance(frame, End), "the session ended"

    def acknowledge(self, n: int) -> None:
        self.acked = max(self.acked, n)
        self.pending = [frame for frame in self.pending if frame.n > self.acked]

    def number(self) -> None:
        while self.greeted and self.waiting and len(self.pending) < CONFIG.window:
            payload = self.waiting[0]
            size = sum(frame.size for frame in self.pending)
            frame = numbered(self.sent + 1, payload)
            if size + frame.size > CONFIG.window_bytes:
                return
            self.waiting.pop(0)
            self.sent += 1
            self.pending.append(frame)

    async def attach(self, step: Step) -> None:
        if step.what == "websocket":
            await self._websocket(step)
            return
        wait = f"&wait={step.seconds}" if step.what == "poll" and self.greeted else ""
        body = await self._exchange("GET", f"/{step.what}?a={self.a}&ack={self.recv}{wait}", b"", step)
        reader: Any = EventFrames(CONFIG.max_message) if step.what == "events" else LineFrames(CONFIG.max_message)
        if body.startswith(b"{"):
            assert json.loads(body)["code"] == "rate", body  # nothing else may be refused here
            return
        for frame in reader.feed(body):
            self.take(frame)

    async def post(self, step: Step) -> None:
        self.number()
        batch = b"".join(map(encode_line, self.pending))
        body = await self._exchange("POST", f"?a={self.a}&ack={self.recv}", batch, step)
        try:
            answer = json.loads(body)
        except ValueError:
            return  # cut
        assert answer.get("code") in (None, "full", "superseded"), answer
        if "ack" in answer:
            self.acknowledge(answer["ack"])

    async def _websocket(self, step: Step) -> None:
        if step.lost:
            return
        peer = await self.host.websocket(f"{self.path}/ws", subprotocols=["ck.v1"])
        hello = {"v": 1, "secret": self.secret, "a": self.a, "recv": self.recv}
        await peer.send(f"h {json.dumps(hello)}")
        budget = 1000 if step.cut is None else step.cut // 60
        answered = False
        with anyio.move_on_after(step.seconds + 0.5):
            while budget:
                message = await peer.receive()
                if isinstance(message, CloseConnection):
                    assert message.code in (4429, 1012), message
                    break
                self.take(decode_websocket(message, CONFIG.max_message))
                if not answered:
                    answered = True
                    self.number()
                    for frame in self.pending:
                        await peer.send(encode_websocket(frame))
                elif self.recv % 2:
                    await peer.send(encode_websocket(Ack(self.recv)))
                budget -= 1
        peer.stream.reset()


@asynccontextmanager
async def serving(where: str, told: Told, says: Any) -> AsyncIterator[Host]:
    async def handler(channel: Channel) -> None:
        channel.on_close(told.ends.append)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(speak, channel)
            async for message in channel:
                told.received.append(message)
            tasks.cancel_scope.cancel()

    async def speak(channel: Channel) -> None:
        with suppress(anyio.ClosedResourceError):  # the plan is over
            async for payload in says:
                if await channel.send(payload):
                    told.accepted.append(payload)
                told.most = max(told.most, channel.statistics().buffered_bytes)

    endpoint: Any = Endpoint(handler, session=CONFIG)
    if where == "asgi":
        endpoint = ASGIHandler(ASGIApp(endpoint, handle_signals=False))
    async with open_host(endpoint) as host:
        yield host


async def play(plan: list[Step], where: str) -> tuple[Told, Client, list[Payload], list[Payload]]:
    told = Told()
    say, says = anyio.create_memory_object_stream[Payload](100)
    up: list[Payload] = []
    down: list[Payload] = []
    async with serving(where, told, says) as host, anyio.create_task_group() as tasks:
        with says, say:
            client = Client(host, tasks)
            await client.create()
            for step in plan:
                if step.what == "up":
                    up.append(step.payload)
                    client.waiting.append(step.payload)
                elif step.what == "down":
                    down.append(step.payload)
                    say.send_nowait(step.payload)
                elif step.what == "pause":
                    await anyio.sleep(step.seconds)
                elif step.what == "reload":
                    client.a += 1  # it keeps its state
                elif step.what == "post":
                    await client.post(step)
                    await client.stale()
                else:
                    await client.attach(step)
                    await client.stale()
            await heal(client, told, up, down)
            await anyio.sleep(1)
    return told, client, up, down


async def heal(client: Client, told: Told, up: list[Payload], down: list[Payload]) -> None:
    """No faults any more."""
    rounds = 0
    while told.received != up or client.received != down or client.waiting or client.pending:
        assert rounds < HEALING + (len(up) + len(down)) // 2, (
            f"S1: up {told.received!r:.300} of {up!r:.300}, down {client.received!r:.300} of {down!r:.300}"
        )
        rounds += 1
        await anyio.sleep(1.1)  # below the rate at which attaches are refused
        await client.attach(Step("poll"))
        await client.post(Step("post"))


@pytest.mark.parametrize("where", ["own", "asgi"])
@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plan=st.lists(steps(), max_size=20), randomness=st.random_module())
def test_nothing_is_lost_repeated_or_reordered(backend: Backend, where: str, plan: list[Step], randomness: Any) -> None:
    """S1, S3, S5, S7: what both sides said is what both sides heard, whatever happened to the requests between."""
    told, client, up, down = clock.run(play, plan, where, backend=backend, max_ticks=200_000)
    assert told.received == up
    assert told.accepted == client.received == down
    assert [type(one) for one in told.received] == [type(one) for one in up]
    assert told.most <= CONFIG.window_bytes + 1 or told.most >= 1 << 60, "S5: more than a window is kept"
    assert len(told.ends) <= 1
