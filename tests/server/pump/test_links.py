"""Both pumps behave the same to an engine: every test here runs on each, and on both loops.

Time is virtual, sockets are real for the reactor and in memory for the stream pump; nothing waits for real.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream, UNIXSocketStream

from channelkit._loop import Loop, open_loop
from channelkit.config import Config
from channelkit.errors import ConfigError
from channelkit.server.pump.link import Link
from channelkit.server.pump.reactor import Reactor
from channelkit.server.pump.stream import serve_stream
from channelkit.testing import network
from channelkit.testing.clock import Backend, run
from tests.turning import turns, until

Pump = Literal["reactor", "stream"]
MIB = 1024 * 1024


@pytest.fixture(params=["reactor", "stream"])
def pump(request: pytest.FixtureRequest) -> Pump:
    """Which pump moves the bytes."""
    return request.param  # type: ignore[no-any-return]


class Recorder:
    """An engine that writes down its calls, and does in each what the test says."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.calls: list[str] = []
        self.data = bytearray()
        self.error: Exception | None = None
        self.on_data: Callable[[bytes], Any] = lambda data: False
        self.on_resume: Callable[[], Any] = lambda: False
        self.on_eof: Callable[[], Any] = lambda: None
        self.on_wrote: Callable[[], Any] = lambda: None

    def _note(self, call: str) -> None:
        assert "lost" not in self.calls, f"{call} after connection_lost"
        self.calls.append(call)

    def data_received(self, data: memoryview) -> bool:
        self._note("data")
        self.data += data
        return bool(self.on_data(bytes(data)))

    def resume(self) -> bool:
        self._note("resume")
        return bool(self.on_resume())

    def eof_received(self) -> None:
        self._note("eof")
        self.on_eof()

    def wrote(self) -> None:
        self._note("wrote")
        self.on_wrote()

    def connection_lost(self, error: Exception | None) -> None:
        self._note("lost")
        self.error = error

    @property
    def lost(self) -> bool:
        return "lost" in self.calls


@dataclass
class Bench:
    """One served connection: its engine, its link, and the peer's end."""

    loop: Loop
    engine: Recorder
    link: Link
    peer: ByteStream

    async def receive_all(self) -> bytes:
        """What the peer reads until the end of file."""
        got = bytearray()
        try:
            while True:
                got += await self.peer.receive()
        except anyio.EndOfStream:
            return bytes(got)

    async def receive(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            got += await self.peer.receive(size - len(got))
        return bytes(got)


@asynccontextmanager
async def opened(pump: Pump, settings: Config | None = None) -> AsyncIterator[Bench]:
    settings = settings or Config()
    async with open_loop() as loop:
        opening = _reactor_bench if pump == "reactor" else _stream_bench
        async with opening(loop, settings) as bench:
            yield bench


@asynccontextmanager
async def _reactor_bench(loop: Loop, settings: Config) -> AsyncIterator[Bench]:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    reactor = Reactor(loop, settings)
    engines: list[Recorder] = []

    def connect(link: Link) -> Recorder:
        engines.append(Recorder(link))
        return engines[0]

    try:
        async with await UNIXSocketStream.from_socket(theirs) as peer:
            link = reactor.adopt(ours, connect)
            yield Bench(loop, engines[0], link, peer)
    finally:
        reactor.close()
        await turns()
    assert engines[0].lost
    assert reactor.links == 0


@asynccontextmanager
async def _stream_bench(loop: Loop, settings: Config) -> AsyncIterator[Bench]:
    peer, ours = network.pair()
    engines: list[Recorder] = []

    def connect(link: Link) -> Recorder:
        engines.append(Recorder(link))
        return engines[0]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_stream, loop, settings, ours, connect)
        await until(lambda: bool(engines))
        try:
            yield Bench(loop, engines[0], engines[0].link, peer)
        finally:
            tasks.cancel_scope.cancel()
    await turns()
    assert engines[0].lost
    with pytest.raises(anyio.ClosedResourceError):
        await ours.receive()


def check(test: Callable[[Bench], Awaitable[None]], pump: Pump, backend: Backend, **options: Any) -> None:
    """Run `test` on a fresh connection under virtual time."""

    async def main() -> None:
        async with opened(pump, Config(**options)) as bench:
            await test(bench)

    run(main, backend=backend, max_ticks=200_000)


# -- reading


