"""Plans: what two endpoints and the network between them are to do, as plain data; and one run of such a plan.

`run_plan` serves one channel by the plan's script, with a quiet second one beside it (G12), under virtual time, and
writes down what every side saw.  It judges nothing: that is `oracle`.  It draws nothing: that is `strategies`.

The server's script runs in a task of its own beside the handler; each operation that may wait has a task, so that it
can be cancelled at any tick, by a cancel scope or natively.  The peer's script runs in another task.  When both are
through, the epilogue ends the channel if it still lives, and waits until everything is over.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from channelkit._loop import Loop, open_loop
from channelkit.asgi import ASGIApp, ASGIHandler
from channelkit.asgi.hosted.application import HOST_OPTIONS
from channelkit.config import Config
from channelkit.errors import ChannelClosed, ReceiveUnsupported
from channelkit.handlers import as_channel, with_channel
from channelkit.server.core import ServerCore
from channelkit.server.pump.reactor import Reactor
from channelkit.server.pump.stream import serve_stream
from channelkit.server.pump.tls_link import TlsAcceptor
from channelkit.testing import clock, tls
from channelkit.testing.asgi_rules import checked
from channelkit.testing.network import Line, MemoryStream, pair
from channelkit.testing.peers import (
    Hangable,
    HttpPeer,
    Payload,
    PeerConnection,
    PeerProtocol,
    SocketEnd,
    WebSocketPeer,
    read_ndjson,
    read_sse,
)
from channelkit.wire.deflate import Deflate

if TYPE_CHECKING:
    from channelkit.channel import Channel, ChannelStatistics
    from channelkit.http import Request
    from channelkit.status import CloseInfo, CloseStatus

#: What carries the bytes to the handler: either pump of our server, the reactor with TLS on it, or an ASGI host (our
#: own, in memory: bytes go through the stream pump, `ASGIHandler` and `ASGIApp`, and the rules of ASGI are watched).
Pump = Literal["stream", "reactor", "tls", "asgi"]
PUMPS: tuple[Pump, ...] = ("stream", "reactor", "tls", "asgi")
TransportName = Literal["websocket", "deflate", "raw", "sse", "ndjson", "single"]  # deflate: a compressed WebSocket
TRANSPORTS: tuple[TransportName, ...] = ("websocket", "deflate", "raw", "sse", "ndjson", "single")
Style = Literal["callback", "async", "iterate", "receive", "late", "discard"]
Ending = Literal["server", "peer", "vanish", "drain"]

MAX_TICKS = 60_000
PATIENCE = 0.5  # virtual seconds the server's script waits for an operation before it goes on without it
SCRIPTS = 300.0  # virtual seconds both scripts have together
LAST_WORDS = 120.0  # virtual seconds from the epilogue's end of the channel to the end of the wire; above every timeout
PROBE = "the probe"


# -- what the server does ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel an operation `ticks` turns after it began; `native`: by Task.cancel() where the backend is asyncio."""

    ticks: int
    native: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """`send` (or `send_nowait`); `behind`: the script does not wait for it."""

    payload: Payload
    close_after_send: bool | None = None
    nowait: bool = False
    behind: bool = False
    cancel: Cancel | None = None


@dataclass(frozen=True, slots=True)
class SendWrong:
    """`send` of something no channel carries."""

    nowait: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """`close` (or `close_nowait`)."""

    code: int = 1000
    reason: str = ""
    nowait: bool = False
    behind: bool = False
    cancel: Cancel | None = None


@dataclass(frozen=True, slots=True)
class Await:
    """One of the calls that only wait."""

    what: Literal["flush", "wait_closed", "receive"]
    behind: bool = True
    cancel: Cancel | None = None


@dataclass(frozen=True, slots=True)
class SendPing:
    """`ping`."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let `ticks` turns and then `seconds` go by: in either script."""

    seconds: float = 0.0
    ticks: int = 0


