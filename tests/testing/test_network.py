"""The network in memory: what anyio says a byte stream does, and each fault doing what it says."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import hypothesis
import pytest
from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream
from hypothesis import strategies as st

from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.network import Line, MemoryStream, StreamStatistics, pair

Test = Callable[[], Awaitable[None]]


def virtual(test: Test) -> Callable[[Backend], None]:
    """Make an async test one that runs on each loop under virtual time."""

    def run(backend: Backend) -> None:
        clock.run(test, backend=backend, max_ticks=20_000)

    run.__doc__, run.__name__ = test.__doc__, test.__name__
    return pytest.mark.parametrize("backend", BACKENDS)(run)


async def receive_all(stream: anyio.abc.ByteReceiveStream) -> bytes:
    return b"".join([data async for data in stream])


@asynccontextmanager
async def expect(error: type[Exception], operation: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Start `operation`, let it wait, run the block, and demand that the operation then raises `error`."""

    async def fails() -> None:
        with pytest.raises(error):
            await operation()

    with anyio.fail_after(1):
        async with anyio.create_task_group() as tg:
            tg.start_soon(fails)
            await settle()
            yield


async def settle() -> None:
    """Let every other task run until it waits."""
    await anyio.sleep(1e-6)


# -- anyio's meaning of a byte stream


@virtual
async def test_bytes_arrive_in_order_both_ways() -> None:
    """What one end sends the other receives, in both directions at once."""
    one, two = pair()
    await one.send(b"hello ")
    await one.send(b"two")
    await two.send(b"hello one")
    assert await two.receive() == b"hello two"
    assert await one.receive() == b"hello one"


@virtual
async def test_receive_takes_at_most_what_was_asked() -> None:
    """`max_bytes` cuts a read, and the rest stays for the next."""
    one, two = pair()
    await one.send(b"abcdef")
    assert [await two.receive(4), await two.receive(4)] == [b"abcd", b"ef"]
    with pytest.raises(ValueError, match="max_bytes"):
        await two.receive(0)


@virtual
async def test_sending_nothing_is_nothing() -> None:
    """An empty send arrives as no read at all."""
    one, two = pair()
    await one.send(b"")
    await one.send(b"x")
    assert await two.receive() == b"x"


@virtual
async def test_close_delivers_everything_then_ends() -> None:
    """After `aclose` the other end reads what was sent and then EndOfStream, again and again."""
    one, two = pair()
    await one.send(b"last words")
    await one.aclose()
    assert await two.receive() == b"last words"
    for _ in range(2):
        with pytest.raises(EndOfStream):
            await two.receive()


@virtual
async def test_a_closed_end_refuses_everything() -> None:
    """Every operation on a stream that was closed here raises ClosedResourceError, and closing again is harmless."""
    one, _two = pair()
    await one.aclose()
    await one.aclose()
    for operation in (functools.partial(one.send, b"x"), one.receive, one.send_eof):
        with pytest.raises(ClosedResourceError):
            await operation()


@virtual
async def test_sending_to_a_closed_end_is_broken() -> None:
    """A send raises BrokenResourceError once the other end is closed."""
    one, two = pair()
    await one.send(b"never read")
    await two.aclose()
    with pytest.raises(BrokenResourceError):
        await one.send(b"x")
    assert one.statistics() == StreamStatistics(sent=10, delivered=0, in_flight=0, lost=10, received=0, reads=0)


@virtual
async def test_close_wakes_who_waits_here() -> None:
    """Tasks waiting in `receive` and `send` get ClosedResourceError when their end is closed."""
    one, two = pair(capacity=1)
    async with expect(ClosedResourceError, one.receive), expect(ClosedResourceError, lambda: one.send(b"xyz")):
        await one.aclose()
    assert await two.receive() == b"x"


@virtual
async def test_close_wakes_who_waits_there() -> None:
    """A waiting receiver gets EndOfStream, a waiting sender BrokenResourceError, when the other end is closed."""
    one, two = pair(capacity=1)
    async with expect(EndOfStream, one.receive), expect(BrokenResourceError, lambda: one.send(b"xyz")):
        await two.aclose()


