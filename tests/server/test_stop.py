"""Stopping: what each kind of connection sees, that every on_close runs, and that nothing hangs."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any

import anyio
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from channelkit import CloseStatus, ConfigError, Request, Server, as_channel, run_server, serve
from tests.plain_sockets import read_rest

PATIENCE = 20.0


def until(condition: Callable[[], Any]) -> None:
    """Wait in real time until `condition()`; fail after PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


class App:
    """Handlers of every kind, and what their channels were told."""

    def __init__(self) -> None:
        self.closed: dict[str, CloseStatus] = {}
        self.infos: dict[str, Any] = {}
        self.entered: set[str] = set()
        self.release = threading.Event()
        self.cancelled = False

    async def handler(self, request: Request) -> Any:
        import anyio

        path = request.path
        self.entered.add(path)
        if path == "/slow":
            while not self.release.is_set():
                await anyio.sleep(0.01)
            return "finished"
        if path == "/stubborn":
            try:
                await anyio.sleep_forever()
            finally:
                self.cancelled = True
        channel = as_channel(request, streaming=path == "/stream", on_close=self.on_close)
        if path == "/stream":
            channel.send_nowait("begun\n")
        return channel

    def on_close(self, channel: Any, status: CloseStatus) -> None:
        self.closed[channel.request.path] = status
        self.infos[channel.request.path] = channel.close_info


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def server(app: App, backend: Any) -> Iterator[Server]:
    server = run_server(app.handler, port=0, backend=backend)
    yield server
    server.stop(0)


