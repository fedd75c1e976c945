"""What stands before a link where proxies introduce connections: the real epoll, in virtual time."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from channelkit._loop import Loop, open_loop
from channelkit.config import Config
from channelkit.server.pump.link import Link
from channelkit.server.pump.reactor import LAST_HANDSHAKE, Reactor
from channelkit.testing import clock

V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1001 443\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11"
    + bytes([192, 0, 2, 1, 192, 0, 2, 2])
    + struct.pack("!HH", 1001, 443)
    + b"\4\0\2xx"
)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
CLIENT, SERVER = ("192.0.2.1", 1001), ("192.0.2.2", 443)


class Recorder:
    """An engine that remembers what it is told; it hangs up when its peer does."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.data = b""
        self.ended = False

    def data_received(self, data: memoryview) -> bool:
        self.data += data
        return False

    def resume(self) -> bool:
        return False

    def eof_received(self) -> None:
        self.ended = True
        self.link.finish()

    def wrote(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None: ...


class Place:
    """A listener on a loop in virtual time, the engines that came of it, and clients."""

    def __init__(self, loop: Loop, reactor: Reactor) -> None:
        self.loop = loop
        self.reactor = reactor
        self.engines: list[Recorder] = []
        # UNIX sockets: TCP's bytes may take a moment, even to one's own machine, and virtual time has none to give.
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind("")  # any name of the abstract namespace
        self._sock.listen()
        self._sock.setblocking(False)
        self.listener = reactor.listen(self._sock, self._connect, b"busy")

    def _connect(self, link: Link) -> Recorder:
        self.engines.append(Recorder(link))
        return self.engines[-1]

    def client(self, data: bytes = b"") -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self._sock.getsockname())
        sock.setblocking(False)
        if data:
            sock.send(data)
        return sock

    @property
    def counts(self) -> dict[str, int]:
        return self.loop.tally.counts


Body = Callable[[Place], Awaitable[None]]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(body: Body, backend: str, reactor_clock: Callable[[], float] = time.perf_counter, **options: Any) -> None:
    options = {"proxy_protocol": "enable", "trusted_proxies": ["unix"], **options}

    async def main() -> None:
        async with open_loop() as loop:
            reactor = Reactor(loop, Config(**options), clock=reactor_clock)
            try:
                await body(Place(loop, reactor))
            finally:
                reactor.close()

    clock.run(main, backend=backend, max_ticks=200_000)  # type: ignore[arg-type]


async def turn() -> None:
    """Let what has arrived be handled."""
    await anyio.sleep(0.001)


def closed(sock: socket.socket) -> bool:
    """Whether the other side has closed, with nothing said."""
    with sock:
        try:
            return sock.recv(100) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


@pytest.mark.parametrize("header", [V1, V2])
def test_a_header_may_arrive_in_any_pieces(backend: str, header: bytes) -> None:
    """Split anywhere or byte by byte, with what follows or without: the engine sees the addresses and only the rest."""

    async def body(place: Place) -> None:
        for size in range(len(header) + 2):
            data = header + b"GET"
            with place.client(data[:size]) as sock:
                await turn()
                assert len(place.engines) == (size >= len(header))
                sock.send(data[size:])
                await turn()
                (engine,) = place.engines
                assert (engine.link.peer, engine.link.local, engine.data) == (CLIENT, SERVER, b"GET")
            await turn()
            place.engines.clear()
        with place.client() as sock:
            for byte in header:
                assert not place.engines
                sock.send(bytes([byte]))
                await turn()
            assert place.engines[0].data == b""
        assert place.counts == {}

    run(body, backend)


def test_a_proxy_that_hangs_up_behind_its_header(backend: str) -> None:
    """Header, data and FIN in one: the engine gets data and end."""

    async def body(place: Place) -> None:
        with place.client(V1 + b"GET"):
            pass
        await turn()
        (engine,) = place.engines
        assert (engine.link.peer, engine.data, engine.ended) == (CLIENT, b"GET", True)

    run(body, backend)


