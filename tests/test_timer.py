"""Timers of a running server: order, cancel, with_timeout, and what a slow one does to the others."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from channelkit import Request, cancel, schedule_task, with_timeout
from channelkit.testing import clock
from channelkit.testing.host import open_host


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def in_server(body: Any, backend: str) -> None:
    """Run `body()` inside a handler."""

    async def handler(request: Request) -> str:
        await body()
        return "done"

    async def main() -> None:
        async with open_host(handler) as host:
            assert (await host.get()).endswith(b"done")

    clock.run(main, backend=backend, max_ticks=100_000)  # type: ignore[arg-type]


def test_equal_deadlines_run_in_the_order_they_were_scheduled(backend: str) -> None:
    """Tasks due at the same moment, plain and async, begin in the order of scheduling."""
    ran: list[int] = []

    async def later(number: int) -> None:
        ran.append(number)
        await anyio.sleep(10)

    async def body() -> None:
        for number in range(40):
            schedule_task(1, later if number % 2 else ran.append, number)
        await anyio.sleep(2)

    in_server(body, backend)
    assert ran == list(range(40))


def test_earlier_deadlines_run_first(backend: str) -> None:
    """A task scheduled later for an earlier time runs earlier; 0 and less run as soon as possible."""
    ran: list[str] = []

    async def body() -> None:
        schedule_task(3, ran.append, "third")
        schedule_task(1, ran.append, "second")
        schedule_task(-5, ran.append, "first")
        await anyio.sleep(4)

    in_server(body, backend)
    assert ran == ["first", "second", "third"]


def test_a_slow_task_delays_no_other(backend: str) -> None:
    """A task that waits long does not hold up one that is due meanwhile; one that fails neither."""
    when: list[float] = []

    async def note() -> None:
        when.append(anyio.current_time() - start[0])

    def fail() -> None:
        raise RuntimeError("a task's own mistake")

    start = [0.0]

    async def body() -> None:
        start[0] = anyio.current_time()
        schedule_task(1, anyio.sleep, 100)
        schedule_task(1, fail)
        schedule_task(1.5, note)
        await anyio.sleep(3)

    in_server(body, backend)
    assert when == [pytest.approx(1.5, abs=0.01)]


def test_cancel_tells_whether_it_prevented_the_run(backend: str) -> None:
    """True once, before the run; False for one that ran or was cancelled."""
    ran: list[str] = []

    async def body() -> None:
        prevented = schedule_task(1, ran.append, "never")
        done = schedule_task(1, ran.append, "yes")
        assert cancel(prevented) is True
        assert cancel(prevented) is False
        await anyio.sleep(2)
        assert cancel(done) is False

    in_server(body, backend)
    assert ran == ["yes"]


def test_with_timeout_runs_one_of_the_two(backend: str) -> None:
    """In time: the function, once.  Too late: the other, and the function does nothing."""
    ran: list[str] = []

    async def body() -> None:
        def answer(word: str) -> str:
            ran.append(word)
            return word

        quick = with_timeout(answer, 1, lambda: ran.append("timeout of quick"))
        late = with_timeout(answer, 1, lambda: ran.append("timeout of late"))
        assert quick("quick") == "quick"
        assert quick("again") is None
        await anyio.sleep(2)
        assert late("late") is None

    in_server(body, backend)
    assert ran == ["quick", "timeout of late"]


def test_a_timer_belongs_to_a_running_server() -> None:
    """Outside a server it says where it works."""
    with pytest.raises(RuntimeError, match="inside a running server"):
        schedule_task(1, print)