def test_bytes_arrive_in_order(pump: Pump, anyio_backend: Backend) -> None:
    """What the peer sends reaches the engine whole and in order, and counts as life."""

    async def test(b: Bench) -> None:
        b.link.alive = False
        sent = bytes(range(256)) * 512
        await b.peer.send(sent)
        await until(lambda: len(b.engine.data) == len(sent))
        assert b.engine.data == sent
        assert b.link.alive

    check(test, pump, anyio_backend)


def test_left_over_work_is_resumed_before_more_is_read(pump: Pump, anyio_backend: Backend) -> None:
    """An engine with more work than a turn may take is resumed turn by turn; nothing is read meanwhile."""

    async def test(b: Bench) -> None:
        left = 5
        turns_seen: list[float] = []

        def work() -> bool:
            nonlocal left
            left -= 1
            turns_seen.append(ticks)
            return left > 0

        ticks = 0
        b.engine.on_data = lambda data: data == b"first"
        b.engine.on_resume = work
        await b.peer.send(b"first")
        await until(lambda: "data" in b.engine.calls)
        await b.peer.send(b"second")
        while b.engine.data != b"firstsecond":
            ticks += 1
            await anyio.lowlevel.checkpoint()
        assert b.engine.calls == ["data", *["resume"] * 5, "data"]
        assert len(set(turns_seen)) > 1

    check(test, pump, anyio_backend)


def test_paused_nothing_arrives(pump: Pump, anyio_backend: Backend) -> None:
    """With reading off the engine gets neither bytes nor end; switched on, first `resume`, then the rest, in order."""

    async def test(b: Bench) -> None:
        b.link.set_reading(False)
        b.link.set_reading(False)
        await b.peer.send(b"bytes")
        await b.peer.send_eof()
        await turns()
        await anyio.sleep(1)
        assert b.engine.calls == []
        assert not b.link.reading
        b.link.set_reading(True)
        assert b.engine.calls == []
        await until(lambda: "eof" in b.engine.calls)
        assert b.engine.calls == ["resume", "data", "eof"]
        assert b.engine.data == b"bytes"

    check(test, pump, anyio_backend)


def test_paused_with_work_left(pump: Pump, anyio_backend: Backend) -> None:
    """An engine that pauses with work left is not resumed before reading is switched on."""

    async def test(b: Bench) -> None:
        def pause(data: bytes) -> bool:
            b.link.set_reading(False)
            return True

        b.engine.on_data = pause
        await b.peer.send(b"x")
        await until(lambda: bool(b.engine.calls))
        await turns()
        assert b.engine.calls == ["data"]
        b.link.set_reading(True)
        await turns()
        assert b.engine.calls == ["data", "resume"]

    check(test, pump, anyio_backend)


def test_half_closed_peer_is_answered(pump: Pump, anyio_backend: Backend) -> None:
    """After the peer's FIN the engine may go on writing, and `set_reading(True)` still resumes it."""

    async def test(b: Bench) -> None:
        await b.peer.send(b"request")
        await b.peer.send_eof()
        await until(lambda: "eof" in b.engine.calls)
        b.link.set_reading(False)
        b.link.set_reading(True)
        await turns()
        assert b.engine.calls == ["data", "eof", "resume"]
        await anyio.sleep(100)
        assert not b.engine.lost
        b.link.write(b"answer")
        b.link.finish()
        assert await b.receive_all() == b"answer"
        await until(lambda: b.engine.lost)
        assert b.engine.error is None

    check(test, pump, anyio_backend)


def test_fin_behind_busy_work_sets_no_deadline(pump: Pump, anyio_backend: Backend) -> None:
    """A FIN that comes while the engine is busy, not paused, ends nothing however long the answer takes."""

    async def test(b: Bench) -> None:
        left = 50

        def work() -> bool:
            nonlocal left
            left -= 1
            return left > 0

        b.engine.on_data = lambda data: True
        b.engine.on_resume = work
        await b.peer.send(b"many")
        await b.peer.send_eof()
        await until(lambda: "eof" in b.engine.calls)
        await anyio.sleep(100)
        assert not b.engine.lost

    check(test, pump, anyio_backend, half_closed_timeout=5)


