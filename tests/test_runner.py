"""Coroutines that share a task as long as they do not wait: none may notice another, on both backends."""

from __future__ import annotations

import contextvars
import importlib
import random
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from channelkit._loop import open_loop
from tests.turning import turns

pytestmark = pytest.mark.anyio

variable = contextvars.ContextVar("variable", default="unset")


def task() -> Any:
    """The present task, as its library has it."""
    trio = importlib.import_module("trio")
    if trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_task()
    return importlib.import_module("asyncio").current_task()


async def run(*functions: Callable[[], Any]) -> None:
    """Start all of them in one turn, each in a context of its own, and cancel what is left after a while."""
    async with open_loop() as loop, anyio.create_task_group() as group:
        start = loop.starter(group, "a handler")
        for function in functions:
            start(contextvars.copy_context(), function)
        await turns()
        group.cancel_scope.cancel()


async def test_what_does_not_wait_shares_a_task_and_nothing_else() -> None:
    """In the order of the calls, each in its own context, none before `start` has returned."""
    seen: list[tuple[int, str, int]] = []

    def one(number: int) -> Callable[[], Any]:
        async def quick() -> None:
            seen.append((number, variable.get(), id(task())))
            variable.set("spoiled")

        return quick

    async with open_loop() as loop, anyio.create_task_group() as group:
        start = loop.starter(group, "a handler")
        for number in range(3):
            start(contextvars.copy_context(), one(number))
            assert seen == []
        await turns()
        start(contextvars.copy_context(), one(3))  # the task waits for more
        await turns()
        group.cancel_scope.cancel()
    assert [(number, value) for number, value, _ in seen] == [(number, "unset") for number in range(4)]
    assert len({one for *_, one in seen}) == 1
    assert variable.get() == "unset"


async def test_what_waits_keeps_its_task_and_its_context_and_holds_nobody_up() -> None:
    """The same current task before and after; those behind it do not wait for it, and get another."""
    tasks: list[list[Any]] = []
    order: list[str] = []

    async def slow() -> None:
        variable.set("slow")
        tasks.append(mine := [task()])
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
            mine.append(task())
            assert variable.get() == "slow"
        order.append("slow")

    async def quick() -> None:
        assert variable.get() == "unset"
        order.append("quick")

    await run(slow, quick, slow, quick)
    assert order == ["quick", "quick", "slow", "slow"]
    first, second = tasks
    assert (len(set(first)), len(set(second)), first[0] is second[0]) == (1, 1, False)


async def test_what_is_sent_and_thrown_into_a_task_reaches_what_waits_in_it() -> None:
    """Results, deadlines and the cancelling of a scope come where they belong, time after time."""
    seen: list[Any] = []

    async def waiting() -> None:
        send, receive = anyio.create_memory_object_stream[int](1)
        with send, receive:
            for number in range(3):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await anyio.sleep_forever()
                await send.send(number)
                seen.append((scope.cancelled_caught, await receive.receive()))
            with pytest.raises(TimeoutError), anyio.fail_after(0):
                await receive.receive()
        seen.append(variable.get())

    async def other() -> None:
        variable.set("other")
        await turns(50)

    await run(waiting, other)
    assert seen == [(True, 0), (True, 1), (True, 2), "unset"]


async def test_what_stands_behind_one_that_fails_is_run() -> None:
    """A cancelled one, and one that lets something out, end their task and nothing else of the queue."""
    seen: list[str] = []

    class Fatal(BaseException):
        pass

    async def bad() -> None:
        raise Fatal

    async def behind() -> None:
        seen.append("behind")

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        await run(bad, behind)
    assert caught.group_contains(Fatal) if isinstance(caught.value, BaseExceptionGroup) else caught.type is Fatal
    assert seen == ["behind"]