@virtual
async def test_close_is_done_even_when_cancelled() -> None:
    """A cancelled `aclose` has closed the stream."""
    one, two = pair()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await one.aclose()
    assert scope.cancelled_caught
    with pytest.raises(EndOfStream):
        await two.receive()


@virtual
async def test_half_close_ends_one_direction_only() -> None:
    """After `send_eof` the other end reads to the end and can still answer; a second call does nothing."""
    one, two = pair()
    await one.send(b"question")
    await one.send_eof()
    await one.send_eof()
    assert await receive_all(two) == b"question"
    await two.send(b"answer")
    assert await one.receive() == b"answer"
    with pytest.raises(ClosedResourceError):
        await one.send(b"more")


@virtual
async def test_one_receiver_and_one_sender_at_a_time() -> None:
    """A second task in `receive` or `send` gets BusyResourceError; the first is not disturbed."""
    one, two = pair(capacity=1)
    async with expect(EndOfStream, one.receive), expect(BrokenResourceError, lambda: one.send(b"xyz")):
        for operation in (one.receive, functools.partial(one.send, b"x"), one.send_eof):
            with pytest.raises(BusyResourceError):
                await operation()
        await two.aclose()


@virtual
async def test_every_operation_is_a_checkpoint() -> None:
    """In a cancelled scope nothing is received or sent, even if it could be done at once."""
    one, two = pair()
    await one.send(b"stays")
    for operation in (two.receive, functools.partial(one.send, b"x"), one.send_eof):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await operation()
        assert scope.cancelled_caught
    await one.aclose()
    assert await receive_all(two) == b"stays"


# -- capacity, latency, chunks


@virtual
async def test_a_full_line_blocks_the_sender() -> None:
    """`send` accepts up to the capacity, waits, and goes on as the other end reads."""
    one, two = pair(capacity=10)
    async with anyio.create_task_group() as tg:
        tg.start_soon(one.send, b"0123456789abcde")
        await settle()
        assert one.statistics().in_flight == 10
        assert await two.receive(3) == b"012"
        await settle()
        assert one.statistics().sent == 13
        assert await two.receive() == b"3456789abc"
        assert await two.receive() == b"de"


@virtual
async def test_a_cancelled_send_leaves_the_prefix_it_tells() -> None:
    """What a cancelled `send` had sent is a prefix, as long as the statistics say."""
    one, two = pair(capacity=4)
    with anyio.move_on_after(1):
        await one.send(b"abcdefgh")
    assert one.statistics().sent == 4
    await one.aclose()
    assert await receive_all(two) == b"abcd"


@virtual
async def test_a_cancelled_receive_loses_nothing() -> None:
    """A `receive` cancelled while it waits leaves what comes to the next one."""
    one, two = pair(latency=1)
    await one.send(b"slow")
    with anyio.move_on_after(0.5) as scope:
        await two.receive()
    assert scope.cancelled_caught
    assert await two.receive() == b"slow"


@virtual
async def test_a_receive_cancelled_as_data_comes_loses_nothing() -> None:
    """Whichever wins, data sent in the turn of a cancellation is received once: by the cancelled task or the next."""
    one, two = pair()
    got: list[bytes] = []

    async def receive(scope: anyio.CancelScope) -> None:
        with scope:
            got.append(await two.receive())

    for n in range(20):
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tg:
            tg.start_soon(receive, scope)
            await settle()
            await one.send(bytes([n]))
            scope.cancel()
    await one.aclose()
    assert b"".join(got) + await receive_all(two) == bytes(range(20))


@virtual
async def test_latency_delays_and_does_not_add_up() -> None:
    """Each piece, and the end, arrives its latency after it was sent, however many are on the way."""
    one, two = pair(latency=2)
    await one.send(b"a")
    await anyio.sleep(1)
    await one.send(b"b")
    await one.send_eof()
    assert (await two.receive(), anyio.current_time()) == (b"a", 2)
    assert (await two.receive(), anyio.current_time()) == (b"b", 3)
    with pytest.raises(EndOfStream):
        await two.receive()
    assert anyio.current_time() == 3


