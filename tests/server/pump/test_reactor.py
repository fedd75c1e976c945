"""The reactor against a scripted kernel: what a real one does rarely, done on purpose."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from channelkit._loop import Loop, open_loop
from channelkit._places import place_of
from channelkit.config import Config
from channelkit.server.pump.link import Link
from channelkit.server.pump.poller import HUP, IN, OUT, RDHUP
from channelkit.server.pump.reactor import Reactor
from channelkit.testing import clock

Body = Callable[[Loop, "FakePoller", Reactor], Any]


class FakePoller:
    """An epoll whose reports are written down beforehand; its descriptor is one that never becomes readable."""

    def __init__(self) -> None:
        self.interest: dict[int, int] = {}
        self.reports: list[tuple[int, int]] = []
        self._pair = socket.socketpair()

    def register(self, fd: int, eventmask: int) -> None:
        assert fd not in self.interest, "registered twice"
        self.interest[fd] = eventmask

    def modify(self, fd: int, eventmask: int) -> None:
        assert fd in self.interest
        assert eventmask, "an interest of 0 would spin: HUP cannot be masked"
        self.interest[fd] = eventmask

    def unregister(self, fd: int) -> None:
        del self.interest[fd]

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        reports, self.reports = self.reports, []
        return reports

    def fileno(self) -> int:
        return self._pair[0].fileno()

    def close(self) -> None:
        for sock in self._pair:
            sock.close()


class Recorder:
    """An engine that writes down what it is told."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.data = b""
        self.told: list[Any] = []
        self.on_data: Callable[[], Any] = lambda: None

    def data_received(self, data: memoryview) -> bool:
        self.data += data
        self.on_data()
        return False

    def resume(self) -> bool:
        self.told.append("resume")
        return False

    def eof_received(self) -> None:
        self.told.append("eof")

    def wrote(self) -> None:
        self.told.append("wrote")

    def connection_lost(self, error: Exception | None) -> None:
        self.told.append(error)


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(body: Body, backend: str, **options: Any) -> None:
    async def main() -> None:
        async with open_loop() as loop:
            poller = FakePoller()
            reactor = Reactor(loop, Config(**options), poller=poller, clock=lambda: 0.0)  # a turn has time enough
            try:
                await body(loop, poller, reactor)
            finally:
                reactor.close()

    clock.run(main, backend=backend, max_ticks=20_000)  # type: ignore[arg-type]


def connection(reactor: Reactor) -> tuple[Recorder, socket.socket, int]:
    """An engine on one end of a socket pair, the other end, and the descriptor the poller knows."""
    ours, theirs = socket.socketpair()
    link = reactor.adopt(ours, Recorder)
    theirs.setblocking(False)
    engine = link.engine
    assert isinstance(engine, Recorder)
    return engine, theirs, ours.fileno()


def test_events_of_a_connection_closed_in_the_same_batch_reach_nobody(backend: str) -> None:
    """A callback ends another connection of its batch; the stale event neither fails nor hits a newcomer."""

    async def body(loop: Loop, poller: FakePoller, reactor: Reactor) -> None:
        first, first_peer, first_fd = connection(reactor)
        second, second_peer, second_fd = connection(reactor)
        newcomers: list[Recorder] = []

        def replace() -> None:
            second.link.abort()
            newcomer, peer, fd = connection(reactor)
            assert fd != second_fd, "the number must not be reused within the tick"
            newcomers.append(newcomer)
            peer.close()

        first.on_data = replace
        first_peer.send(b"x")
        second_peer.send(b"stale")
        poller.reports = [(first_fd, IN), (second_fd, IN | HUP)]
        reactor.tick()
        await anyio.sleep(0.01)
        assert (first.data, second.data, newcomers[0].data) == (b"x", b"", b"")
        assert len(second.told) == 1
        assert isinstance(second.told[0], ConnectionAbortedError)
        assert newcomers[0].told == []
        for sock in (first_peer, second_peer):
            sock.close()

    run(body, backend)


