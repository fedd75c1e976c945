"""G19: any thread may use the blocking view; what G1 to G3 promise holds, and no call hangs, whoever ends the channel.

Real threads on a real server, so each plan says what happens and not when.
"""

from __future__ import annotations

import contextlib
import contextvars
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from channelkit import ChannelClosed, Request, Server, SyncChannel, SyncRequest, as_channel, run_server, with_channel

PATIENCE = 20.0

Backend = Literal["asyncio", "trio"]
Op = Literal["send", "big", "nowait", "late", "receive", "look", "flush", "wrong"]
End = Literal["local", "peer", "vanish", "stop"]


@dataclass(frozen=True)
class Plan:
    """What each thread does, what the peer says, and who ends it; `worker`: the first thread is one of the pool."""

    threads: tuple[tuple[Op, ...], ...]
    says: int
    end: End
    worker: bool


@dataclass
class Player:
    """One thread: what it was told, and what it got."""

    number: int
    server_ends: bool  # then any call may find no server any more, and raises
    accepted: list[str] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    closed: int = 0  # calls of `close` that were True
    error: BaseException | None = None
    _sent: int = 0

    def play(self, channel: SyncChannel, script: tuple[Op, ...]) -> None:
        try:
            for op in script:
                self._do(channel, op)
        except BaseException as error:
            if not (self.server_ends and isinstance(error, ChannelClosed)):
                self.error = error

    def _do(self, channel: SyncChannel, op: Op) -> None:
        if op == "receive":
            self._receive(channel, PATIENCE)
        elif op == "look":
            self._receive(channel, 0)
        elif op == "flush":
            channel.flush()
        elif op == "wrong":
            with pytest.raises(TypeError):
                channel.send(object())
        else:
            self._send(channel, op)

    def _send(self, channel: SyncChannel, op: Op) -> None:
        text = f"{self.number} {self._sent} " + ("x" * 50_000 if op == "big" else "")
        self._sent += 1
        try:
            if op == "nowait":
                accepted = channel.send_nowait(text)
            else:
                accepted = channel.send(text, timeout=0 if op == "late" else None)
        except (anyio.WouldBlock, TimeoutError):
            return
        if accepted:
            self.accepted.append(text)

    def _receive(self, channel: SyncChannel, timeout: float) -> None:
        try:
            self.received.append(int(channel.receive(timeout)))
        except (anyio.BusyResourceError, TimeoutError, ChannelClosed):
            pass

    def close(self, channel: SyncChannel) -> None:
        try:
            self.closed += channel.close(3000)
        except BaseException as error:
            self.error = error


class Peer:
    """The client: says its numbers, reads until the end."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client
        self.got: list[str] = []

    def say(self, count: int) -> None:
        try:
            for number in range(count):
                self.client.send(str(number))
        except ConnectionClosed:
            pass

    def read(self) -> None:
        try:
            for message in self.client:
                self.got.append(str(message))
        except ConnectionClosed:
            pass

    def end(self, end: End) -> None:
        if end == "vanish":
            with contextlib.suppress(OSError):  # the server was quicker
                self.client.socket.shutdown(socket.SHUT_RDWR)
        else:
            self.client.close()


class Stage:
    """A server whose one channel is given to whoever plays with it."""

    def __init__(self, plan: Plan, backend: Backend) -> None:
        self.plan = plan
        self.players = [Player(number, plan.end == "stop") for number in range(len(plan.threads))]
        self.channel: SyncChannel | None = None
        self.opened = threading.Event()
        self.played = threading.Event()  # by the first player, if it is a worker
        handler = self.plain if plan.worker else self.on_loop
        self.server: Server = run_server(handler, port=0, backend=backend, soft_mark=20_000, hard_mark=100_000)

    async def on_loop(self, request: Request) -> None:
        async with with_channel(request) as channel:
            self.channel = channel.sync
            self.opened.set()
            await channel.wait_closed()

    def plain(self, request: SyncRequest) -> None:
        with with_channel(request) as channel:
            self.channel = channel
            self.opened.set()
            self.players[0].play(channel, self.plan.threads[0])
            self.played.set()
            channel.wait_closed()

    def play(self) -> Peer:
        with connect(f"ws://127.0.0.1:{self.server.port}/", proxy=None, close_timeout=PATIENCE) as client:
            peer = Peer(client)
            assert self.opened.wait(PATIENCE)
            assert self.channel is not None
            doing = [
                threading.Thread(target=player.play, args=(self.channel, script), daemon=True)
                for player, script in zip(self.players, self.plan.threads, strict=True)
            ][1 if self.plan.worker else 0 :]
            reading = threading.Thread(target=peer.read, daemon=True)
            ending = [threading.Thread(target=self.end, args=(peer, player), daemon=True) for player in self.players]
            for thread in (*doing, reading):
                thread.start()
            peer.say(self.plan.says)
            for thread in ending:
                thread.start()
            for thread in (*doing, *ending, reading):
                thread.join(PATIENCE)
                assert not thread.is_alive(), "a call hangs"
            assert not self.plan.worker or self.played.wait(PATIENCE), "a worker's call hangs"
        return peer

    def end(self, peer: Peer, player: Player) -> None:
        assert self.channel is not None
        if self.plan.end == "local":
            player.close(self.channel)
        elif player.number == 0:
            if self.plan.end == "stop":
                self.server.stop(PATIENCE)
            else:
                peer.end(self.plan.end)


def judge(stage: Stage, peer: Peer) -> None:
    """G1 to G3 and G6 for the threads' calls."""
    plan = stage.plan
    for player in stage.players:
        assert player.error is None, player.error
        got = [text for text in peer.got if text.startswith(f"{player.number} ")]
        assert got == player.accepted[: len(got)], "not in order, twice, or never accepted"
        if plan.end in ("local", "stop"):
            assert got == player.accepted, "accepted before our close, and lost"
        assert player.received == sorted(set(player.received))
    received = [number for player in stage.players for number in player.received]
    assert len(set(received)) == len(received), "a message was received twice"
    assert set(received) <= set(range(plan.says))
    assert len(peer.got) == len(set(peer.got))
    assert sum(player.closed for player in stage.players) <= 1


