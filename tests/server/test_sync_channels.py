"""The blocking views: what each method does in a thread, workers' and others'; who may not call which object."""

from __future__ import annotations

import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import pytest

from channelkit import (
    BadRequest,
    Channel,
    ChannelClosed,
    CloseStatus,
    Group,
    ReceiveUnsupported,
    Request,
    SyncChannel,
    SyncRequest,
    as_channel,
    with_channel,
)
from channelkit.sync import SyncGroup

if TYPE_CHECKING:
    from tests.server.conftest import Host, Peer

T = TypeVar("T")

PATIENCE = 10.0
TEXT, CLOSE, PING = 1, 8, 9


def in_thread(function: Callable[..., T], *args: Any) -> Future[T]:
    """`function(*args)` in a thread that nobody knows."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@pytest.fixture
def opened(host: Host) -> tuple[SyncChannel, Peer]:
    """The view of a channel whose `async def` handler only opened it, and its peer."""

    async def handler(request: Request) -> Any:
        return as_channel(request, on_open=host.opened, on_close=host.closed, streaming=True)

    peer = host.serve(handler, soft_mark=1000, hard_mark=10_000, max_inbox=4, close_timeout=0.2).connect()
    peer.upgrade()
    channel = host.channel()
    host.call(lambda: channel._settle())  # noqa: PLW0108  (the handler has returned; a receiver may still come)
    return channel.sync, peer


def held(host: Host, **options: Any) -> tuple[SyncChannel, Peer]:
    """The same, with a handler that stays, so that messages are held for whoever receives."""

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            channel.on_close(partial(host.closed, channel))
            host.opened(channel)
            await channel.wait_closed()

    peer = host.serve(handler, soft_mark=1000, hard_mark=10_000, **options).connect(receive_buffer=4096)
    peer.upgrade()
    return host.channel().sync, peer


# -- sending


def test_send_and_close(host: Host) -> None:
    """True while open, False after; `close` is True once; the end is told to all who wait."""
    channel, peer = held(host)
    waiting = [in_thread(channel.wait_closed) for _ in range(3)]
    assert channel.is_open
    assert channel.send("one")
    assert channel.send_nowait(b"two")
    assert channel.flush()
    assert [peer.read_frame(), peer.read_frame()] == [(0x81, b"one"), (0x82, b"two")]
    with pytest.raises(TypeError, match="carries str and bytes"):
        channel.send(3)
    with pytest.raises(ValueError, match="5000 may not be sent"):
        channel.close(reason="x", code=5000)
    closing = in_thread(channel.close, 3000, "enough")
    assert peer.read_close()[1] == struct.pack("!H", 3000) + b"enough"
    peer.send_frame(CLOSE, struct.pack("!H", 3000))
    assert closing.result(PATIENCE)
    infos = {future.result(PATIENCE) for future in waiting}
    assert infos == {channel.close_info}
    assert (channel.close(), channel.close_nowait(), channel.send("x"), channel.send_nowait("x")) == (False,) * 4
    assert not channel.is_open
    assert (channel.flush(), channel.wait_closed().code, channel.ping()) == (True, 3000, False)
    with pytest.raises(ChannelClosed):
        channel.receive()
    assert list(channel) == []


def test_send_waits_for_room(host: Host) -> None:
    """Above the soft mark it waits, in order; with a timeout it gives up, and nothing was accepted."""
    channel, peer = held(host)
    big = "x" * 400_000
    number = 0
    with pytest.raises(TimeoutError, match=r"within 0\.001 seconds"):
        while channel.send(f"{number} {big}", timeout=0.001 if number else None):
            number += 1
    with pytest.raises(anyio.WouldBlock):
        channel.send_nowait(big)
    with pytest.raises(TimeoutError):
        channel.flush(timeout=0.001)
    assert channel.buffered_bytes > 1000
    following = in_thread(channel.send, "following")
    host.until(lambda: channel.statistics().waiting_senders == 1)
    received = [peer.read_frame()[1].split()[0] for _ in range(number)]
    assert received == [str(one).encode() for one in range(number)]
    assert following.result(PATIENCE)
    assert peer.read_frame() == (0x81, b"following")
    assert channel.flush(timeout=PATIENCE)


def test_a_sender_that_waits_learns_of_the_end(host: Host) -> None:
    """The peer vanishes: False, not an error."""
    channel, peer = held(host)
    sending = in_thread(lambda: [channel.send("x" * 400_000) for _ in range(50)])
    host.until(lambda: channel.statistics().waiting_senders == 1)
    accepted = channel.statistics().accepted
    peer.reset()
    assert sending.result(PATIENCE) == [True] * accepted + [False] * (50 - accepted)
    info = channel.wait_closed(timeout=PATIENCE)
    assert (info.status, info.by) == (CloseStatus.ABNORMAL, "network")


def test_a_thousand_messages_from_twenty_threads(host: Host) -> None:
    """Each thread's messages arrive in its order, none is lost, none comes twice."""
    channel, peer = held(host)
    start = threading.Barrier(20)

    def send(thread: int) -> list[bool]:
        start.wait(PATIENCE)
        return [channel.send(f"{thread} {number} " + "x" * 100) for number in range(50)]

    with ThreadPoolExecutor(20) as threads:
        sending = threads.map(send, range(20))
        received = [tuple(map(int, peer.read_frame()[1].split()[:2])) for _ in range(1000)]
        assert [result for results in sending for result in results] == [True] * 1000
    assert len(set(received)) == 1000
    for thread in range(20):
        assert [number for sender, number in received if sender == thread] == list(range(50))


