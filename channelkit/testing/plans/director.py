"""The server's script: each operation that may wait has a task, so that it can be cancelled at any tick."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from channelkit.errors import ChannelClosed
from channelkit.testing.plans.application import Application
from channelkit.testing.plans.controls import Controls, pause, ticks
from channelkit.testing.plans.plan import Await, Close, Pause, Send, SendPing, SendWrong, ServerStep
from channelkit.testing.plans.trace import Operation

if TYPE_CHECKING:
    from channelkit.channel import Channel

PATIENCE = 0.5  # virtual seconds the script waits for an operation before it goes on without it


class Director:
    """Plays the server's steps on the application's channel."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.trace = application.trace
        self.plan = application.plan

    @property
    def channel(self) -> Channel:
        channel = self.application.channel
        assert channel is not None
        return channel

    async def direct(self, tasks: TaskGroup) -> None:
        await self.application.made.wait()
        for step in self.plan.server:
            if isinstance(step, Pause):
                await pause(step)
            else:
                await self.perform(step, tasks)

    async def perform(self, step: ServerStep, tasks: TaskGroup) -> None:
        self.application.sample()  # what it was like before: a close may switch reading on again
        operation = Operation(step, anyio.current_time(), self.channel.is_open)
        self.trace.operations.append(operation)
        done = anyio.Event()
        controls = Controls()
        tasks.start_soon(self.operate, operation, controls, done)
        cancel = getattr(step, "cancel", None)
        if cancel is not None:
            await ticks(cancel.ticks)
            controls.cancel(cancel.native)
        if not getattr(step, "behind", False):
            with anyio.move_on_after(PATIENCE):
                await done.wait()

    async def operate(self, operation: Operation, controls: Controls, done: anyio.Event) -> None:
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
            operation.is_open_after = self.channel.is_open
            done.set()
            self.application.sample()

    async def call(self, step: ServerStep) -> Any:
        channel = self.channel
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
        self.application.note("message")
        self.application.consume(message)
        self.application.note("message done")
        return message