KEPT: dict[Any, str] = {}
SLACK: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(lambda task: KEPT.update({task: "mine"}), id="as a key"),
        pytest.param(lambda task: SLACK.update({task: "mine"}), id="as a weak key"),
        pytest.param(lambda task: KEPT.update({getattr(task, "cancel", task): "mine"}), id="for cancelling"),
    ],
)
async def test_whoever_keeps_its_task_has_it_alone(keep: Callable[[Any], None]) -> None:
    """What is cancelled later, or found by the task, is never another handler."""
    seen: list[bool] = []

    async def keeps() -> None:
        keep(task())

    async def behind() -> None:
        seen.append(task() in KEPT or getattr(task(), "cancel", None) in KEPT or task() in SLACK)

    await run(behind, keeps, behind, behind)
    KEPT.clear()
    assert seen == [False, False, False]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "mark",
    [
        pytest.param(lambda task, seen: setattr(task, "user", seen), id="attribute"),
        pytest.param(lambda task, seen: task.add_done_callback(lambda _: seen.append("over")), id="callback"),
    ],
)
async def test_whoever_marks_its_task_has_it_alone(anyio_backend: str, mark: Callable[[Any, list[str]], None]) -> None:
    """What hangs on a task goes with the handler that hung it there."""
    seen: list[str] = []

    async def marks() -> None:
        mark(task(), seen)

    async def behind() -> None:
        assert not hasattr(task(), "user")
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        seen.append("behind")

    await run(marks, behind)
    assert seen in (["behind"], ["over", "behind"])
    assert len(seen) == 1 or seen[0] == "over"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelling_by_hand_hits_nobody_else(anyio_backend: str) -> None:
    """One that cancels the task it is in, and ends without waiting, has spoiled it for those behind it."""
    seen: list[str] = []

    async def spoils() -> None:
        task().cancel()

    async def innocent() -> None:
        await anyio.lowlevel.checkpoint()
        seen.append("whole")

    await run(spoils, innocent)
    assert seen == ["whole"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_waits_for_work_may_be_cancelled_by_hand(anyio_backend: str) -> None:
    """Also in the very turn in which work comes: another does it."""
    tasks: list[Any] = []

    async def quick() -> None:
        tasks.append(task())

    async with open_loop() as loop, anyio.create_task_group() as group:
        start = loop.starter(group, "a handler")
        start(contextvars.copy_context(), quick)
        await turns()
        tasks[0].cancel()
        start(contextvars.copy_context(), quick)
        await turns()
        start(contextvars.copy_context(), quick)
        tasks[1].cancel()
        await turns()
        group.cancel_scope.cancel()
    assert len(tasks) == 3
    assert len(set(tasks)) == 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_asyncio_throws_reaches_what_waits(anyio_backend: str) -> None:
    """Where a task waits for no future, its cancelling is thrown into it."""
    asyncio = importlib.import_module("asyncio")
    tasks: list[Any] = []
    seen: list[str] = []

    async def busy() -> None:
        tasks.append(task())
        try:
            for _ in range(100):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        seen.append("never")

    async with open_loop() as loop, anyio.create_task_group() as group:
        loop.starter(group, "a handler")(contextvars.copy_context(), busy)
        await turns(5)
        tasks[0].cancel()
        await turns(200)
        assert seen == ["cancelled"]
        group.cancel_scope.cancel()


async def test_those_that_wait_begin_together() -> None:
    """A task for each, with a context of its own: not one after another, a turn of the loop between two."""
    begun: list[tuple[int, str, int]] = []

    def one(number: int) -> Callable[[], Any]:
        async def waits() -> None:
            begun.append((number, variable.get(), id(task())))
            variable.set("spoiled")
            await anyio.sleep_forever()

        return waits

    async with open_loop() as loop, anyio.create_task_group() as group:
        start = loop.starter(group, "a handler")
        for _ in range(2):  # nobody is idle, then somebody is
            begun.clear()
            for number in range(20):
                start(contextvars.copy_context(), one(number))
            assert begun == []
            await turns(3)
            assert [number for number, _, _ in begun] == list(range(20))
            assert {value for _, value, _ in begun} == {"unset"}
            assert len({one for _, _, one in begun}) == 20
            start(contextvars.copy_context(), anyio.lowlevel.checkpoint)
            start(contextvars.copy_context(), short)
            await turns()
        group.cancel_scope.cancel()


async def short() -> None:
    pass


async def test_any_mixture_is_run_in_order_and_once() -> None:
    """Whatever waits, does not, or keeps its task, in bursts of any size."""
    draw = random.Random(1)
    for _ in range(50):
        begun: list[int] = []

        def one(number: int, kind: int, begun: list[int] = begun) -> Callable[[], Any]:
            async def handler() -> None:
                begun.append(number)
                if kind == 1:
                    await anyio.lowlevel.checkpoint()
                elif kind == 2:
                    KEPT[task()] = "mine"

            return handler

        total = 0
        async with open_loop() as loop, anyio.create_task_group() as group:
            start = loop.starter(group, "a handler")
            for _ in range(draw.randrange(1, 6)):
                for _ in range(draw.randrange(6)):
                    start(contextvars.copy_context(), one(total, draw.randrange(3)))
                    total += 1
                await turns(draw.randrange(4))
            await turns()
            group.cancel_scope.cancel()
        KEPT.clear()
        assert sorted(begun) == list(range(total))
        assert begun == sorted(begun)