def judge_the_end(stage: Stage) -> None:
    """After the channel's end a call says so; after the server's end it raises; neither hangs."""
    channel = stage.channel
    assert channel is not None
    info = channel.wait_closed(timeout=PATIENCE)
    if stage.plan.end == "local":
        assert (info.code, info.by) == (3000, "local")
    if stage.server.status == "running":
        assert (channel.send("late"), channel.send_nowait("late"), channel.close()) == (False,) * 3
        with pytest.raises(ChannelClosed):
            for _ in range(stage.plan.says + 1):  # what the peer had sent before its close is still there
                channel.receive()
    stage.server.stop(PATIENCE)
    for call in (channel.send, channel.send_nowait):
        with pytest.raises(ChannelClosed) as caught:
            call("too late")
        assert caught.value.info == info
    for ask in (channel.receive, channel.close, channel.flush, channel.ping, channel.statistics):
        with pytest.raises(ChannelClosed):
            ask()
    assert channel.wait_closed() == info


OPS: tuple[Op, ...] = ("send", "big", "nowait", "late", "receive", "look", "flush", "wrong")
ENDS: tuple[End, ...] = ("local", "peer", "vanish", "stop")
PLANS = st.builds(
    Plan,
    threads=st.lists(st.lists(st.sampled_from(OPS), max_size=8).map(tuple), min_size=1, max_size=6).map(tuple),
    says=st.integers(0, 12),
    end=st.sampled_from(ENDS),
    worker=st.booleans(),
)
MANY: tuple[tuple[Op, ...], ...] = (("send", "big", "nowait", "send") * 3,) * 5
TALK: tuple[tuple[Op, ...], ...] = (("look", "send") * 6, ("look", "big") * 6, ("receive", "receive"))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@example(Plan(MANY, 0, "local", False))
@example(Plan(MANY, 0, "stop", True))
@example(Plan(MANY, 3, "peer", True))
@example(Plan(TALK, 12, "local", True))
@example(Plan(TALK, 12, "vanish", False))
@example(Plan(TALK, 12, "peer", False))
@settings(deadline=None)
@given(plan=PLANS)
def test_threads(backend: Any, plan: Plan) -> None:
    """Whatever threads do at once, each one's accepted messages arrive in order, once, and every call returns."""
    stage = Stage(plan, backend)
    try:
        judge(stage, stage.play())
        judge_the_end(stage)
    finally:
        stage.server.stop(0)


# -- messages for a plain on_receive

Does = Literal["return", "send", "big", "set", "raise", "close"]


@dataclass(frozen=True)
class Talk:
    """What on_receive does with each message of one channel, who ends it, and what there is room for."""

    does: tuple[Does, ...]
    end: End
    max_inbox: int
    own: bool  # our pool, of one thread; or an executor of two