def test_the_addresses_of_the_socket_stand_where_nobody_is_introduced(backend: str) -> None:
    """LOCAL and UNKNOWN: the proxy speaks for itself."""

    async def body(place: Place) -> None:
        for header in (LOCAL, b"PROXY UNKNOWN\r\n"):
            with place.client(header + b"x"):
                await turn()
                link = place.engines[-1].link
                assert (link.peer, link.local, place.engines[-1].data) == (None, None, b"x")

    run(body, backend)


@pytest.mark.parametrize("sent", [b"", V1[:-1], V2[:-1], b"PRO"])
@pytest.mark.parametrize("mode", ["enable", "optional"])
def test_a_header_that_does_not_come_is_not_waited_for(backend: str, mode: str, sent: bytes) -> None:
    """After `proxy_timeout` from the connection on, however its bytes come, the connection is closed."""

    async def body(place: Place) -> None:
        sock = place.client(sent[:1])
        await anyio.sleep(2.5)
        sock.send(sent[1:])
        await anyio.sleep(2.4)
        assert place.reactor.links == 1
        await anyio.sleep(0.2)
        assert closed(sock)
        assert (place.reactor.links, place.engines) == (0, [])
        assert place.counts == {"proxy_timeout": 1}

    run(body, backend, proxy_protocol=mode)


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.2.3.4\r\n", b"PROXY UNKNOWN" + 100 * b"x", V2[:12] + b"\x31" + V2[13:]],
)
def test_what_is_no_header_is_closed_without_an_answer(backend: str, sent: bytes) -> None:
    """Nothing is known of who would read it."""

    async def body(place: Place) -> None:
        sock = place.client(sent)
        await turn()
        assert closed(sock)
        assert (place.reactor.links, place.engines) == (0, [])
        assert place.counts == {"proxy_protocol": 1}

    run(body, backend)


def test_a_header_is_as_long_as_the_option_allows(backend: str) -> None:
    """Below the 107 bytes of version 1 too, whose lines the option is not about."""

    async def body(place: Place) -> None:
        with place.client(b"PROXY UNKNOWN " + 91 * b"x" + b"\r\n"), place.client(LOCAL):
            await turn()
            assert len(place.engines) == 2
        sock = place.client(V2)
        await turn()
        assert closed(sock)
        assert place.counts == {"proxy_protocol": 1}

    run(body, backend, max_proxy_header=20)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"PUT ", b"PROPFIND /", b"\r\n\r\nGET", b"\x16\x03\x01"])
def test_optional_takes_what_is_no_header_for_the_client_itself(backend: str, sent: bytes) -> None:
    """However it is cut, not a byte is lost, and the proxy's own address stands."""

    async def body(place: Place) -> None:
        for size in range(1, len(sent)):
            with place.client(sent[:size]) as sock:
                await turn()
                sock.send(sent[size:])
                await turn()
                assert (place.engines[-1].data, place.engines[-1].link.peer) == (sent, None)
        assert place.counts == {}

    run(body, backend, proxy_protocol="optional")


def test_optional_is_as_strict_with_what_begins_like_a_header(backend: str) -> None:
    """It is closed; a request does not begin so."""

    async def body(place: Place) -> None:
        sock = place.client(b"PROXY TCP4 1.2.3.4\r\n")
        await turn()
        assert closed(sock)
        assert place.counts == {"proxy_protocol": 1}

    run(body, backend, proxy_protocol="optional")


def test_somebody_who_only_looks_makes_no_noise(backend: str) -> None:
    """Connect and close, LOCAL and close: health checks of proxies.  Nothing is left of them."""

    async def body(place: Place) -> None:
        place.client().close()
        place.client(LOCAL).close()
        await anyio.sleep(1)
        assert (place.reactor.links, place.counts) == (0, {})

    run(body, backend)


def test_a_header_that_breaks_off_is_told(backend: str) -> None:
    """That is a proxy with a fault, or something else than a proxy."""

    async def body(place: Place) -> None:
        place.client(V1[:20]).close()
        await turn()
        assert (place.reactor.links, place.counts) == (0, {"proxy_protocol": 1})

    run(body, backend)


