"""The load of the benchmarks notices when a server does not do its work, and is bounded by its options."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

sys.path.append(str(Path(__file__).parent.parent.parent))  # behind all else: channelkit stays the one under test

from benchmarks.cells import CELLS
from benchmarks.frames import ACCEPT, Script, masked, payload_size, plain
from benchmarks.load import Options, main, parse, run
from benchmarks.process import usage
from benchmarks.wires import BadReply
from channelkit import Channel, Request, as_channel, run_server
from channelkit.testing.tls import server_context

PATIENCE = 10.0
Behaviour = Callable[[list[bytes]], list[bytes]]
WELCOME = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %b\r\n\r\n" % ACCEPT
ECHO = replace(CELLS["echo64"], connections=2, in_flight=4)
FAN = replace(CELLS["fan64"], connections=3, in_flight=4)
GET = replace(CELLS["get"], connections=2)
IDLE = replace(CELLS["idle"], connections=3)


class TinyServer:
    """A thread for each connection.  `behaviour` makes of the payloads received so far those to be sent back."""

    def __init__(self, behaviour: Behaviour, welcome: bytes) -> None:
        self._behaviour = behaviour
        self._welcome = welcome
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._socks: list[socket.socket] = []
        self._fan: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        for sock in (self._listener, *self._socks):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        for sock in (self._listener, *self._socks):
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._socks.append(sock)
                thread = threading.Thread(target=self._serve, args=(sock,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock.makefile("rb") as stream:
            while head := _head(stream):
                self._answer(sock, stream, head)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    def _answer(self, sock: socket.socket, stream: BinaryIO, head: bytes) -> None:
        if b"Upgrade: websocket" in head:
            self._upgrade(sock, head)
            self._talk(sock, stream)
        else:
            sock.sendall(b"".join(self._behaviour([b"Hello, world!"])))

    def _upgrade(self, sock: socket.socket, head: bytes) -> None:
        with self._lock:
            self._fan += [sock] if b"/fan" in head else []
        sock.sendall(self._welcome)

    def _talk(self, sock: socket.socket, stream: BinaryIO) -> None:
        held: list[bytes] = []
        while head := stream.read(2):
            key, payload = stream.read(4), stream.read(head[1] & 0x7F)
            held.append(bytes(byte ^ key[place % 4] for place, byte in enumerate(payload)))
            if replies := self._behaviour(held):
                held = []
            with self._lock:
                for member in self._fan or [sock]:
                    member.sendall(b"".join(plain(head[0], reply) for reply in replies))


def _head(stream: BinaryIO) -> bytes:
    """The head of a request; nothing at the end of the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return b""
        head += line
    return head


@contextmanager
def tiny_server(behaviour: Behaviour, welcome: bytes = WELCOME) -> Iterator[TinyServer]:
    server = TinyServer(behaviour, welcome)
    try:
        yield server
    finally:
        server.close()


def options(server: TinyServer, base: Options) -> Options:
    return replace(base, port=server.port)


SHORT = Options(cell=ECHO, port=1, pid=os.getpid(), seconds=PATIENCE, warm=0, count=200, patience=PATIENCE)


def honest(payloads: list[bytes]) -> list[bytes]:
    """Every payload at once."""
    return list(payloads)


@pytest.mark.parametrize("cell", ["echo64", "echo16k", "get", "idle"])
def test_the_same_is_asked_over_tls(cell: str) -> None:
    """A server of ours with the certificate of the benchmarks: every reply comes, in as many records as it takes."""

    async def handler(request: Request) -> Any:
        return as_channel(request, on_receive=Channel.send_nowait) if request.is_websocket else "Hello, world!"

    server = run_server(handler, port=0, ssl=server_context())
    try:
        small = replace(CELLS[cell], connections=3)
        result = run(replace(SHORT, cell=small, port=server.port, tls=True))
    finally:
        server.stop()
    assert result.operations >= 3


def reordering(payloads: list[bytes]) -> list[bytes]:
    """Two at a time, the later one first."""
    return payloads[::-1] if len(payloads) == 2 else []


def corrupting(payloads: list[bytes]) -> list[bytes]:
    """One bit of the last byte of each is another."""
    return [payload[:-1] + bytes([payload[-1] ^ 1]) for payload in payloads]


def doubling(payloads: list[bytes]) -> list[bytes]:
    """Every payload twice."""
    return payloads * 2


def shortening(payloads: list[bytes]) -> list[bytes]:
    """The last byte is missing, and the frame says so."""
    return [payload[:-1] for payload in payloads]


