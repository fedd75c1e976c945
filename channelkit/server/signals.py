"""The process's signals: who hears them, what they do to a server, and that a program's own handlers come back.

On one event loop there is one receiver for all servers that run there, because asyncio knows only the last one.  Its
keeper is one of the servers; when that one ends, the next becomes the keeper.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from anyio.lowlevel import RunVar

from channelkit._lifecycle import logger
from channelkit._loop import Bell
from channelkit.config import Config
from channelkit.errors import ConfigError
from channelkit.server import systemd
from channelkit.tls import TLS

if TYPE_CHECKING:
    from channelkit.server.run import Server

STOP = (signal.SIGINT, signal.SIGTERM)
MOST_PENDING = 8  # of a storm: three mean all that can be meant

#: A signal that by default does nothing.  While an event loop of asyncio handles any, each signal that has a handler
#: wakes it (`signal.set_wakeup_fd`); else one that comes just before the loop waits would be noticed after that.
WAKING = signal.SIGURG


class _Ears:
    """Who listens to some signals on one event loop."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.keeper = anyio.Lock()  # held by whoever has the receiver


_all_ears: RunVar[dict[Sequence[int], _Ears]] = RunVar("channelkit signals")


@asynccontextmanager
async def heard(server: Server, wanted: bool, config: Config) -> AsyncIterator[None]:
    """While this is open the process is the server's: SIGINT and SIGTERM stop it, systemd is told how it is.

    From before the lifespan is opened until it has closed: process 1 of a container hears no signal that it has not
    asked for.  SIGHUP reads certificates again, if there are files of them.

    Only the main thread may listen to signals.
    """
    if not wanted or threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    problem: BaseException | None = None
    server._owns_process = True
    async with anyio.create_task_group() as tasks:
        await tasks.start(_hear, server, STOP, name="signals")
        if any(isinstance(one.ssl or config.ssl, TLS) for one in config.listeners):
            await tasks.start(_hear, server, (signal.SIGHUP,), name="SIGHUP")
        try:
            yield
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # kept out of the group, which would wrap it
            problem = error
        tasks.cancel_scope.cancel()
    if problem is not None:
        raise problem


async def _hear(server: Server, numbers: Sequence[signal.Signals], *, task_status: TaskStatus[None]) -> None:
    """Be one of those who hear these signals; and the keeper, when nobody else is."""
    all_ears = _all_ears.get({})
    _all_ears.set(all_ears)
    ears = all_ears.setdefault(numbers, _Ears())
    ears.servers.append(server)
    try:
        second = ears.keeper.locked()
        if second:
            task_status.started()
        async with ears.keeper:
            with _received(numbers) as received:
                if not second:
                    task_status.started()
                while True:
                    number = await received.next()
                    for one in tuple(ears.servers):
                        await _told(one, number)
    finally:
        ears.servers.remove(server)


def by_default(number: int) -> None:
    """In the handler of a signal: do what it does where nobody handles it.

    For a process that a handler has forked off: it inherits the server's handlers, and would end at no SIGTERM.
    """
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.raise_signal(number)


class _Received:
    """Signals on their way from the process to a task."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._bell = Bell()
        self._numbers: deque[signal.Signals] = deque(maxlen=MOST_PENDING)

    def hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            by_default(number)
            return
        self._numbers.append(signal.Signals(number))
        self._bell.ring()

    async def next(self) -> signal.Signals:
        """Wait for one."""
        while not self._numbers:
            await self._bell.wait()
        return self._numbers.popleft()


@contextmanager
def _received(numbers: Sequence[signal.Signals]) -> Iterator[_Received]:
    """What has handled these signals does so again afterwards, and those that came too late are nobody's.

    With handlers of our own, since those of the event loops leave badly: asyncio's puts the default in its place for a
    moment, which kills the process, and trio raises again what nobody has taken.
    """
    received = _Received()
    before = {number: signal.signal(number, received.hear) for number in numbers}
    before[WAKING] = signal.getsignal(WAKING)
    try:
        with anyio.open_signal_receiver(WAKING):
            yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


async def _told(server: Server, number: signal.Signals) -> None:
    if number == signal.SIGHUP:
        await _reload(server)
    else:
        logger.info("%s: stopping", number.name)
        server._insist()


async def _reload(server: Server) -> None:
    """Nobody is there to catch what is wrong: it is logged, and the old certificates stay."""
    if server.status != "running":
        return  # they are to be read yet, or for nobody
    systemd.reloading()
    try:
        await anyio.to_thread.run_sync(server.reload_certificates)
    except ConfigError as error:
        logger.error("SIGHUP: the certificates stay as they were: %s", error)
    systemd.notify(systemd.READY)
