"""What all requests of one application on one event loop share: the loop as we see it, timers, the way to the end.

Whoever calls us owns the event loop and starts no task for us that outlives a request.  With a lifespan, its task is
where everything lives.  Without one the first request starts a task of our own, which ends when nothing needs it: no
request, no scheduled task, no callback.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from threading import get_ident
from typing import TYPE_CHECKING, cast

import anyio
from anyio.lowlevel import current_token

from channelkit._draining import Draining
from channelkit._lifecycle import logger
from channelkit._loop import Loop, detach, open_loop
from channelkit.timer import TimerService

if TYPE_CHECKING:
    from channelkit.asgi.hosted.http_exchange import AsgiHttpExchange
    from channelkit.config import Config


class AppCore(Draining):
    """The shared state of one application on one event loop."""

    def __init__(self, config: Config, loop: Loop) -> None:
        super().__init__(loop, self._cancel, config)
        self.config = config
        self.timers = TimerService(loop, self.workers)
        self._ending = anyio.Lock()

    async def end(self, timeout: float) -> None:
        """Drain, then cut.  May be asked by several at once: a signal, a lifespan, the application itself."""
        self.stopping = True
        async with self._ending:
            await self.drain(timeout, self.config.spread)
            await self.cut()

    def _cancel(self) -> None:
        for connection in tuple(self.connections):
            cast("AsgiHttpExchange", connection).cancel_handler()


Surroundings = Callable[[AppCore], AbstractAsyncContextManager[None]]


class Home:
    """Where a core lives: from `ready` until nothing needs it, or until whoever opened it leaves."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self._config = config
        self._surroundings = surroundings
        self.core: AppCore | None = None
        self.ready = anyio.Event()
        self.ended = anyio.Event()
        self.claims = 0  # requests that are using it or about to
        self._event_loop = current_token()

    @property
    def usable(self) -> bool:
        """Whether a request of the event loop that runs now may live here; a thread may have had others before."""
        return not self.ended.is_set() and self._event_loop == current_token()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AppCore]:
        """The core, for as long as the block lasts."""
        try:
            async with open_loop() as loop:
                core = AppCore(self._config, loop)
                async with self._surroundings(core):
                    self.core = core
                    self.ready.set()
                    try:
                        yield core
                    finally:
                        core.forsake()
                        core.workers.stop()
                    self.ended.set()
        finally:
            self.ended.set()
            self.ready.set()

    def release(self) -> None:
        """A request is through."""
        self.claims -= 1
        if self.core is not None:
            self.core.loop.look_idle()

    async def stay(self) -> None:
        """Live until idle: the whole life of a home that a request started."""
        try:
            async with self.opened() as core:
                await core.loop.wait_idle(lambda: not self.claims and not core.workers.busy)
        except Exception:
            logger.exception("the task that serves an ASGI application failed")


class Homes:
    """The homes of one application, by the thread their event loop runs in: usually one."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self._config = config
        self._surroundings = surroundings  # of a core: what is to be opened round its life
        self._homes: dict[int, Home] = {}

    def current(self) -> Home | None:
        """The home on this event loop, if there is one."""
        home = self._homes.get(get_ident())
        return home if home is not None and home.usable else None

    def move_in(self) -> Home:
        """A new home on this event loop, for a lifespan to open."""
        home = self._homes[get_ident()] = Home(self._config, self._surroundings)
        return home

    async def claim(self) -> Home:
        """The home on this event loop, made if need be; the caller releases it."""
        home = self.current()
        if home is None:
            home = self.move_in()
            detach(home.stay)
        home.claims += 1
        if home.core is None:
            try:
                await home.ready.wait()
            except BaseException:
                home.release()
                raise
        if home.core is None:
            raise RuntimeError("the event loop is ending")
        return home