class Listener:
    """The plain callbacks of one channel: one at a time, in order, the end last."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.calls: list[object] = []
        self.failed: list[str] = []
        self.channel: SyncChannel | None = None
        self.over = threading.Event()
        self._running = threading.Lock()

    def _call(self, what: object) -> None:
        if not self._running.acquire(blocking=False):
            self.failed.append(f"{what} beside another callback")
            return
        self.calls.append(what)
        try:
            assert self.channel is not None
            if isinstance(what, int):
                self._do(self.channel, what)
        finally:
            self._running.release()

    def _do(self, channel: SyncChannel, number: int) -> None:
        does = self.talk.does[number]
        if does in ("send", "big"):
            channel.send(f"{number} " + ("x" * 50_000 if does == "big" else ""))
        elif does == "close":
            channel.close_nowait(3000)
        elif does == "raise":
            raise LookupError("on purpose")
        elif does == "set":
            if SEEN.get():
                self.failed.append(f"{number} sees what {SEEN.get()} has set")
            SEEN.set(str(number))

    def handler(self, request: SyncRequest) -> SyncChannel:
        return as_channel(request, on_open=self._open, on_receive=self._message, on_close=self._close)

    def _open(self, channel: SyncChannel) -> None:
        self.channel = channel
        self._call("open")

    def _message(self, channel: SyncChannel, text: str) -> None:
        self._call(int(text))

    def _close(self, channel: SyncChannel, status: object) -> None:
        self._call("close")
        self.over.set()


SEEN = contextvars.ContextVar("SEEN", default="")


def converse(listener: Listener, backend: Backend, executor: ThreadPoolExecutor | None) -> list[str]:
    """The peer says all its numbers, reads, and ends it if that is its part; what it got."""
    talk = listener.talk
    server = run_server(
        listener.handler,
        port=0,
        backend=backend,
        thread=1,
        max_inbox=talk.max_inbox,
        soft_mark=20_000,
        executor=executor,
    )
    try:
        with connect(f"ws://127.0.0.1:{server.port}/", proxy=None, close_timeout=PATIENCE) as client:
            peer = Peer(client)
            reading = threading.Thread(target=peer.read, daemon=True)
            reading.start()
            peer.say(len(talk.does))
            if talk.end == "stop":
                server.stop(PATIENCE)
            elif talk.end == "local" and listener.channel is not None:
                listener.channel.close(3000)
            else:
                peer.end(talk.end)
            reading.join(PATIENCE)
            assert not reading.is_alive()
        assert listener.over.wait(PATIENCE) or "open" not in listener.calls
        return peer.got
    finally:
        server.stop(0)


def judge_messages(listener: Listener, got: list[str]) -> None:
    """G1, G2, G7, G13: each once, in order, to the one that ends it; nothing behind on_close; the rest is counted."""
    does, calls = listener.talk.does, listener.calls
    assert listener.failed == []
    if not calls:
        return  # it ended before on_open could begin
    assert (calls[0], calls[-1], calls.count("close")) == ("open", "close", 1)
    handled = [call for call in calls[1:-1] if isinstance(call, int)]
    assert handled == list(range(len(handled)))
    assert [int(text.split()[0]) for text in got] == [n for n in handled if does[n] in ("send", "big")][: len(got)]
    assert listener.channel is not None
    info = listener.channel.close_info
    assert info is not None
    inner = listener.channel.channel
    assert inner._inbox_bytes == inner._waiting_bytes == 0
    if listener.talk.end == "peer" and info.by == "peer":
        assert len(handled) == len(does), "sent before the peer's close, and lost"
    if info.by == "local":
        last = min((number for number, one in enumerate(does) if one in ("raise", "close")), default=len(does) - 1)
        assert len(handled) <= last + 1, "a message was taken behind the one that ended the channel"
        assert len(handled) + info.unread >= inner._received_count, "neither handled nor counted"


DOES: tuple[Does, ...] = ("return", "return", "return", "set", "set", "send", "send", "big", "raise", "close")
TALKS = st.builds(
    Talk,
    does=st.lists(st.sampled_from(DOES), max_size=40).map(tuple),
    end=st.sampled_from(ENDS),
    max_inbox=st.sampled_from((1, 4, 1024)),
    own=st.booleans(),
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@example(Talk(("return",) * 200, "peer", 4, True))
@example(Talk(("set", "send", "big") * 20, "peer", 1024, True))
@example(Talk(("return",) * 50 + ("raise",) + ("return",) * 50, "peer", 1024, True))
@example(Talk(("return",) * 50 + ("close",) + ("return",) * 50, "vanish", 1024, False))
@example(Talk(("send", "big") * 20, "stop", 4, True))
@settings(deadline=None)
@given(talk=TALKS)
def test_messages(backend: Any, talk: Talk) -> None:
    """A worker that takes several messages of a channel is one callback after the other, to the end of the channel."""
    listener = Listener(talk)
    executor = None if talk.own else ThreadPoolExecutor(2)
    try:
        judge_messages(listener, converse(listener, backend, executor))
    finally:
        if executor is not None:
            executor.shutdown()