# -- receiving


def test_receive(host: Host) -> None:
    """The next message, in order; with a timeout TimeoutError, and nothing is taken; one receiver at a time."""
    channel, peer = held(host)
    with pytest.raises(TimeoutError, match="no message has arrived"):
        channel.receive(0)
    with pytest.raises(TimeoutError):
        channel.receive(timeout=0.001)
    receiving = in_thread(channel.receive)
    host.until(lambda: channel.channel._receiver is not None)
    with pytest.raises(anyio.BusyResourceError):
        channel.receive()
    peer.send_frame(TEXT, b"one")
    assert receiving.result(PATIENCE) == "one"
    peer.send(peer.frame(2, b"two") + peer.frame(TEXT, b"") + peer.frame(TEXT, b"four"))
    assert [channel.receive(PATIENCE) for _ in range(3)] == [b"two", "", "four"]
    peer.send(peer.frame(TEXT, b"last") + peer.frame(CLOSE, struct.pack("!H", 1001)))
    channel.wait_closed()
    assert list(channel) == ["last"]
    with pytest.raises(ChannelClosed) as caught:
        channel.receive()
    assert caught.value.info == channel.close_info


def test_a_timeout_that_is_no_number(host: Host) -> None:
    """Is refused before it can put the loop's timers out of order."""
    channel, _ = held(host)
    for call in (channel.receive, channel.flush, channel.wait_closed, partial(channel.send, "x")):
        with pytest.raises(ValueError, match="must be seconds from 0 or None, not nan"):
            call(timeout=float("nan"))
    with pytest.raises(TimeoutError):
        channel.receive(0.001)


def test_callbacks_that_are_set_later(opened: tuple[SyncChannel, Peer], host: Host) -> None:
    """From a thread that nobody knows: they run on the pool, as decorators too; late ones are still told."""
    channel, peer = opened
    seen: list[tuple[str, Any]] = []
    names: list[str] = []

    def note(what: str, value: Any) -> None:
        names.append(threading.current_thread().name)
        seen.append((what, value))

    @channel.on_receive
    def on_receive(message: str) -> None:
        note("message", message)

    channel.on_ping(partial(note, "ping"))
    channel.on_close(partial(note, "close"))
    with pytest.raises(anyio.BusyResourceError):
        channel.on_receive(print)
    peer.send_frame(TEXT, b"one")
    host.until(lambda: seen)
    peer.send_frame(PING, b"two")
    host.until(lambda: len(seen) == 2)
    peer.send_frame(CLOSE)
    host.until(lambda: len(seen) == 3)
    channel.on_close(partial(note, "late"))
    host.until(lambda: len(seen) == 4)
    none = CloseStatus.NO_STATUS_RECEIVED
    assert seen == [("message", "one"), ("ping", b"two"), ("close", none), ("late", none)]
    assert all(name.startswith("worker-") for name in names)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT is a KeyboardInterrupt, also where the shell that began all this ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_receiver(host: Host) -> None:
    """Ctrl-C in the main thread: the wait is called off, and the next message is the next receiver's."""
    channel, peer = held(host)

    def interrupt() -> None:
        host.until(lambda: channel.channel._receiver is not None)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = in_thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        channel.receive()
    with pytest.raises(TimeoutError):
        channel.receive(0)  # at once: the one that was interrupted receives no more
    interrupting.result(PATIENCE)
    peer.send_frame(TEXT, b"for the next")
    assert channel.receive(PATIENCE) == "for the next"


