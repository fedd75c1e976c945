"""Which backend runs, and tasks outside every task group."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from typing import Any

#: asyncio keeps only weak references to tasks.
_detached: set[asyncio.Task[None]] = set()


def in_trio() -> bool:
    """Whether the caller is in a task of trio, which then is installed and imported."""
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_task()


def detach(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main()` as a task outside every task group, in a context of its own.

    For a host that calls us and gives no place where a task may live longer than the call.  The task ends with the
    event loop at the latest: both backends cancel it then.  `main` must see to its own errors.
    """
    if in_trio():
        import trio

        trio.lowlevel.spawn_system_task(main)
        return
    task = asyncio.get_running_loop().create_task(main(), context=contextvars.Context())
    _detached.add(task)
    task.add_done_callback(_detached.discard)