class Losing:
    """All but the payload of one number; `more` tells whether others come after it."""

    def __init__(self, lost: bytes) -> None:
        self.lost = lost

    def __call__(self, payloads: list[bytes]) -> list[bytes]:
        return [payload for payload in payloads if not payload.startswith(self.lost)]


def test_an_honest_echo_is_measured() -> None:
    """All replies are counted, up to the bound and what was in flight then, and the time is told."""
    with tiny_server(honest) as server:
        result = run(options(server, SHORT))
    assert SHORT.count <= result.operations < SHORT.count + ECHO.connections * ECHO.in_flight
    assert 0 < result.seconds < PATIENCE
    assert result.rate == pytest.approx(result.operations / result.seconds)


def test_time_bounds_it() -> None:
    """A run ends when its time is over, whatever the bound of operations."""
    with tiny_server(honest) as server:
        result = run(options(server, replace(SHORT, seconds=0.02, warm=0.01, count=10**9)))
    assert 0 < result.operations < 10**6


def test_one_connection_is_timed() -> None:
    """With one connection each round trip has its time."""
    with tiny_server(honest) as server:
        result = run(options(server, replace(SHORT, cell=replace(ECHO, connections=1, in_flight=1), count=20)))
    assert result.p50_us is not None
    assert result.p99_us is not None
    assert 0 < result.p50_us <= result.p99_us


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        (Losing(b"00000005"), r"message 00000005 is lost or out of order: b'00000006' came"),
        (reordering, r"message 00.00000 is lost or out of order: b'00.00001' came"),
        (corrupting, r"message 00.00000 came back corrupted"),
        (doubling, r"message 00.00001 is lost or out of order: b'00.00000' came"),
        (shortening, r"a frame begins with 81 3f, not with 81 40"),
    ],
)
def test_a_bad_echo_is_noticed(behaviour: Behaviour, complaint: str) -> None:
    """A reply that is lost, out of order, corrupted, doubled or cut is named, and nothing is measured."""
    with tiny_server(behaviour) as server, pytest.raises(BadReply, match=complaint):
        run(options(server, SHORT))


def test_a_loss_that_nothing_follows_is_noticed() -> None:
    """If the lost reply was the last one in flight, the silence tells."""
    with tiny_server(Losing(b"00000003")) as server, pytest.raises(BadReply, match=r"nothing came back for 0\.1 s"):
        run(options(server, replace(SHORT, cell=replace(ECHO, connections=1, in_flight=1), patience=0.1)))


def test_a_loss_among_other_connections_is_noticed() -> None:
    """A connection that lost its reply, and so fell silent, is not forgotten because others talk on."""
    with tiny_server(Losing(b"00100003")) as server, pytest.raises(BadReply, match="replies still missing: 1"):
        run(options(server, replace(SHORT, cell=replace(ECHO, in_flight=1), patience=0.1)))


def test_a_surplus_reply_at_the_end_is_noticed() -> None:
    """One reply too many, after all others, is one too many."""
    cell = replace(ECHO, connections=1, in_flight=1)
    with tiny_server(doubling) as server, pytest.raises(BadReply, match=r"more came back than was sent|out of order"):
        run(options(server, replace(SHORT, cell=cell, count=1)))


def test_the_end_of_a_connection_is_noticed() -> None:
    """A server that hangs up has not done its work."""

    def hang_up(payloads: list[bytes]) -> list[bytes]:
        raise OSError

    with (
        tiny_server(hang_up) as server,
        pytest.raises(BadReply, match=r"connection \d: the server ended|reset|Broken pipe"),
    ):
        run(options(server, SHORT))


def test_a_fan_reaches_everybody() -> None:
    """A burst counts once for each member."""
    with tiny_server(honest) as server:
        result = run(options(server, replace(SHORT, cell=FAN, count=24)))
    assert result.operations == 24


@pytest.mark.parametrize("behaviour", [reordering, corrupting, Losing(b"00000002"), doubling])
def test_a_bad_fan_is_noticed(behaviour: Behaviour) -> None:
    """The members judge what they get as an echo does."""
    with tiny_server(behaviour) as server, pytest.raises(BadReply, match="message 0000000"):
        run(options(server, replace(SHORT, cell=FAN, count=24)))


def response(body: bytes, length: int = 13, status: bytes = b"200 OK") -> Behaviour:
    return lambda _: [b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, length, body)]