def test_a_message_that_was_taken_for_an_interrupted_receiver(host: Host) -> None:
    """Goes back to the head of the inbox."""
    from channelkit._threads.crossing import Crossing

    channel, peer = held(host)
    peer.send(peer.frame(TEXT, b"one") + peer.frame(TEXT, b"two"))
    host.until(lambda: channel.statistics().inbox_messages == 2)
    loop = channel.channel._loop
    interrupted = Crossing(loop, channel.channel._receive_now, give_back=channel.channel._put_back)
    interrupted.wait()
    assert channel.statistics().inbox_messages == 1
    interrupted._interrupted()
    host.call(interrupted._abandon)  # pressed twice
    assert [channel.receive(PATIENCE), channel.receive(PATIENCE)] == ["one", "two"]


# -- blocks and responses


def test_the_block(host: Host) -> None:
    """Leaving it closes with 1000, leaving it by an exception with 1011, which goes on."""
    raised: list[str] = []

    def handler(request: SyncRequest) -> None:
        try:
            with with_channel(request, subprotocols=["chat"]) as channel:
                assert (channel.transport, channel.is_websocket, channel.subprotocol) == ("websocket", True, "chat")
                assert (channel.request.path, channel.request.state) == (request.path, request.state)
                channel.send("hello")
                if request.path == "/raise":
                    raise LookupError("x")
        except LookupError:
            raised.append(request.path)
            raise

    host.serve(handler)
    for path, code in (("/", 1000), ("/raise", 1011)):
        peer = host.connect()
        peer.upgrade("Sec-WebSocket-Protocol: chat", path=path)
        assert peer.read_frame() == (0x81, b"hello")
        assert peer.read_close()[1] == struct.pack("!H", code)
        peer.send_frame(CLOSE, struct.pack("!H", code))
        assert peer.rest() == b""
    assert raised == ["/raise"]


def test_a_held_answer_and_a_stream(host: Host) -> None:
    """The first `send` of a plain request is its answer; a stream takes many; neither can receive."""
    waiting: list[SyncChannel] = []

    def handler(request: SyncRequest) -> Any:
        if request.path == "/wait":
            channel = as_channel(request, on_open=waiting.append)
            assert channel.single_response
            return channel
        with with_channel(request, framing="sse") as channel:
            with pytest.raises(ReceiveUnsupported):
                channel.receive()
            while waiting:
                other = waiting.pop()
                assert other.send({"status": 201, "body": request.body()})
                assert not other.send("again")
            channel.send("done")
        return None

    held_one = host.serve(handler).connect()
    held_one.request(path="/wait")
    host.until(lambda: waiting)
    assert host.connect().ask("POST", body=b"news").body == b"data: done\n\n"
    reply = held_one.reply()
    assert (reply.status, reply.body) == (201, b"news")
    assert held_one.ask(path="/wait2").status == 200  # its connection lives


def test_errors_of_the_client(host: Host) -> None:
    """What the client asks wrongly becomes its own status, from `as_channel` in a worker as from the loop."""

    def handler(request: SyncRequest) -> Any:
        with pytest.raises(BadRequest):
            as_channel(request)
        return as_channel(request)

    peer = host.serve(handler).connect()
    peer.send(peer.handshake("Origin: http://elsewhere"))
    assert peer.reply().status == 403


# -- groups


def test_a_group(host: Host) -> None:
    """Members come and go by either face; one message to all from any thread; a closed one is nobody."""
    room = Group()
    assert isinstance(room.sync, SyncGroup)
    assert (room.sync.send("x"), len(room.sync)) == (0, 0)

    def handler(request: SyncRequest) -> SyncChannel:
        return as_channel(request, on_open=room.sync.add, on_receive=lambda channel, text: room.sync.send(text))

    host.serve(handler)
    peers = [host.connect() for _ in range(3)]
    for number, peer in enumerate(peers, 1):  # one after the other: their on_open may run side by side
        peer.upgrade()
        host.until(lambda: len(room) == number)  # noqa: B023
    with pytest.raises(TypeError, match=r"adds it to group\.sync"):
        room.add(next(iter(room.sync)))  # type: ignore[arg-type]
    peers[0].send_frame(TEXT, b"hello")
    assert [peer.read_frame() for peer in peers] == [(0x81, b"hello")] * 3
    first, second, third = room.sync
    assert first in room.sync
    assert first.channel in room.sync
    room.sync.discard(first)
    assert room.sync.send_nowait("two", exclude=second) == 1
    assert [peer.read_frame() for peer in peers[2:]] == [(0x81, b"two")]
    third.close_nowait()
    room.sync.add(third)
    peers[2].read_close()
    peers[2].send_frame(CLOSE, struct.pack("!H", 1000))
    host.until(lambda: list(room.sync) == [second])
    assert (room.sync.dropped, room.sync.closed_slow) == (0, 0)
    host.close()
    assert (room.sync.send("x"), list(room.sync)) == (0, [])


