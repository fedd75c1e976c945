"""Messages for a plain `on_receive`: a worker takes those that wait one after the other, and nobody can tell."""

from __future__ import annotations

import contextvars
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from channelkit import CloseStatus, SyncChannel, SyncRequest, as_channel
from channelkit._threads.jobs import WorkerStatistics

if TYPE_CHECKING:
    from tests.server.conftest import Host, Peer

PATIENCE = 10.0
TEXT, CLOSE, PING = 1, 8, 9


class Stage:
    """A channel of a plain handler whose first message stands at a gate, so that others wait behind it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.seen: list[Any] = []
        self.ends: list[Any] = []
        self.gate = threading.Event()
        self.act: Callable[[SyncChannel, str], object] = lambda channel, message: None
        self._channel: SyncChannel | None = None
        self._running = threading.Lock()

    def note(self, what: Any) -> None:
        assert self._running.acquire(blocking=False), "two callbacks at once"
        self.seen.append(what)

    def on_receive(self, channel: SyncChannel, message: str) -> None:
        self._channel = channel
        self.note(message)
        try:
            if message == "0":
                assert self.gate.wait(PATIENCE)
            self.act(channel, message)
        finally:
            self._running.release()

    def on_ping(self, channel: SyncChannel, data: bytes) -> None:
        self.note(data)
        self._running.release()

    def on_close(self, channel: SyncChannel, status: CloseStatus) -> None:
        self.note(status)
        self._running.release()
        self.ends.append(channel.close_info)

    def handler(self, request: SyncRequest) -> SyncChannel:
        return as_channel(request, on_receive=self.on_receive, on_ping=self.on_ping, on_close=self.on_close)

    def open(self, count: int, **options: Any) -> Peer:
        """A peer that has sent `count` messages, the first of which is being handled."""
        peer = self.host.serve(self.handler, **options).connect()
        peer.upgrade(more=b"".join(peer.frame(TEXT, str(number).encode()) for number in range(count)))
        self.host.until(lambda: self.seen)
        return peer

    @property
    def channel(self) -> SyncChannel:
        assert self._channel is not None
        return self._channel

    def waiting(self, count: int) -> None:
        """Until so many messages wait."""
        self.host.until(lambda: self.channel.statistics().inbox_messages == count)


@pytest.fixture
def stage(host: Host) -> Iterator[Stage]:
    stage = Stage(host)
    yield stage
    stage.gate.set()


def numbers(host: Host) -> WorkerStatistics:
    assert host.server is not None
    return host.server.statistics().workers


def texts(*span: int) -> list[str]:
    return [str(number) for number in range(*span)]


def test_what_waits_needs_no_job_of_its_own(stage: Stage, host: Host) -> None:
    """All of it is delivered in order, by far fewer jobs than there are messages."""
    peer = stage.open(1000)
    stage.waiting(999)
    assert stage.channel.statistics().inbox_bytes == sum(map(len, texts(1, 1000)))
    stage.gate.set()
    host.until(lambda: len(stage.seen) == 1000)
    host.until(lambda: not numbers(host).callbacks)
    assert stage.seen == texts(1000)
    assert numbers(host).begun < 500  # it is 18, unless the machine stands still again and again
    statistics = stage.channel.statistics()
    assert (statistics.received, statistics.inbox_messages, statistics.inbox_bytes) == (1000, 0, 0)
    peer.send_frame(TEXT, b"1000")
    host.until(lambda: len(stage.seen) == 1001)


@pytest.mark.parametrize("limits", [{"max_inbox": 1}, {"max_inbox": 4}, {"max_inbox_bytes": 16}], ids=str)
def test_a_full_inbox_stops_reading_and_a_worker_lets_it_go_on(
    stage: Stage, host: Host, limits: dict[str, Any]
) -> None:
    """Back-pressure is what it is without workers: at most the limit waits, and nothing is lost."""
    stage.open(1000, **limits)
    host.until(lambda: not stage.channel.channel._reading)
    statistics = stage.channel.statistics()
    assert statistics.inbox_messages <= limits.get("max_inbox", 16)
    assert statistics.inbox_bytes < limits.get("max_inbox_bytes", 100) + len("999")
    stage.gate.set()
    host.until(lambda: len(stage.seen) == 1000)
    assert stage.seen == texts(1000)


def test_an_error_among_them(stage: Stage, host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Ends the channel with 1011; what waited behind is dropped and counted, and on_close comes last."""

    def act(channel: SyncChannel, message: str) -> None:
        if message == "3":
            raise LookupError(message)

    stage.act = act
    peer = stage.open(10)
    stage.waiting(9)
    stage.gate.set()
    assert peer.read_close()[1] == struct.pack("!H", 1011)
    peer.send_frame(CLOSE, struct.pack("!H", 1011))
    host.until(lambda: stage.ends)
    assert stage.seen == [*texts(4), CloseStatus.INTERNAL_SERVER_ERROR]
    assert stage.ends[0].unread == 6
    assert caplog.text.count("raised; the channel is closed with 1011") == 1


