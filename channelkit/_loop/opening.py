"""From the event loop that runs to a `Loop`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from channelkit._loop.asyncio_loop import AsyncioLoop, tell_sniffio
from channelkit._loop.base import Loop
from channelkit._loop.detached import in_trio


def _trio_loop(tasks: TaskGroup, helpers: TaskGroup) -> Loop:
    from channelkit._loop.trio_loop import TrioLoop

    return TrioLoop(tasks, helpers)


@asynccontextmanager
async def open_loop() -> AsyncIterator[Loop]:
    """The running event loop as a `Loop`; on leaving, spawned tasks are awaited, then the helpers end."""
    asyncio_backend = not in_trio()
    if asyncio_backend:
        tell_sniffio()
    loop: Loop | None = None
    try:
        async with anyio.create_task_group() as helpers:
            try:
                async with anyio.create_task_group() as tasks:
                    loop = AsyncioLoop(tasks) if asyncio_backend else _trio_loop(tasks, helpers)
                    yield loop
                    if loop._cancel_on_leaving:
                        tasks.cancel_scope.cancel()
            finally:
                if loop is not None:
                    loop._close()
                    loop._finish()
    finally:
        if loop is not None and loop._error is not None:
            error, loop._error = loop._error, None
            raise error