def test_who_is_not_trusted(backend: str) -> None:
    """With "enable" closed at once, not a byte read; with "optional" a client like any other, PROXY line and all."""

    async def enabled(place: Place) -> None:
        sock = place.client(V1)
        await turn()
        assert closed(sock)
        assert (place.engines, place.counts) == ([], {"proxy_protocol": 1})

    async def optional(place: Place) -> None:
        with place.client(V1):
            await turn()
            assert (place.engines[0].data, place.engines[0].link.peer) == (V1, None)
            assert place.counts == {}

    run(enabled, backend, trusted_proxies=["192.0.2.77"])
    run(optional, backend, trusted_proxies=["192.0.2.77"], proxy_protocol="optional")


def test_a_limit_by_address_counts_the_clients_that_were_introduced(backend: str) -> None:
    """Not the proxy, which may have as many as it likes before and after its headers; one more client is told."""

    async def body(place: Place) -> None:
        others = [place.client() for _ in range(3)] + [place.client(LOCAL) for _ in range(3)]
        first = [place.client(V1) for _ in range(2)]
        await turn()
        one_more = place.client(V1)
        other = place.client(V1.replace(b"192.0.2.1", b"192.0.2.9"))
        await turn()
        with one_more:
            assert one_more.recv(100) == b"busy"
        assert len(place.engines) == 3 + 2 + 1
        assert place.counts == {"max_connections_per_address": 1}
        first.pop().close()
        await turn()
        again = place.client(V1)
        await turn()
        assert len(place.engines) == 7
        for sock in (*others, *first, other, again):
            sock.close()

    run(body, backend, max_connections_per_address=2)


def test_connections_without_a_header_yet_count_among_all(backend: str) -> None:
    """At `max_connections` the listener waits, and is back when one of them ends, by whatever."""

    async def body(place: Place) -> None:
        first, second = place.client(), place.client()
        await turn()
        third = place.client(V1)
        await turn()
        assert (place.reactor.links, place.counts) == (2, {"max_connections": 1})
        first.close()
        await turn()
        assert (place.reactor.links, len(place.engines)) == (2, 1)
        second.close()
        third.close()

    run(body, backend, max_connections=2)


def test_a_listener_that_closes_takes_them_along(backend: str) -> None:
    """After a moment, in which a header that was on its way is still read."""

    async def body(place: Place) -> None:
        pending, late, served = place.client(V1[:9]), place.client(V1[:9]), place.client(V1)
        await turn()
        place.listener.close()
        late.send(V1[9:])
        await turn()
        assert place.reactor.links == 3
        await anyio.sleep(LAST_HANDSHAKE + 0.1)
        assert closed(pending)
        assert place.reactor.links == 2
        assert not closed(served)
        assert not closed(late)
        late.close()

    run(body, backend)


def test_a_client_that_speaks_tls_to_its_proxy(backend: str) -> None:
    """Version 2 can tell; it is what makes the scheme https."""

    async def body(place: Place) -> None:
        vectors = b"\x20\0\5\1\0\0\0\0"
        with place.client(V2[:14] + struct.pack("!H", 12 + len(vectors)) + V2[16:28] + vectors), place.client(V2):
            await turn()
            assert sorted(engine.link.secure for engine in place.engines) == [False, True]

    run(body, backend)


def test_headers_beyond_a_turn_are_not_forgotten(backend: str) -> None:
    """By the reactor's clock each event takes a whole turn: what epoll has reported once has its own all the same."""
    ticks = itertools.count()

    async def body(place: Place) -> None:
        clients = [place.client() for _ in range(5)]
        await anyio.sleep(0.1)
        for client in clients:
            client.send(V1)
        await anyio.sleep(0.1)
        assert len(place.engines) == 5
        for client in clients:
            client.close()

    run(body, backend, lambda: float(next(ticks)))
