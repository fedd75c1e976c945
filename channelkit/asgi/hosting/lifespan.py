"""The lifespan of an ASGI application: told before the server listens, and after it has drained."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from channelkit._lifecycle import logger
from channelkit.asgi.hosting.messages import Message, message_type, unexpected
from channelkit.asgi.hosting.scopes import lifespan_scope
from channelkit.errors import ConfigError, LifespanFailed

STARTING, UP, STOPPING, DONE = range(4)

App = Callable[[Any, Any, Any], Awaitable[Any]]


class Lifespan:
    """One application's task for one life of the server.

    Whether an application has a lifespan is seen from what it does: one that asks for `lifespan.startup` has; one
    that raises or returns before, or answers with another protocol's messages, does without.
    """

    def __init__(self, app: App, state: dict[str, Any]) -> None:
        self._app = app
        self._scope = lifespan_scope(state)
        self._phase = STARTING
        self._asked = False  # the application has received lifespan.startup
        self._foreign = False  # it took the scope for another
        self._failure: BaseException | str | None = None
        self._started = anyio.Event()
        self._stop = anyio.Event()
        self._ended = anyio.Event()

    async def run(self) -> None:
        """The application's task."""
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception as error:
            self._raised(error)
        finally:
            self._started.set()
            self._ended.set()

    def _raised(self, error: Exception) -> None:
        if self._phase == STARTING:
            self._failure = self._failure or error
        elif self._phase == UP:
            logger.error("the lifespan of the ASGI application failed; the server goes on", exc_info=error)
        elif self._phase == STOPPING:
            logger.error("the shutdown of the ASGI application failed", exc_info=error)

    async def startup(self) -> None:
        """Wait until the application is up or has shown that it has no lifespan.  Raises LifespanFailed."""
        await self._started.wait()
        if isinstance(self._failure, ConfigError):
            raise self._failure  # it is no ASGI application at all
        if self._phase == UP or self._foreign or not (self._asked or isinstance(self._failure, str)):
            return
        if isinstance(self._failure, str):
            raise LifespanFailed(f"the startup of the ASGI application failed: {self._failure or 'it gave no reason'}")
        if self._failure is None:
            raise LifespanFailed("the ASGI application returned from its lifespan without 'lifespan.startup.complete'")
        raise LifespanFailed(f"the startup of the ASGI application raised {self._failure!r}") from self._failure

    async def shutdown(self) -> None:
        """Tell the application, and wait until its task has ended."""
        if self._phase == UP:
            self._phase = STOPPING
        self._stop.set()
        await self._ended.wait()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        if self._phase == DONE:
            raise RuntimeError("nothing comes after 'lifespan.shutdown'")
        await self._stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message_type(message)
        if kind == "lifespan.startup.complete" and self._phase == STARTING:
            self._phase = UP
            self._started.set()
        elif kind == "lifespan.startup.failed" and self._phase == STARTING:
            self._failure = str(message.get("message") or "")
            self._started.set()
        elif kind == "lifespan.shutdown.complete" and self._phase == STOPPING:
            self._phase = DONE
        elif kind == "lifespan.shutdown.failed" and self._phase == STOPPING:
            self._phase = DONE
            logger.error("the shutdown of the ASGI application failed: %s", message.get("message") or "no reason given")
        else:
            self._foreign = self._foreign or not kind.startswith("lifespan.")
            raise unexpected(kind, *_EXPECTED[self._phase], after=_WHEN[self._phase])


_EXPECTED = {
    STARTING: ("lifespan.startup.complete", "lifespan.startup.failed"),
    UP: (),
    STOPPING: ("lifespan.shutdown.complete", "lifespan.shutdown.failed"),
    DONE: (),
}
_WHEN = {
    STARTING: "in the startup of a lifespan",
    UP: "before 'lifespan.shutdown'",
    STOPPING: "after 'lifespan.shutdown'",
    DONE: "after the shutdown",
}


@asynccontextmanager
async def open_lifespan(app: App, state: dict[str, Any]) -> AsyncIterator[None]:
    """The application is up inside; leaving waits for its shutdown.  Cancelled, the application is cancelled too.

    Raises LifespanFailed if it does not come up; what the block raises comes out as it is.
    """
    problem: Exception | None = None
    async with anyio.create_task_group() as tasks:
        lifespan = Lifespan(app, state)
        tasks.start_soon(lifespan.run, name="ASGI lifespan")
        try:
            await lifespan.startup()
            try:
                yield
            finally:
                await lifespan.shutdown()
        except Exception as error:  # kept out of the group, which would wrap it
            problem = error
        tasks.cancel_scope.cancel()
    if problem is not None:
        raise problem
