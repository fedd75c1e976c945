"""A network in memory: pairs of connected byte streams, slow, narrow, cut up and broken as a test asks.

A pair is two `_Line`s, one for each direction; a `MemoryStream` writes to one and reads from the other.  Time is the
loop's own, so under `clock.run` latency costs nothing.  There is no task anywhere: every piece of data knows when it is
due, and whoever reads waits for it.  Faults act at once and are plain calls, so any task may play the network.

Who waits is woken by a bell and then looks again; a wake-up carries nothing, so a cancelled task can lose nothing.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketAttribute

KIB = 1024
Chunks = Sequence[int] | Callable[[int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one direction of a connection is like.

    `chunks` says how reads are cut: sizes used in turn and then from the first again, or a function that gets how many
    bytes have arrived and returns how many of them the read may have.  A size is brought into 1..arrived.
    """

    capacity: int = 64 * KIB  # accepted and not yet read; a typical socket buffer
    latency: float = 0.0  # seconds from `send` to the other end
    chunks: Chunks | None = None

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {self.capacity}")
        if not self.latency >= 0 or math.isinf(self.latency):
            raise ValueError(f"latency must be seconds from 0, not {self.latency}")
        if self.chunks is not None and not callable(self.chunks) and not self.chunks:
            raise ValueError("chunks needs at least one size")


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """What went through one end of a pair so far, in bytes.

    `sent` was accepted from this end; of it `delivered` was read by the other end, `in_flight` may still be, and `lost`
    never will be.  `received` was read by this end, in `reads` pieces.
    """

    sent: int
    delivered: int
    in_flight: int
    lost: int
    received: int
    reads: int


def pair(
    *,
    capacity: int = 64 * KIB,
    latency: float = 0.0,
    chunks: Chunks | None = None,
    back: Line | None = None,
    address: tuple[str, int] | None = None,
) -> tuple[MemoryStream, MemoryStream]:
    """Two connected streams.

    The options are for both directions, unless `back` describes the one from the second stream to the first.
    `address` is what the first stream takes the second's for: where its peer is.
    """
    there = Line(capacity=capacity, latency=latency, chunks=chunks)
    outward, homeward = _Line(there), _Line(back or there)
    return MemoryStream(outward, homeward, address), MemoryStream(homeward, outward)


