"""What is open on one host, and how a host comes to its end.

Drain, in this order: `on_stop` acts; WebSockets and streams are closed with 1001, over `spread` seconds, and whatever
is idle goes, a moment later, so that a request that was under way is answered; running requests and held answers may
finish; at the deadline held answers become 503, handlers are cancelled, and what is left is cut.  The host closes its
listener before, if it has one.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import anyio

from channelkit._lifecycle import logger
from channelkit._threads.plain import is_plain, runs_on_loop
from channelkit._threads.pool import Workers
from channelkit.errors import ConfigError
from channelkit.statistics import ServerStatistics, snapshot

if TYPE_CHECKING:
    from channelkit._handover import Company
    from channelkit._loop import Loop
    from channelkit.config import Config

OnStop = Callable[[], object]  # what it returns is awaited, if it can be
LastAct = Callable[[Workers], object]  # the same, wherever it runs

LAST_REQUEST = 0.25  # seconds an idle connection is kept at a stop: a request may be on its way, a long round trip
SPREAD_STEP = 0.01  # seconds between two handfuls of goodbyes
LAST_TURNS = 10  # of the loop between the last goodbye and the cut


def on_stop_of(handler: object, on_stop: OnStop | None) -> LastAct | None:
    """`on_stop`, or what the handler has by that name, which runs where the handler does; ConfigError if it cannot be
    called."""
    found: OnStop | None = getattr(handler, "on_stop", None) if on_stop is None else on_stop
    if found is not None and not callable(found):
        raise ConfigError(f"on_stop must be a function without arguments, not {found!r}")
    if found is None:
        return None
    if is_plain(handler) and not runs_on_loop(found):
        return lambda workers: workers.run_aside(found)
    return lambda workers: found()


class Connection(Protocol):
    """What drain needs of a connection or a request, of whatever protocol."""

    def going_away(self, now: bool) -> None: ...

    def abort(self) -> None: ...


class Draining:
    """The connections of one host on one loop, its running handlers, and the way to its end."""

    def __init__(self, loop: Loop, cancel_handlers: Callable[[], None], config: Config) -> None:
        self.loop = loop
        self.workers = Workers(loop, config)
        self.company: Company | None = None
        self.connections: set[Connection] = set()
        self._guests: set[Connection] = set()  # what outlives its requests: sessions
        self.running = 0  # handlers
        self.stopping = False
        self.on_stop: LastAct | None = None
        self.lingering: Callable[[], int] = lambda: 0  # connections a pump still holds, engines or not
        self._cancel_handlers = cancel_handlers
        self._patience = config.handler_cleanup_timeout  # seconds for `finally` blocks and `on_close` after the cut
        self._changed = loop.parking()

    def join(self, guest: Connection) -> None:
        """`guest` outlives the request that made it, and is to be waited for and told all the same."""
        self._guests.add(guest)

    def leave(self, guest: Connection) -> None:
        """`guest` is over."""
        self._guests.discard(guest)
        self.changed()

    def ended(self, connection: Connection) -> None:
        """A connection is over."""
        self.connections.discard(connection)
        self.changed()

    def handler_ended(self) -> None:
        """A handler has returned, however."""
        self.running -= 1
        if self.stopping:
            self.changed()

    def statistics(self) -> ServerStatistics:
        """What has happened on this host, and what is open now.  May be called from any thread."""
        return snapshot(self)

    def changed(self) -> None:
        """Drain looks again whether all is over."""
        if self.stopping:
            self._changed.wake()

    async def drain(self, timeout: float, spread: float = 0.0) -> None:
        """Let everything end by itself for at most `timeout` seconds; what remains then is told to end at once.

        Long-lived channels are told over `spread` seconds, in no order, so that their clients do not all come back
        to another server in the same moment.
        """
        self.stopping = True
        with anyio.move_on_after(timeout):
            await self._act()
            await self._say_goodbye_over(spread)
            with anyio.move_on_after(LAST_REQUEST):
                await self._wait_idle()
                return
            self._say_goodbye(now=False)  # those that came in the last moment too
            await self._wait_idle()
            return
        self._say_goodbye(now=True)

    async def _act(self) -> None:
        """The application's own last act; what it raises is logged and stops nothing."""
        on_stop, self.on_stop = self.on_stop, None
        if on_stop is None:
            return
        try:
            result = on_stop(self.workers)
            if inspect.isawaitable(result):
                await result
        except Exception:
            logger.exception("on_stop raised")

    async def _say_goodbye_over(self, seconds: float) -> None:
        waiting = self._open()
        if not seconds:
            self._say_goodbye(now=False)
            return
        random.shuffle(waiting)
        begun = self.loop.time()
        count = len(waiting)
        while waiting:
            due = count * min(1.0, (self.loop.time() - begun) / seconds)
            while waiting and count - len(waiting) <= due:
                connection = waiting.pop()
                if connection in self._guests or connection in self.connections:
                    connection.going_away(now=False)
            await anyio.sleep(SPREAD_STEP)

    async def cut(self) -> None:
        """The deadline is over: cancel handlers, abort connections, give `on_close` its time."""
        self.stopping = True
        self._say_goodbye(now=True)
        self._cancel_handlers()
        self.workers.hurry()
        for _ in range(LAST_TURNS):
            await self.loop.checkpoint()  # what goodbye wrote leaves, as far as the kernel or host takes it
        for connection in self._open():
            connection.abort()
        with anyio.move_on_after(self._patience):
            await self._wait_handlers()
            await self.loop.wait_callbacks()
            await self.workers.ended()
        if self.running:
            logger.error(
                "%d handlers were cancelled and go on all the same (shielded, or in a thread): the server waits",
                self.running,
            )
        self.workers.stop()
        # Scheduled tasks, pullers, callbacks that would not end: nothing outlives the server.
        self.loop.cancel_on_leaving()

    def forsake(self) -> None:
        """The loop ends without a drain: what outlives its request is over, or it would be counted for ever."""
        for guest in tuple(self._guests):
            guest.abort()

    def _say_goodbye(self, now: bool) -> None:
        for connection in self._open():
            connection.going_away(now)

    def _open(self) -> list[Connection]:
        """Sessions first: what they say last goes out on connections that are told next."""
        return [*self._guests, *self.connections]

    async def _wait_handlers(self) -> None:
        """Until every handler and engine is through; what lingers in the kernel is cut by the pump."""
        while self.connections or self.running or self._guests:
            await self._changed.park()

    async def _wait_idle(self) -> None:
        while self.connections or self.running or self._guests or self.lingering():
            await self._changed.park()
