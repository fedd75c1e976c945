"""Virtual time: it jumps, it waits for what is real, and it ends what would hang."""

from __future__ import annotations

import asyncio
import math
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio.testing

from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend, NothingLeftToDo, TickBudgetExceeded

on_both = pytest.mark.parametrize("backend", BACKENDS)


@on_both
@pytest.mark.parametrize("days", [1, 2, 1000])
def test_long_times_pass_at_once(backend: Backend, days: int) -> None:
    """A long sleep ends at its time, and no real time passes."""

    async def sleep() -> float:
        await anyio.sleep(days * 86400)
        return anyio.current_time()

    before = time.monotonic()
    assert clock.run(sleep, backend=backend) == pytest.approx(days * 86400, rel=1e-15)
    assert time.monotonic() - before < 10


@on_both
def test_no_timer_comes_too_early(backend: Backend) -> None:
    """Whoever looks at the clock when its timer fires finds it due: or it would set it again, and time stand still."""

    async def sleep(at: float) -> None:
        await anyio.sleep(at)
        assert anyio.current_time() >= at

    async def sleepers(step: int) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sleep, step * 0.037)
            tasks.start_soon(sleep, 5 + step / 7)  # the clock adds the rest to the former, and may round down

    for step in range(1, 60):
        clock.run(sleepers, step, backend=backend)


def test_no_timer_comes_too_early_in_a_busy_loop() -> None:
    """asyncio runs it a nanosecond early, also where others keep the loop awake, and the clock has no jump to make."""

    async def busy() -> None:
        done = anyio.Event()

        async def sleep() -> None:
            at = anyio.current_time() + 1e-12
            while anyio.current_time() < at:  # a timer that is set again
                await anyio.sleep(at - anyio.current_time())
            done.set()

        async with anyio.create_task_group() as tasks:
            await anyio.sleep(1)  # a float is so fine then that asyncio's nanosecond is many of them
            tasks.start_soon(sleep)
            while not done.is_set():
                await anyio.lowlevel.checkpoint()

    clock.run(busy, max_ticks=1000)


@on_both
def test_arguments_and_result_pass_through(backend: Backend) -> None:
    """`run` gives the function its arguments and returns what it returns."""

    async def add(a: int, b: int) -> int:
        return a + b

    assert clock.run(add, 1, 2, backend=backend) == 3


@on_both
def test_an_exception_passes_through(backend: Backend) -> None:
    """What the function raises leaves `run` unchanged."""

    async def fail() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        clock.run(fail, backend=backend)


@on_both
def test_timers_fire_in_order(backend: Backend) -> None:
    """Sleeps of different length end in the order of their times, each at its time."""
    log: list[tuple[float, str]] = []

    async def sleeper(name: str, delay: float) -> None:
        await anyio.sleep(delay)
        log.append((anyio.current_time(), name))

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            for name, delay in [("c", 3.0), ("a", 0.25), ("b", 1e6), ("d", 3.5)]:
                tg.start_soon(sleeper, name, delay)

    clock.run(main, backend=backend)
    assert log == [(0.25, "a"), (3.0, "c"), (3.5, "d"), (1e6, "b")]


@on_both
def test_timeouts_run_on_virtual_time(backend: Backend) -> None:
    """A timeout around something that never comes ends it at the deadline."""

    async def main() -> float:
        with anyio.move_on_after(5):
            await anyio.sleep_forever()
        return anyio.current_time()

    assert clock.run(main, backend=backend) == 5


@on_both
def test_time_stands_still_while_a_socket_is_ready(backend: Backend) -> None:
    """Bytes that are in a socketpair are read before any timer fires."""

    async def main() -> list[bytes]:
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            return [await _through(left, right, bytes([n])) for n in range(100)]

    async def _through(left: socket.socket, right: socket.socket, data: bytes) -> bytes:
        with anyio.fail_after(0.001):
            left.send(data)
            await anyio.wait_readable(right)
        assert anyio.current_time() == 0
        return right.recv(10)

    assert clock.run(main, backend=backend) == [bytes([n]) for n in range(100)]


@on_both
def test_a_nested_epoll_is_seen(backend: Backend) -> None:
    """An epoll descriptor watched by the loop is as good as a socket: our reactor runs on virtual time."""

    async def main() -> float:
        left, right = socket.socketpair()
        with left, right, select.epoll() as poller:
            poller.register(right, select.EPOLLIN)
            left.send(b"x")
            with anyio.fail_after(1):
                await anyio.wait_readable(poller.fileno())
        return anyio.current_time()

    assert clock.run(main, backend=backend) == 0


