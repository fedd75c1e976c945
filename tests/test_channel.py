"""Channel: what the two halves promise, and what a message costs in task steps."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from trio.testing import MockClock

from channelkit import ChannelClosed, CloseStatus, NotAvailable, ReceiveUnsupported, Request, as_channel, with_channel
from channelkit.testing import clock
from channelkit.testing.host import open_host


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(main: Any, backend: str) -> None:
    clock.run(main, backend=backend, max_ticks=200_000)  # type: ignore[arg-type]


def test_receive_raises_with_the_close_info_and_iteration_ends(backend: str) -> None:
    """After the end `receive` raises ChannelClosed with what `close_info` says; `async for` just stops."""
    seen: list[Any] = []

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            seen.extend([message async for message in channel])
            with pytest.raises(ChannelClosed) as caught:
                await channel.receive()
            assert caught.value.info is channel.close_info
            seen.append(channel.close_info)
            assert await channel.send("too late") is False
            assert await channel.close() is False

    async def main() -> None:
        async with open_host(handler) as host:
            peer = await host.websocket()
            await peer.send("one")
            await peer.close(1001, "moving on")
            await anyio.sleep(1)

    run(main, backend)
    assert seen[0] == "one"
    assert (seen[1].status, seen[1].code, seen[1].reason, seen[1].by) == ("going-away", 1001, "moving on", "peer")


def test_one_consumer(backend: str) -> None:
    """A second receiver is refused: callback or iteration, one at a time."""

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel, anyio.create_task_group() as tasks:
            tasks.start_soon(receive_once, channel)
            await anyio.sleep(0.1)
            with pytest.raises(anyio.BusyResourceError):
                await channel.receive()
            with pytest.raises(anyio.BusyResourceError):
                channel.on_receive(print)

    async def receive_once(channel: Any) -> None:
        done.append(await channel.receive())

    done: list[str] = []

    async def main() -> None:
        async with open_host(handler) as host:
            peer = await host.websocket()
            await anyio.sleep(1)
            await peer.send("for the first")
            await anyio.sleep(1)

    run(main, backend)
    assert done == ["for the first"]


def test_a_response_cannot_receive_and_says_so(backend: str) -> None:
    """`receive` and `on_receive` on a plain response raise at once; `sync` and `ping` say what is missing."""

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            with pytest.raises(ReceiveUnsupported, match="POST"):
                await channel.receive()
            with pytest.raises(ReceiveUnsupported):
                channel.on_receive(print)
            with pytest.raises(NotAvailable, match="framing"):
                channel.ping()
            assert channel.single_response
            await channel.send("fine")

    async def main() -> None:
        async with open_host(handler) as host:
            assert (await host.get()).endswith(b"\r\n\r\nfine")

    run(main, backend)


def test_a_close_that_may_not_be_sent_changes_nothing(backend: str) -> None:
    """A wrong code or reason raises and leaves the channel open."""

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            for code in (999, 1005, 1006, 1015, 2999, 5000):
                with pytest.raises(ValueError, match=str(code)):
                    channel.close_nowait(code)
            with pytest.raises(ValueError, match="123"):
                channel.close_nowait(1000, "é" * 62)
            with pytest.raises(ValueError, match="125"):
                channel.ping(b"x" * 126)
            with pytest.raises(ValueError, match="surrogates"):
                await channel.send("\ud800")
            with pytest.raises(TypeError, match="int"):
                await channel.send(5)
            assert channel.is_open
            await channel.send("open")

    async def main() -> None:
        async with open_host(handler) as host:
            peer = await host.websocket()
            assert await peer.receive() == "open"

    run(main, backend)


def test_on_close_registered_late_runs_in_the_next_turn(backend: str) -> None:
    """A listener that comes after the end is told too, once."""
    told: list[CloseStatus] = []

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            await channel.close()
            channel.on_close(told.append)
            assert told == []
        await anyio.sleep(0.01)

    async def main() -> None:
        async with open_host(handler) as host:
            peer = await host.websocket()
            await peer.answer_close(await peer.receive())  # type: ignore[arg-type]
            await anyio.sleep(1)

    run(main, backend)
    assert told == ["server-close"]


def test_messages_nobody_will_receive_are_counted(backend: str) -> None:
    """Once on_open and the handler have returned without a receiver, messages are counted and not kept."""
    channels: list[Any] = []

    async def handler(request: Request) -> Any:
        return as_channel(request, on_open=channels.append)

    async def main() -> None:
        async with open_host(handler) as host:
            peer = await host.websocket()
            for _ in range(5):
                await peer.send("into the void")
            await anyio.sleep(1)
            assert channels[0].statistics().unread == 5
            assert channels[0].statistics().inbox_messages == 0
            await peer.close()
            await anyio.sleep(1)
            assert channels[0].close_info.unread == 5

    run(main, backend)


def test_a_context_variable_stays_with_its_channel(backend: str) -> None:
    """What a callback sets in its context is seen by the next callback of this channel and by no other."""
    import contextvars

    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="unset")

    def on_receive(channel: Any, message: str) -> None:
        channel.send_nowait(mark.get())
        mark.set(message)

    async def handler(request: Request) -> Any:
        return as_channel(request, on_receive=on_receive)

    async def main() -> None:
        async with open_host(handler) as host:
            one, two = await host.websocket(), await host.websocket()
            await one.send("one")
            assert await one.receive() == "unset"
            await two.send("two")
            assert await two.receive() == "unset"
            await one.send("again")
            assert await one.receive() == "one"

    run(main, backend)


# -- what a message costs: counted, not timed


class Steps(trio.abc.Instrument):
    """Counts the steps of tasks, by name."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        name = task.name.rpartition(".")[2]
        self.count[name] = self.count.get(name, 0) + 1


