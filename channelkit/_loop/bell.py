"""Waking a task from where nothing else may be done: the handler of a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio

from channelkit._loop.detached import in_trio


class Bell:
    """For one task of the event loop that runs now; it may be rung by anybody, at any moment, also too late."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._soon: Callable[[Callable[[], None]], Any]
        if in_trio():
            import trio

            self._soon = trio.lowlevel.current_trio_token().run_sync_soon
        else:
            self._soon = asyncio.get_running_loop().call_soon_threadsafe

    def ring(self) -> None:
        """Wake the task that waits, or the next that does.  Never waits."""
        try:
            self._soon(self._rung)
        except RuntimeError:
            pass  # the event loop has ended (trio.RunFinishedError is one too)

    def _rung(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Until it has been rung since the last time."""
        await self._event.wait()
        self._event = anyio.Event()
