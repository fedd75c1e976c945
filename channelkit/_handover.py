"""Handing a connection on: from the process that accepted it to the one that has what its request asks for.

A session lives in one process, and the kernel gives a connection to any.  So a session's id begins with the name of its
process, and whoever gets a request for another's session hands it the whole connection, with the request unanswered.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from channelkit.tls import TLSInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """What the next process must know of a connection; it can be pickled."""

    listener: int  # by which of the listeners, in their order, it came: they are the same in both
    peer: Any  # (host, port), as a proxy may have told them, or None
    local: Any
    secure: bool
    tls: TLSInfo | None
    counted: bool  # as one of the connections from its address
    unsent: bytes  # answers to earlier requests, which the client has not taken yet
    unread: bytes  # the request to be answered, whole, and what came behind it


@dataclass(frozen=True, slots=True)
class Handover:
    """A connection between two processes.  Whoever has it must serve, send or close its socket."""

    sock: socket.socket
    introduction: Introduction


#: Among the extensions of an ASGI scope: a `Passage`, from our server to our application, through whatever is between.
EXTENSION = "channelkit.passage"


@dataclass(frozen=True, slots=True)
class Passage:
    """What an application under ASGI needs to hand on the connection of a request."""

    company: Company
    hand_over: Callable[[bytes], Handover | None]  # see `HttpExchange`; what is answered afterwards reaches nobody


class Member(Protocol):
    """Another process of the company."""

    async def take(self, release: Callable[[], Handover | None]) -> bool:
        """Hand it the connection that `release` gives up, once it has room; False if that gave none, or it is gone.

        Cancelled, nothing was released.
        """
        ...


class Company(Protocol):
    """The processes that accept connections together, as one of them knows them."""

    #: What the ids of this process's sessions begin with: letters and digits.
    name: str

    def member(self, name: str) -> Member | None:
        """The other process of that name, if it lives."""
        ...
