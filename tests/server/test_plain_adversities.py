"""Plain `def` code that behaves badly, and owners that do: the server, and everybody else's work, goes on."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
import sniffio

from channelkit import (
    CloseStatus,
    Endpoint,
    Request,
    Response,
    SyncChannel,
    SyncRequest,
    as_channel,
    run_server,
)
from channelkit._loop import open_loop
from channelkit._threads.jobs import WorkerStatistics
from channelkit._threads.pool import Workers
from channelkit.config import Config
from tests.server.conftest import Peer

if TYPE_CHECKING:
    from tests.server.conftest import Backend, Host

PATIENCE = 10.0
TEXT = 1


def numbers(host: Host) -> WorkerStatistics:
    assert host.server is not None
    return host.server.statistics().workers


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


# -- what comes out of a plain function


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, BaseExceptionGroup], ids=str)
def test_a_cancellation_out_of_a_worker(
    host: Host, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Of an event loop of its own, say: it is a mistake, neither a cancellation of ours nor the server's end."""

    def fail(*args: Any) -> None:
        raise error("mine", [GeneratorExit()]) if error is BaseExceptionGroup else error("mine")

    def handler(request: SyncRequest) -> Any:
        return as_channel(request, on_receive=fail) if request.is_websocket else fail()

    host.serve(handler)
    assert host.connect().ask().status == 500
    peer = host.connect()
    peer.upgrade(more=peer.frame(TEXT, b"x"))
    assert peer.read_close()[1] == struct.pack("!H", 1011)
    assert caplog.text.count(f"a plain function raised {error.__name__}, which means nothing on a worker") == 2


@pytest.mark.parametrize("grouped", [False, True])
def test_system_exit_out_of_a_callback(backend: Backend, grouped: bool) -> None:
    """Ends the server, as it does from a callback on the loop, also within a group."""
    ends: list[CloseStatus] = []

    def on_receive(channel: SyncChannel, message: str) -> None:
        raise BaseExceptionGroup("of my own loop", [SystemExit(3)]) if grouped else SystemExit(3)

    server = run_server(
        lambda request: as_channel(
            request, on_receive=on_receive, on_close=lambda channel, status: ends.append(status)
        ),
        port=0,
        backend=backend,
    )
    peer = Peer(server.port)
    peer.upgrade(more=peer.frame(TEXT, b"x") * 10)
    with pytest.raises((SystemExit, BaseExceptionGroup)) as caught:
        server.join(PATIENCE)
    peer.close()
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, SystemExit)
    assert ends == [CloseStatus.SERVER_CLOSE]


# -- event loops of its own


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_an_event_loop_in_a_worker(host: Host, library: str) -> None:
    """`anyio.run` works in handlers and callbacks, with either backend: a worker is no part of the server's loop."""

    async def main() -> str:
        await anyio.lowlevel.checkpoint()
        return sniffio.current_async_library()

    def run(*_: Any) -> str:
        return anyio.run(main, backend=library)

    def handler(request: SyncRequest) -> Any:
        return as_channel(request, on_receive=lambda channel, _: channel.send(run())) if request.is_websocket else run()

    host.serve(handler)
    assert host.connect().ask().body == library.encode()
    peer = host.connect()
    peer.upgrade(more=peer.frame(TEXT, b"x"))
    assert peer.read_frame() == (0x81, library.encode())


# -- bodies


def test_a_generator_that_blocks_at_the_end(host: Host, gate: threading.Event) -> None:
    """Nobody waits in a place of the pool to close it: the worker that is in it does, when it comes back."""
    closed: list[str] = []
    ends: list[CloseStatus] = []

    def pieces() -> Iterator[bytes]:
        try:
            yield b"one"
            assert gate.wait(PATIENCE)
            yield b"two"
        finally:
            closed.append(threading.current_thread().name)

    def handler(request: SyncRequest) -> Any:
        if request.is_websocket:
            return as_channel(request, on_close=lambda channel, status: ends.append(status))
        return Response(body=pieces())

    host.serve(handler, thread=1, handler_cleanup_timeout=PATIENCE)
    stream, peer = host.connect(), host.connect()
    stream.request()
    stream.head()
    assert stream.chunk() == b"one"
    peer.upgrade()
    host.until(lambda: numbers(host).callbacks == 1)
    stopper = threading.Thread(target=host.server, args=(0,))
    stopper.start()
    host.until(lambda: ends)
    assert closed == []
    gate.set()
    stopper.join(PATIENCE)
    assert closed[0].startswith("worker-")
    assert ends == [CloseStatus.SERVER_CLOSE]


def test_requests_that_wait_at_the_end(host: Host, gate: threading.Event) -> None:
    """Begin no more once their handlers are cancelled, though the place of one that is stuck counts no more."""
    ran: list[str] = []

    def handler(request: SyncRequest) -> str:
        ran.append(request.path)
        if request.path == "/stand":
            assert gate.wait(PATIENCE)
        return "hello"

    host.serve(handler, thread=1, handler_cleanup_timeout=PATIENCE)
    first, second = host.connect(), host.connect()
    first.request(path="/stand")
    host.until(lambda: ran)
    second.request(path="/waits")
    host.until(lambda: numbers(host).queued_requests == 1)
    stopper = threading.Thread(target=host.server, args=(0,))
    stopper.start()
    host.until(lambda: not numbers(host).queued_requests)
    gate.set()
    stopper.join(PATIENCE)
    assert ran == ["/stand"]


# -- on_stop