def test_paused_and_half_closed_still_writes(pump: Pump, anyio_backend: Backend) -> None:
    """A peer that has sent FIN while we do not read still gets all we have for it."""

    async def test(b: Bench) -> None:
        b.link.set_reading(False)
        await b.peer.send_eof()
        await turns()
        b.link.write(bytes(MIB))
        await turns()
        assert b.link.unsent > 0
        assert len(await b.receive(MIB)) == MIB
        await until(lambda: b.link.unsent == 0)
        assert not b.engine.lost

    check(test, pump, anyio_backend)


# -- writing


def test_one_turn_is_one_piece(pump: Pump, anyio_backend: Backend) -> None:
    """What is written in one turn leaves together and in order, without waiting for anything."""

    async def test(b: Bench) -> None:
        for word in (b"one ", b"", b"two ", b"three"):
            b.link.write(word)
        assert b.link.unsent == 13
        assert await b.peer.receive() == b"one two three"
        await until(lambda: b.link.unsent == 0)

    check(test, pump, anyio_backend)


def test_written_inside_an_engine_call(pump: Pump, anyio_backend: Backend) -> None:
    """An echo from inside `data_received` leaves in the same turn."""

    async def test(b: Bench) -> None:
        b.engine.on_data = b.link.write
        await b.peer.send(b"echo")
        assert await b.peer.receive() == b"echo"

    check(test, pump, anyio_backend)


def test_much_arrives_whole(pump: Pump, anyio_backend: Backend) -> None:
    """Pieces of all sizes, written faster than the peer reads, arrive whole and in order."""

    async def test(b: Bench) -> None:
        pieces = [bytes([n % 251]) * (n * 977 % 200_000) for n in range(40)]
        for piece in pieces:
            b.link.write(piece)
        total = sum(map(len, pieces))
        assert 0 < b.link.unsent <= total
        b.link.finish()
        assert await b.receive_all() == b"".join(pieces)
        await until(lambda: b.engine.lost)
        assert b.link.unsent == 0
        assert b.engine.error is None

    check(test, pump, anyio_backend)


def test_notify_tells_once(pump: Pump, anyio_backend: Backend) -> None:
    """`wrote` comes once for each time it was asked for, never inline, with `notify` reset."""

    async def test(b: Bench) -> None:
        seen: list[bool] = []
        b.engine.on_wrote = lambda: seen.append(b.link.notify)
        b.link.write(b"a")
        await turns()
        assert seen == []
        b.link.notify = True
        b.link.write(b"b")
        b.link.flush()
        assert seen == []
        await turns()
        assert seen == [False]
        b.link.write(b"c")
        await turns()
        assert seen == [False]

    check(test, pump, anyio_backend)


def test_a_stalled_peer_is_given_up(pump: Pump, anyio_backend: Backend) -> None:
    """A peer that takes nothing for `write_timeout` is lost by a TimeoutError; `unsent` tells what it missed."""

    async def test(b: Bench) -> None:
        start = b.loop.time()
        b.link.write(bytes(MIB))
        await turns()
        await anyio.sleep(6.9)
        assert not b.engine.lost
        await anyio.sleep(0.2)
        assert isinstance(b.engine.error, TimeoutError)
        assert b.link.closed
        assert 0 < b.link.unsent < MIB + 1
        assert b.loop.time() - start < 8

    check(test, pump, anyio_backend, write_timeout=7)


def test_a_slow_peer_is_not_stalled(pump: Pump, anyio_backend: Backend) -> None:
    """A peer that takes something in each `write_timeout` gets everything; silence with nothing unsent is no stall."""

    async def test(b: Bench) -> None:
        b.link.write(bytes(MIB))
        got = 0
        while got < MIB:
            await anyio.sleep(6)
            got += len(await b.receive(min(256 * 1024, MIB - got)))
        await turns()
        await anyio.sleep(100)
        assert not b.engine.lost
        assert b.link.unsent == 0

    check(test, pump, anyio_backend, write_timeout=7)


def test_a_peer_that_is_gone(pump: Pump, anyio_backend: Backend) -> None:
    """Writing to a peer that closed ends the link by an error, once, and never inside `write`."""

    async def test(b: Bench) -> None:
        await b.peer.aclose()
        for _ in range(3):
            b.link.write(b"x" * 70_000)
            b.link.flush()
            assert not b.engine.lost
        await until(lambda: b.engine.lost)
        assert isinstance(b.engine.error, OSError)
        assert b.link.unsent > 0

    check(test, pump, anyio_backend)


# -- ending