async def echo_with_callback(request: Request) -> Any:
    return as_channel(request, on_receive=lambda channel, message: channel.send_nowait(message))


async def echo_with_iteration(request: Request) -> None:
    async with with_channel(request) as channel:
        async for message in channel:
            await channel.send(message)


ROUNDS = 20
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
FRAME = b"\x81\x82\0\0\0\0hi"


async def reactor_echo(handler: Any, count: Any, burst: int) -> int:
    """Echo over the real reactor and a socket pair; what `count()` grew by in ROUNDS wake-ups of `burst` messages."""
    import socket

    from channelkit._loop import open_loop
    from channelkit.config import Config
    from channelkit.server.core import ServerCore
    from channelkit.server.pump.reactor import Reactor

    result = -1
    async with open_loop() as loop, anyio.create_task_group() as handlers:
        core = ServerCore(handler, Config(), loop, handlers)
        reactor = Reactor(loop, core.config)
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        reactor.adopt(ours, core.connect)
        try:
            theirs.send(HANDSHAKE)
            await anyio.wait_readable(theirs)
            theirs.recv(4096)
            await anyio.sleep(1)
            before = count()
            for _ in range(ROUNDS):
                theirs.send(FRAME * burst)
                received = 0
                while received < 4 * burst:
                    await anyio.wait_readable(theirs)
                    received += len(theirs.recv(4096))
            result = int(count() - before)
        finally:
            with anyio.CancelScope(shield=True):
                await core.cut()
            reactor.close()
            theirs.close()
    return result


@pytest.mark.parametrize("burst", [1, 10])
@pytest.mark.parametrize(("handler", "steps"), [(echo_with_callback, 0), (echo_with_iteration, 1)])
def test_task_steps_of_an_echo_on_trio(handler: Any, steps: int, burst: int) -> None:
    """No task step but the reactor's own for a callback, one for each wake-up with iteration, however many messages."""
    instrument = Steps()

    def count() -> int:
        return sum(number for name, number in instrument.count.items() if name == handler.__name__)

    result = trio.run(
        reactor_echo, handler, count, burst, instruments=[instrument], clock=MockClock(autojump_threshold=0)
    )
    assert result == steps * ROUNDS


@pytest.mark.parametrize("burst", [1, 10])
@pytest.mark.parametrize(("handler", "steps"), [(echo_with_callback, 0), (echo_with_iteration, 1)])
def test_task_steps_of_an_echo_on_asyncio(handler: Any, steps: int, burst: int) -> None:
    """The same, counted as entries into the handler's coroutine by asyncio's tasks."""
    entries = 0
    code = handler.__code__

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal entries
        if event == "call" and frame.f_code is code:
            entries += 1

    async def main() -> int:
        sys.setprofile(profile)
        try:
            return await reactor_echo(handler, lambda: entries, burst)
        finally:
            sys.setprofile(None)

    result = clock.run(main, backend="asyncio", max_ticks=100_000)
    assert result == steps * ROUNDS
    assert asyncio.iscoroutinefunction(handler)


def test_a_callbacks_context_does_not_reach_other_requests(backend: str) -> None:
    """What a callback sets is not seen by handlers that start later, even if it was what woke the loop."""
    import contextvars

    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark2", default="unset")
    seen: list[str] = []

    def on_receive(channel: Any, message: str) -> None:
        mark.set("leaked")
        channel.send_nowait(message)
        channel.close_nowait()

    async def handler(request: Request) -> Any:
        seen.append(mark.get())
        return as_channel(request, on_receive=on_receive) if request.is_websocket else "plain"

    async def main() -> None:
        async with open_host(handler) as host:
            stream = host.connect()
            await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            peer = await host.websocket()
            await peer.send("go")
            await peer.receive()
            await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            await anyio.sleep(1)

    run(main, backend)
    assert seen == ["unset"] * 5


def test_a_late_receiver_gets_its_messages_before_on_close(backend: str) -> None:
    """The peer has gone before the handler set its receiver: messages first, then on_close, once."""
    told: list[str] = []

    async def handler(request: Request) -> Any:
        channel = as_channel(request, on_close=lambda channel, status: told.append(f"closed {status}"))
        await anyio.sleep(5)
        channel.on_receive(told.append)
        return channel

    async def main() -> None:
        async with open_host(handler) as host:
            peer = await host.websocket()
            await peer.send("one")
            await peer.send("two")
            await peer.close()
            await anyio.sleep(10)

    run(main, backend)
    assert told == ["one", "two", "closed normal"]


def test_async_callbacks_that_never_wait_let_others_run(backend: str) -> None:
    """A full inbox worked off by callbacks without a single real wait gives the loop its turn in between."""
    done: list[int] = []
    seen: list[int] = []
    begun: list[anyio.Event] = []

    async def on_receive(channel: Any, message: str) -> None:
        if not done:
            await anyio.sleep(1)
            begun[0].set()
        done.append(1)

    async def handler(request: Request) -> Any:
        return as_channel(request, on_receive=on_receive)

    async def main() -> None:
        async with open_host(handler) as host:
            begun.append(anyio.Event())
            peer = await host.websocket()
            for _ in range(500):
                await peer.send("x")
            await begun[0].wait()
            while len(done) < 500:
                seen.append(len(done))
                await anyio.lowlevel.checkpoint()

    run(main, backend)
    assert any(0 < count < 400 for count in seen)