@virtual
async def test_the_end_has_latency_too() -> None:
    """An end of file with nothing before it is seen its latency later."""
    one, two = pair(latency=2)
    await one.aclose()
    with pytest.raises(EndOfStream):
        await two.receive()
    assert anyio.current_time() == 2


@virtual
async def test_each_direction_has_its_own_line() -> None:
    """`back` describes the direction from the second stream to the first."""
    one, two = pair(latency=1, back=Line(capacity=2, latency=3))
    await one.send(b"there")
    assert (await two.receive(), anyio.current_time()) == (b"there", 1)
    with anyio.move_on_after(1):
        await two.send(b"back")
    assert two.statistics().sent == 2
    assert (await one.receive(), anyio.current_time()) == (b"ba", 4)


@virtual
async def test_chunks_cut_reads_by_sizes_in_turn() -> None:
    """A list of sizes is used in turn and then from its start again, whatever was sent together."""
    one, two = pair(chunks=[1, 3])
    await one.send(b"abcd")
    await one.send(b"efghij")
    await one.aclose()
    assert [data async for data in two] == [b"a", b"bcd", b"e", b"fgh", b"i", b"j"]
    assert two.statistics().reads == 6


@virtual
async def test_chunks_cut_reads_by_function() -> None:
    """A function of the number of arrived bytes cuts reads, and its answer is brought into what is possible."""
    arrived: list[int] = []

    def half(size: int) -> int:
        arrived.append(size)
        return size // 2

    one, two = pair(chunks=half)
    await one.send(b"abcde")
    await one.aclose()
    assert [data async for data in two] == [b"ab", b"c", b"d", b"e"]
    assert arrived == [5, 3, 2, 1]


