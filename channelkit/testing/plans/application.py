"""The application of a run: the handler of both channels, its callbacks, and what they write down."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from channelkit.handlers import as_channel, with_channel
from channelkit.testing.peers import Payload
from channelkit.testing.plans.trace import Moment, Trace

if TYPE_CHECKING:
    from channelkit.channel import Channel
    from channelkit.http import Request
    from channelkit.status import CloseStatus


class Application:
    """`channel` is the one the plan is about, once the handler has `made` it."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.plan = trace.plan
        self.channel: Channel | None = None
        self.made = anyio.Event()

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