@pytest.mark.parametrize("who", ["callback", "loop"])
def test_a_close_among_them(stage: Stage, host: Host, who: str) -> None:
    """No message is taken after it, whoever closes; the callback that runs returns before on_close."""

    def act(channel: SyncChannel, message: str) -> None:
        if who == "callback" and message == "2":
            assert channel.close_nowait()

    stage.act = act
    peer = stage.open(10)
    stage.waiting(9)
    if who == "loop":
        host.call(stage.channel.channel.close_nowait)
    stage.gate.set()
    assert peer.read_close()[1] == struct.pack("!H", 1000)
    peer.send(peer.frame(TEXT, b"late") + peer.frame(CLOSE, struct.pack("!H", 1000)))
    host.until(lambda: stage.ends)
    handled = 3 if who == "callback" else 1
    assert stage.seen == [*texts(handled), CloseStatus.SERVER_CLOSE]
    assert stage.ends[0].unread == 10 - handled + 1


def test_the_peers_close_behind_them(stage: Stage, host: Host) -> None:
    """What it sent before is delivered, then on_close."""
    peer = stage.open(10)
    peer.send_frame(CLOSE, struct.pack("!H", 1000))
    assert peer.read_frame()[0] == 0x88
    assert peer.rest() == b""
    stage.gate.set()
    host.until(lambda: stage.ends)
    assert stage.seen == [*texts(10), CloseStatus.NORMAL]
    assert stage.ends[0].unread == 0


def test_a_ping_among_them(stage: Stage, host: Host) -> None:
    """Comes next, as it does on the loop, not behind those that wait."""
    peer = stage.open(5)
    peer.send_frame(PING, b"?")
    assert peer.read_frame() == (0x8A, b"?")
    host.until(lambda: stage.channel.channel._calls)
    stage.gate.set()
    host.until(lambda: len(stage.seen) == 6)
    assert stage.seen == ["0", b"?", *texts(1, 5)]


def test_too_much_unsent_holds_them_back(stage: Stage, host: Host) -> None:
    """The next begins when the peer has read what the last one sent."""
    big = "x" * 8_000_000
    stage.act = lambda channel, message: channel.send_nowait(big) if message == "0" else None
    peer = stage.open(3, soft_mark=1000)
    stage.gate.set()
    host.until(lambda: stage.channel.buffered_bytes > 1000 and not numbers(host).callbacks)
    assert stage.seen == ["0"]
    assert len(peer.read_frame()[1]) == len(big)
    host.until(lambda: len(stage.seen) == 3)


def test_context_variables_among_them(stage: Stage, host: Host) -> None:
    """What one callback sets the next does not see."""
    name = contextvars.ContextVar("name", default="nobody")
    found: list[str] = []

    def act(channel: SyncChannel, message: str) -> None:
        found.append(name.get())
        name.set(message)

    stage.act = act
    stage.open(5)
    stage.gate.set()
    host.until(lambda: len(found) == 5)
    assert found == ["nobody"] * 5


