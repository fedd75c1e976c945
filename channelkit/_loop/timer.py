"""One call at one time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channelkit._loop.base import Loop


class Timer:
    """One call at one time; `cancel` is cheap and may come late."""

    __slots__ = ("_args", "_function", "_loop")

    def __init__(self, loop: Loop, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._loop: Loop | None = loop
        self._function: Callable[..., Any] | None = function
        self._args = args

    @property
    def active(self) -> bool:
        return self._loop is not None

    def cancel(self) -> None:
        """The call will not be made; nothing happens if it was."""
        loop, self._loop = self._loop, None
        self._function = None
        self._args = ()
        if loop is not None:
            loop._timer_cancelled()

    def _fire(self) -> None:
        loop, function, args = self._loop, self._function, self._args
        self._loop = self._function = None
        if loop is not None:
            loop.timers -= 1
        if function is not None:
            function(*args)
