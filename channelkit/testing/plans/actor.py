"""The peer's script."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from channelkit.testing.network import MemoryStream
from channelkit.testing.peers import HttpPeer, PeerConnection, PeerProtocol, WebSocketPeer, read_ndjson, read_sse
from channelkit.testing.plans.controls import pause
from channelkit.testing.plans.plan import Goodbye, Manner, Pause, PeerPing, PeerStep, Say, Violate
from channelkit.testing.plans.serving import Server
from channelkit.testing.plans.trace import Trace


class Actor:
    """Plays the peer's steps; `on_news` is called when bytes came."""

    def __init__(self, trace: Trace, on_news: Callable[[], None]) -> None:
        self.trace = trace
        self.plan = trace.plan
        self.on_news = on_news

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
        self.connection = PeerConnection(
            self.stream,
            self.protocol,
            chunk=plan.network.chunk,
            vanish_after=plan.network.vanish_after,
            on_news=self.on_news,
        )
        for step in plan.peer[: plan.eager]:
            if plan.is_websocket and isinstance(step, Say | PeerPing):
                request += self.say(step)
        self.connection.say(request)
        tasks.start_soon(self.connection.run)

    async def act(self) -> None:
        """The peer's script."""
        steps = self.plan.peer[self.plan.eager :] if self.plan.is_websocket else self.plan.peer
        if self.plan.is_websocket:
            with anyio.move_on_after(60):
                while self.websocket.status is None and not self.connection.over:  # noqa: ASYNC110  # virtual time is free
                    await anyio.sleep(0.01)
        for step in steps:
            self.act_once(step) if not isinstance(step, Pause) else await pause(step)

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
            self.connection.say(self.say(step))

    def say(self, step: Say | PeerPing) -> bytes:
        if not self.websocket.may_send or self.trace.violated or "half_close" in self.trace.faults:
            return b""
        if isinstance(step, PeerPing):
            return self.websocket.ping(step.data)
        self.trace.said.append(step.payload)
        return self.websocket.message(step.payload)

    def goodbye(self, code: int, reason: str) -> None:
        if not self.trace.violated and "half_close" not in self.trace.faults and not self.connection.mute:
            self.connection.say(self.websocket.close(code, reason))

    def violate(self, step: Violate) -> None:
        if self.websocket.may_send and not self.trace.violated and "half_close" not in self.trace.faults:
            self.trace.violated = step.code
            self.connection.say(step.data)

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
        action = getattr(self.connection, what, None)
        if action is not None:
            action()

    def collect(self) -> None:
        """What the peer has seen."""
        trace = self.trace
        trace.peer_gone_at = self.connection.gone_at
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
