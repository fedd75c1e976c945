"""A place where one task waits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable


class Parking(ABC):
    """A place where one task at a time waits; being woken says nothing but "look again"."""

    __slots__ = ()

    @property
    @abstractmethod
    def waiting(self) -> bool:
        """Whether a task is parked here and not yet woken."""

    @abstractmethod
    def park(self) -> Awaitable[None]:
        """Wait, when awaited at once, until woken.  Cancellable; then nothing has happened."""

    @abstractmethod
    def wake(self) -> None:
        """Wake the task that is parked here, if any."""