ServerStep = Send | SendWrong | Close | Await | SendPing | Pause


# -- what the peer does ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say:
    """A message to the server."""

    payload: Payload


@dataclass(frozen=True, slots=True)
class PeerPing:
    """A ping to the server."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The peer closes (HTTP: hangs up)."""

    code: int = 1000
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Violate:
    """Bytes that break RFC 6455, and the close code they deserve; the peer then says no more."""

    data: bytes
    code: int


@dataclass(frozen=True, slots=True)
class Manner:
    """What a peer, or the network on its behalf, does without a word."""

    what: Literal["stop_reading", "resume_reading", "vanish", "fall_silent", "half_close", "stall", "unstall"]


PeerStep = Say | PeerPing | Goodbye | Violate | Manner | Pause

VIOLATIONS = (
    Violate(b"\x81\x01a", 1002),  # not masked
    Violate(b"\x83\x80\0\0\0\0", 1002),  # a reserved opcode
    Violate(b"\x81\x81\0\0\0\0\xff", 1007),  # not UTF-8
    Violate(b"\x82\xff\x3f\0\0\0\0\0\0\0\0\0\0\0", 1009),  # 2**62 bytes announced
)


@dataclass(frozen=True, slots=True)
class Network:
    """What the connection is like."""

    capacity: int = 65536
    latency: float = 0.0
    chunk: int | None = None  # both directions are cut into reads of this size
    vanish_after: int | None = None  # the peer dies after it has read that many bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of `Config` that plans vary, small so that they are met."""

    soft_mark: int = 256
    hard_mark: int = 1024
    max_inbox: int = 4
    max_inbox_bytes: int = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, as data."""

    transport: TransportName = "websocket"
    style: Style = "callback"
    server: tuple[ServerStep, ...] = ()
    peer: tuple[PeerStep, ...] = ()
    network: Network = Network()
    limits: Limits = Limits()
    ending: Ending = "server"
    pace: float = 0.0  # seconds the consumer takes over a message
    late: float = 0.0  # seconds before a late receiver is set
    explode_at: int | None = None  # the callback raises at this message
    eager: int = 0  # this many of the peer's first steps are said in one packet with the handshake
    stubborn: bool = False  # the peer does not read again in the epilogue

    @property
    def is_websocket(self) -> bool:
        return self.transport in ("websocket", "deflate")

    def config(self) -> Config:
        """The server's configuration."""
        limits = self.limits
        return Config(
            soft_mark=limits.soft_mark,
            hard_mark=limits.hard_mark,
            max_inbox=limits.max_inbox,
            max_inbox_bytes=limits.max_inbox_bytes,
            compression=Deflate(threshold=16) if self.transport == "deflate" else None,
            server_header=None,
            slow_callback=60.0,  # real seconds: a busy machine is no news here
        )


