"""Letting the event loop turn, where time does not help: nothing happens at another moment."""

from __future__ import annotations

from collections.abc import Callable

import anyio


async def turns(count: int = 30) -> None:
    """So many turns for all other tasks."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


async def until(condition: Callable[[], bool]) -> None:
    """Turns until `condition` holds."""
    for _ in range(5000):
        if condition():
            return
        await anyio.lowlevel.checkpoint()
    raise AssertionError("it did not happen")