@on_both
def test_waiting_for_nothing_is_a_deadlock(backend: Backend) -> None:
    """When no task can ever go on, `run` cancels them all and says so."""
    cleaned: list[str] = []

    async def wait() -> None:
        try:
            await anyio.Event().wait()
        finally:
            cleaned.append("up")

    with pytest.raises(NothingLeftToDo, match="virtual time 0"):
        clock.run(wait, backend=backend)
    assert cleaned == ["up"]


@on_both
def test_sleeping_for_ever_is_a_deadlock(backend: Backend) -> None:
    """A sleep without end is nothing to jump to."""

    async def main() -> None:
        await anyio.sleep(2)
        await anyio.sleep_forever()

    with pytest.raises(NothingLeftToDo, match="virtual time 2"):
        clock.run(main, backend=backend)


@on_both
def test_a_deadlock_in_clean_up_ends_too(backend: Backend) -> None:
    """A task that waits for nothing even after it was cancelled is dropped."""

    async def main() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep_forever()

    with pytest.raises(NothingLeftToDo):
        clock.run(main, backend=backend)


@on_both
def test_a_busy_loop_exceeds_its_budget(backend: Backend) -> None:
    """A task that spins is cancelled after the stated number of turns."""
    turns = 0

    async def spin() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    with pytest.raises(TickBudgetExceeded, match="more than 500 turns"):
        clock.run(spin, backend=backend, max_ticks=500)
    assert 400 < turns < 600


@on_both
def test_a_busy_loop_that_cannot_be_cancelled_ends_too(backend: Backend) -> None:
    """Spinning inside a shield costs the budget and the grace, not for ever."""
    turns = 0

    async def spin() -> None:
        nonlocal turns
        with anyio.CancelScope(shield=True):
            while True:
                turns += 1
                await _unrelenting_checkpoint()

    async def _unrelenting_checkpoint() -> None:
        try:
            await anyio.lowlevel.checkpoint()
        except asyncio.CancelledError:
            return

    with pytest.raises(TickBudgetExceeded):
        clock.run(spin, backend=backend, max_ticks=500)
    assert turns < 500 + 3 * clock.GRACE


@on_both
def test_timers_count_as_turns(backend: Backend) -> None:
    """A timer that starts itself again for ever exceeds the budget although time goes on."""

    async def main() -> None:
        while True:
            await anyio.sleep(1)

    with pytest.raises(TickBudgetExceeded):
        clock.run(main, backend=backend, max_ticks=1000)


@on_both
def test_a_swallowed_cancellation_does_not_hide_the_end(backend: Backend) -> None:
    """`run` raises even if the function caught the cancellation and returned."""

    async def main() -> str:
        try:
            await anyio.sleep_forever()
        except BaseException:
            return "all is well"
        return "never"

    with pytest.raises(NothingLeftToDo):
        clock.run(main, backend=backend)


@on_both
def test_patience_waits_for_a_thread(backend: Backend) -> None:
    """With patience a worker thread may answer before the clock jumps or a deadlock is declared."""
    go = threading.Event()

    async def main() -> tuple[str, float]:
        async with anyio.create_task_group() as tg:
            tg.start_soon(anyio.sleep, 0)
            go.set()
            with anyio.fail_after(1):
                answer = await anyio.to_thread.run_sync(lambda: "done" if go.wait() else "")
        return answer, anyio.current_time()

    assert clock.run(main, backend=backend, patience=5) == ("done", 0)


@on_both
@pytest.mark.parametrize("settle", [anyio.wait_all_tasks_blocked, anyio.lowlevel.checkpoint])
def test_settling_is_no_deadlock(backend: Backend, settle: Callable[[], Awaitable[None]]) -> None:
    """Waiting until all others are blocked is not taken for a deadlock, though for a moment nothing is to be done."""

    async def main() -> bool:
        event = anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(event.wait)
            for _ in range(5):
                await settle()
            event.set()
        return True

    assert clock.run(main, backend=backend)


def test_trio_streams_pass_trios_own_check() -> None:
    """trio's own test streams, which sleep and settle a lot, run to their end under this clock."""

    async def main() -> None:
        await trio.testing.check_two_way_stream(maker, None)

    async def maker() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        return trio.testing.memory_stream_pair()

    clock.run(main, backend="trio")


def test_a_timer_never_due_can_be_cancelled() -> None:
    """asyncio's handle of an endless timer cancels like any other."""

    async def main() -> bool:
        handle = asyncio.get_running_loop().call_later(math.inf, print)
        handle.cancel()
        return handle.cancelled()

    assert clock.run(main)
