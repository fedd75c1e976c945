"""Plain `def` handlers on the worker pool: who runs where, who waits for whom, what a full queue says, how it ends."""

from __future__ import annotations

import contextvars
import functools
import logging
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from channelkit import (
    ChannelClosed,
    CloseStatus,
    ConfigError,
    Request,
    Response,
    SyncChannel,
    SyncRequest,
    as_channel,
    cancel,
    run_server,
    schedule_task,
    with_channel,
    with_timeout,
)
from channelkit._threads.jobs import WorkerStatistics
from channelkit.testing.host import open_host

if TYPE_CHECKING:
    from tests.server.conftest import Backend, Host, Peer

PATIENCE = 10.0
TEXT = 1


def here() -> str:
    """The name of this thread."""
    return threading.current_thread().name


class Gate:
    """A place where workers stand until the test opens it."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self._open = threading.Event()

    def wait(self) -> None:
        self.waiting.append(here())
        assert self._open.wait(2 * PATIENCE)  # longer than a test waits for what must come while they stand here

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def numbers(host: Host) -> WorkerStatistics:
    assert host.server is not None
    return host.server.statistics().workers


def blocking(host: Host, count: int, gate: Gate, path: str = "/block") -> list[Peer]:
    """Clients whose handlers stand at the gate."""
    peers = [host.connect() for _ in range(count)]
    for peer in peers:
        peer.request(path=path)
    host.until(lambda: len(gate.waiting) >= count)
    return peers


def says(peer: Peer, text: str) -> None:
    """The peer's next frame is this text."""
    assert peer.read_frame() == (0x81, text.encode())


# -- where code runs


def test_a_handler_runs_on_a_worker(host: Host) -> None:
    """With the name that was asked for, one thread while one is enough; what it returns is the answer."""

    def handler(request: SyncRequest) -> Any:
        if request.path == "/response":
            return Response(201, {"X-Thread": here()}, request.body() + repr(request.json()).encode())
        return here()

    peer = host.serve(handler, worker_name_prefix="smith-").connect()
    assert [peer.ask().body for _ in range(3)] == [b"smith-1"] * 3
    reply = peer.ask("POST", "/response", body=b'{"a": 1}')
    assert (reply.status, reply.get("x-thread"), reply.body) == (201, "smith-1", b"{\"a\": 1}{'a': 1}")
    assert peer.ask("POST", "/response", body=b"nonsense").status == 400
    assert numbers(host).threads == 1


def test_callbacks_run_on_workers_in_order(host: Host) -> None:
    """on_open, messages, pings, on_close: one after the other, with the blocking channel, on the pool."""
    seen: list[tuple[Any, ...]] = []
    running = threading.Lock()

    def note(*what: Any) -> None:
        assert running.acquire(blocking=False), "two callbacks of one channel at once"
        assert here().startswith("worker-")
        seen.append(what)
        running.release()

    def handler(request: SyncRequest) -> SyncChannel:
        return as_channel(
            request,
            on_open=lambda channel: note("open", channel.is_open),
            on_receive=lambda channel, message: note(message),
            on_ping=lambda channel, data: note(data, channel.send("pinged")),
            on_close=lambda channel, status: note(status, channel.is_open),
        )

    peer = host.serve(handler).connect()
    peer.upgrade(more=b"".join(peer.frame(TEXT, str(number).encode()) for number in range(100)))
    host.until(lambda: len(seen) > 1)  # a ping that comes before on_open has returned is nobody's
    peer.send_frame(9, b"?")
    assert peer.read_frame() == (0x8A, b"?")
    says(peer, "pinged")
    peer.send_frame(8, struct.pack("!H", 1000))
    host.until(lambda: len(seen) == 103)
    seen.remove((b"?", True))  # pings go before messages that wait
    assert seen == [("open", True), *((str(number),) for number in range(100)), (CloseStatus.NORMAL, False)]