@pytest.mark.parametrize("events", [HUP, RDHUP, HUP | RDHUP | IN, select.EPOLLERR])
def test_a_hang_up_while_paused_is_looked_away_from(backend: str, events: int) -> None:
    """The descriptor is unregistered, for it would be reported for ever; after the deadline the link is lost."""

    async def body(loop: Loop, poller: FakePoller, reactor: Reactor) -> None:
        engine, peer, fd = connection(reactor)
        engine.link.set_reading(False)
        assert poller.interest[fd] == RDHUP
        poller.reports = [(fd, events)]
        reactor.tick()
        assert fd not in poller.interest
        await anyio.sleep(29)
        assert engine.told == []
        await anyio.sleep(2)
        assert isinstance(engine.told[0], ConnectionResetError)
        peer.close()

    run(body, backend, half_closed_timeout=30.0)


def test_what_came_before_a_hang_up_is_read_when_reading_goes_on(backend: str) -> None:
    """Paused, hung up, resumed: the rest is read, then the end is told."""

    async def body(loop: Loop, poller: FakePoller, reactor: Reactor) -> None:
        engine, peer, fd = connection(reactor)
        engine.link.set_reading(False)
        peer.send(b"last words")
        peer.close()
        poller.reports = [(fd, IN | RDHUP | HUP)]
        reactor.tick()
        engine.link.set_reading(True)
        await anyio.sleep(0.01)
        assert engine.told == ["resume"]
        assert poller.interest[fd] == IN | RDHUP
        for _ in range(2):
            poller.reports = [(fd, IN | RDHUP | HUP)]
            reactor.tick()
        assert engine.data == b"last words"
        assert engine.told == ["resume", "eof"]
        await anyio.sleep(60)
        assert engine.told == ["resume", "eof"]

    run(body, backend)


def test_a_partial_send_goes_on_when_the_kernel_has_room(backend: str) -> None:
    """What the kernel does not take waits, in order, with interest in OUT only as long."""

    async def body(loop: Loop, poller: FakePoller, reactor: Reactor) -> None:
        engine, peer, fd = connection(reactor)
        data = bytes(range(256)) * 8192
        engine.link.write(data)
        assert 0 < engine.link.unsent < len(data)
        assert poller.interest[fd] & OUT
        engine.link.notify = True
        received = b""
        for _ in range(1000):
            try:
                received += peer.recv(1 << 20)
            except BlockingIOError:
                if not engine.link.unsent:
                    break
                poller.reports = [(fd, OUT)]
                reactor.tick()
        await anyio.sleep(0.01)
        assert received == data
        assert not poller.interest[fd] & OUT
        assert engine.told == ["wrote"]
        peer.close()

    run(body, backend)


def test_a_write_that_stalls_ends_the_link(backend: str) -> None:
    """A peer that takes nothing for `write_timeout` is gone, and what it did not take is counted."""

    async def body(loop: Loop, poller: FakePoller, reactor: Reactor) -> None:
        engine, peer, fd = connection(reactor)
        engine.link.write(b"x" * (1 << 22))
        unsent = engine.link.unsent
        await anyio.sleep(9)
        assert engine.told == []
        await anyio.sleep(2)
        assert isinstance(engine.told[0], TimeoutError)
        assert engine.link.unsent == unsent
        assert fd not in poller.interest
        peer.close()

    run(body, backend, write_timeout=10.0)


def test_finish_hands_over_everything_and_lingers(backend: str) -> None:
    """After the last byte our direction ends; what the peer still sends is read away; then the socket closes."""

    async def body(loop: Loop, poller: FakePoller, reactor: Reactor) -> None:
        engine, peer, fd = connection(reactor)
        engine.link.write(b"goodbye")
        engine.link.finish()
        engine.link.write(b"never")
        await anyio.sleep(0.01)
        assert engine.told == [None]
        assert peer.recv(100) == b"goodbye"
        assert peer.recv(100) == b""
        peer.send(b"ignored")
        poller.reports = [(fd, IN)]
        reactor.tick()
        assert engine.data == b""
        assert reactor.links == 1
        await anyio.sleep(3)
        assert reactor.links == 0
        peer.close()

    run(body, backend, linger_timeout=2.0)