@pytest.mark.parametrize("kind", ["function", "endpoint", "method"])
@pytest.mark.parametrize("own", [True, False], ids=["pool", "executor"])
def test_a_plain_on_stop(host: Host, gate: threading.Event, kind: str, own: bool) -> None:
    """Runs where its plain handler does, and may block; it finds a thread though callbacks have all places."""
    stopped: list[tuple[str, bool]] = []
    channels: list[SyncChannel] = []

    def stand(channel: SyncChannel, message: str) -> None:
        channels.append(channel)
        assert gate.wait(PATIENCE)

    def on_stop() -> None:
        stopped.append((threading.current_thread().name.rstrip("0123456789_"), channels[0].send("a last word")))
        gate.set()

    class Site:
        def __call__(self, request: SyncRequest) -> SyncChannel:
            return as_channel(request, on_receive=stand)

        def on_stop(self) -> None:
            on_stop()

    handler: Any = Endpoint(lambda channel: channel.wait_closed() and None, on_receive=stand)
    if kind != "endpoint":
        handler = Site()
    executor = None if own else ThreadPoolExecutor(3, "mine")
    given: dict[str, Any] = {} if kind == "method" else {"on_stop": on_stop}
    host.server = run_server(handler, port=0, backend=host.backend, thread=1, executor=executor, **given)
    peer = host.connect()
    peer.upgrade(more=peer.frame(TEXT, b"x"))
    host.until(lambda: channels)
    stopper = threading.Thread(target=host.server.stop, args=(PATIENCE,))
    stopper.start()
    assert peer.read_frame() == (0x81, b"a last word")
    assert peer.read_close()[1] == struct.pack("!H", 1001)
    peer.send_frame(8, struct.pack("!H", 1001))
    peer.close()
    stopper.join(PATIENCE)
    assert stopped == [("worker-" if own else "mine", True)]
    if executor is not None:
        executor.shutdown()


def test_a_plain_on_stop_has_a_place_of_its_own(host: Host) -> None:
    """It may wait for what a callback brings."""
    brought = threading.Event()
    begun = threading.Event()
    came: list[bool] = []

    def on_stop() -> None:
        begun.set()
        came.append(brought.wait(PATIENCE))

    host.server = run_server(
        lambda request: as_channel(request, on_receive=lambda channel, message: brought.set()),
        port=0,
        backend=host.backend,
        thread=1,
        on_stop=on_stop,
    )
    peer = host.connect()
    peer.upgrade()
    stopper = threading.Thread(target=host.server.stop, args=(PATIENCE,))
    stopper.start()
    assert begun.wait(PATIENCE)
    peer.send_frame(TEXT, b"here it is")
    assert peer.read_close()[1] == struct.pack("!H", 1001)
    peer.close()
    stopper.join(PATIENCE)
    assert came == [True]


def test_on_stop_beside_an_async_handler(host: Host) -> None:
    """Stays on the loop: it may use the loop's objects."""
    names: list[str] = []

    async def handler(request: Request) -> str:
        return "hello"

    run_server(
        handler, port=0, backend=host.backend, on_stop=lambda: names.append(threading.current_thread().name)
    ).stop(0.1)
    assert names == ["channelkit-loop"]


def test_a_plain_on_stop_without_an_executor(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """Its owner has shut it down: told in the log, and the stop goes on."""
    executor = ThreadPoolExecutor(1)
    server = run_server(lambda request: "x", port=0, backend=backend, executor=executor, on_stop=print)
    executor.shutdown()
    server.stop(PATIENCE)
    assert "on_stop raised" in caplog.text
    assert "cannot schedule new futures" in caplog.text


# -- the executor's owner


def test_an_executor_that_cancels_what_waits(host: Host, gate: threading.Event) -> None:
    """`shutdown(cancel_futures=True)`: who waited in vain is told so, requests by 500, channels by their end."""
    executor = ThreadPoolExecutor(1)
    standing = threading.Event()

    def handler(request: SyncRequest) -> Any:
        if request.is_websocket:
            return as_channel(request, on_receive=lambda channel, message: None)
        if request.path == "/stand":
            standing.set()
            assert gate.wait(PATIENCE)
        return "hello"

    host.serve(handler, executor=executor)
    talker = host.connect()
    talker.upgrade()
    first, second = host.connect(), host.connect()
    first.request(path="/stand")
    assert standing.wait(PATIENCE)
    second.request()
    host.until(lambda: numbers(host).queued_requests == 1)
    talker.send_frame(TEXT, b"x")
    host.until(lambda: numbers(host).queued_callbacks == 1)
    executor.shutdown(wait=False, cancel_futures=True)
    assert second.reply().status == 500
    assert talker.read_close()[1] == struct.pack("!H", 1011)
    assert (numbers(host).queued_requests, numbers(host).queued_callbacks) == (0, 0)
    gate.set()
    assert first.reply().body == b"hello"


# -- signals


@pytest.mark.anyio
async def test_a_signal_in_the_middle_of_a_call() -> None:
    """Its handler may call `Server.stop_soon` or ask for the statistics: no lock of ours stands in its way."""
    heard: list[str] = []
    async with open_loop() as loop:
        workers = Workers(loop, Config())

        with loop._lock, workers._lock:  # where a signal finds this thread
            for lock in (loop._lock, workers._lock):
                assert lock.acquire(blocking=False), "a deadlock"
                lock.release()
            loop.run_from_thread(heard.append, "by the signal's handler")
            workers.statistics()
        with anyio.fail_after(PATIENCE):
            while not heard:
                await anyio.sleep(0.001)