# -- what was seen -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Operation:
    """One call on the channel and what became of it."""

    step: ServerStep
    started: float
    was_open: bool
    ended: float | None = None
    result: Any = None
    error: Exception | None = None
    cancelled: bool = False
    is_open_after: bool | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened on the server's side: a callback's begin or end, or the like."""

    at: float
    what: str


@dataclass(slots=True)
class Trace:
    """Everything one run showed."""

    plan: Plan
    backend: clock.Backend
    pump: Pump
    operations: list[Operation] = field(default_factory=list)
    accepted: list[Payload] = field(default_factory=list)
    accepted_last: list[bool] = field(default_factory=list)  # whether each closed the channel
    closers: list[tuple[float, int, str]] = field(default_factory=list)  # calls that closed: when, code, reason
    opened: bool = False
    single_response: bool | None = None
    server_received: list[Payload] = field(default_factory=list)
    received_after_end: int = 0
    moments: list[Moment] = field(default_factory=list)
    close_told: dict[str, list[CloseStatus]] = field(default_factory=dict)  # per listener
    infos: list[CloseInfo] = field(default_factory=list)  # as everyone who waited got it
    info: CloseInfo | None = None
    over_at: float | None = None
    samples: list[ChannelStatistics] = field(default_factory=list)
    reopened: bool = False  # is_open was True after it was False
    said: list[Payload] = field(default_factory=list)  # the peer's messages, in order
    peer_received: list[Payload] = field(default_factory=list)
    body: bytes | None = None  # of the HTTP response, as far as it came
    response_complete: bool = False
    response_status: int | None = None
    wire_error: str | None = None
    peer_close_sent: tuple[int, str] | None = None
    peer_close_received: tuple[int, str] | None = None
    peer_closed_first: bool | None = None
    violated: int | None = None  # the code the peer's violation deserves
    peer_gone_at: float | None = None
    faults: dict[str, float] = field(default_factory=dict)  # the first time of each of the peer's manners
    last_resumed: float = 0.0
    exploded: bool = False
    probe: bool | None = None  # whether a send in the epilogue was accepted; None: not tried
    quiet: list[tuple[float, bool]] = field(default_factory=list)  # round trips beside: seconds, and the same came back
    quiet_wanted: int = 0
    drained_in: float | None = None
    connections_left: int = 0
    tasks_left: int = 0
    sockets_left: int = 0
    asgi_rules_broken: list[str] = field(default_factory=list)
    stuck: str | None = None  # why the run could not go on
    error: BaseException | None = None  # what left the server


def run_plan(plan: Plan, backend: clock.Backend, pump: Pump, *, max_ticks: int = MAX_TICKS) -> Trace:
    """Run `plan` once, under virtual time, and return what happened.  It judges nothing."""
    trace = Trace(plan, backend, pump)
    before = _open_sockets()
    with _quiet_log():
        try:
            clock.run(_Run(trace).main, backend=backend, max_ticks=max_ticks)
        except (clock.NothingLeftToDo, clock.TickBudgetExceeded) as error:
            trace.stuck = str(error)
    trace.sockets_left = len(_open_sockets() - before)
    if trace.stuck:
        gc.collect()  # what a stuck run left must not disturb the next one
    return trace


def _open_sockets() -> set[tuple[str, int]]:
    """The descriptors of this process that are sockets or epolls."""
    found = set[tuple[str, int]]()
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.stat(int(name))
        except OSError:
            continue
        if stat.S_ISSOCK(status.st_mode):
            found.add((name, status.st_ino))
    return found


class _quiet_log:  # noqa: N801  # reads as a verb where it is used
    """The library logs what the plans provoke; nobody wants to read it a thousand times."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("channelkit")
        self._before = self._logger.disabled
        self._logger.disabled = True

    def __exit__(self, *_: object) -> None:
        self._logger.disabled = self._before


# -- the run -----------------------------------------------------------------------------------------------------------


class Server:
    """A server without a listener: connections are handed to it, over either pump."""

    def __init__(self, core: ServerCore, loop: Loop, pump: Pump, app: ASGIApp | None) -> None:
        self.core = core
        self._app = app
        self._loop = loop
        self._reactor = Reactor(loop, core.config) if pump in ("reactor", "tls") else None
        self._tls = TlsAcceptor(tls.Source()) if pump == "tls" else None

    def connect(self, network: Network) -> Hangable:
        """A new connection; what is returned is the peer's end."""
        if self._reactor is not None:
            return self._connect_socket(self._reactor, network)
        chunks = None if network.chunk is None else (network.chunk,)
        line = Line(capacity=network.capacity, latency=network.latency, chunks=chunks)
        ours, theirs = pair(capacity=line.capacity, latency=line.latency, chunks=line.chunks, back=line)
        self._loop.spawn(serve_stream, self._loop, self.core.config, ours, self.core.connect)
        return theirs

    def _connect_socket(self, reactor: Reactor, network: Network) -> Hangable:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, network.capacity)
        reactor.adopt(ours, self.core.connect, tls=self._tls)
        return SocketEnd(theirs) if self._tls is None else tls.TlsEnd(SocketEnd(theirs))

    async def drain(self, timeout: float) -> None:
        """As when the process is told to stop: an application hears it before its host acts."""
        if self._app is not None:
            await self._app.drain(timeout)
        await self.core.drain(timeout)

    def close(self) -> None:
        if self._reactor is not None:
            self._reactor.close()