class MemoryStream(ByteStream):
    """One end of a pair, with anyio's meaning of every method, and the faults of the network between.

    One task may send while another receives; a second sender or receiver gets `anyio.BusyResourceError`.
    `stall`, `half_close` and the count of `cut` are about the direction this end sends in.
    """

    def __init__(self, outgoing: _Line, incoming: _Line, peer: tuple[str, int] | None = None) -> None:
        self._peer = peer
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed = False
        self._sending = anyio.ResourceGuard("sending to")
        self._receiving = anyio.ResourceGuard("receiving from")

    # -- the stream

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Where the peer is, if that was said."""
        peer = self._peer
        return {} if peer is None else {SocketAttribute.remote_address: lambda: peer}

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Wait for bytes and return up to `max_bytes` of what has arrived.  Cancelled, nothing is taken.

        Raises EndOfStream after the other end's last byte, BrokenResourceError once the connection is cut or reset, and
        ClosedResourceError if this end is or gets closed.
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        with self._receiving:
            await anyio.lowlevel.checkpoint()
            while not self._can_receive():
                await self._incoming.wait_for_reader()
            return self._incoming.take(max_bytes)  # nothing awaited from here on: taken is returned

    async def send(self, item: bytes) -> None:
        """Send all of `item`, waiting for room as it is read.  Cancelled, a prefix was sent: `statistics().sent` tells.

        Raises BrokenResourceError if the other end is closed or the connection broken, ClosedResourceError if this end
        is or gets closed, or has sent its end of file.
        """
        with self._sending:
            await anyio.lowlevel.checkpoint()
            rest = memoryview(item)
            self._check_sender()
            while len(rest) > 0:
                rest = rest[self._outgoing.put(rest) :]
                if len(rest) > 0:
                    await self._outgoing.wait_for_writer()
                    self._check_sender()

    async def send_eof(self) -> None:
        """Send the end of file behind everything sent so far.  Receiving goes on; a second call does nothing."""
        with self._sending:
            await anyio.lowlevel.checkpoint()
            if self._closed:
                raise anyio.ClosedResourceError
            self.half_close()

    async def aclose(self) -> None:
        """Close: what was sent still arrives, and then the end of file; what comes in is lost.

        Tasks that wait on this end get ClosedResourceError.  Cancelled, the stream is closed all the same.
        """
        self._close()
        await anyio.lowlevel.checkpoint()

    def statistics(self) -> StreamStatistics:
        """The counts so far."""
        there, back = self._outgoing, self._incoming
        return StreamStatistics(there.accepted, there.delivered, there.size, there.lost, back.delivered, back.reads)

    # -- the faults

    def cut(self, *, after: int = 0) -> None:
        """Break the connection: both ends get BrokenResourceError, what is on the way in either direction is lost.

        With `after` the break comes when the other end has read that many more bytes, those on the way included.
        """
        if after < 0:
            raise ValueError(f"after must be at least 0, not {after}")
        self._outgoing.cut_after(after, self._break)

    def reset(self) -> None:
        """Abort: this end is closed, the other gets BrokenResourceError, what is on the way either way is lost."""
        self._closed = True
        self._break()

    def stall(self) -> None:
        """Stop delivery.  Bytes and end of file are accepted, up to the capacity, and stay on the way."""
        self._outgoing.stalled = True

    def unstall(self) -> None:
        """Deliver again; what has become due meanwhile arrives at once."""
        self._outgoing.stalled = False
        self._outgoing.ring()

    def half_close(self) -> None:
        """The same as `send_eof`, as a plain call."""
        self._outgoing.finish()

    # -- the rest

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._outgoing.finish()
            self._incoming.abandon()

    def _break(self) -> None:
        self._outgoing.sever()
        self._incoming.sever()

    def _can_receive(self) -> bool:
        """Whether `take` has something to give; raises if it never will."""
        if self._closed:
            raise anyio.ClosedResourceError
        if self._incoming.broken:
            raise anyio.BrokenResourceError
        if self._incoming.arrived():
            return True
        if self._incoming.at_end():
            raise anyio.EndOfStream
        return False

    def _check_sender(self) -> None:
        if self._closed or self._outgoing.finished:
            raise anyio.ClosedResourceError
        if self._outgoing.broken or self._outgoing.abandoned:
            raise anyio.BrokenResourceError


class _Line:
    """One direction: pieces on the way, each with the time it is due, in order."""

    def __init__(self, options: Line) -> None:
        self._options = options
        self._sizes = _sizes(options.chunks)
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._bell: anyio.Event | None = None
        self._until_cut: int | None = None
        self._on_cut: Callable[[], None] = self.sever
        self._end_due = math.inf
        self.size = self.accepted = self.delivered = self.lost = self.reads = 0
        self.stalled = False
        self.finished = False  # by the writer
        self.abandoned = False  # by the reader
        self.broken = False

    # -- the writer's side

    def put(self, data: memoryview) -> int:
        """Accept what there is room for, and tell how much that was."""
        accepted = bytes(data[: self._options.capacity - self.size])
        if accepted:
            self._pieces.append((self._due(), accepted))
            self.size += len(accepted)
            self.accepted += len(accepted)
            self.ring()
        return len(accepted)

    async def wait_for_writer(self) -> None:
        """Wait until there may be room, or news."""
        await self._listen(math.inf)

    def finish(self) -> None:
        """Put the end of file behind everything."""
        if not self.finished:
            self.finished = True
            self._end_due = self._due()
            self.ring()

    # -- the reader's side

    def arrived(self) -> int:
        """How many bytes a read could have now, before they are cut up."""
        if self.stalled:
            return 0
        now = anyio.current_time()
        return sum(len(piece[1]) for piece in itertools.takewhile(lambda piece: piece[0] <= now, self._pieces))

    def at_end(self) -> bool:
        """Whether the end of file has arrived."""
        return not self.stalled and not self._pieces and self._end_due <= anyio.current_time()

    async def wait_for_reader(self) -> None:
        """Wait until something may have arrived, or for news."""
        due = self._pieces[0][0] if self._pieces else self._end_due
        await self._listen(math.inf if self.stalled else due)

    def take(self, max_bytes: int) -> bytes:
        """Take one read's worth of what has arrived, which must be something."""
        data = self._pop(min(self._read_size(self.arrived()), max_bytes))
        self.delivered += len(data)
        self.reads += 1
        self._approach_cut(len(data))
        self.ring()
        return data

    def abandon(self) -> None:
        """The reader is gone: what is on the way is lost, and writing makes no sense any more."""
        self.abandoned = True
        self._lose()

    # -- the faults

    def cut_after(self, count: int, on_cut: Callable[[], None]) -> None:
        """Call `on_cut` when `count` more bytes have been taken."""
        self._until_cut = count
        self._on_cut = on_cut
        self._approach_cut(0)

    def sever(self) -> None:
        """The connection is broken: what is on the way is lost."""
        self.broken = True
        self._lose()

    def ring(self) -> None:
        """Wake everyone who waits: something has changed."""
        if self._bell is not None:
            self._bell.set()
            self._bell = None

    # -- the rest

    def _due(self) -> float:
        return anyio.current_time() + self._options.latency

    async def _listen(self, deadline: float) -> None:
        bell = self._bell = self._bell or anyio.Event()
        with anyio.CancelScope(deadline=deadline):
            await bell.wait()

    def _read_size(self, arrived: int) -> int:
        size = arrived if self._sizes is None else max(1, min(self._sizes(arrived), arrived))
        return size if self._until_cut is None else min(size, self._until_cut)

    def _pop(self, size: int) -> bytes:
        taken = bytearray()
        while len(taken) < size:
            due, data = self._pieces.popleft()
            wanted = size - len(taken)
            taken += data[:wanted]
            if len(data) > wanted:
                self._pieces.appendleft((due, data[wanted:]))
        self.size -= size
        return bytes(taken)

    def _approach_cut(self, taken: int) -> None:
        if self._until_cut is not None:
            self._until_cut -= taken
            if self._until_cut == 0:
                self._on_cut()

    def _lose(self) -> None:
        self.lost += self.size
        self.size = 0
        self._pieces.clear()
        self.ring()


def _sizes(chunks: Chunks | None) -> Callable[[int], int] | None:
    if chunks is None or callable(chunks):
        return chunks
    sizes: Iterator[int] = itertools.cycle(chunks)
    return lambda arrived: next(sizes)
