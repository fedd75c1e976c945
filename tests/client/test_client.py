"""The client in Python against the real server code: every transport, moving among them, cuts, the end, a successor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from channelkit import Channel, Endpoint, Request, Response, SessionConfig
from channelkit.client import ClientChannel, ConnectFailed, connect
from channelkit.client.address import parse_address
from channelkit.client.channel import KINDS
from channelkit.errors import ChannelClosed, ConfigError
from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.host import Host, open_host
from channelkit.testing.network import MemoryStream, pair

URL = "http://test"
TRANSPORTS = tuple(KINDS)
Payload = str | bytes


@dataclass
class Room:
    """An echo that remembers; `greeting` is sent first."""

    greeting: list[Payload] = field(default_factory=list)
    received: list[Payload] = field(default_factory=list)
    ends: list[Any] = field(default_factory=list)

    async def handler(self, channel: Channel) -> None:
        for message in self.greeting:
            await channel.send(message)
        async for message in channel:
            self.received.append(message)
            if message == "raise":
                raise RuntimeError("on purpose")
            if message == "close":
                await channel.close(4001, "bye")
                return
            await channel.send(message)

    def endpoint(self, **options: Any) -> Endpoint:
        return Endpoint(
            self.handler, session=SessionConfig(**options), on_close=lambda channel, status: self.ends.append(status)
        )


@dataclass
class Network:
    """Connections to a host, all of which can be cut."""

    host: Host
    streams: list[MemoryStream] = field(default_factory=list)
    refusing: bool = False

    async def dial(self) -> MemoryStream:
        if self.refusing:
            raise ConnectionRefusedError(111, "Connection refused")
        stream = self.host.connect()
        self.streams.append(stream)
        return stream

    def cut(self, after: int = 0) -> None:
        """Cut every connection, when so many bytes more were read."""
        streams, self.streams = self.streams, []
        for stream in streams:
            if after:
                stream.cut(after=after)
            else:
                stream.reset()


def play(backend: Backend, room: Room, plan: Callable[[Network], Awaitable[None]], **options: Any) -> None:
    """Run `plan` against a host of `room`, in virtual time."""

    async def main() -> None:
        async with open_host(room.endpoint(**options)) as host:
            await plan(Network(host))

    clock.run(main, backend=backend)


class Narrow:
    """A host behind a line of so many bytes a second, each way."""

    def __init__(self, host: Host, rate: int, tasks: TaskGroup) -> None:
        self._host = host
        self._rate = rate
        self._tasks = tasks
        self.connections = 0

    async def dial(self) -> MemoryStream:
        self.connections += 1
        ours, theirs = pair(capacity=self._rate)
        far = self._host.connect(capacity=self._rate)
        self._tasks.start_soon(self._carry, ours, far)
        self._tasks.start_soon(self._carry, far, ours)
        return theirs

    async def _carry(self, source: MemoryStream, sink: MemoryStream) -> None:
        try:
            while True:
                data = await source.receive(self._rate)
                await anyio.sleep(len(data) / self._rate)
                await sink.send(data)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await source.aclose()
            await sink.aclose()


async def echoes(channel: ClientChannel, messages: list[Payload]) -> None:
    """Send all, and get all back."""
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            for message in messages:
                assert await channel.send(message)

        tasks.start_soon(send)
        assert [await channel.receive() for _ in messages] == messages


MESSAGES: list[Payload] = ["", "a\nb\r\nc\0", b"\0\xff", "é\u2028", "x" * 3000, b"y" * 3000, *map(str, range(60))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_transport(transport: str, backend: Backend) -> None:
    """All payloads go both ways in order, through a small window, and a clean close is told to both."""
    room = Room()

    async def plan(network: Network) -> None:
        async with connect(URL, transport=transport, dial=network.dial) as channel:
            assert channel.transport == transport
            await echoes(channel, MESSAGES)
            assert await channel.flush()
            info = await channel.close(4000, "done")
            assert (info.code, info.reason, info.by, info.delivered) == (4000, "done", "local", True)
            assert not await channel.send("late")
            with pytest.raises(ChannelClosed):
                await channel.receive()
        await anyio.sleep(60)

    play(backend, room, plan, window=8, window_bytes=8000, max_message=4000)
    assert room.received == MESSAGES
    assert len(room.ends) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_slow_line_is_no_silence(transport: str, backend: Backend) -> None:
    """A message that takes longer than all patience with silence arrives; on a WebSocket by the first connection."""
    room = Room()
    connections: list[int] = []

    async def main() -> None:
        async with open_host(room.endpoint()) as host, anyio.create_task_group() as tasks:
            line = Narrow(host, 4000, tasks)
            async with connect(URL, transport=transport, dial=line.dial) as channel:
                with anyio.fail_after(600):
                    await echoes(channel, ["x" * 300_000])
                    await echoes(channel, ["y"])
            connections.append(line.connections)
            tasks.cancel_scope.cancel()

    clock.run(main, backend=backend)
    assert room.received == ["x" * 300_000, "y"]
    assert transport != "websocket" or connections == [1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("word", "code"), [("close", 4001), ("raise", 1011)])
def test_the_server_ends_it(word: str, code: int, transport: str, backend: Backend) -> None:
    """The handler's close, or its error, comes behind everything it sent; iteration ends there."""
    room = Room(greeting=["one", "two"])

    async def plan(network: Network) -> None:
        async with connect(URL, transport=transport, dial=network.dial) as channel:
            await channel.send(word)
            assert [message async for message in channel] == ["one", "two"]
            info = await channel.wait_closed()
            assert (info.code, info.by) == (code, "peer")

    play(backend, room, plan)
    assert len(room.ends) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_successor_goes_on(transport: str, backend: Backend) -> None:
    """What `save` gives is enough: unsent messages arrive, received ones do not come again."""
    room = Room(greeting=["hello"])

    async def plan(network: Network) -> None:
        async with connect(URL, transport=transport, dial=network.dial) as channel:
            assert await channel.receive() == "hello"
            network.cut()
            network.refusing = True
            await channel.send("kept")
            saved = channel.save()
        network.refusing = False
        assert saved.secret is not None
        assert saved.secret not in repr(saved)
        async with connect(URL, transport="long_poll", dial=network.dial, saved=saved) as channel:
            assert await channel.receive() == "kept"

    play(backend, room, plan)
    assert room.received == ["kept"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_loss_is_told(transport: str, backend: Backend) -> None:
    """A server that is not reached within its grace: not delivered, with the bytes that nobody said to have."""

    async def plan(network: Network) -> None:
        async with connect(URL, transport=transport, dial=network.dial) as channel:
            await echoes(channel, ["x"])
            assert await channel.flush()
            network.cut()
            network.refusing = True
            assert await channel.send("kept")
            info = await channel.wait_closed()
            assert (info.status, info.by, info.delivered, info.unsent) == ("lost", "network", False, 4)

    play(backend, Room(), plan)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_first_connection_that_hangs_is_not_waited_for(transport: str, backend: Backend) -> None:
    """Whatever took it: the next try is made long before the session would have to be given up."""

    async def plan(network: Network) -> None:
        hung: list[MemoryStream] = []

        async def dial() -> MemoryStream:
            if not hung:
                hung.extend(pair())
                return hung[0]
            return await network.dial()

        with anyio.fail_after(20):
            async with connect(URL, transport=transport, dial=dial) as channel:
                await echoes(channel, ["here"])

    play(backend, Room(), plan)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", ["http_stream", "events", "long_poll"])
@pytest.mark.parametrize("body", ["", "<h1>Please log in</h1>"])
def test_who_answers_everything_with_200_is_not_the_server(body: str, transport: str, backend: Backend) -> None:
    """As the gate of a hotel's network does: that is no contact with the session, and after its grace it is lost."""
    gate: list[bool] = []
    endpoint = Room().endpoint()

    async def handler(request: Request) -> Any:
        return Response(200, body=body) if gate else await endpoint(request)

    async def main() -> None:
        async with open_host(handler) as host:
            network = Network(host)
            async with connect(URL, transport=transport, dial=network.dial) as channel:
                await echoes(channel, ["x"])
                gate.append(True)
                network.cut()
                with anyio.fail_after(120):
                    info = await channel.wait_closed()
            assert (info.code, info.by) == (1006, "network")

    clock.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nobody_there(transport: str, backend: Backend) -> None:
    """A refused connection is told at once, with the address; so is a URL that is no endpoint's."""

    async def nothing(request: Request) -> Response:
        return Response(404)

    async def main() -> None:
        async with open_host(nothing) as host:
            network = Network(host, refusing=True)
            with pytest.raises(ConnectFailed, match=r"http://test: Connection refused"):
                async with connect(URL, transport=transport, dial=network.dial):
                    raise AssertionError("connected to nobody")
            network.refusing = False
            with pytest.raises(ConnectFailed, match=r"http://test/ck answered 404; is that the URL of an Endpoint"):
                async with connect(URL, transport=transport, dial=network.dial):
                    raise AssertionError("connected to nothing")

    clock.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", ["websocket", "long_poll"])
@pytest.mark.parametrize(("status", "patience"), [(200, 0), (301, 0), (403, 0), (500, 30), (503, 30)])
def test_what_was_answered_instead_is_told(status: int, patience: int, transport: str, backend: Backend) -> None:
    """At once where it will not change, else when the patience is over."""

    async def other(request: Request) -> Response:
        return Response(status, body="something else")

    async def main() -> None:
        async with open_host(other) as host:
            began = anyio.current_time()
            with pytest.raises(ConnectFailed, match=f"http://test/ck answered {status}"):
                async with connect(URL, transport=transport, dial=Network(host).dial):
                    raise AssertionError("connected to something else")
            assert anyio.current_time() - began == pytest.approx(patience, abs=1)

    clock.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_inside(backend: Backend) -> None:
    """An exception comes out as it is, and the server is told 1011."""
    room = Room()

    async def plan(network: Network) -> None:
        with pytest.raises(LookupError, match="mine"):
            async with connect(URL, dial=network.dial):
                raise LookupError("mine")

    play(backend, room, plan)
    assert [str(status) for status in room.ends] == ["internal-server-error"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("after", [0.0, 0.01, 0.6, 5.0])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_cancelled_it_leaves_no_connection(transport: str, after: float, backend: Backend) -> None:
    """Cancelled at any moment, every connection is closed, also those that were kept for the next request."""

    async def plan(network: Network) -> None:
        with anyio.move_on_after(after):
            async with connect(URL, transport=transport, dial=network.dial) as channel:
                await echoes(channel, MESSAGES)
                await anyio.sleep(1000)
        for stream in network.streams:
            with pytest.raises(anyio.ClosedResourceError):
                await stream.receive()

    play(backend, Room(), plan)


@pytest.mark.parametrize(
    "url", ["", "chat", "ftp://h/", "http://", "http://h:x/", "http://h/?q=1", "http://u@h/", "http://h/é"]
)
def test_urls_that_cannot_work(url: str) -> None:
    """Each is named before anything is opened."""
    with pytest.raises(ConfigError):
        parse_address(url)


def test_addresses() -> None:
    """The sessions of an endpoint are below its URL, unless the URL is theirs already."""
    assert parse_address("http://h/chat").target(None) == "/chat/ck"
    assert parse_address("wss://h/ck/").target("S", "poll", a=1, ack=2) == "/ck/S/poll?a=1&ack=2"
    assert parse_address("wss://h:444").port == 444
    assert parse_address("https://h").port == 443


# -- what is told of attaching -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_ordinary_turns_are_silent(transport: str, backend: Backend) -> None:
    """Polls are answered and streams rotated for minutes, with messages and without: attached, said once."""
    room = Room()
    changes: list[str] = []

    async def plan(network: Network) -> None:
        async with connect(URL, transport=transport, dial=network.dial, on_change=changes.append) as channel:
            await anyio.sleep(200)
            for number in range(10):
                await echoes(channel, [str(number)])
                await anyio.sleep(number)
            assert changes == [f"attached by {transport}"]
            network.refusing = True
            network.cut()
            await anyio.sleep(5)
            assert changes[1:] == ["detached"]
            network.refusing = False
            await anyio.sleep(10)
            assert changes[2:] == [f"attached by {transport}"]

    play(backend, room, plan, rotation=3.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_poller_of_a_silent_session_is_attached_at_once(backend: Backend) -> None:
    """Not when the first poll is answered, 25 s later; coming from another transport too."""
    changes: list[tuple[float, str]] = []

    async def plan(network: Network) -> None:
        def told(change: str) -> None:
            changes.append((anyio.current_time() - begun, change))

        begun = anyio.current_time()
        async with connect(URL, transport="long_poll", dial=network.dial, on_change=told) as channel:
            await anyio.sleep(2)
            channel.switch("http_stream")
            await anyio.sleep(2)
            channel.switch("long_poll")
            await anyio.sleep(2)
            assert [change for _, change in changes] == [
                *("attached by long_poll", "detached", "attached by http_stream"),
                *("detached", "attached by long_poll"),
            ]
            assert [int(when) for when, _ in changes] == [0, 2, 2, 4, 4]

    play(backend, Room(), plan)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", ["http_stream", "long_poll"])
def test_bodies_that_are_too_large_for_the_way(transport: str, backend: Backend) -> None:
    """Something answers 413 to bodies that the endpoint would take: all arrives, in smaller batches."""
    room = Room()
    messages: list[Payload] = [f"{number:4}" + "x" * (number * 7 % 300) for number in range(200)]

    async def main() -> None:
        async with (
            open_host(room.endpoint(), max_body=900) as host,
            connect(URL, transport=transport, dial=Network(host).dial) as channel,
        ):
            await echoes(channel, messages)
            assert (await channel.close()).delivered

    clock.run(main, backend=backend)
    assert room.received == messages


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", ["http_stream", "long_poll"])
def test_many_messages_where_only_small_ones_are_allowed(transport: str, backend: Backend) -> None:
    """The largest body the server takes is six of its largest messages; a full window is far more."""
    room = Room()
    messages: list[Payload] = ["\0" * 16, b"\xff" * 16, "", *("\1" * (number % 17) for number in range(300))]

    async def plan(network: Network) -> None:
        async with connect(URL, transport=transport, dial=network.dial) as channel:
            network.refusing = True
            network.cut()
            for message in messages:
                assert await channel.send(message)
            network.refusing = False
            assert [await channel.receive() for _ in messages] == messages

    play(backend, room, plan, max_message=16, window=500, window_bytes=1 << 20)
    assert room.received == messages


# -- told how it ended -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_superseded_client_is_told_so(transport: str, backend: Backend) -> None:
    """A twin with a larger number takes over.  A WebSocket is told by its close; the others when they come again."""
    room = Room(greeting=["hello"])
    changes: list[str] = []

    async def plan(network: Network) -> None:
        options: dict[str, Any] = {"transport": transport, "dial": network.dial}
        async with connect(URL, **options, on_change=changes.append) as old:
            assert await old.receive() == "hello"
            dialled = len(network.streams)
            async with connect(URL, **options, saved=old.machine.save()) as new:
                info = await old.wait_closed()
                assert (info.status, info.reason) == ("lost", "another instance took over")
                if transport == "websocket":
                    assert len(network.streams) == dialled + 1, "it came again, to be told what it knew"
                await new.send("mine")
                assert await new.receive() == "mine"
        assert changes.count(f"attached by {transport}") == 1

    play(backend, room, plan)
    assert room.received == ["mine"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_session_that_ended_meanwhile(transport: str, backend: Backend) -> None:
    """It ended while this client was away, by another's acknowledgement: that is what it is told, by each transport."""
    room = Room(greeting=["hello"])

    async def plan(network: Network) -> None:
        async with connect(URL, transport=transport, dial=network.dial) as channel:
            assert await channel.receive() == "hello"
            network.refusing = True
            network.cut()
            secret, a = channel.machine.secret, channel.machine.a
            head = f"HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {secret}\r\n"
            path = f"/ck/{channel.session_id}"
            say = f"POST {path}?n=1&a={a} {head}Content-Length: 5\r\n\r\nclose"
            assert b"200 OK" in await network.host.exchange(say.encode())
            await anyio.sleep(0.1)
            assert b'"ended"' in await network.host.exchange(f"GET {path}/poll?ack=2&a={a} {head}\r\n".encode())
            network.refusing = False
            info = await channel.wait_closed()
            assert (info.status, info.reason) == ("lost", "ended")

    play(backend, room, plan)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_may_be_lost_can_be_sent_again(transport: str, backend: Backend) -> None:
    """With ack="processed" a failing handler leaves its message and those behind, in order, to a new session."""
    room = Room()

    async def plan(network: Network) -> None:
        async with connect(URL, transport=transport, dial=network.dial) as channel:
            await channel.send("fine")
            assert await channel.receive() == "fine"
            assert await channel.flush()
            for message in ("raise", b"behind", "it"):
                await channel.send(message)
            assert not channel.left
            info = await channel.wait_closed()
            assert (info.code, info.delivered) == (1011, False)
            assert [*channel.left] == ["raise", b"behind", "it"]
            assert channel.unacknowledged == 3
        async with connect(URL, transport=transport, dial=network.dial) as again:
            await echoes(again, [*channel.left[1:]])

    play(backend, room, plan, ack="processed")
    assert room.received == ["fine", "raise", b"behind", "it"]