def test_an_engine_that_fails_ends_its_own_link_only(backend: str) -> None:
    """An exception out of one engine cuts that connection; the other one of the batch is served."""

    async def body(loop: Loop, poller: FakePoller, reactor: Reactor) -> None:
        broken, broken_peer, broken_fd = connection(reactor)
        sound, sound_peer, sound_fd = connection(reactor)

        def fail() -> None:
            raise RuntimeError("an engine's own mistake")

        broken.on_data = fail
        broken_peer.send(b"x")
        sound_peer.send(b"y")
        poller.reports = [(broken_fd, IN), (sound_fd, IN)]
        reactor.tick()
        await anyio.sleep(0.01)
        assert sound.data == b"y"
        assert len(broken.told) == 1
        for sock in (broken_peer, sound_peer):
            sock.close()

    run(body, backend)


class BrokenListener:
    """A listening socket whose accept fails as told."""

    def __init__(self, errors: list[int]) -> None:
        self.errors = errors
        self.accepts = 0
        self._pair = socket.socketpair()

    def fileno(self) -> int:
        return self._pair[0].fileno()

    def accept(self) -> Any:
        self.accepts += 1
        raise OSError(self.errors.pop(0) if self.errors else errno.EAGAIN, "as told")

    def close(self) -> None:
        for sock in self._pair:
            sock.close()


def test_a_listener_rests_when_descriptors_run_out(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """EMFILE takes the listener out of the poller for half a second, with one warning however often it happens."""

    async def body(loop: Loop, poller: FakePoller, reactor: Reactor) -> None:
        broken: Any = BrokenListener([errno.EMFILE, errno.ECONNABORTED, errno.EMFILE])
        fd = broken.fileno()
        reactor.listen(broken, Recorder)
        for _ in range(2):
            poller.reports = [(fd, IN)]
            reactor.tick()
            assert fd not in poller.interest
            await anyio.sleep(0.6)
            assert fd in poller.interest
        assert broken.accepts == 3

    run(body, backend)
    assert len([record for record in caplog.records if "cannot accept" in record.message]) == 1


def test_the_limit_of_connections_makes_the_listener_wait(backend: str) -> None:
    """At `max_connections` nothing is accepted; as soon as one ends, the listener is back."""

    async def body(loop: Loop, poller: FakePoller, reactor: Reactor) -> None:
        engine, peer, _ = connection(reactor)
        broken: Any = BrokenListener([])
        reactor.listen(broken, Recorder)
        poller.reports = [(broken.fileno(), IN)]
        reactor.tick()
        assert broken.accepts == 0
        assert broken.fileno() not in poller.interest
        engine.link.abort()
        assert broken.fileno() in poller.interest
        peer.close()

    run(body, backend, max_connections=1)


def test_a_tick_that_takes_too_long_leaves_the_rest_to_the_next(backend: str) -> None:
    """After 5 ms the loop gets its turn; what was not served is reported again, since epoll is level-triggered."""

    async def main() -> None:
        now = [0.0]
        async with open_loop() as loop:
            poller = FakePoller()
            reactor = Reactor(loop, Config(), poller=poller, clock=lambda: now[0])
            pairs = [connection(reactor) for _ in range(3)]

            def work() -> None:
                now[0] += 0.004

            for engine, peer, _ in pairs:
                engine.on_data = work
                peer.send(b"x")
            poller.reports = [(fd, IN) for _, _, fd in pairs]
            reactor.tick()
            assert [engine.data for engine, _, _ in pairs] == [b"x", b"x", b""]
            reactor.close()
            for _, peer, _ in pairs:
                peer.close()

    clock.run(main, backend=backend, max_ticks=1000)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("peer", "place"),
    [
        (("192.0.2.1", 80), "192.0.2.1"),
        (("::ffff:192.0.2.1", 80), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 80), bytes.fromhex("20010db800010002")),
        (("2001:db8:1:2::9", 80), bytes.fromhex("20010db800010002")),
        (("fe80::1%eth0", 80), bytes.fromhex("fe80000000000000")),
        (None, None),
        ("", None),
    ],
)
def test_what_counts_as_one_address(peer: Any, place: Any) -> None:
    """An IPv4 address, however written; of an IPv6 address its /64; a UNIX socket has none."""
    assert place_of(peer) == place