def test_get_is_measured() -> None:
    """Plain responses are counted."""
    with tiny_server(response(b"Hello, world!")) as server:
        result = run(options(server, replace(SHORT, cell=GET)))
    assert result.operations >= SHORT.count


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        (response(b"Hello, World!"), "corrupted"),
        (response(b"Hello, world!", length=14), "corrupted"),
        (response(b"Hello, world!!"), "more came back"),
        (response(b"Hello, world!", status=b"503 Busy"), "not a good response"),
    ],
)
def test_a_bad_response_is_noticed(behaviour: Behaviour, complaint: str) -> None:
    """A response with another status, length or body is no operation."""
    with tiny_server(behaviour) as server, pytest.raises(BadReply, match=complaint):
        run(options(server, replace(SHORT, cell=GET)))


def test_half_a_response_is_noticed() -> None:
    """A response whose rest never comes is no operation."""
    with tiny_server(response(b"Hello")) as server, pytest.raises(BadReply, match="nothing came back"):
        run(options(server, replace(SHORT, cell=GET, patience=0.1)))


@pytest.mark.parametrize(
    ("welcome", "complaint"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "not upgraded"),
        (WELCOME.replace(ACCEPT, b"something"), "wrong Sec-WebSocket-Accept"),
        (WELCOME + plain(0x81, b"hello"), "spoke first"),
    ],
)
def test_a_bad_handshake_is_noticed(welcome: bytes, complaint: str) -> None:
    """Nothing is measured on a connection that was refused or opened wrongly."""
    with tiny_server(honest, welcome) as server, pytest.raises(BadReply, match=complaint):
        run(options(server, SHORT))


def test_nobody_listening_is_noticed() -> None:
    """A refused connection is the server's failure, not a crash of the load."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(BadReply, match=r"cannot connect to 127\.0\.0\.1"):
            run(replace(SHORT, port=sock.getsockname()[1]))


def test_idle_connections_are_weighed() -> None:
    """The memory is that of the process given, for each connection, and the connections must be left alone."""
    with tiny_server(honest) as server:
        result = run(options(server, replace(SHORT, cell=IDLE)))
    assert result.operations == IDLE.connections
    assert result.bytes_each is not None


@pytest.fixture
def own_process() -> Iterator[None]:
    """The command pins its process to a core and more; afterwards this one is as it was."""
    cores, limit = os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    os.sched_setaffinity(0, cores)
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    gc.enable()


@pytest.mark.usefixtures("own_process")
@pytest.mark.parametrize(("behaviour", "code", "key"), [(honest, 0, "operations"), (corrupting, 1, "error")])
def test_the_command_prints_one_line_of_json(
    behaviour: Behaviour, code: int, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the command prints is the result, or the error, which also is a failing exit code."""
    with tiny_server(behaviour) as server:
        args = ["echo64", "--connections", "1", "--count", "10", "--warm", "0", "--port", str(server.port)]
        assert main(args) == code
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)[key]


def test_the_server_pays_for_its_work() -> None:
    """CPU time is read of the process given, and of none if none is."""
    assert usage(os.getpid()).total > 0
    assert usage(None).total == 0


def test_the_script_is_what_the_protocol_says() -> None:
    """What is sent is masked, what is expected is not, and both carry the number first."""
    for size in (64, 200, 70000):
        payload = b"x" * size
        frame = masked(0x81, payload)
        assert len(frame) == len(plain(0x81, payload)) + 4
        assert payload not in frame
        assert payload_size(plain(0x81, payload)) == size
    script = Script(10, ECHO)
    assert script.replies.startswith(b"\x81\x4000a00000")
    assert script.replies[script.reply_size :].startswith(b"\x81\x4000a00001")


def test_options_are_parsed() -> None:
    """The command line says everything that `Options` holds, and the rest has defaults."""
    line = "echo64 --port 99 --pid 7 --seconds 2 --warm 0 --count 5 --connections 3 --in-flight 2"
    given = parse(line.split(" "))
    assert given == Options(
        cell=replace(CELLS["echo64"], connections=3, in_flight=2), port=99, pid=7, seconds=2.0, warm=0.0, count=5
    )
    assert parse(["get", "--port", "99", "--host", "127.1.2.3"]).host == "127.1.2.3"


@pytest.mark.parametrize(
    "line",
    [
        "echo64",
        "nothing --port 99",
        "echo64 --port 0",
        "echo64 --port 99 --host 10.0.0.1",
        "echo64 --port 99 --host example.com",
        "echo64 --port 99 --seconds 61",
        "echo64 --port 99 --seconds nan",
        "echo64 --port 99 --count 0",
        "echo64 --port 99 --connections 100000",
        "idle --port 99",
    ],
)
def test_options_that_cannot_work_are_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It talks to this machine only, and for a bounded time; what is wrong is said."""
    with pytest.raises(SystemExit) as exit_:
        parse(line.split())
    assert exit_.value.code == 2
    assert "error: " in capsys.readouterr().err
