"""TLS on the reactor's link: nothing is forgotten in it, nothing is cut off by it, and it costs nobody else more."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from channelkit._loop import Loop, open_loop
from channelkit.config import Config
from channelkit.server.pump.link import Link
from channelkit.server.pump.reactor import LAST_HANDSHAKE, Reactor
from channelkit.server.pump.tls import RECORDS_PER_TURN
from channelkit.server.pump.tls_link import BATCH, TlsAcceptor
from channelkit.testing import clock
from channelkit.testing.tls import Source, client_context

Backend = clock.Backend


class Recorder:
    """An engine that writes down what it is told; told to be busy, it has work left after each call."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.calls: list[bytes] = []
        self.told: list[Any] = []
        self.on_data: Callable[[], Any] = lambda: None

    @property
    def data(self) -> bytes:
        return b"".join(self.calls)

    def data_received(self, data: memoryview) -> bool:
        self.calls.append(bytes(data))
        return bool(self.on_data())

    def resume(self) -> bool:
        self.told.append("resume")
        return False

    def eof_received(self) -> None:
        self.told.append("eof")

    def wrote(self) -> None:
        self.told.append("wrote")

    def connection_lost(self, error: Exception | None) -> None:
        self.told.append(error)


class World:
    """A reactor with TLS, and clients that do one thing at a time."""

    def __init__(self, loop: Loop, reactor: Reactor) -> None:
        self.loop = loop
        self.reactor = reactor
        self.engines: list[Recorder] = []
        self.socks: list[socket.socket] = []

    def engine(self, link: Link) -> Recorder:
        self.engines.append(Recorder(link))
        return self.engines[-1]

    def connect(self, buffer: int | None = None) -> Client:
        ours, theirs = socket.socketpair()
        if buffer is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        theirs.setblocking(False)
        self.socks.append(theirs)
        return Client(self, theirs, self.reactor.adopt(ours, self.engine, tls=TlsAcceptor(Source())))

    async def established(self, buffer: int | None = None) -> tuple[Client, Recorder]:
        client = self.connect(buffer)
        await client.shake_hands()
        return client, self.engines[-1]

    def counts(self) -> dict[str, int]:
        return dict(self.loop.tally.counts)