def test_who_waits_for_a_peer_goes_on_in_a_place_of_its_own(host: Host, stage: Stage) -> None:
    """A worker that has stepped aside takes no more messages: they would run beside `thread` others."""
    big = "x" * 8_000_000
    seen: list[str] = []
    returned = threading.Event()

    def on_receive(channel: SyncChannel, message: str) -> None:
        seen.append(message)
        if message == "big":
            channel.send(big)
            channel.send("waits for room")
            returned.set()
        elif message == "stand":
            assert stage.gate.wait(PATIENCE)

    host.serve(lambda request: as_channel(request, on_receive=on_receive), thread=1, soft_mark=1000)
    first, second = host.connect(receive_buffer=4096), host.connect()
    for peer in (first, second):
        peer.upgrade()
    first.send(first.frame(TEXT, b"big") + first.frame(TEXT, b"next"))
    host.until(lambda: numbers(host).waiting == 1)
    second.send_frame(TEXT, b"stand")
    host.until(lambda: "stand" in seen)
    assert len(first.read_frame()[1]) == len(big)
    assert returned.wait(PATIENCE)
    host.until(lambda: numbers(host).queued_callbacks == 1)
    assert (seen, numbers(host).callbacks) == (["big", "stand"], 1)
    stage.gate.set()
    host.until(lambda: len(seen) == 3)


def test_others_are_not_kept_waiting(host: Host, stage: Stage) -> None:
    """A channel that always has something to do gives its place back in between."""
    seen: list[str] = []

    def on_receive(channel: SyncChannel, message: str) -> None:
        seen.append(message)
        if len(seen) == 1:
            assert stage.gate.wait(PATIENCE)
        elif message == "busy":
            time.sleep(0.011)  # longer than what one job may go on for

    host.serve(lambda request: as_channel(request, on_receive=on_receive), thread=1)
    busy, other = host.connect(), host.connect()
    for peer in (busy, other):
        peer.upgrade()
    busy.send(busy.frame(TEXT, b"busy") * 20)
    host.until(lambda: seen)
    other.send_frame(TEXT, b"other")
    host.until(lambda: numbers(host).queued_callbacks == 1)
    stage.gate.set()
    host.until(lambda: len(seen) == 21)
    assert seen.index("other") <= 2


def test_a_stop_among_them(stage: Stage, host: Host) -> None:
    """The callback that runs is waited for, no other begins."""
    stage.open(10, handler_cleanup_timeout=PATIENCE)
    stage.waiting(9)
    assert host.server is not None
    stopper = threading.Thread(target=host.server.stop, args=(0,))
    stopper.start()
    host.until(lambda: not stage.channel.is_open)
    stage.gate.set()
    stopper.join(PATIENCE)
    assert stage.seen == ["0", CloseStatus.SERVER_CLOSE]


def test_one_that_never_returns(stage: Stage, host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Is left behind by the stop; when it comes back at last it takes no other, and on_close never runs beside it."""
    stage.open(10, handler_cleanup_timeout=0.01)
    assert host.server is not None
    host.server.stop(0)
    assert caplog.text.count("did not run: the server has stopped before it") == 1
    threads = [one for one in threading.enumerate() if one.name.startswith("worker-")]
    stage.gate.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert stage.seen == ["0"]


def test_an_inbox_that_was_emptied_when_it_was_found_full(stage: Stage, host: Host) -> None:
    """The worker takes the last message while the loop is about to stop reading: reading goes on when it is back."""
    peer = stage.open(1)

    def stop_reading() -> None:
        stage.channel.channel._reading = False
        stage.channel.channel._set_reading(False)

    peer.send_frame(TEXT, b"1")
    stage.waiting(1)
    host.call(stop_reading)
    assert stage.channel.channel._take_elsewhere() == "1"  # as the worker would have, a moment before
    host.call(stop_reading)
    stage.gate.set()
    peer.send_frame(TEXT, b"2")
    host.until(lambda: len(stage.seen) == 2)
    assert stage.seen == ["0", "2"]