@asynccontextmanager
async def serving(
    handler: Callable[[Request], Awaitable[Any]], config: Config, pump: Pump, broken: list[str] | None = None
) -> AsyncIterator[Server]:
    """A server for as long as the block lasts; then it is cut.  `broken` gets what broke the rules of ASGI."""
    app: ASGIApp | None = None
    if pump == "asgi":
        app = ASGIApp(handler, handle_signals=False, **_app_options(config))
        handler = ASGIHandler(checked(app, [] if broken is None else broken))
    async with open_loop() as loop, anyio.create_task_group() as handlers:
        server = Server(ServerCore(handler, config, loop, handlers), loop, pump, app)
        try:
            yield server
        finally:
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 60):
                await server.core.cut()
            server.close()


def _app_options(config: Config) -> Any:
    """What of a server's options an application inside it takes."""
    names = {one.name for one in dataclasses.fields(config)} - HOST_OPTIONS
    return {name: getattr(config, name) for name in names}


class _Run:
    """One run of one plan: the handler, both scripts, the quiet pair, the epilogue."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.plan = trace.plan
        self.channel: Channel | None = None
        self.made = anyio.Event()
        self.quiet_over = anyio.Event()
        self.talking = anyio.Lock()  # a round trip of the quiet pair is not to be cut by the drain

    async def main(self) -> None:
        trace = self.trace
        tasks_before = _living_tasks(trace.backend)
        try:
            async with (
                serving(self.handle, self.plan.config(), trace.pump, trace.asgi_rules_broken) as server,
                anyio.create_task_group() as tasks,
            ):
                self.connect(server, tasks)
                tasks.start_soon(self.chat_quietly, server)
                await self.play(tasks)
                await self.end(server)
                await self.check_over()
                self.peer.hang_up()
                await anyio.sleep(5)  # lingering sockets close
                await self.drain(server)
        except ExceptionGroup as error:
            trace.error = error
        trace.tasks_left = _living_tasks(trace.backend) - tasks_before

    # -- the server's side

    async def handle(self, request: Request) -> Any:
        """The handler of both channels."""
        if request.path == "/quiet":
            return as_channel(request, on_receive=lambda channel, message: channel.send_nowait(message))
        if self.plan.style in ("iterate", "receive"):
            return await self.hold(request)
        return await self.register(request)

    async def hold(self, request: Request) -> None:
        async with with_channel(request, **self.options()) as channel:
            self.take(channel)
            channel.on_close(self.listener("first"))
            if self.plan.style == "iterate" and self.plan.is_websocket:
                async for message in channel:
                    self.note("message")
                    self.consume(message)
                    await self.dawdle()
                    self.note("message done")
            else:
                await channel.wait_closed()

    async def register(self, request: Request) -> Channel:
        receives = self.plan.style in ("callback", "async") and self.plan.is_websocket
        channel = as_channel(
            request,
            on_open=self.on_open,
            on_receive=(lambda _, message: self.on_message(message)) if receives else None,
            on_close=lambda _, status: self.listener("first")(status),
            **self.options(),
        )
        self.take(channel)
        if self.plan.style == "late" and self.plan.is_websocket:
            await anyio.sleep(self.plan.late)
            if channel.close_info is None:
                channel.on_receive(self.on_message)
        return channel

    def options(self) -> dict[str, Any]:
        if self.plan.transport == "raw":
            return {"streaming": True}
        if self.plan.transport in ("sse", "ndjson"):
            return {"framing": self.plan.transport}
        return {}

    def take(self, channel: Channel) -> None:
        self.channel = channel
        self.trace.single_response = channel.single_response
        self.trace.opened = True
        self.made.set()

    def on_open(self, channel: Channel) -> Any:
        self.note("open")
        if self.plan.style == "async":
            return self.slow_open()
        self.note("open done")
        return None

    async def slow_open(self) -> None:
        await self.dawdle()
        self.note("open done")

    def on_message(self, message: Payload) -> Any:
        self.note("message")
        if self.plan.style == "async":
            return self.slow_message(message)
        try:
            self.consume(message)
        finally:
            self.note("message done")
        return None

    async def slow_message(self, message: Payload) -> None:
        try:
            self.consume(message)
            await self.dawdle()
        finally:
            self.note("message done")

    async def dawdle(self) -> None:
        if self.plan.pace:
            await anyio.sleep(self.plan.pace)
        else:
            await anyio.lowlevel.checkpoint()

    def consume(self, message: Payload) -> None:
        trace = self.trace
        trace.server_received.append(message)
        if self.plan.explode_at == len(trace.server_received):
            trace.exploded = True
            raise RuntimeError("the plan says so")

    def listener(self, name: str) -> Callable[[CloseStatus], None]:
        told = self.trace.close_told.setdefault(name, [])

        def on_close(status: CloseStatus) -> None:
            self.note("close")
            told.append(status)
            assert self.channel is not None
            if self.channel.close_info is not None:
                self.trace.infos.append(self.channel.close_info)
            self.note("close done")

        return on_close

    def note(self, what: str) -> None:
        self.trace.moments.append(Moment(anyio.current_time(), what))
        self.sample()

    def sample(self) -> None:
        """The channel's numbers now: G4 looks at each of them."""
        channel, trace = self.channel, self.trace
        if channel is None:
            return
        trace.samples.append(channel.statistics())
        if channel.is_open and (trace.closers or trace.info is not None):
            trace.reopened = True
        if trace.over_at is None and channel.close_info is not None:
            trace.over_at = anyio.current_time()
            trace.info = channel.close_info

    # -- the server's script

    async def direct(self, tasks: TaskGroup) -> None:
        await self.made.wait()
        for step in self.plan.server:
            if isinstance(step, Pause):
                await _pause(step)
            else:
                await self.perform(step, tasks)

    async def perform(self, step: ServerStep, tasks: TaskGroup) -> None:
        assert self.channel is not None
        self.sample()  # what it was like before: a close may switch reading on again
        operation = Operation(step, anyio.current_time(), self.channel.is_open)
        self.trace.operations.append(operation)
        done = anyio.Event()
        controls = _Controls()
        tasks.start_soon(self.operate, operation, controls, done)
        cancel = getattr(step, "cancel", None)
        if cancel is not None:
            await _ticks(cancel.ticks)
            controls.cancel(cancel.native)
        if not getattr(step, "behind", False):
            with anyio.move_on_after(PATIENCE):
                await done.wait()

    async def operate(self, operation: Operation, controls: _Controls, done: anyio.Event) -> None:
        try:
            with controls.scope:
                controls.begin(self.trace.backend)
                try:
                    operation.result = await self.call(operation.step)
                except Exception as error:
                    operation.error = error
                except anyio.get_cancelled_exc_class():
                    if not controls.cancelled:
                        raise
                    operation.cancelled = True
                    controls.absorb()
        finally:
            controls.over = True
            operation.ended = anyio.current_time()
            assert self.channel is not None
            operation.is_open_after = self.channel.is_open
            done.set()
            self.sample()

    async def call(self, step: ServerStep) -> Any:
        channel = self.channel
        assert channel is not None
        if isinstance(step, Send):
            return await self.call_send(step, channel)
        if isinstance(step, Close):
            return await self.call_close(step, channel)
        if isinstance(step, Await):
            return await self.call_wait(step, channel)
        if isinstance(step, SendPing):
            return channel.ping(step.data)
        assert isinstance(step, SendWrong)
        return channel.send_nowait(object()) if step.nowait else await channel.send(object())

    async def call_send(self, step: Send, channel: Channel) -> bool:
        if step.nowait:
            accepted = channel.send_nowait(step.payload, step.close_after_send)
        else:
            accepted = await channel.send(step.payload, step.close_after_send)
        if accepted:
            trace = self.trace
            last = channel.single_response if step.close_after_send is None else step.close_after_send
            trace.accepted.append(step.payload)
            trace.accepted_last.append(last)
            if last:
                trace.closers.append((anyio.current_time(), 1000, ""))
        return accepted

    async def call_close(self, step: Close, channel: Channel) -> bool:
        was_open = channel.is_open
        at = anyio.current_time()
        if step.nowait:
            closed = channel.close_nowait(step.code, step.reason)
        else:
            # the call closes at once and then waits: told apart here, so that a cancelled close counts too
            waiting = channel.close(step.code, step.reason)
            return await self.watch_close(waiting, step, at, was_open)
        if closed:
            self.trace.closers.append((at, step.code, step.reason))
        return closed

    async def watch_close(self, waiting: Awaitable[bool], step: Close, at: float, was_open: bool) -> bool:
        trace = self.trace
        closer = (at, step.code, step.reason)
        if was_open:
            trace.closers.append(closer)
        closed = await waiting
        if closed != was_open:
            # claimed what it did not do, or the other way round
            trace.closers.append(closer) if closed else trace.closers.remove(closer)
        return closed

    async def call_wait(self, step: Await, channel: Channel) -> Any:
        if step.what == "flush":
            return await channel.flush()
        if step.what == "wait_closed":
            info = await channel.wait_closed()
            self.trace.infos.append(info)
            return info
        try:
            message = await channel.receive()
        except ChannelClosed as closed:
            self.trace.infos.append(closed.info)
            return closed.info
        self.note("message")
        self.consume(message)
        self.note("message done")
        return message

    # -- the peer's side

    def connect(self, server: Server, tasks: TaskGroup) -> None:
        plan = self.plan
        self.stream = server.connect(plan.network)
        self.protocol: PeerProtocol
        if plan.is_websocket:
            self.websocket = WebSocketPeer("/main", deflate=plan.transport == "deflate")
            self.protocol = self.websocket
            request = self.websocket.request()
        else:
            self.http = HttpPeer()
            self.protocol = self.http
            request = self.http.request("/main")
        self.peer = PeerConnection(
            self.stream,
            self.protocol,
            chunk=plan.network.chunk,
            vanish_after=plan.network.vanish_after,
            on_news=self.sample,
        )
        for step in plan.peer[: plan.eager]:
            if plan.is_websocket and isinstance(step, Say | PeerPing):
                request += self.say(step)
        self.peer.say(request)
        tasks.start_soon(self.peer.run)

    async def act(self) -> None:
        """The peer's script."""
        steps = self.plan.peer[self.plan.eager :] if self.plan.is_websocket else self.plan.peer
        if self.plan.is_websocket:
            with anyio.move_on_after(60):
                while self.websocket.status is None and not self.peer.over:  # noqa: ASYNC110  # virtual time is free
                    await anyio.sleep(0.01)
        for step in steps:
            self.act_once(step) if not isinstance(step, Pause) else await _pause(step)

    def act_once(self, step: PeerStep) -> None:
        if isinstance(step, Manner):
            self.behave(step)
        elif not self.plan.is_websocket:
            if isinstance(step, Goodbye):
                self.behave(Manner("vanish"))
        elif isinstance(step, Violate):
            self.violate(step)
        elif isinstance(step, Goodbye):
            self.goodbye(step.code, step.reason)
        elif isinstance(step, Say | PeerPing):
            self.peer.say(self.say(step))

    def say(self, step: Say | PeerPing) -> bytes:
        if not self.websocket.may_send or self.trace.violated or "half_close" in self.trace.faults:
            return b""
        if isinstance(step, PeerPing):
            return self.websocket.ping(step.data)
        self.trace.said.append(step.payload)
        return self.websocket.message(step.payload)

    def goodbye(self, code: int, reason: str) -> None:
        if not self.trace.violated and "half_close" not in self.trace.faults and not self.peer.mute:
            self.peer.say(self.websocket.close(code, reason))

    def violate(self, step: Violate) -> None:
        if self.websocket.may_send and not self.trace.violated and "half_close" not in self.trace.faults:
            self.trace.violated = step.code
            self.peer.say(step.data)

    def behave(self, step: Manner) -> None:
        what = step.what
        now = anyio.current_time()
        if what in ("stall", "unstall"):
            if isinstance(self.stream, MemoryStream):
                # what the peer says is delayed, not lost
                self.stream.stall() if what == "stall" else self.stream.unstall()
            else:
                what = "stop_reading" if what == "stall" else "resume_reading"
        self.trace.faults.setdefault(what, now)
        if what == "resume_reading":
            self.trace.last_resumed = now
        action = getattr(self.peer, what, None)
        if action is not None:
            action()

    # -- the quiet pair

    async def chat_quietly(self, server: Server) -> None:
        """A well-behaved channel: every round trip has to be quick, whatever happens next to it."""
        protocol = WebSocketPeer("/quiet")
        connection = PeerConnection(server.connect(Network()), protocol)
        connection.say(protocol.request())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            await anyio.sleep(0.01)
            while not self.quiet_over.is_set():
                async with self.talking:
                    if not self.quiet_over.is_set():
                        await self.round_trip(connection, protocol)
                with anyio.move_on_after(7):
                    await self.quiet_over.wait()
            connection.hang_up()

    async def round_trip(self, connection: PeerConnection, protocol: WebSocketPeer) -> None:
        text = f"quiet {self.trace.quiet_wanted}"
        self.trace.quiet_wanted += 1
        began = anyio.current_time()
        connection.say(protocol.message(text))
        with anyio.move_on_after(1):
            while len(protocol.messages) < self.trace.quiet_wanted and not connection.over:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        same = protocol.messages[-1:] == [text]
        self.trace.quiet.append((anyio.current_time() - began, same))

    # -- the course of it

    async def play(self, tasks: TaskGroup) -> None:
        """Both scripts; whoever hangs in them is left behind."""
        with anyio.move_on_after(SCRIPTS):
            async with anyio.create_task_group() as scripts:
                scripts.start_soon(self.direct, tasks)
                scripts.start_soon(self.act)

    async def end(self, server: Server) -> None:
        """The epilogue: the peer listens again, a probe, and then the end, however the plan wants it."""
        if not self.plan.stubborn:
            self.behave(Manner("unstall"))
            self.behave(Manner("resume_reading"))
        if self.channel is None:
            self.peer.vanish()
            return
        await anyio.sleep(1)
        await self.try_probe()
        self.sample()
        await self.finish(server)

    async def try_probe(self) -> None:
        """Whether the channel still works: only asked where nothing else could be the reason that it does not."""
        channel, trace = self.channel, self.trace
        assert channel is not None
        if not channel.is_open or self.plan.stubborn or self.peer.over or self.peer.mute or channel.single_response:
            return
        trace.probe = False
        with anyio.move_on_after(20):
            trace.probe = await channel.send(PROBE) or not channel.is_open
        if trace.probe and channel.is_open:
            trace.accepted.append(PROBE)
            trace.accepted_last.append(False)

    async def finish(self, server: Server) -> None:
        channel = self.channel
        assert channel is not None
        ending = self.plan.ending
        at = anyio.current_time()
        if ending == "peer" and self.plan.is_websocket:
            self.goodbye(1000, "done")
        elif ending == "drain":
            await self.drain(server)
        elif ending == "server":
            if channel.close_nowait():
                self.trace.closers.append((at, 1000, ""))
        else:
            self.behave(Manner("vanish"))
        with anyio.move_on_after(30):
            if channel.close_info is None:
                await channel.wait_closed()
        if channel.close_info is None and ending == "peer" and not self.trace.closers:
            self.behave(Manner("vanish"))  # its goodbye was never read, and nobody else would end it

    async def drain(self, server: Server) -> None:
        if self.trace.drained_in is None:
            async with self.talking:
                self.quiet_over.set()
            began = anyio.current_time()
            channel = self.channel
            if channel is not None and channel.is_open:
                self.trace.closers.append((began, 1001, ""))
            await server.drain(20)
            self.trace.drained_in = anyio.current_time() - began

    async def check_over(self) -> None:
        """The channel is to be over within its timeouts; then what the contract says about a closed one is tried."""
        channel, trace = self.channel, self.trace
        if channel is None:
            return
        with anyio.move_on_after(LAST_WORDS):
            trace.infos.append(await channel.wait_closed())
        self.sample()
        await self.receive_rest(channel)
        channel.on_close(self.listener("late"))
        await anyio.sleep(max(1.0, self.plan.pace * (len(trace.said) + 1)))
        self.sample()
        self.collect()

    async def receive_rest(self, channel: Channel) -> None:
        """What is in the inbox at the end is to be had by `receive`."""
        if self.plan.style != "receive" or not self.plan.is_websocket:
            return
        try:
            with anyio.move_on_after(1):
                while True:
                    self.trace.server_received.append(await channel.receive())
        except ChannelClosed as closed:
            self.trace.infos.append(closed.info)
        except anyio.BusyResourceError:
            pass  # an operation of the plan is still at it; G8 will say so
        except ReceiveUnsupported:
            pass

    def collect(self) -> None:
        """What the peer has seen."""
        trace = self.trace
        trace.peer_gone_at = self.peer.gone_at
        if self.plan.is_websocket:
            peer = self.websocket
            trace.peer_received = list(peer.messages)
            trace.peer_close_sent = peer.close_sent
            trace.peer_close_received = peer.close_received
            trace.peer_closed_first = peer.closed_first
            trace.wire_error = f"bytes behind the close frame: {peer.junk!r}" if peer.junk else None
        else:
            self.collect_http()

    def collect_http(self) -> None:
        trace, peer = self.trace, self.http
        trace.wire_error = peer.error or (f"bytes behind the response: {peer.junk!r}" if peer.junk else None)
        if peer.responses:
            response = peer.responses[0]
            trace.body = bytes(response.body)
            trace.response_complete = response.complete
            trace.response_status = response.status
            if trace.pump == "asgi" and response.status == 500:
                trace.body = b""  # the host's words for a response that was given up: none of ours
                return
            if self.plan.transport == "sse":
                trace.peer_received = read_sse(trace.body)
            elif self.plan.transport == "ndjson":
                trace.peer_received = read_ndjson(trace.body)


class _Controls:
    """How to cancel one operation, from outside its task."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.cancelled = False
        self.over = False
        self._task: asyncio.Task[Any] | None = None
        self._native = False

    def begin(self, backend: clock.Backend) -> None:
        self._task = asyncio.current_task() if backend == "asyncio" else None

    def cancel(self, native: bool) -> None:
        if self.over:
            return
        self.cancelled = True
        if native and self._task is not None:
            self._native = True
            self._task.cancel()
        else:
            self.scope.cancel()

    def absorb(self) -> None:
        """The cancellation was ours and has been seen: the task's group must not hear of it."""
        if self._native and self._task is not None:
            self._task.uncancel()


async def _ticks(count: int) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


async def _pause(step: Pause) -> None:
    await _ticks(step.ticks)
    if step.seconds:
        await anyio.sleep(step.seconds)


def _living_tasks(backend: clock.Backend) -> int:
    if backend == "asyncio":
        return len(asyncio.all_tasks())
    import trio

    return trio.lowlevel.current_statistics().tasks_living
