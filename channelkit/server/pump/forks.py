"""What a process that a handler forks off (multiprocessing) keeps of the server: nothing.

It inherits every descriptor.  As long as it lived, the port would be open though nobody accepts, and connections that
are cut would go on for their clients.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol
from weakref import WeakSet


class Owner(Protocol):
    """Who has descriptors."""

    def descriptors(self) -> Iterable[int]:
        """Those that are this process's alone."""
        ...


_owners: WeakSet[Owner] = WeakSet()


def keep_from_forks(owner: Owner) -> None:
    """For as long as there is an `owner`."""
    _owners.add(owner)


def _let_go() -> None:
    """In the new process: put nothing where they are; whoever closes them by number later closes that."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for owner in tuple(_owners):
        for fd in owner.descriptors():
            os.dup2(nothing, fd, inheritable=False)
    os.close(nothing)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_let_go)
