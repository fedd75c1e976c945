"""How a binding does what its machine says: in order, one action after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Action = TypeVar("Action")


class Doing(Generic[Action]):
    """Actions that doing one brings about, through the machine again, come behind those that were there."""

    __slots__ = ("_act", "_todo", "busy")

    def __init__(self, act: Callable[[Action], None]) -> None:
        self._act = act
        self._todo: list[Action] = []
        self.busy = False

    def __call__(self, actions: Iterable[Action]) -> bool:
        """Do them.  False if a call further up is at it, and will do these too."""
        self._todo.extend(actions)
        if self.busy:
            return False
        self.busy = True
        done = 0
        try:
            while done < len(self._todo):
                done += 1
                self._act(self._todo[done - 1])
        finally:
            del self._todo[:done]
            self.busy = False
        return True