def test_finish_hands_all_over_first(pump: Pump, anyio_backend: Backend) -> None:
    """`finish` sends what was accepted, then FIN, then tells None once; it refuses later writes and is never inline."""

    async def test(b: Bench) -> None:
        b.link.write(b"last")
        b.link.finish()
        b.link.write(b"too late")
        b.link.finish()
        assert b.engine.calls == []
        assert await b.receive_all() == b"last"
        await until(lambda: b.engine.lost)
        assert b.engine.calls == ["lost"]
        assert b.engine.error is None
        assert b.link.closed

    check(test, pump, anyio_backend)


def test_finish_lingers(pump: Pump, anyio_backend: Backend) -> None:
    """After our end the peer may go on sending for a while, and reads our answer undisturbed."""

    async def test(b: Bench) -> None:
        b.link.write(b"refused")
        b.link.finish()
        await until(lambda: b.engine.lost)
        for _ in range(10):
            await b.peer.send(bytes(10_000))
            await turns(5)
        assert await b.receive_all() == b"refused"
        assert b.engine.calls == ["lost"]
        await b.peer.send_eof()

    check(test, pump, anyio_backend)


def test_lingering_is_bounded(pump: Pump, anyio_backend: Backend) -> None:
    """A peer that never ends is cut after `linger_timeout`, or after a mebibyte."""

    async def by_time(b: Bench) -> None:
        b.link.finish()
        await until(lambda: b.engine.lost)
        await anyio.sleep(2.9)
        await b.peer.send(b"still taken")
        await anyio.sleep(0.2)
        with pytest.raises(anyio.BrokenResourceError):
            await b.peer.send(b"refused")
            await b.peer.send(b"refused")

    async def by_size(b: Bench) -> None:
        b.link.finish()
        with pytest.raises(anyio.BrokenResourceError):
            for _ in range(100):
                await b.peer.send(bytes(64 * 1024))
        assert b.loop.time() < 3

    check(by_time, pump, anyio_backend, linger_timeout=3)
    check(by_size, pump, anyio_backend, linger_timeout=3)


def test_abort_is_immediate_and_tells_later(pump: Pump, anyio_backend: Backend) -> None:
    """`abort` discards what is unsent, keeps its number, and tells the engine in a call of its own."""

    async def test(b: Bench) -> None:
        b.link.write(b"never leaves")
        b.link.abort()
        b.link.abort()
        b.link.finish()
        b.link.write(b"ignored")
        assert b.engine.calls == []
        assert b.link.closed
        assert b.link.unsent == 12
        await until(lambda: b.engine.lost)
        assert isinstance(b.engine.error, ConnectionAbortedError)
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await b.peer.receive()
        await turns()
        assert b.engine.calls == ["lost"]

    check(test, pump, anyio_backend)


def test_abort_inside_a_call(pump: Pump, anyio_backend: Backend) -> None:
    """An engine that aborts while it handles bytes is not resumed, whatever it returns."""

    async def test(b: Bench) -> None:
        def abort(data: bytes) -> bool:
            b.link.abort()
            assert not b.engine.lost
            return True

        b.engine.on_data = abort
        await b.peer.send(b"x")
        await until(lambda: b.engine.lost)
        await turns()
        assert b.engine.calls == ["data", "lost"]

    check(test, pump, anyio_backend)


def test_abort_after_finish(pump: Pump, anyio_backend: Backend) -> None:
    """An abort before everything was handed over overrides `finish`."""

    async def test(b: Bench) -> None:
        b.link.write(bytes(MIB))
        b.link.finish()
        await turns()
        assert not b.engine.lost
        b.link.abort()
        await until(lambda: b.engine.lost)
        assert isinstance(b.engine.error, ConnectionAbortedError)
        assert b.link.unsent > 0

    check(test, pump, anyio_backend)


# -- engines


def test_an_engine_can_be_replaced(pump: Pump, anyio_backend: Backend) -> None:
    """After an upgrade the next call goes to the new engine."""

    async def test(b: Bench) -> None:
        old, new = b.engine, Recorder(b.link)

        def upgrade(data: bytes) -> bool:
            b.link.engine = new
            return True

        old.on_data = upgrade
        await b.peer.send(b"upgrade")
        await until(lambda: new.calls == ["resume"])
        await b.peer.send(b"frames")
        await until(lambda: new.data == b"frames")
        b.link.engine = b.engine  # the bench looks for its end there
        assert old.calls == ["data"]

    check(test, pump, anyio_backend)