def get(server: Server, path: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    return sock


def test_a_running_request_finishes(server: Server, app: App) -> None:
    """The listener closes at once; a request that runs gets its time and its answer says the connection closes."""
    sock = get(server, "/slow")
    until(lambda: "/slow" in app.entered)
    stopper = threading.Thread(target=server.stop, args=(PATIENCE,))
    stopper.start()
    until(lambda: server.status == "stopping")
    until(lambda: _refused(server.port))
    app.release.set()
    answer = read_rest(sock, reset=b"<reset>")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"finished")
    assert b"\r\nConnection: close\r\n" in answer
    stopper.join(PATIENCE)
    assert server.status == "stopped"


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_channels_are_closed_each_in_its_way(server: Server, app: App) -> None:
    """WebSockets get 1001, streams end properly, held answers become 503; every on_close says server-close."""
    held, stream = get(server, "/held"), get(server, "/stream")
    with connect(f"ws://127.0.0.1:{server.port}/ws") as websocket:
        until(lambda: app.entered == {"/held", "/stream", "/ws"})
        threading.Thread(target=server.stop, args=(0.2,)).start()
        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(PATIENCE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
    assert read_rest(stream, reset=b"<reset>").endswith(b"begun\n\r\n0\r\n\r\n")
    assert read_rest(held, reset=b"<reset>").startswith(b"HTTP/1.1 503")
    assert server.join(PATIENCE)
    assert app.closed == dict.fromkeys(("/held", "/stream", "/ws"), CloseStatus.SERVER_CLOSE)
    assert {info.code for info in app.infos.values()} == {1001}
    assert app.infos["/ws"].delivered is True


def test_the_deadline_cuts_what_is_left(server: Server, app: App) -> None:
    """A handler that does not end is cancelled at the deadline, and its client sees the connection end."""
    sock = get(server, "/stubborn")
    until(lambda: "/stubborn" in app.entered)
    server.stop(0.05)
    assert app.cancelled
    assert b"200" not in read_rest(sock, reset=b"<reset>")


def test_an_idle_connection_goes_at_once(server: Server) -> None:
    """A connection without a request does not use up the patience of stop."""
    idle = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    until(lambda: server.connections == 1)
    began = time.monotonic()
    server.stop(PATIENCE)
    assert time.monotonic() - began < PATIENCE / 2
    assert idle.recv(1) == b""
    idle.close()


def test_a_second_stop_waits_for_the_first(server: Server) -> None:
    """Stopping again does no harm; afterwards the server says it has stopped."""
    server.stop(0.1)
    server()
    assert server.status == "stopped"
    assert server.join(0)


def test_stop_on_the_loops_own_thread_raises(backend: Any) -> None:
    """It would wait for itself; the text names what to use."""
    said: list[str] = []

    async def handler(request: Request) -> str:
        with pytest.raises(RuntimeError, match="stop_soon") as caught:
            holder[0].stop()
        said.append(str(caught.value))
        return "fine"

    holder = [run_server(handler, port=0, backend=backend)]
    sock = get(holder[0], "/")
    assert sock.recv(100).startswith(b"HTTP/1.1 200")
    sock.close()
    holder[0].stop(1)
    assert said


def test_a_port_in_use_is_told_by_run_server(server: Server, backend: Any) -> None:
    """The error comes out of run_server itself, with the port and the cure in its text."""
    with pytest.raises(OSError, match=f"port {server.port}.*port=0"):
        run_server(_nothing, port=server.port, backend=backend)


async def _nothing(request: Request) -> None:
    """A handler."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_program(number: signal.Signals, backend: str) -> None:
    """`anyio.run(serve, handler)` ends by SIGINT and SIGTERM with exit code 0 and nothing on stderr."""
    program = (
        "import functools, anyio, channelkit\n"
        "async def handler(request): return 'hello'\n"
        "async def main():\n"
        "    async with anyio.create_task_group() as tasks:\n"
        "        server = await tasks.start(functools.partial(channelkit.serve, handler, port=0))\n"
        "        print(server.port, flush=True)\n"
        f"anyio.run(main, backend={backend!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    sock.close()
    assert (process.returncode, errors) == (0, b"")


SLOW = """
import contextlib, sys, anyio, channelkit

async def handler(request):
    return "hello"

@contextlib.asynccontextmanager
async def lifespan():
    try:
        print("opening", flush=True)
        await anyio.sleep(float(sys.argv[2]))
        yield
        print("closing", flush=True)
        await anyio.sleep(600)
    finally:
        print("closed", flush=True)

async def main():
    async with anyio.create_task_group() as tasks:
        async def serve(task_status):
            await channelkit.serve(handler, port=0, lifespan=lifespan, task_status=task_status)
        server = await tasks.start(serve)
        print(server.status, flush=True)

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_lifespan_opens(number: signal.Signals, backend: str) -> None:
    """Its opening is cancelled and the end is orderly, though there is no server yet."""
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, backend, "600"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "opening\n"
            process.send_signal(number)
            out, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, out, errors) == (0, "closed\nstopped\n", "")


def test_a_second_signal_while_the_lifespan_closes(backend: str) -> None:
    """It has had its time: it is cancelled, and the end is as orderly as it can be."""
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, backend, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["opening\n", "running\n"]
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "closing\n"
            process.send_signal(signal.SIGTERM)
            out, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "closed\n"), errors
    assert errors.startswith("the lifespan has not closed in ")
    assert errors.count("\n") == 1


KEPT = """
import signal, sys, anyio, channelkit

async def handler(request):
    return "hello"

async def main():
    async with anyio.create_task_group() as tasks:
        async def serve(task_status):
            await channelkit.serve(handler, port=0, task_status=task_status)
        await tasks.start(serve)
        signal.raise_signal(signal.SIGTERM)

signal.signal(signal.SIGTERM, lambda number, frame: print("mine"))
anyio.run(main, backend=sys.argv[1])
signal.raise_signal(signal.SIGTERM)
"""