@pytest.mark.parametrize("bad", [{"capacity": 0}, {"latency": -1.0}, {"latency": float("nan")}, {"chunks": []}])
def test_impossible_lines_are_refused(bad: dict[str, float]) -> None:
    """A line that could carry nothing is a ValueError, not a hang."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        Line(**bad)  # type: ignore[arg-type]


# -- faults


@virtual
async def test_cut_breaks_both_ends_and_loses_what_is_on_the_way() -> None:
    """After `cut` both ends get BrokenResourceError on everything, and bytes not yet read are gone."""
    one, two = pair()
    await one.send(b"lost")
    one.cut()
    for stream in (one, two):
        with pytest.raises(BrokenResourceError):
            await stream.receive()
        with pytest.raises(BrokenResourceError):
            await stream.send(b"x")
    assert one.statistics().lost == 4


@virtual
async def test_cut_wakes_all_who_wait() -> None:
    """Senders and receivers that wait on either end are told of a cut at once."""
    one, two = pair(capacity=1)
    async with expect(BrokenResourceError, lambda: one.send(b"xyz")), expect(BrokenResourceError, one.receive):
        two.cut()


@virtual
async def test_cut_after_delivers_exactly_that_many_bytes() -> None:
    """`cut(after=n)` lets the other end read n more bytes, those on the way included, and then breaks."""
    one, two = pair()
    await one.send(b"abc")
    one.cut(after=5)
    await one.send(b"defg")
    assert await two.receive() == b"abcde"
    with pytest.raises(BrokenResourceError):
        await two.receive()
    with pytest.raises(BrokenResourceError):
        await one.receive()
    assert one.statistics() == StreamStatistics(sent=7, delivered=5, in_flight=0, lost=2, received=0, reads=0)
    with pytest.raises(ValueError, match="after"):
        one.cut(after=-1)


@virtual
async def test_cut_after_counts_one_direction() -> None:
    """Bytes the other way do not bring a counted cut nearer."""
    one, two = pair()
    one.cut(after=1)
    await two.send(b"many bytes")
    assert await one.receive() == b"many bytes"
    await one.send(b"x")
    assert await two.receive() == b"x"
    with pytest.raises(BrokenResourceError):
        await two.send(b"y")


@virtual
async def test_reset_closes_here_and_breaks_there() -> None:
    """`reset` is an abort: ClosedResourceError here, BrokenResourceError there, nothing on the way arrives."""
    one, two = pair()
    await one.send(b"lost")
    async with expect(ClosedResourceError, one.receive):
        one.reset()
    with pytest.raises(BrokenResourceError):
        await two.receive()
    with pytest.raises(BrokenResourceError):
        await two.send(b"x")


@virtual
async def test_a_stalled_line_accepts_and_delivers_nothing() -> None:
    """While stalled, bytes and the end of file are accepted up to the capacity and not delivered; then all arrives."""
    one, two = pair(capacity=4)
    one.stall()
    with anyio.move_on_after(10):
        await one.send(b"abcdef")
    await one.send_eof()
    with anyio.move_on_after(10) as scope:
        await two.receive()
    assert scope.cancelled_caught
    assert one.statistics().in_flight == 4
    one.unstall()
    assert await receive_all(two) == b"abcd"


@virtual
async def test_unstall_wakes_the_receiver() -> None:
    """A receiver that waits on a stalled line gets the data when the stall ends."""
    one, two = pair()
    one.stall()
    await one.send(b"late")
    async with anyio.create_task_group() as tg:
        tg.start_soon(_demand, two, b"late")
        await anyio.sleep(3)
        one.unstall()


async def _demand(stream: MemoryStream, expected: bytes) -> None:
    assert await stream.receive() == expected
    assert anyio.current_time() == 3


@virtual
async def test_a_stall_stops_one_direction() -> None:
    """The other direction of a stalled line works."""
    one, two = pair()
    one.stall()
    await two.send(b"still here")
    assert await one.receive() == b"still here"


# -- in general

_lines = st.builds(
    Line,
    capacity=st.integers(1, 40),
    latency=st.sampled_from([0.0, 0.1, 7.0]),
    chunks=st.none() | st.lists(st.integers(0, 30), min_size=1, max_size=4),
)


@pytest.mark.parametrize("backend", BACKENDS)
@hypothesis.given(
    line=_lines, back=_lines, there=st.lists(st.binary(max_size=60)), home=st.lists(st.binary(max_size=60))
)
def test_any_line_carries_everything_in_order(
    backend: Backend, line: Line, back: Line, there: list[bytes], home: list[bytes]
) -> None:
    """Whatever the lines are like, both directions carry every byte in order, within capacity, and then end."""

    async def send(stream: MemoryStream, pieces: list[bytes], capacity: int) -> None:
        for piece in pieces:
            await stream.send(piece)
            assert stream.statistics().in_flight <= capacity
        await stream.send_eof()

    async def check(stream: MemoryStream, pieces: list[bytes]) -> None:
        assert await receive_all(stream) == b"".join(pieces)

    async def main() -> None:
        one, two = pair(capacity=line.capacity, latency=line.latency, chunks=line.chunks, back=back)
        async with anyio.create_task_group() as tg:
            tg.start_soon(send, one, there, line.capacity)
            tg.start_soon(send, two, home, back.capacity)
            tg.start_soon(check, one, home)
            tg.start_soon(check, two, there)
        sent = one.statistics()
        assert (sent.sent, sent.in_flight, sent.lost) == (sent.delivered, 0, 0)

    clock.run(main, backend=backend, max_ticks=100_000)


@pytest.mark.parametrize("backend", BACKENDS)
@hypothesis.given(
    line=_lines, pieces=st.lists(st.binary(min_size=1, max_size=60), min_size=1), after=st.integers(0, 200)
)
def test_any_counted_cut_is_exact(backend: Backend, line: Line, pieces: list[bytes], after: int) -> None:
    """However reads are cut up, a counted cut lets through exactly that many bytes, or all and then the end."""

    async def send(stream: MemoryStream) -> None:
        try:
            for piece in pieces:
                await stream.send(piece)
            await stream.send_eof()
        except BrokenResourceError:
            pass

    async def main() -> None:
        one, two = pair(capacity=line.capacity, latency=line.latency, chunks=line.chunks)
        one.cut(after=after)
        got = b""
        async with anyio.create_task_group() as tg:
            tg.start_soon(send, one)
            with pytest.raises((BrokenResourceError, EndOfStream)) as end:
                while True:
                    got += await two.receive()
        whole = b"".join(pieces)
        assert got == whole[:after]
        assert (end.type is EndOfStream) == (len(whole) < after)

    clock.run(main, backend=backend, max_ticks=100_000)