@pytest.mark.parametrize("call", ["on_data", "on_resume", "on_eof", "on_wrote"])
def test_a_failing_engine_ends_its_link_only(
    call: str, pump: Pump, anyio_backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """An Exception out of any engine call is logged once and aborts that connection."""

    async def test(b: Bench) -> None:
        def fail(*_: object) -> None:
            raise ValueError("planted")

        if call == "on_resume":
            b.engine.on_data = lambda data: True
        setattr(b.engine, call, fail)
        b.link.notify = True
        b.link.write(b"x")
        await b.peer.send(b"x")
        await b.peer.send_eof()
        await until(lambda: b.engine.lost)
        assert isinstance(b.engine.error, ConnectionAbortedError)

    with caplog.at_level(logging.ERROR, "channelkit"):
        check(test, pump, anyio_backend)
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_base_exception_leaves_through_the_loop(pump: Pump, anyio_backend: Backend) -> None:
    """Anything but an Exception out of an engine ends the loop with it; the engine is still told."""

    class Fatal(BaseException):
        pass

    engines: list[Recorder] = []

    async def test(b: Bench) -> None:
        def fail(data: bytes) -> None:
            raise Fatal

        engines.append(b.engine)
        b.engine.on_data = fail
        await b.peer.send(b"x")
        await anyio.sleep_forever()

    with pytest.raises(Fatal):
        check(test, pump, anyio_backend)
    assert engines[0].calls == ["data", "lost"]


# -- the stream pump's own


def test_cancelled_from_outside_the_stream_is_aborted(anyio_backend: Backend) -> None:
    """Cancelling `serve_stream` cuts the connection: the engine learns it, the stream is closed."""

    async def main() -> None:
        peer, ours = network.pair()
        engines: list[Recorder] = []

        def connect(link: Link) -> Recorder:
            engines.append(Recorder(link))
            return engines[0]

        async with open_loop() as loop:
            with anyio.move_on_after(1) as scope:
                await serve_stream(loop, Config(), ours, connect)
            assert scope.cancelled_caught
            await until(lambda: engines[0].lost)
        assert isinstance(engines[0].error, ConnectionAbortedError)
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await peer.receive()

    run(main, backend=anyio_backend)


def test_a_stream_that_is_over_leaves_no_timer(anyio_backend: Backend) -> None:
    """Once the peer's end has come `serve_stream` returns at once, and nothing of it waits in the loop."""

    async def main() -> None:
        peer, ours = network.pair()

        def connect(link: Link) -> Recorder:
            engine = Recorder(link)
            engine.on_eof = link.finish
            return engine

        async with open_loop() as loop:
            start = loop.time()
            await peer.send(b"x")
            await peer.send_eof()
            await serve_stream(loop, Config(linger_timeout=50), ours, connect)
            assert loop.time() == start
            assert not [entry for entry in loop._heap if entry[2].active]
            with pytest.raises(anyio.EndOfStream):
                await peer.receive()

    run(main, backend=anyio_backend)


def test_a_stream_is_closed_when_there_is_no_engine_for_it(anyio_backend: Backend) -> None:
    """If making the engine fails, the stream is closed and the error goes to the caller."""

    async def main() -> None:
        peer, ours = network.pair()

        def connect(link: Link) -> Recorder:
            raise ValueError("planted")

        async with open_loop() as loop:
            with pytest.raises(ValueError, match="planted"):
                await serve_stream(loop, Config(), ours, connect)
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await peer.receive()

    run(main, backend=anyio_backend)


def test_a_stream_has_no_proxy_header(anyio_backend: Backend) -> None:
    """The option is refused, not passed over: a header would be taken for a bad request, and its proxy for a client."""

    async def main() -> None:
        _, ours = network.pair()
        async with open_loop() as loop:
            with pytest.raises(ConfigError, match=r"proxy_protocol='optional' is for listening sockets"):
                await serve_stream(loop, Config(proxy_protocol="optional", trusted_proxies=["*"]), ours, Recorder)

    run(main, backend=anyio_backend)


def test_infinite_timeouts_switch_off(pump: Pump, anyio_backend: Backend) -> None:
    """`math.inf` means: wait for ever."""

    async def test(b: Bench) -> None:
        b.link.write(bytes(MIB))
        await turns()
        await anyio.sleep(10_000)
        assert not b.engine.lost

    check(test, pump, anyio_backend, write_timeout=math.inf, linger_timeout=math.inf)