def test_what_kind_a_handler_is(host: Host) -> None:
    """Decided once, by the function: `async def`, below a partial or as `__call__` too, is the loop's, the rest not."""

    async def on_loop(request: Request, more: str = "") -> str:
        return here() + more

    def plain(request: SyncRequest, more: str = "") -> str:
        return here() + more

    class AsyncObject:
        async def __call__(self, request: Request) -> str:
            return here()

    class PlainObject:
        def __call__(self, request: SyncRequest) -> str:
            return here()

        def method(self, request: SyncRequest) -> str:
            return here()

    for handler, place in [
        (on_loop, b"channelkit-loop"),
        (functools.partial(on_loop, more="!"), b"channelkit-loop!"),
        (AsyncObject(), b"channelkit-loop"),
        (plain, b"worker-1"),
        (functools.partial(plain, more="!"), b"worker-1!"),
        (PlainObject(), b"worker-1"),
        (PlainObject().method, b"worker-1"),
        (lambda request: here(), b"worker-1"),
    ]:
        assert host.serve(handler).connect().ask().body == place  # type: ignore[arg-type]
        host.close()


def test_a_plain_function_that_returns_an_awaitable(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Is a mistake, and told as one: 500 for the client, the cure in the log; callbacks likewise close with 1011."""

    async def later(*args: Any) -> None:
        raise AssertionError("never runs")

    def handler(request: SyncRequest) -> Any:
        if request.is_websocket:
            return as_channel(request, on_receive=lambda *both: later(*both, "so a plain function"))
        return later(request)

    host.serve(handler)
    assert host.connect().ask().status == 500
    assert "returned a coroutine: write it `async def`, or mark it" in caplog.text
    caplog.clear()
    peer = host.connect()
    peer.upgrade(more=peer.frame(TEXT, b"x"))
    assert peer.read_close()[1] == struct.pack("!H", 1011)
    assert "returned a coroutine" in caplog.text


def test_an_async_callback_of_a_plain_handler(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Is refused before anything is answered, by a text that names the cure."""

    async def on_receive(channel: SyncChannel, message: Any) -> None: ...

    host.serve(lambda request: as_channel(request, on_receive=on_receive))
    peer = host.connect()
    peer.send(peer.handshake())
    assert peer.reply().status == 500
    assert "write both `async def`, or neither" in caplog.text


def test_handlers_that_cannot_be(backend: Backend) -> None:
    """What is no function, and an async generator function, is told before the server starts."""

    async def yields(request: Request) -> Any:
        yield "a body"

    with pytest.raises(ConfigError, match="return a Response with that body"):
        run_server(yields, port=0, backend=backend)
    with pytest.raises(ConfigError, match="a handler is a function that takes a request"):
        run_server("hello", port=0, backend=backend)  # type: ignore[arg-type]


def test_a_generator_is_iterated_on_workers(host: Host) -> None:
    """Its code may block; it is closed when the client goes, on a worker too."""
    threads: list[str] = []
    more = threading.Semaphore(2)

    def pieces() -> Iterator[str]:
        try:
            while True:
                threads.append(here())
                assert more.acquire(timeout=PATIENCE)
                yield "piece"
        finally:
            threads.append(f"closed in {here()}")

    def handler(request: SyncRequest) -> Any:
        if request.path == "/send":
            with with_channel(request, streaming=True) as channel:
                channel.send(iter([b"a", b"b"]))
                channel.send({"body": (one for one in "cd")})
            return None
        return {"status": 200, "body": pieces()} if request.path == "/mapping" else Response(body=pieces())

    host.serve(handler)
    assert host.connect().ask(path="/send").body == b"abcd"
    for path in ("/mapping", "/response"):
        peer = host.connect()
        peer.request(path=path)
        peer.head()
        assert [peer.chunk(), peer.chunk()] == [b"piece"] * 2
        peer.reset()
        more.release(4)  # the next writes find out
        host.until(lambda: threads and threads[-1].startswith("closed in worker-"))
        assert all(name.startswith("worker-") for name in threads[:-1])
        threads.clear()
        more = threading.Semaphore(2)


def test_context_variables(host: Host) -> None:
    """Callbacks and scheduled tasks see what the handler had set; requests do not see each other's."""
    name = contextvars.ContextVar("name", default="nobody")

    def handler(request: SyncRequest) -> Any:
        before = name.get()
        name.set(request.path)
        if request.is_websocket:
            return as_channel(request, on_receive=lambda channel, message: channel.send(f"{before} {name.get()}"))
        return before

    peer = host.serve(handler).connect()
    assert [peer.ask(path="/a").body, peer.ask(path="/b").body] == [b"nobody"] * 2
    peer.upgrade(path="/c", more=peer.frame(TEXT, b"x"))
    says(peer, "nobody /c")


def test_timers(host: Host) -> None:
    """What a worker schedules runs on a worker; cancel and with_timeout work there as they do on the loop."""

    def handler(request: SyncRequest) -> Any:
        def late() -> None:
            channel.send(f"late in {here().rstrip('0123456789')}, {cancel(never)} {cancel(never)}")

        never = schedule_task(1000, print)
        reply = with_timeout(lambda: "in time", 1000, print)
        channel = as_channel(request, headers={"X-Reply": reply() or "", "X-Again": str(reply())}, framing="sse")
        schedule_task(0, late)
        return channel

    peer = host.serve(handler).connect()
    peer.request()
    head = peer.head()
    assert (head.get("x-reply"), head.get("x-again")) == ("in time", "None")
    assert peer.chunk() == b"data: late in worker-, True False\n\n"


# -- places


def test_four_blocked_workers_and_a_full_queue(host: Host, gate: Gate) -> None:
    """One more gets 503 with Retry-After, its connection lives; when they go on all are answered, and it too."""

    def handler(request: SyncRequest) -> str:
        if request.path == "/block":
            gate.wait()
        return here()

    host.serve(handler, thread=4, queue_size=2)
    blocked = blocking(host, 4, gate)
    queued = [host.connect(), host.connect()]
    for peer in queued:
        peer.request()
    host.until(lambda: numbers(host).queued_requests == 2)
    late = host.connect()
    for method, body in (("GET", b""), ("POST", b"x" * 1000)):
        reply = late.ask(method, body=body)
        assert (reply.status, reply.get("retry-after"), reply.get("connection")) == (503, "1", None)
    upgrade = host.connect()
    upgrade.send(upgrade.handshake())
    assert upgrade.reply().status == 503
    assert upgrade.rest() == b""
    now = numbers(host)
    assert (now.threads, now.requests, now.refused) == (4, 4, 3)
    assert now.oldest > 0
    assert host.server is not None
    assert host.server.limit_counts == {"queue_size": 3}
    gate.open()
    assert {peer.reply().body for peer in blocked} == {b"worker-1", b"worker-2", b"worker-3", b"worker-4"}
    assert [peer.reply().status for peer in queued] == [200, 200]
    assert late.ask().status == 200
    now = numbers(host)
    assert (now.requests, now.queued_requests, now.begun, now.oldest) == (0, 0, 7, 0.0)
    assert now.longest > 0
    assert now.waited >= now.longest


def test_a_message_that_finds_no_room(host: Host, gate: Gate) -> None:
    """Closes its channel with 1013, and that channel's on_close runs; the others lose nothing."""

    def on_receive(channel: SyncChannel, message: str) -> None:
        gate.wait()
        channel.send(message)

    def handler(request: SyncRequest) -> SyncChannel:
        return as_channel(request, on_receive=on_receive, on_close=lambda channel, status: ends.append(channel))

    ends: list[SyncChannel] = []
    host.serve(handler, thread=1, queue_size=1)
    first, second, third = (host.connect() for _ in range(3))
    for peer in (first, second, third):
        peer.upgrade()
    first.send_frame(TEXT, b"first")
    host.until(lambda: gate.waiting)
    second.send_frame(TEXT, b"second")
    host.until(lambda: numbers(host).queued_callbacks == 1)
    third.send_frame(TEXT, b"third")
    assert third.read_close()[1] == struct.pack("!H", 1013)
    third.send_frame(8, struct.pack("!H", 1013))
    gate.open()
    says(first, "first")
    says(second, "second")
    host.until(lambda: ends)
    info = ends[0].close_info
    assert info is not None
    assert (info.status, info.code, info.by, info.unread) == (CloseStatus.SERVER_CLOSE, 1013, "local", 1)


def loops(request: SyncRequest) -> None:
    """A thread for a channel, for as long as it lasts."""
    with with_channel(request) as channel:
        for message in channel:
            channel.send(message)


def test_more_blocking_channels_than_threads(host: Host) -> None:
    """Threads that wait for messages keep nobody's place: requests, callbacks and all channels go on."""

    def handler(request: SyncRequest) -> Any:
        if request.path == "/loop":
            return loops(request)
        if request.is_websocket:
            return as_channel(request, on_receive=lambda channel, message: channel.send(message))
        return "hello"

    host.serve(handler, thread=1)
    loopers = [host.connect() for _ in range(5)]
    for peer in loopers:
        peer.upgrade(path="/loop")
        peer.send_frame(TEXT, b"hello")
        says(peer, "hello")
    host.until(lambda: numbers(host).waiting == 5)
    assert host.connect().ask().body == b"hello"
    peer = host.connect()
    peer.upgrade(more=peer.frame(TEXT, b"called back"))
    says(peer, "called back")
    for peer in loopers:
        peer.send_frame(TEXT, b"again")
        says(peer, "again")
        peer.send_frame(8, struct.pack("!H", 1000))
        assert peer.read_frame()[0] == 0x88
    host.until(lambda: numbers(host).waiting == 0)
    host.until(lambda: numbers(host).threads <= 2)  # as many as there are places stay


def test_handlers_that_wait_for_a_callback(host: Host) -> None:
    """Every request's place is taken by a handler that waits for what a callback brings: it comes (http-kit's #305)."""
    arrived = threading.Event()
    waiting = threading.Semaphore(0)

    def handler(request: SyncRequest) -> Any:
        if request.is_websocket:
            return as_channel(request, on_receive=lambda channel, message: arrived.set())
        waiting.release()
        return "it came" if arrived.wait(PATIENCE) else "it did not"

    host.serve(handler, thread=2)
    device = host.connect()
    device.upgrade()
    askers = [host.connect(), host.connect()]
    for peer in askers:
        peer.request()
        assert waiting.acquire(timeout=PATIENCE)
    device.send_frame(TEXT, b"now")
    assert [peer.reply().body for peer in askers] == [b"it came"] * 2


def test_a_thread_that_wakes_up_needs_no_place(host: Host) -> None:
    """It may hold a lock that whoever has the place is waiting for."""
    lock = threading.Lock()

    def handler(request: SyncRequest) -> Any:
        if not request.is_websocket:
            with lock:
                return "got it"
        with with_channel(request) as channel:
            with lock:
                channel.send("locked")
                message = channel.receive()
            channel.send(message)
        return None

    host.serve(handler, thread=1)
    holder, asker = host.connect(), host.connect()
    holder.upgrade()
    says(holder, "locked")
    asker.request()
    host.until(lambda: (numbers(host).waiting, numbers(host).requests) == (1, 1))
    holder.send_frame(TEXT, b"go on")
    says(holder, "go on")
    assert asker.reply().body == b"got it"


def test_too_many_waiting_threads(host: Host) -> None:
    """One more than `max_waiting_threads` has its channel closed with 1013; whatever needs no thread goes on."""

    def handler(request: SyncRequest) -> Any:
        return loops(request) if request.is_websocket else "hello"

    host.serve(handler, thread=1, max_waiting_threads=1)
    first, second = host.connect(), host.connect()
    first.upgrade()
    host.until(lambda: numbers(host).waiting == 1)
    second.upgrade()
    assert second.read_close()[1] == struct.pack("!H", 1013)
    second.send_frame(8, struct.pack("!H", 1013))
    assert host.server is not None
    assert host.server.limit_counts == {"max_waiting_threads": 1}
    assert host.connect().ask().body == b"hello"
    first.send_frame(TEXT, b"still here")
    says(first, "still here")


def test_a_slow_body_keeps_no_thread(host: Host) -> None:
    """A plain handler begins when its request's whole body is there."""

    def handler(request: SyncRequest) -> Any:
        return b"".join(request.stream()) or b"empty"

    host.serve(handler, thread=1)
    slow = host.connect()
    slow.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345")
    assert host.connect().ask().body == b"empty"
    assert numbers(host).begun == 1
    slow.send("67890")
    assert slow.reply().body == b"1234567890"


def test_an_error_and_an_exit(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """What a handler raises is a 500; SystemExit ends the server, as it does from a handler on the loop."""

    def handler(request: SyncRequest) -> Any:
        if request.path == "/exit":
            raise SystemExit(3)
        raise LookupError("nothing there")

    host.serve(handler)
    assert host.connect().ask().status == 500
    assert "nothing there" in caplog.text
    host.connect().request(path="/exit")
    assert host.server is not None
    with pytest.raises((SystemExit, BaseExceptionGroup)) as caught:  # trio's nurseries wrap it
        host.server.join(PATIENCE)
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, SystemExit)


def test_over_any_stream(backend: Backend) -> None:
    """The other pump, which carries any anyio stream: the pool is above both."""

    def handler(request: SyncRequest) -> Any:
        if request.path == "/loop":
            return loops(request)
        return as_channel(request, on_receive=lambda channel, message: channel.send(f"{message} {here()}"))

    async def main() -> None:
        async with open_host(handler, thread=1) as host:
            looper, device = await host.websocket("/loop"), await host.websocket("/")
            for text in ("one", "two"):
                await looper.send(text)
                assert await looper.receive() == text
                await device.send(text)
                answer = await device.receive()
                assert isinstance(answer, str)
                assert answer.rstrip("0123456789") == f"{text} worker-"
            assert host.core.workers.statistics().waiting == 1
            await looper.close()
            await device.close()

    anyio.run(main, backend=backend)


# -- an executor of one's own


def test_an_executor(host: Host, gate: Gate) -> None:
    """The work is done there, callbacks before requests, and it is not shut down with the server."""
    order: list[str] = []

    def handler(request: SyncRequest) -> Any:
        if request.is_websocket:
            return as_channel(request, on_receive=lambda channel, message: order.append(f"message in {here()}"))
        if request.path == "/block":
            gate.wait()
        order.append(f"request in {here()}")
        return "done"

    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        host.serve(handler, executor=executor, queue_size=1)
        device = host.connect()
        device.upgrade()
        host.until(lambda: numbers(host).begun == 1 and not numbers(host).requests)
        (blocked,) = blocking(host, 1, gate)
        queued, late = host.connect(), host.connect()
        queued.request()
        host.until(lambda: numbers(host).queued_requests == 1)
        assert late.ask().status == 503
        device.send_frame(TEXT, b"x")
        host.until(lambda: numbers(host).queued_callbacks == 1)
        gate.open()
        assert (blocked.reply().body, queued.reply().body) == (b"done", b"done")
        assert order == ["request in mine_0", "message in mine_0", "request in mine_0"]
        assert numbers(host).threads == 0
        host.close()
        assert executor.submit(here).result(PATIENCE) == "mine_0"


def test_an_executor_that_was_shut_down(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Is a mistake of its owner: 500, and its own words in the log."""
    executor = ThreadPoolExecutor(1)
    host.serve(lambda request: "hello", executor=executor)
    peer = host.connect()
    assert peer.ask().body == b"hello"
    executor.shutdown()
    assert peer.ask().status == 500
    assert "cannot schedule new futures after shutdown" in caplog.text
    assert numbers(host).queued_requests == 0


# -- the end


def test_stop_wakes_whoever_waits(host: Host) -> None:
    """A worker blocked in `receive` gets ChannelClosed, one in `send` False; none is left behind."""
    outcomes: dict[str, Any] = {}

    def handler(request: SyncRequest) -> None:
        with with_channel(request) as channel:
            try:
                if request.path == "/receive":
                    channel.receive()
                while channel.send("x" * 100_000):
                    pass
                outcomes[request.path] = False
            except ChannelClosed as error:
                outcomes[request.path] = error.info.code

    host.serve(handler, handler_cleanup_timeout=PATIENCE)
    receiver, reader = host.connect(), host.connect(receive_buffer=4096)
    receiver.upgrade(path="/receive")
    reader.upgrade(path="/send")
    host.until(lambda: numbers(host).waiting == 2)
    assert host.server is not None
    host.server.stop(0)
    assert outcomes == {"/receive": 1001, "/send": False}
    assert numbers(host).threads == 0


def test_a_worker_that_never_returns(host: Host, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """Does not hold the stop: it is named with its stack and left behind, and finds the channel over when it comes."""
    late: list[Any] = []

    def stuck_handler(request: SyncRequest) -> None:
        with with_channel(request) as channel:
            gate.wait()
            for call in (lambda: channel.send("x"), channel.receive, channel.close, channel.statistics):
                try:
                    late.append(call())
                except ChannelClosed as error:
                    late.append(error.info.code)

    host.serve(stuck_handler, handler_cleanup_timeout=0.01)
    peer = host.connect()
    peer.upgrade()
    host.until(lambda: gate.waiting)
    assert host.server is not None
    host.server.stop(0)
    assert host.server.status == "stopped"
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "stuck_handler has not returned in thread worker-1; it is left behind" in line
    assert "gate.wait()" in line
    gate.open()
    host.until(lambda: len(late) == 4)
    assert late == [1001] * 4


def test_every_on_close_runs_though_workers_are_stuck(host: Host, gate: Gate) -> None:
    """At the deadline what still runs counts no more, so there is a thread for the others' last callback."""
    ends: list[CloseStatus] = []

    def handler(request: SyncRequest) -> SyncChannel:
        return as_channel(
            request,
            on_receive=lambda channel, message: gate.wait(),
            on_close=lambda channel, status: ends.append(status),
        )

    host.serve(handler, thread=1, handler_cleanup_timeout=PATIENCE)
    peers = [host.connect() for _ in range(3)]
    for peer in peers:
        peer.upgrade()
    peers[0].send_frame(TEXT, b"x")
    host.until(lambda: gate.waiting)
    stopper = threading.Thread(target=host.server, args=(0,))
    stopper.start()
    host.until(lambda: len(ends) == 2)
    gate.open()
    stopper.join(PATIENCE)
    assert ends == [CloseStatus.SERVER_CLOSE] * 3


def test_a_callback_that_never_returns(host: Host, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """Is the one case in which on_close does not run, since it never runs beside another callback; that is told."""
    ends: list[CloseStatus] = []

    def handler(request: SyncRequest) -> SyncChannel:
        return as_channel(
            request,
            on_receive=lambda channel, message: gate.wait(),
            on_close=lambda channel, status: ends.append(status),
        )

    host.serve(handler, handler_cleanup_timeout=0.01)
    peer = host.connect()
    peer.upgrade(more=peer.frame(TEXT, b"x"))
    host.until(lambda: gate.waiting)
    assert host.server is not None
    host.server.stop(0)
    assert "has not returned in thread worker-" in caplog.text
    assert "did not run: the server has stopped before it" in caplog.text
    assert "raised" not in caplog.text
    assert ends == []


def test_stop_in_a_worker(host: Host) -> None:
    """`stop` would wait for itself and says so; `stop_soon` is what a handler uses."""

    def handler(request: SyncRequest) -> str:
        assert host.server is not None
        with pytest.raises(RuntimeError, match="use stop_soon"):
            host.server.stop()
        host.server.stop_soon(PATIENCE)
        return "stopping"

    peer = host.serve(handler).connect()
    assert peer.ask().body == b"stopping"
    assert peer.rest() == b""
    peer.close()
    assert host.server is not None
    assert host.server.join(PATIENCE)
