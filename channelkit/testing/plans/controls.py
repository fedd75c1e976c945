"""Cancelling an operation at a given turn, and letting turns go by."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.lowlevel

from channelkit.testing import clock
from channelkit.testing.plans.plan import Pause


class Controls:
    """How to cancel one operation, from outside its task."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.cancelled = False
        self.over = False
        self._task: asyncio.Task[Any] | None = None
        self._native = False

    def begin(self, backend: clock.Backend) -> None:
        self._task = asyncio.current_task() if backend == "asyncio" else None

    def cancel(self, native: bool) -> None:
        if self.over:
            return
        self.cancelled = True
        if native and self._task is not None:
            self._native = True
            self._task.cancel()
        else:
            self.scope.cancel()

    def absorb(self) -> None:
        """The cancellation was ours and has been seen: the task's group must not hear of it."""
        if self._native and self._task is not None:
            self._task.uncancel()


async def ticks(count: int) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


async def pause(step: Pause) -> None:
    await ticks(step.ticks)
    if step.seconds:
        await anyio.sleep(step.seconds)