class Client:
    """OpenSSL's client on a socket, in the test's own hands."""

    def __init__(self, world: World, sock: socket.socket, link: Link) -> None:
        self.world = world
        self.sock = sock
        self.link = link
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = client_context().wrap_bio(self.incoming, self.outgoing, server_hostname="test")
        self.raw = 0  # ciphertext bytes read
        self.records = 0  # of application data, as far as borders are in one read
        self.fin = False
        self.ended = False

    def read_raw(self, size: int = 65536) -> bytes:
        try:
            data = self.sock.recv(size)
        except BlockingIOError:
            return b""
        self.fin = self.fin or not data
        self.raw += len(data)
        return data

    async def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.sock.send(self.outgoing.read())
                await turn()
                self.incoming.write(self.read_raw())
                continue
            self.sock.send(self.outgoing.read())
            await turn()
            return

    def say(self, *messages: bytes) -> None:
        """Each in a record of its own, all in one packet."""
        for message in messages:
            self.tls.write(message)
        self.sock.send(self.outgoing.read())

    def close_notify(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.sock.send(self.outgoing.read())

    def hear(self) -> bytes:
        """What is there."""
        received = b""
        while data := self.read_raw():
            self.incoming.write(data)
        while not self.ended:
            try:
                piece = self.tls.read(65536)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                piece = b""
            self.ended = not piece
            received += piece
        return received


async def turn() -> None:
    await anyio.sleep(0.001)


Body = Callable[[World], Awaitable[None]]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


def run(body: Body, backend: Backend, reactor_clock: Callable[[], float] = time.perf_counter, **options: Any) -> None:
    async def main() -> None:
        async with open_loop() as loop:
            world = World(loop, Reactor(loop, Config(**options), clock=reactor_clock))
            try:
                await body(world)
            finally:
                world.reactor.close()
                for sock in world.socks:
                    sock.close()

    clock.run(main, backend=backend, max_ticks=200_000)


# -- what is inside TLS is not forgotten


def test_records_beyond_a_turn_come_without_another_event(backend: Backend) -> None:
    """All were read from the socket at once, so epoll will say nothing: the ready queue does."""

    async def body(world: World) -> None:
        client, engine = await world.established()
        client.say(*[b"x"] * 1000)
        await turn()
        assert engine.data == b"x" * 1000
        assert max(map(len, engine.calls)) <= RECORDS_PER_TURN

    run(body, backend)


def test_a_paused_engine_gets_what_is_inside_when_it_goes_on(backend: Backend) -> None:
    """Paused within a read of many records; the rest, and the end behind it, wait inside."""

    async def body(world: World) -> None:
        client, engine = await world.established()
        engine.on_data = lambda: engine.link.set_reading(False)
        client.say(*[b"x"] * 200)
        client.close_notify()
        for count in (1, 2, 3):
            await anyio.sleep(1)
            assert (engine.data, "eof" in engine.told) == (b"x" * count * RECORDS_PER_TURN, False)
            engine.link.set_reading(True)
        await turn()
        engine.link.set_reading(True)
        await turn()
        assert engine.data == b"x" * 200
        assert engine.told[-1] == "eof"
        assert engine.told.count("eof") == 1

    run(body, backend)


def test_a_busy_engine_is_resumed_before_more_is_decrypted(backend: Backend) -> None:
    """An engine with work left gets its own turn first."""

    async def body(world: World) -> None:
        client, engine = await world.established()
        engine.on_data = lambda: True
        client.say(*[b"x"] * (RECORDS_PER_TURN + 1))
        await turn()
        assert list(map(len, engine.calls)) == [RECORDS_PER_TURN, 1]
        assert engine.told == ["resume", "resume"]

    run(body, backend)


def test_what_comes_with_the_handshake_is_read(backend: Backend) -> None:
    """The client's last flight and its first message in one packet."""

    async def body(world: World) -> None:
        client = world.connect()
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.sock.send(client.outgoing.read())
        await turn()
        client.incoming.write(client.read_raw())
        client.tls.do_handshake()
        client.say(b"eager")
        await turn()
        assert world.engines[0].data == b"eager"

    run(body, backend)


# -- the ends


def test_close_notify_is_the_end_of_input_and_no_more(backend: Backend) -> None:
    """A client that has said all may still listen: half-close without FIN; then our end, in order."""

    async def body(world: World) -> None:
        client, engine = await world.established()
        client.say(b"question")
        client.close_notify()
        await turn()
        assert (engine.data, engine.told) == (b"question", ["resume", "eof"])
        engine.link.write(b"answer")
        engine.link.finish()
        await turn()
        assert engine.told[-2:] == ["eof", None]
        assert client.hear() == b"answer"
        assert (client.ended, client.fin) == (True, True)
        assert world.reactor.links == 1  # its FIN is waited for: closing before could cost it the answer
        client.sock.shutdown(socket.SHUT_WR)
        await turn()
        assert world.reactor.links == 0

    run(body, backend)


def test_a_fin_alone_is_an_end_too(backend: Backend) -> None:
    """Many clients never say close_notify; what they sent says itself whether it was whole."""

    async def body(world: World) -> None:
        client, engine = await world.established()
        client.say(b"question")
        client.sock.shutdown(socket.SHUT_WR)
        await turn()
        assert (engine.data, engine.told) == (b"question", ["eof"])
        engine.link.write(b"answer")
        engine.link.finish()
        await turn()
        assert client.hear() == b"answer"
        assert client.ended
        assert world.reactor.links == 0

    run(body, backend)


def test_an_abort_says_no_close_notify(backend: Backend) -> None:
    """A response that is cut must look cut: only TLS can tell a client of a body without length."""

    async def body(world: World) -> None:
        client, engine = await world.established()
        engine.link.write(b"half")
        await turn()
        engine.link.abort()
        await turn()
        assert client.hear() == b"half"
        assert (client.ended, client.fin) == (False, True)

    run(body, backend)


def test_the_goodbye_comes_behind_everything(backend: Backend) -> None:
    """Also to a client that reads slowly: `connection_lost(None)` when the kernel has all, close_notify last."""

    async def body(world: World) -> None:
        client, engine = await world.established(buffer=4608)
        data = bytes(range(256)) * 2000
        engine.link.write(data)
        engine.link.finish()
        received = b""
        while not client.ended:
            assert engine.told == [] or len(received) > len(data) - 200_000
            received += client.hear()
            await turn()
        assert received == data
        assert engine.told == [None]

    run(body, backend)


def test_a_broken_record_ends_the_connection(backend: Backend) -> None:
    """The engine hears why; the client gets an alert."""

    async def body(world: World) -> None:
        client, engine = await world.established()
        client.tls.write(b"hello")
        data = bytearray(client.outgoing.read())
        data[-1] ^= 1
        client.sock.send(data)
        await turn()
        assert engine.data == b""
        assert "bad record mac" in str(engine.told[0])
        client.incoming.write(client.read_raw())
        with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
            client.tls.read(10)

    run(body, backend)


# -- what is written


def test_what_is_written_in_a_turn_is_one_record(backend: Backend) -> None:
    """Fifty small writes: one record, one send."""

    async def body(world: World) -> None:
        client, engine = await world.established()
        client.hear()
        before = client.raw
        for number in range(50):
            engine.link.write(b"%02d" % number)
        await turn()
        received = client.read_raw()
        assert 5 + int.from_bytes(received[3:5]) == len(received) == client.raw - before
        client.incoming.write(received)
        assert client.hear() == b"".join(b"%02d" % number for number in range(50))

    run(body, backend)


def test_unsent_is_plaintext_until_the_kernel_has_its_records(backend: Backend) -> None:
    """Never less than what is missing at the other end and in the kernel; 0 when the kernel has all."""

    async def body(world: World) -> None:
        client, engine = await world.established(buffer=4608)
        link = engine.link
        data = bytes(range(256)) * 1000
        link.write(data)
        await turn()
        assert link.unsent == len(data)  # the first batch is not wholly out
        received = b""
        while link.unsent:
            received += client.hear()
            assert len(data) - link.unsent <= len(received) + 20_000
            assert link.unsent <= len(data)
            await turn()
        received += client.hear()
        assert received == data

    run(body, backend)


def test_a_client_that_reads_a_little_is_not_stalled(backend: Backend) -> None:
    """Progress within one batch counts as progress; none at all is a stall, after exactly the timeout."""

    async def body(world: World) -> None:
        client, engine = await world.established(buffer=4608)
        engine.link.write(bytes(BATCH))
        for _ in range(4):
            await anyio.sleep(20)
            assert client.read_raw()
            assert (engine.told, engine.link.unsent) == ([], BATCH)
        await anyio.sleep(29)
        assert engine.told == []
        await anyio.sleep(2)
        assert isinstance(engine.told[0], TimeoutError)
        assert world.counts()["write_timeout"] == 1

    run(body, backend, write_timeout=30.0)


# -- handshakes


def test_a_handshake_that_never_ends_is_ended(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """Silent, begun, and dripping a byte a second: all are over after the timeout; none had an engine."""
    caplog.set_level(logging.DEBUG, "channelkit")

    async def body(world: World) -> None:
        silent, begun, dripping = world.connect(), world.connect(), world.connect()
        with pytest.raises(ssl.SSLWantReadError):
            dripping.tls.do_handshake()
        hello = dripping.outgoing.read()
        begun.sock.send(hello[:50])
        for second in range(9):
            dripping.sock.send(hello[second : second + 1])
            await anyio.sleep(1)
        assert world.reactor.links == 3
        await anyio.sleep(1.5)
        assert world.reactor.links == 0
        assert [one.read_raw() + bytes([one.fin]) for one in (silent, begun, dripping)] == [b"\x01"] * 3
        assert world.counts() == {"handshake_timeout": 3}
        assert world.engines == []

    run(body, backend, handshake_timeout=10.0)
    assert [record.levelname for record in caplog.records if "handshake" in record.message] == ["DEBUG"]


def test_a_client_that_goes_at_any_byte_of_its_handshake_leaves_nothing(backend: Backend) -> None:
    """Cut at every byte of its first flight: no engine, no link, one count each."""

    async def body(world: World) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            (probe := world.connect()).tls.do_handshake()
        hello = probe.outgoing.read()
        probe.sock.close()
        for cut in range(len(hello) + 1):
            client = world.connect()
            client.sock.send(hello[:cut])
            if cut % 3 == 0:
                await turn()
            client.sock.close()
        await anyio.sleep(1)
        assert world.reactor.links == 0
        assert world.reactor.handshaking == set()
        assert world.engines == []
        assert world.counts() == {"handshake: broken off": len(hello) + 2}

    run(body, backend)


def test_plain_http_is_answered_and_closed_in_order(backend: Backend) -> None:
    """400 in HTTP, even when the request goes on coming; garbage gets nothing.  No traceback anywhere."""

    async def body(world: World) -> None:
        plain, noise = world.connect(), world.connect()
        plain.sock.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        noise.sock.send(bytes(100))
        await turn()
        plain.sock.send(bytes(50_000))
        await turn()
        assert plain.read_raw().startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert plain.read_raw() + noise.read_raw() == b""
        assert plain.fin
        assert noise.fin
        assert world.counts() == {"handshake: plain http": 1, "handshake: not tls": 1}
        assert world.reactor.links == 2
        await anyio.sleep(3)
        assert world.reactor.links == 0

    run(body, backend, linger_timeout=2.0)


def test_many_handshakes_cost_the_others_one(backend: Backend) -> None:
    """However many are due, a turn of the loop has a slice of them: here one, as each seems to take 10 ms."""
    worlds: list[World] = []

    def by_handshakes() -> float:
        return -0.01 * len(worlds[0].reactor._handshakes) if worlds else 0.0

    async def body(world: World) -> None:
        worlds.append(world)
        talker, engine = await world.established()
        engine.on_data = lambda: engine.link.write(b"pong")
        clients = [world.connect() for _ in range(30)]
        for client in clients:
            with pytest.raises(ssl.SSLWantReadError):
                client.tls.do_handshake()
            client.sock.send(client.outgoing.read())
        while len(world.reactor._handshakes) < 25:
            await anyio.lowlevel.checkpoint()
        talker.say(b"ping")
        answered = [0]
        while sum(answered) < 20:
            await anyio.lowlevel.checkpoint()
            answered.append(sum(bool(client.read_raw()) for client in clients))
            if talker.hear():
                break
        assert sum(answered) <= 10

    run(body, backend, by_handshakes)


def test_the_end_of_the_listener_ends_handshakes_only(backend: Backend) -> None:
    """What has been established goes on; who has not got so far in a moment has asked nothing."""

    async def body(world: World) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        listener = world.reactor.listen(sock, world.engine, tls=TlsAcceptor(Source()))
        _, engine = await world.established()
        halfway = world.connect()
        await turn()
        listener.close()
        await turn()
        assert not halfway.fin
        await anyio.sleep(LAST_HANDSHAKE + 0.1)
        await turn()
        assert halfway.read_raw() == b""
        assert halfway.fin
        assert engine.told == []
        assert world.reactor.links == 1

    run(body, backend)


def test_one_too_many_from_an_address_is_told_in_tls(backend: Backend) -> None:
    """An alert, as HTTP could not be read; handshakes count as connections."""

    async def body(world: World) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        listener = world.reactor.listen(sock, world.engine, b"\x15busy", tls=TlsAcceptor(Source()))
        clients = [socket.create_connection(sock.getsockname()[:2]) for _ in range(3)]
        await turn()
        assert world.reactor.links == 2
        assert clients[2].recv(10) == b"\x15busy"
        for client in clients:
            client.close()
        await turn()
        listener.close()

    run(body, backend, max_connections_per_address=2)


def test_memory_is_let_go_at_the_end(backend: Backend) -> None:
    """Whoever keeps a link that is over keeps no TLS with it."""

    async def body(world: World) -> None:
        client, engine = await world.established()
        session = engine.link._session  # type: ignore[attr-defined]
        engine.link.abort()
        await turn()
        with pytest.raises(AttributeError):
            session.info()
        client.sock.close()

    run(body, backend)