def test_a_server_that_is_cancelled(backend: str) -> None:
    """Its loop still works for it: everybody is told 1001 and every on_close runs, long before its patience is over."""

    async def main() -> None:
        closed: list[CloseStatus] = []

        async def handler(request: Request) -> Any:
            return as_channel(request, on_close=lambda channel, status: closed.append(status))

        with anyio.fail_after(PATIENCE):
            async with AsyncExitStack() as stack:
                async with anyio.create_task_group() as tasks:
                    server = await tasks.start(
                        partial(serve, handler, port=0, handle_signals=False, handler_cleanup_timeout=600)
                    )
                    held, upgraded = [
                        await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", server.port))
                        for _ in range(2)
                    ]
                    await held.send(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
                    await upgraded.send(UPGRADE)
                    head = await upgraded.receive()
                    while server.statistics().channels < 2:
                        await anyio.sleep(0.005)
                    tasks.cancel_scope.cancel()
                assert server.status == "stopped"
                assert closed == [CloseStatus.SERVER_CLOSE] * 2
                while b"\x88\x02\x03\xe9" not in head:
                    head += await upgraded.receive()

    anyio.run(main, backend=backend)


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

SEVERAL = """
import signal, sys, anyio, channelkit

async def handler(request):
    return "hello"

async def main():
    async with anyio.create_task_group() as tasks:
        async def serve(task_status):
            await channelkit.serve(handler, port=0, task_status=task_status)
        servers = [await tasks.start(serve) for _ in range(3)]
        if sys.argv[2] == "first":
            servers.pop(0).stop_soon()
            await anyio.sleep(0.5)  # of nobody's signals: the others take them over at once
        signal.raise_signal(signal.SIGTERM)
    print([server.status for server in servers])

signal.signal(signal.SIGTERM, lambda number, frame: print("mine"))
anyio.run(main, backend=sys.argv[1])
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize("gone", ["first", "none"])
def test_servers_of_one_loop_share_the_signals(backend: str, gone: str) -> None:
    """One SIGTERM stops all that run, also when the one that heard it first has gone."""
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, backend, gone], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    count = 2 if gone == "first" else 3
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{['stopped'] * count}\nmine\n", "")


def test_a_programs_own_signal_handler_comes_back(backend: str) -> None:
    """What it had for SIGTERM before `serve` it has afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", KEPT, backend], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "mine\n", "")


def test_a_handler_that_outlives_its_cancellation_is_told(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The server cannot end before it: one line says what holds it up."""
    entered, release = threading.Event(), threading.Event()

    async def handler(request: Request) -> str:
        with anyio.CancelScope(shield=True):
            entered.set()
            await anyio.to_thread.run_sync(release.wait)
        return "late"

    server = run_server(handler, port=0, backend=backend, handler_cleanup_timeout=0.05)
    try:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert entered.wait(PATIENCE)
            server.stop_soon(0)
            until(lambda: "1 handlers were cancelled and go on all the same" in caplog.text)
            assert server.status == "stopping"
    finally:
        release.set()
    assert server.join(PATIENCE)


def test_a_base_exception_of_a_callback_ends_serve(backend: Any) -> None:
    """What is no Exception leaves through the server, and join raises it."""

    class Alarm(BaseException):
        pass

    def on_receive(channel: Any, message: str) -> None:
        raise Alarm

    async def handler(request: Request) -> Any:
        return as_channel(request, on_receive=on_receive)

    server = run_server(handler, port=0, backend=backend)
    with connect(f"ws://127.0.0.1:{server.port}/") as websocket:
        websocket.send("go")
        with pytest.raises(ConnectionClosed):
            websocket.recv(PATIENCE)
    with pytest.raises(BaseException) as caught:  # noqa: PT011  (a group or the thing itself)
        server.join(PATIENCE)
    assert isinstance(caught.value, Alarm) or caught.group_contains(Alarm)


def test_on_stop_has_the_last_word(backend: Any) -> None:
    """It is awaited before anything is closed; what it raises is logged and stops nothing; a second stop skips it."""
    called: list[str] = []
    channels: list[Any] = []

    async def handler(request: Request) -> Any:
        return as_channel(request, on_open=channels.append)

    async def last_word() -> None:
        called.append("on_stop")
        for channel in channels:
            await channel.send("restarting")
        raise RuntimeError("on purpose")

    server = run_server(handler, port=0, backend=backend, on_stop=last_word)
    with connect(f"ws://127.0.0.1:{server.port}/") as websocket:
        until(lambda: channels)
        stopper = threading.Thread(target=server.stop, args=(PATIENCE,))
        stopper.start()
        assert websocket.recv(PATIENCE) == "restarting"
        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(PATIENCE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
    stopper.join(PATIENCE)
    server.stop(1)
    assert called == ["on_stop"]


def test_on_stop_may_be_the_handlers_own(backend: Any) -> None:
    """An object that is a handler may know itself what to do at the end; what is no function is refused."""

    class Site:
        stopped = 0

        async def __call__(self, request: Request) -> str:
            return "hello"

        def on_stop(self) -> None:
            self.stopped += 1

    site = Site()
    run_server(site, port=0, backend=backend).stop(1)
    assert site.stopped == 1
    with pytest.raises(ConfigError, match="on_stop must be a function without arguments, not 'later'"):
        run_server(site, port=0, on_stop="later")  # type: ignore[arg-type]


def test_a_spread_end(backend: Any) -> None:
    """Channels are closed one after another over `spread` seconds, all of them, and nobody waits for the deadline."""

    async def handler(request: Request) -> Any:
        return as_channel(request)

    server = run_server(handler, port=0, backend=backend, spread=0.3)
    ends: list[float] = []

    def watch(websocket: ClientConnection) -> None:
        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(PATIENCE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
        ends.append(time.monotonic())

    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(f"ws://127.0.0.1:{server.port}/")) for _ in range(10)]
        until(lambda: server.statistics().channels == 10)
        watchers = [threading.Thread(target=watch, args=(websocket,)) for websocket in sockets]
        for watcher in watchers:
            watcher.start()
        server.stop(PATIENCE)
        for watcher in watchers:
            watcher.join(PATIENCE)
    assert len(ends) == 10
    assert max(ends) - min(ends) > 0.1  # at once they come within a few milliseconds; a slow machine only adds to it
    with pytest.raises(ConfigError, match=r"spread .* must be below drain_timeout"):
        run_server(handler, port=0, spread=20)


def test_what_was_under_way_is_answered(backend: Any) -> None:
    """A client that connected before the stop is answered, also if its request comes only after it has begun."""

    async def handler(request: Request) -> str:
        return "hello"

    server = run_server(handler, port=0, backend=backend)
    early = [socket.create_connection(("127.0.0.1", server.port), PATIENCE) for _ in range(5)]
    stopper = threading.Thread(target=server.stop, args=(PATIENCE,))
    stopper.start()
    until(lambda: server.status == "stopping")
    for sock in early:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    for sock in early:
        answer = read_rest(sock, reset=b"<reset>")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert b"\r\nConnection: close\r\n" in answer
    stopper.join(PATIENCE)


def test_the_second_wish_is_heard_in_the_same_turn(backend: Any) -> None:
    """Two signals may come at once: the patience of the shorter one counts, though the end has not begun yet."""
    servers: list[Server] = []

    async def handler(request: Request) -> str:
        servers[0].stop_soon(600)
        servers[0].stop_soon(0.05)
        await anyio.sleep_forever()
        return "never"

    servers.append(run_server(handler, port=0, backend=backend))
    sock = get(servers[0], "/")
    assert servers[0].join(PATIENCE)
    read_rest(sock, reset=b"<reset>")


def test_what_waits_to_be_accepted_is_answered(backend: Any) -> None:
    """The kernel has taken these connections for us: closing the listener must not reset them."""
    holding, release = threading.Event(), threading.Event()

    async def handler(request: Request) -> str:
        if request.path == "/hold":
            holding.set()
            release.wait(PATIENCE)  # the loop stands, and nothing is accepted
            held.stop_soon(PATIENCE)
        return "hello"

    held = run_server(handler, port=0, backend=backend)
    clients = [get(held, "/hold")]
    assert holding.wait(PATIENCE)
    clients += [get(held, "/") for _ in range(20)]
    release.set()
    answers = [read_rest(sock, reset=b"<reset>") for sock in clients]
    assert [answer for answer in answers if not answer.startswith(b"HTTP/1.1 200")] == []
    assert held.join(PATIENCE)
