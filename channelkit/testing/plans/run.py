"""One run of a plan, and its epilogue, which ends the channel if it still lives and waits until everything is over."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import stat
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from channelkit.errors import ChannelClosed, ReceiveUnsupported
from channelkit.testing import clock
from channelkit.testing.plans.actor import Actor
from channelkit.testing.plans.application import Application
from channelkit.testing.plans.director import Director
from channelkit.testing.plans.plan import Manner, Plan
from channelkit.testing.plans.quiet import QuietPair
from channelkit.testing.plans.serving import Pump, Server, serving
from channelkit.testing.plans.trace import Trace

if TYPE_CHECKING:
    from channelkit.channel import Channel

MAX_TICKS = 60_000
SCRIPTS = 300.0  # virtual seconds both scripts have together
LAST_WORDS = 120.0  # virtual seconds from the epilogue's end of the channel to the end of the wire; above every timeout
PROBE = "the probe"


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


def _living_tasks(backend: clock.Backend) -> int:
    if backend == "asyncio":
        return len(asyncio.all_tasks())
    import trio

    return trio.lowlevel.current_statistics().tasks_living


class _Run:
    """The application, both scripts, the quiet pair, the epilogue."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.plan = trace.plan
        self.application = Application(trace)
        self.director = Director(self.application)
        self.peer = Actor(trace, on_news=self.application.sample)
        self.quiet = QuietPair(trace)

    async def main(self) -> None:
        trace = self.trace
        tasks_before = _living_tasks(trace.backend)
        try:
            async with (
                serving(self.application.handle, self.plan.config(), trace.pump, trace.asgi_rules_broken) as server,
                anyio.create_task_group() as tasks,
            ):
                self.peer.connect(server, tasks)
                tasks.start_soon(self.quiet.chat, server)
                await self.play(tasks)
                await self.end(server)
                await self.check_over()
                self.peer.connection.hang_up()
                await anyio.sleep(5)  # lingering sockets close
                await self.drain(server)
        except ExceptionGroup as error:
            trace.error = error
        trace.tasks_left = _living_tasks(trace.backend) - tasks_before

    async def play(self, tasks: TaskGroup) -> None:
        """Both scripts; whoever hangs in them is left behind."""
        with anyio.move_on_after(SCRIPTS):
            async with anyio.create_task_group() as scripts:
                scripts.start_soon(self.director.direct, tasks)
                scripts.start_soon(self.peer.act)

    async def end(self, server: Server) -> None:
        """The epilogue: the peer listens again, a probe, and then the end, however the plan wants it."""
        if not self.plan.stubborn:
            self.peer.behave(Manner("unstall"))
            self.peer.behave(Manner("resume_reading"))
        if self.application.channel is None:
            self.peer.connection.vanish()
            return
        await anyio.sleep(1)
        await self.try_probe()
        self.application.sample()
        await self.finish(server)

    async def try_probe(self) -> None:
        """Whether the channel still works: only asked where nothing else could be the reason that it does not."""
        channel, trace, peer = self.application.channel, self.trace, self.peer.connection
        assert channel is not None
        if not channel.is_open or self.plan.stubborn or peer.over or peer.mute or channel.single_response:
            return
        trace.probe = False
        with anyio.move_on_after(20):
            trace.probe = await channel.send(PROBE) or not channel.is_open
        if trace.probe and channel.is_open:
            trace.accepted.append(PROBE)
            trace.accepted_last.append(False)

    async def finish(self, server: Server) -> None:
        channel = self.application.channel
        assert channel is not None
        ending = self.plan.ending
        at = anyio.current_time()
        if ending == "peer" and self.plan.is_websocket:
            self.peer.goodbye(1000, "done")
        elif ending == "drain":
            await self.drain(server)
        elif ending == "server":
            if channel.close_nowait():
                self.trace.closers.append((at, 1000, ""))
        else:
            self.peer.behave(Manner("vanish"))
        with anyio.move_on_after(30):
            if channel.close_info is None:
                await channel.wait_closed()
        if channel.close_info is None and ending == "peer" and not self.trace.closers:
            self.peer.behave(Manner("vanish"))  # its goodbye was never read, and nobody else would end it

    async def drain(self, server: Server) -> None:
        if self.trace.drained_in is None:
            await self.quiet.stop()
            began = anyio.current_time()
            channel = self.application.channel
            if channel is not None and channel.is_open:
                self.trace.closers.append((began, 1001, ""))
            await server.drain(20)
            self.trace.drained_in = anyio.current_time() - began

    async def check_over(self) -> None:
        """The channel is to be over within its timeouts; then what the contract says about a closed one is tried."""
        channel, trace = self.application.channel, self.trace
        if channel is None:
            return
        with anyio.move_on_after(LAST_WORDS):
            trace.infos.append(await channel.wait_closed())
        self.application.sample()
        await self.receive_rest(channel)
        channel.on_close(self.application.listener("late"))
        await anyio.sleep(max(1.0, self.plan.pace * (len(trace.said) + 1)))
        self.application.sample()
        self.peer.collect()

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
