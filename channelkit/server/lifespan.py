"""What lives exactly as long as a server: an application's startup and shutdown, a pool of connections.

It is a context manager of the user's, and it runs in a task of its own: so that it can be given its time to close
after the server was cancelled, and no more than its time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import anyio

from channelkit._lifecycle import logger
from channelkit.errors import ConfigError

Lifespan: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]


def lifespan_of(handler: Any, lifespan: Lifespan | None) -> Lifespan | None:
    """The lifespan that was given, else the handler's own attribute `lifespan`, else none.  Raises ConfigError."""
    if lifespan is None:
        lifespan = getattr(handler, "lifespan", None)
    if lifespan is not None and not callable(lifespan):
        raise ConfigError(f"lifespan is a function that makes an async context manager, not {lifespan!r}")
    return lifespan


@asynccontextmanager
async def living(lifespan: Lifespan | None, patience: float) -> AsyncIterator[Life | None]:
    """Inside, `lifespan` is open.  It gets `patience` seconds to close, also if this is cancelled.

    Raises what it raised on opening or closing.  If it fails in between, the block is cancelled.
    """
    if lifespan is None:
        yield None
        return
    problem: BaseException | None = None
    life = Life(lifespan)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(life.run, tasks.cancel_scope, name="lifespan")
        try:
            await life.opened.wait()
            if life.error is None:
                yield life
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # kept out of the group, which would wrap it
            problem = error
        finally:
            with anyio.CancelScope(shield=True):
                await life.close(patience)
    problem = problem or life.error
    if problem is not None:
        raise problem


class Life:
    """The task of one lifespan."""

    def __init__(self, lifespan: Lifespan) -> None:
        self._lifespan = lifespan
        self._scope = anyio.CancelScope(shield=True)
        self._patience: anyio.CancelScope | None = None
        self._up = False
        self._stop = anyio.Event()
        self._closed = anyio.Event()
        self.opened = anyio.Event()  # or it will never be
        self.error: BaseException | None = None

    async def run(self, server: anyio.CancelScope) -> None:
        with self._scope:
            try:
                await self._live()
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:
                self.error = error
                if self._up and not self._stop.is_set():
                    server.cancel()  # as in any `async with`: what fails inside it ends its block
            finally:
                self.opened.set()
                self._closed.set()

    async def _live(self) -> None:
        manager = self._lifespan()
        if not isinstance(manager, AbstractAsyncContextManager):
            raise ConfigError(f"lifespan must make an async context manager; it made {manager!r}")
        async with manager:
            self._up = True
            self.opened.set()
            await self._stop.wait()

    async def close(self, patience: float) -> None:
        if not self._up:
            self._scope.cancel()  # nobody waits for its opening any more
        self._stop.set()
        begun = anyio.current_time()
        with anyio.move_on_after(patience) as self._patience:
            await self._closed.wait()
            return
        logger.error("the lifespan has not closed in %g s and is cancelled", round(anyio.current_time() - begun, 2))
        self._scope.cancel()
        await self._closed.wait()

    def hurry(self) -> None:
        """If it is closing, it had its time."""
        if self._patience is not None:
            self._patience.cancel()