# -- who may call what


def test_the_loops_objects_in_a_foreign_thread(opened: tuple[SyncChannel, Peer]) -> None:
    """Every method of a Channel and sending to a Group raise there, and name what to use."""
    view, _ = opened
    channel = view.channel
    group = Group()
    view.channel._loop.run_from_thread(group.add, channel)
    while channel not in group:
        pass

    def runs(method: Callable[..., Any], *args: Any) -> None:
        async def main() -> None:
            await method(*args)

        anyio.run(main)

    for call in (
        lambda: channel.send_nowait("x"),
        channel.close_nowait,
        channel.ping,
        lambda: channel.on_receive(print),
        lambda: channel.on_ping(print),
        lambda: channel.on_close(print),
        lambda: group.send_nowait("x"),
        lambda: group.add(channel),
        lambda: group.discard(channel),
        lambda: runs(channel.send, "x"),
        lambda: runs(channel.receive),
        lambda: runs(channel.close),
        lambda: runs(channel.flush),
        lambda: runs(channel.wait_closed),
        lambda: runs(group.send, "x"),
    ):
        with pytest.raises(RuntimeError, match=r"in any other thread use channel\.sync"):
            call()
    assert channel.statistics().accepted == 0


def test_a_request_in_a_foreign_thread(host: Host) -> None:
    """The loop's Request makes no channel there."""
    seen: list[Request] = []

    async def handler(request: Request) -> str:
        seen.append(request)
        with pytest.raises(RuntimeError, match="belongs to its event loop's thread"):
            await anyio.to_thread.run_sync(as_channel, request)
        return "hello"

    assert host.serve(handler).connect().ask().body == b"hello"


def test_the_blocking_view_on_the_loop(opened: tuple[SyncChannel, Peer], host: Host) -> None:
    """What would wait raises and names the cure; what does not wait works."""
    view, peer = opened
    for name in ("send", "receive", "close", "flush", "wait_closed"):
        call = partial(view.send, "x") if name == "send" else getattr(view, name)
        with pytest.raises(RuntimeError, match=rf"await channel\.{name}\(\.\.\.\)"):
            host.call(call)
    assert view.is_open
    assert host.call(view.send_nowait, "x")
    assert peer.read_frame() == (0x81, b"x")
    assert host.call(view.statistics).accepted == 1


def test_one_view(opened: tuple[SyncChannel, Peer]) -> None:
    """One channel has one view, whoever asks at the same time."""
    view, _ = opened
    channel: Channel = view.channel
    channel._sync = None
    start = threading.Barrier(8)

    def look(_: int) -> SyncChannel:
        start.wait(PATIENCE)
        return channel.sync

    with ThreadPoolExecutor(8) as threads:
        assert len(set(map(id, threads.map(look, range(8))))) == 1
    assert "blocking view of <websocket channel" in repr(view)


def test_a_body_that_is_read_in_another_thread(host: Host) -> None:
    """`channel.sync.request` reads the body of an async handler's request: it waits for it, once."""
    bodies: list[bytes] = []

    async def handler(request: Request) -> Any:
        channel = as_channel(request)
        with pytest.raises(RuntimeError, match=r"await request\.body\(\.\.\.\)"):
            channel.sync.request.body()

        def read() -> None:
            bodies.extend([channel.sync.request.body(), b"".join(channel.sync.request.stream())])
            channel.sync.send("read")

        await anyio.to_thread.run_sync(read)
        return channel

    peer = host.serve(handler).connect()
    peer.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n12")
    host.until(lambda: host.core.running == 1)
    peer.send("34")
    assert peer.reply().body == b"read"
    assert bodies == [b"1234"] * 2
