"""The other workers, as one of them knows them: each has a mailbox, and everybody has a way to put something in.

A mailbox is a pair of sockets (SOCK_SEQPACKET, which keeps messages whole, from any number of senders).  The supervisor
makes it and leaves each new worker the ways to all that live; the new one then puts the way to its own into theirs.
What comes afterwards are connections (`_handover`): a message with the socket itself beside it.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio

from channelkit._handover import Handover, Introduction
from channelkit._lifecycle import logger

if TYPE_CHECKING:
    from channelkit.server.run import Server

INLINE = 32 * 1024  # bytes of a message; what is larger lies in a file beside it: the kernel takes some 200 kB
READS_PER_TURN = 64
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Neighbour:
    """Another worker: the end of its mailbox where one puts things in."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._turn = anyio.Lock()

    @property
    def gone(self) -> bool:
        """Whether it lives no more."""
        return bool(self._poll() & _GONE)

    async def take(self, release: Callable[[], Handover | None]) -> bool:
        """See `Member`."""
        async with self._turn:
            while not self._poll():
                await anyio.wait_writable(self._sock)
            if self.gone or (handover := release()) is None:
                return False
            try:
                await self._send(handover)
            except OSError as error:
                logger.warning("a connection could not be handed to another worker, and is cut: %s", error)
            finally:
                handover.sock.close()
            return True

    async def _send(self, handover: Handover) -> None:
        while True:
            try:
                post(self._sock, handover.introduction, handover.sock.fileno())
                return
            except BlockingIOError:  # somebody else was quicker
                await anyio.wait_writable(self._sock)

    def tell(self, what: Any, descriptor: int, patience: float) -> None:
        """The same for a message, in a process without a loop.  Raises OSError, TimeoutError if there is no room."""
        if not self._poll(patience):
            raise TimeoutError("its mailbox is full")
        post(self._sock, what, descriptor)

    def close(self) -> None:
        self._sock.close()

    def _poll(self, patience: float = 0.0) -> int:
        """What may be done with it, as poll(2) says; 0: it is full."""
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        return next((events for _, events in poll.poll(patience * 1000)), 0)


class Neighbours:
    """The company of one worker, as `_handover.Company`."""

    def __init__(self, name: str, mailbox: int, way_in: int, others: Mapping[str, int]) -> None:
        """The descriptors become its own: where its mail comes out, where others put it in, and those of the others."""
        self.name = name
        self._mailbox = socket.socket(fileno=mailbox)
        self._way_in = socket.socket(fileno=way_in)
        self._others = {other: Neighbour(socket.socket(fileno=number)) for other, number in others.items()}
        self._server: Server | None = None

    def introduce(self, patience: float) -> None:
        """Give all others the way to this one's mailbox; before it has anything that they may be asked for."""
        for name, other in self._others.items():
            try:
                other.tell(self.name, self._way_in.fileno(), patience)
            except OSError as error:
                if not other.gone:
                    logger.warning("worker %s does not learn of a new one, and cannot send it clients: %s", name, error)

    def started(self, server: Server) -> None:
        """From now on what comes is for this server; called on its loop."""
        assert server._core is not None
        assert server._loop is not None
        self._server = server
        server._core.company = self
        server._loop.watch(self._mailbox.fileno(), self.read)

    def close(self) -> None:
        """When the server has ended.  Connections that are still in the mailbox are cut."""
        self._mailbox.close()
        self._way_in.close()
        for other in self._others.values():
            other.close()

    def member(self, name: str) -> Neighbour | None:
        """See `Company`."""
        if name not in self._others:
            self.read()  # its introduction may be on the way
        return self._others.get(name)

    def read(self) -> None:
        """Take in what lies in the mailbox."""
        for _ in range(READS_PER_TURN):
            try:
                what, descriptor = collect(self._mailbox)
            except BlockingIOError:
                return
            except OSError as error:
                logger.error("what another worker has sent cannot be taken, and is lost: %s", error)
                continue
            self._take(what, descriptor)

    def _take(self, what: Any, descriptor: int) -> None:
        sock = socket.socket(fileno=descriptor)
        if isinstance(what, Introduction):
            assert self._server is not None
            self._server._serve_handed_over(Handover(sock, what))
        else:
            for name in [name for name, other in self._others.items() if other.gone]:
                self._others.pop(name).close()
            self._others[what] = Neighbour(sock)


def mailbox() -> tuple[socket.socket, socket.socket]:
    """The two ends of a new one: where mail comes out, and where it is put in.  Neither ever blocks."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def clear(sock: socket.socket) -> None:
    """Take out what its owner has not: whatever was sent there is closed."""
    while True:
        try:
            _, descriptor = collect(sock)
        except (BlockingIOError, EOFError):
            return
        except OSError:
            continue
        os.close(descriptor)


def post(sock: socket.socket, what: Any, descriptor: int) -> None:
    """Put a message and a descriptor into a mailbox.  Raises BlockingIOError if it is full, OSError if it is gone."""
    data = pickle.dumps(what)
    if len(data) <= INLINE:
        socket.send_fds(sock, [data], [descriptor])
        return
    file = os.memfd_create("channelkit-handover", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as writer:
            writer.write(data)
        socket.send_fds(sock, [b"."], [descriptor, file])
    finally:
        os.close(file)


def collect(sock: socket.socket) -> tuple[Any, int]:
    """The next message of a mailbox, and its descriptor.  Raises BlockingIOError if there is none, EOFError if none
    will come, OSError if the descriptor was lost.

    The processes that can write there are those that the supervisor has started: what they pickle may be read.
    """
    data, descriptors, flags, _ = socket.recv_fds(sock, INLINE, 2, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise EOFError
    if flags & socket.MSG_CTRUNC:
        for one in descriptors:
            os.close(one)
        raise OSError("there are too many open files")
    if len(descriptors) == 2:
        with open(descriptors.pop(), "rb") as file:
            file.seek(0)
            data = file.read()
    return pickle.loads(data), descriptors[0]
