"""Running many short coroutines: in one task, one after another, as long as they do not wait."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channelkit._loop.base import Loop

Function = Callable[..., Coroutine[Any, Any, Any]]

_numbers = itertools.count()


def _never_the_same(_: object) -> int:
    return next(_numbers)


#: Where references are not counted, something may always have been kept: there no task is used twice.
getrefcount: Callable[[Any], int] = getattr(sys, "getrefcount", _never_the_same)


class Runner:
    """Starts coroutines, and spares most of them a task of their own.

    A handler mostly has its answer without waiting for anything, and a task costs more than all else that is done for
    such a request.  So one task steps one coroutine after another, each in its own context.  The first that waits
    keeps the task, to its end: from its first step on it has one current task, and its cancel scopes are in place.
    What stands behind it gets another.  So it does behind one that left a trace on the task: a handler that asked for
    its current task and kept it, to cancel it later or as the key of something, had it for itself.
    """

    __slots__ = ("_at_work", "_loop", "_parking", "_queue", "_spawn")

    def __init__(self, loop: Loop, spawn: Callable[[Function], object]) -> None:
        self._loop = loop
        self._spawn = spawn
        self._queue: deque[tuple[Context, Function, tuple[Any, ...]]] = deque()
        self._parking = loop.parking()
        self._at_work = False  # a task looks after the queue

    def start(self, context: Context, function: Function, *args: Any) -> None:
        """Run `function(*args)` in `context` soon; what does not wait runs in the order of the calls."""
        self._queue.append((context, function, args))
        if len(self._queue) == 1:  # else somebody comes already
            self._look_after_it()

    def start_own(self, context: Context, function: Function, *args: Any) -> None:
        """The same in a task of its own, at once.  Of those that wait, one task after another would begin one in each
        turn of the loop only."""
        context.run(self._spawn, partial(function, *args))

    def _look_after_it(self) -> None:
        if self._at_work:
            self._parking.wake()
        else:
            self._at_work = True
            self._spawn(self._work)

    async def _work(self) -> None:
        """The life of one task.  However it ends, what it leaves in the queue is another's."""
        try:
            rest = await self._run_short_ones()
        finally:
            self._at_work = False
            if self._queue:
                self._look_after_it()
        if rest is not None:
            await rest

    async def _run_short_ones(self) -> Awaitable[None] | None:
        """Until one waits: what is left of it.  None if one left a trace on the task, which is its own then."""
        queue, traces = self._queue, self._loop.traces()
        while True:
            before = traces()
            while queue:
                context, function, args = queue.popleft()
                one = function(*args)
                try:
                    wanted = context.run(one.send, None)
                except StopIteration:
                    if traces() != before:
                        return None
                else:
                    return _rest(context, one, wanted)
            await self._parking.park()


@coroutine
def _rest(context: Context, one: Coroutine[Any, Any, Any], wanted: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that has yielded `wanted` to its event loop.

    It lives as long as a WebSocket's handler waits, so it keeps nothing that it can make again.
    """
    try:
        while True:
            try:
                value = yield wanted
            except BaseException as error:
                wanted = context.run(one.throw, error)
            else:
                wanted = context.run(one.send, value)
    except StopIteration:
        return
