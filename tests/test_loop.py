"""The loop layer: order, time, descriptors, tasks, parking, foreign threads, and the end, on both backends."""

from __future__ import annotations

import contextvars
import importlib
import importlib.abc
import importlib.util
import logging
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from channelkit._loop import open_loop
from channelkit._loop.asyncio_loop import AsyncioLoop
from channelkit.testing.clock import Backend, run
from tests.turning import turns, until

pytestmark = pytest.mark.anyio


class Fatal(BaseException):
    """Neither an Exception nor anything a library would swallow."""


def raises(error: BaseException) -> None:
    raise error


# -- calls


async def test_calls_run_in_order_and_not_inline() -> None:
    """What is called soon runs after the current step, first in first out."""
    seen: list[int] = []
    async with open_loop() as loop:
        for number in range(5):
            loop.call_soon(seen.append, number)
        assert seen == []
        await until(lambda: len(seen) == 5)
    assert seen == [0, 1, 2, 3, 4]


async def test_a_call_may_queue_another() -> None:
    """A call that queues itself again lets the loop turn in between."""
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        if count < 1000:
            loop.call_soon(again)

    async with open_loop() as loop:
        loop.call_soon(again)
        await until(lambda: count > 0)
        assert count < 10
        await until(lambda: count == 1000)


async def test_an_exception_is_logged_and_the_rest_runs(caplog: pytest.LogCaptureFixture) -> None:
    """An Exception out of a call ends neither the loop nor the calls behind it."""
    seen: list[int] = []
    async with open_loop() as loop:
        with caplog.at_level(logging.ERROR, "channelkit"):
            loop.call_soon(raises, ValueError("planted"))
            loop.call_soon(seen.append, 1)
            await until(lambda: bool(seen))
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_a_base_exception_leaves_through_open_loop() -> None:
    """Anything but an Exception ends the loop's body and is raised, bare, where the loop was opened."""
    error = Fatal()
    with pytest.raises(Fatal) as caught:
        async with open_loop() as loop:
            loop.call_soon(raises, error)
            await anyio.sleep_forever()
    assert caught.value is error


async def test_fail_keeps_the_first_error() -> None:
    """Of several failures the first is told."""
    with pytest.raises(Fatal, match="first"):
        async with open_loop() as loop:
            loop.fail(Fatal("first"))
            loop.fail(Fatal("second"))
            await anyio.sleep_forever()


async def test_what_is_queued_at_the_end_still_runs() -> None:
    """Calls queued when the body ends are run before `open_loop` returns, and so is what they queue."""
    seen: list[str] = []

    def first() -> None:
        seen.append("one")
        loop.call_soon(seen.append, "two")

    async with open_loop() as loop:
        loop.call_soon(first)
    assert seen == ["one", "two"]


# -- time


def test_timers_fire_by_deadline_then_by_age(anyio_backend: Backend) -> None:
    """Timers run in the order of their deadlines, equal ones in the order they were set, at their time."""

    async def main() -> None:
        seen: list[tuple[str, float]] = []
        async with open_loop() as loop:
            start = loop.time()
            for name, delay in (("c", 2.0), ("a", 1.0), ("b", 1.0), ("never", math.inf)):
                loop.call_at(start + delay, lambda n=name: seen.append((n, round(loop.time() - start, 6))))
            await anyio.sleep(5)
        assert seen == [("a", 1.0), ("b", 1.0), ("c", 2.0)]

    run(main, backend=anyio_backend)


def test_an_earlier_timer_moves_the_native_one(anyio_backend: Backend) -> None:
    """A timer set later but due earlier is not late, and cancelling the first does not stop the second."""

    async def main() -> None:
        seen: list[float] = []
        async with open_loop() as loop:
            start = loop.time()
            late = loop.call_at(start + 10, seen.append, -1.0)
            loop.call_at(start + 1, lambda: seen.append(loop.time() - start))
            late.cancel()
            late.cancel()
            await anyio.sleep(20)
        assert seen == [pytest.approx(1.0)]

    run(main, backend=anyio_backend)


def test_a_timer_may_cancel_its_neighbour(anyio_backend: Backend) -> None:
    """A timer cancelled by another one of the same moment does not fire."""

    async def main() -> None:
        seen: list[str] = []

        def first() -> None:
            second.cancel()

        async with open_loop() as loop:
            at = loop.time() + 1
            loop.call_at(at, first)
            second = loop.call_at(at, seen.append, "second")
            await anyio.sleep(2)
        assert seen == []

    run(main, backend=anyio_backend)


def test_a_timer_that_is_due_again_at_once_does_not_hold_the_loop(anyio_backend: Backend) -> None:
    """A timer that sets itself for now fires once a turn, even while the clock stands still."""

    async def main() -> None:
        count = 0

        def again() -> None:
            nonlocal count
            count += 1
            assert count < 100_000, "the loop never got its turn"
            if not done:
                loop.call_at(loop.time(), again)

        done = False
        async with open_loop() as loop:
            loop.call_at(loop.time(), again)
            await turns()
            done = True
            await turns()
        assert 0 < count < 100

    run(main, backend=anyio_backend)


async def test_cancelled_timers_do_not_pile_up() -> None:
    """A timer that is set and cancelled for ever keeps the heap small."""
    async with open_loop() as loop:
        kept = [loop.call_at(loop.time() + 1000 + n, print) for n in range(100)]
        for _ in range(10_000):
            loop.call_at(loop.time() + 1000, print).cancel()
        assert len(loop._heap) < 500
        assert all(timer.active for timer in kept)


# -- descriptors


async def test_watch_calls_while_readable_until_unwatched() -> None:
    """A watched descriptor is reported as long as it is readable, and never after `unwatch`."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    seen: list[bytes] = []
    with ours, theirs:
        async with open_loop() as loop:
            loop.watch(ours.fileno(), lambda: seen.append(ours.recv(1)))
            theirs.send(b"abc")
            await until(lambda: seen == [b"a", b"b", b"c"])
            loop.unwatch(ours.fileno())
            theirs.send(b"d")
            await turns()
    assert seen == [b"a", b"b", b"c"]


async def test_unwatch_then_close_at_once() -> None:
    """A descriptor may be closed right after `unwatch`, whatever state its watcher is in."""
    called: list[str] = []
    async with open_loop() as loop:
        for settle in (0, 1, 2, 3, 4, 5):
            ours, theirs = socket.socketpair()
            loop.watch(ours.fileno(), lambda: called.append("late"))
            loop.unwatch(ours.fileno())
            ours.close()
            theirs.close()
            await turns(settle)
    assert called == []


async def test_no_call_after_unwatch_of_a_ready_descriptor() -> None:
    """`unwatch` in the very turn in which the descriptor became readable still comes first."""
    for settle in range(6):
        assert await calls_after_unwatch(settle) == 0, f"after {settle} turns"


async def calls_after_unwatch(settle: int) -> int:
    """How often a watcher is called after `unwatch`, which comes `settle` turns after its descriptor is readable."""
    ours, theirs = socket.socketpair()
    calls = 0

    def called() -> None:
        nonlocal calls
        calls += 1

    with ours, theirs:
        async with open_loop() as loop:
            loop.watch(ours.fileno(), called)
            await turns()
            theirs.send(b"x")
            await turns(settle)
            before = calls
            loop.unwatch(ours.fileno())
            await turns()
    return calls - before


async def test_a_forgotten_watch_ends_with_the_loop() -> None:
    """After the end of the loop nothing is called any more."""
    ours, theirs = socket.socketpair()
    called: list[int] = []
    with ours, theirs:
        async with open_loop() as loop:
            loop.watch(ours.fileno(), lambda: called.append(1))
        theirs.send(b"x")
        await turns()
    assert called == []


# -- tasks


async def test_spawn_from_a_callback_has_the_callers_context() -> None:
    """A task started by a callback sees the context variables of that callback, and the loop waits for it."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")
    seen: list[str] = []

    async def task(word: str) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(word + variable.get())

    def callback() -> None:
        variable.set("inside")
        loop.spawn(task, "from ", name="a task")

    async with open_loop() as loop:
        loop.call_soon(contextvars.copy_context().run, callback)
        await turns(3)
    assert seen == ["from inside"]


async def test_cancel_ends_the_spawned_tasks() -> None:
    """`cancel` cancels body and spawned tasks, and `open_loop` then returns."""
    ended: list[int] = []

    async def task() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(1)

    async with open_loop() as loop:
        loop.spawn(task)
        await turns(3)
        loop.cancel()
    assert ended == [1]


# -- parking


async def test_a_parked_task_is_woken_once() -> None:
    """`wake` wakes who waits, says nothing twice, and is not remembered."""
    woken: list[int] = []
    async with open_loop() as loop:
        place = loop.parking()
        place.wake()

        async def wait() -> None:
            await place.park()
            woken.append(1)

        loop.spawn(wait)
        await turns()
        assert place.waiting
        assert woken == []
        place.wake()
        place.wake()
        assert not place.waiting
        await turns()
        assert woken == [1]


async def test_parking_is_cancellable_and_usable_again() -> None:
    """A task cancelled while parked leaves the place free for the next."""
    async with open_loop() as loop:
        place = loop.parking()
        with anyio.CancelScope() as scope:
            loop.call_soon(scope.cancel)
            await place.park()
        assert scope.cancelled_caught
        assert not place.waiting
        place.wake()
        loop.call_soon(place.wake)
        await place.park()


async def test_who_parks_behind_a_woken_task_is_not_forgotten() -> None:
    """A second task may park as soon as the first is woken, before the first has run."""
    woken: list[str] = []
    async with open_loop() as loop:
        place = loop.parking()

        async def wait(name: str) -> None:
            await place.park()
            woken.append(name)

        async def waker() -> None:
            place.wake()
            await wait("second")

        loop.spawn(wait, "first")
        await turns()
        loop.spawn(waker)
        await until(lambda: woken == ["first"])
        await turns()
        place.wake()
        await until(lambda: woken == ["first", "second"])


async def test_checkpoint_lets_others_run() -> None:
    """A checkpoint yields, and a cancelled scope is noticed at it."""
    seen: list[int] = []
    async with open_loop() as loop:
        loop.call_soon(seen.append, 1)
        for _ in range(3):
            await loop.checkpoint()
        assert seen == [1]
        with anyio.CancelScope() as scope:
            scope.cancel()
            while True:
                await loop.checkpoint()
        assert scope.cancelled_caught


# -- threads


async def test_foreign_threads_come_in_by_the_queue() -> None:
    """Calls from other threads run on the loop's thread, each thread's in order, none lost."""
    seen: list[tuple[int, int]] = []
    places: set[bool] = set()

    def work(name: int) -> None:
        places.add(loop.in_loop_thread)
        for number in range(200):
            loop.run_from_thread(note, name, number)

    def note(name: int, number: int) -> None:
        assert loop.in_loop_thread
        seen.append((name, number))

    async with open_loop() as loop:
        threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
        await until(lambda: len(seen) == 600)
    assert places == {False}
    assert all([n for name, n in seen if name == wanted] == list(range(200)) for wanted in range(3))


async def test_after_the_end_foreign_threads_are_told() -> None:
    """`run_from_thread` raises RuntimeError once the loop has ended."""
    async with open_loop() as loop:
        pass
    with pytest.raises(RuntimeError, match="ended"):
        loop.run_from_thread(print)


# -- the body


async def test_the_body_may_be_empty_and_helpers_do_not_hold_it() -> None:
    """A loop with nothing to do ends with its body, and can be opened again."""
    for _ in range(2):
        with anyio.fail_after(5):
            async with open_loop() as loop:
                assert loop.name in ("asyncio", "trio")


def test_cancelled_from_outside(anyio_backend: Backend) -> None:
    """A cancelled body ends as cancelled, and timers set before do not fire."""

    async def main() -> None:
        fired: list[int] = []
        with anyio.move_on_after(1) as scope:
            async with open_loop() as loop:
                loop.call_at(loop.time() + 2, fired.append, 1)
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        await anyio.sleep(5)
        assert fired == []

    run(main, backend=anyio_backend)


class _Missing(importlib.abc.MetaPathFinder):
    """Importing what is not a dependency fails, as on a user's machine."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in ("trio", "sniffio"):
            raise ModuleNotFoundError(name)


WITHOUT_TRIO = """
import sys, anyio
sys.path.insert(0, {tests!r})
from test_loop import _Missing
for name in [name for name in sys.modules if name.partition(".")[0] in ("trio", "sniffio", "channelkit")]:
    del sys.modules[name]
sys.meta_path.insert(0, _Missing())
from channelkit._loop import open_loop
async def main():
    async with open_loop() as loop:
        print(loop.name)
anyio.run(main)
"""


def test_asyncio_needs_only_the_declared_dependencies() -> None:
    """Without trio, and without what only trio brings along, the loop works on asyncio."""
    program = WITHOUT_TRIO.format(tests=__file__.rpartition("/")[0])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("asyncio\n", 0), done.stderr


if importlib.util.find_spec("uvloop") is not None:  # an option of the user's, not of this project's tests

    def test_uvloop() -> None:
        """uvloop, an asyncio loop that is not asyncio's own, is served the same."""
        uvloop = importlib.import_module("uvloop")
        seen: list[str] = []
        ours, theirs = socket.socketpair()

        async def main() -> None:
            async with open_loop() as loop:
                loop.call_at(loop.time(), seen.append, "timer")
                loop.watch(ours.fileno(), lambda: seen.append(ours.recv(9).decode()))
                theirs.send(b"read")
                await until(lambda: sorted(seen) == ["read", "timer"])

        with ours, theirs:
            anyio.run(main, backend_options={"loop_factory": uvloop.new_event_loop})


# -- the tasks of handlers


async def started(group: Any, loop: Any, function: Callable[..., Any], *args: Any) -> None:
    loop.starter(group, "name")(contextvars.copy_context(), function, *args)
    await turns()


async def test_a_started_task_has_its_context_and_ends_before_its_group() -> None:
    """It runs in the context it was given, and leaving a group that was cancelled waits for it."""
    variable = contextvars.ContextVar("variable", default="outside")
    context = contextvars.copy_context()
    context.run(variable.set, "inside")
    seen: list[str] = []

    async def handler() -> None:
        seen.append(variable.get())
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await turns()
                seen.append("cleaned up")

    async with open_loop() as loop:
        async with anyio.create_task_group() as group:
            loop.starter(group, "name")(context, handler)
            await until(lambda: seen == ["inside"])
            group.cancel_scope.cancel()
        assert seen == ["inside", "cleaned up"]


async def test_cancelling_reaches_a_started_task_again_and_again() -> None:
    """As in a task group: each await of a cancelled task raises, until it ends."""
    raised: list[int] = []

    async def stubborn() -> None:
        for number in range(5):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                raised.append(number)
        await anyio.sleep_forever()

    async with open_loop() as loop, anyio.create_task_group() as group:
        await started(group, loop, stubborn)
        group.cancel_scope.cancel()
    assert raised == [0, 1, 2, 3, 4]


async def test_a_shield_holds_in_a_started_task() -> None:
    """Cancelling waits for a shielded part that is under way."""
    seen: list[str] = []

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            await turns(100)
            seen.append("whole")
        await anyio.sleep_forever()
        seen.append("never")

    async with open_loop() as loop, anyio.create_task_group() as group:
        await started(group, loop, shielded)
        group.cancel_scope.cancel()
    assert seen == ["whole"]


async def test_started_after_the_group_was_cancelled() -> None:
    """It begins, and is cancelled at its first await."""
    seen: list[str] = []

    async def late() -> None:
        seen.append("begun")
        await anyio.sleep_forever()
        seen.append("never")

    async with open_loop() as loop, anyio.create_task_group() as group:
        start = loop.starter(group, "name")
        start(contextvars.copy_context(), turns, 5)
        group.cancel_scope.cancel()
        start(contextvars.copy_context(), late)
    assert seen == ["begun"]


async def test_a_started_task_may_use_scopes_groups_and_threads() -> None:
    """Everything anyio offers works in it, deadlines included."""
    seen: list[Any] = []

    async def handler() -> None:
        with anyio.move_on_after(0) as scope:
            await anyio.sleep_forever()
        seen.append(scope.cancelled_caught)
        async with anyio.create_task_group() as inner:
            inner.start_soon(turns)
        seen.append(await anyio.to_thread.run_sync(lambda: "thread"))

    async with open_loop() as loop, anyio.create_task_group() as group:
        await started(group, loop, handler)
        await until_in_real_time(lambda: len(seen) == 2)
        group.cancel_scope.cancel()
    assert seen == [True, "thread"]


async def until_in_real_time(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


async def test_what_a_started_task_lets_out_ends_everything() -> None:
    """Neither it nor anything else may be lost; the group's other tasks are cancelled."""
    cancelled: list[bool] = []

    async def bad() -> None:
        raise Fatal

    async def other() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(True)

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        async with open_loop() as loop, anyio.create_task_group() as group:
            start = loop.starter(group, "name")
            start(contextvars.copy_context(), other)
            await turns()
            start(contextvars.copy_context(), bad)
            await anyio.sleep_forever()
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, Fatal)
    assert cancelled == [True]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_cancelled_by_hand_leaves_the_others_alone(anyio_backend: str) -> None:
    """`asyncio.Task.cancel` on one handler's task ends that task only."""
    asyncio = importlib.import_module("asyncio")
    tasks: list[Any] = []
    seen: list[str] = []

    async def handler() -> None:
        tasks.append(asyncio.current_task())
        await turns(50)
        seen.append("whole")

    async with open_loop() as loop, anyio.create_task_group() as group:
        start = loop.starter(group, "name")
        for _ in range(2):
            start(contextvars.copy_context(), handler)
        await until(lambda: len(tasks) == 2)
        assert [task.get_name() for task in tasks] == ["name", "name"]
        tasks[0].cancel()
        await until(lambda: seen == ["whole"])
        assert not group.cancel_scope.cancel_called
        group.cancel_scope.cancel()


def test_an_interrupted_call_from_a_thread() -> None:
    """A KeyboardInterrupt in the middle of waking the loop is let out, and every call is heard all the same."""

    class Interrupted(AsyncioLoop):
        interrupts = 1

        def _wake_from_thread(self) -> None:
            if self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            super()._wake_from_thread()

    async def main() -> None:
        heard: list[str] = []
        async with anyio.create_task_group() as tasks:
            loop = Interrupted(tasks)

            def call() -> None:
                with pytest.raises(KeyboardInterrupt):
                    loop.run_from_thread(heard.append, "first")
                loop.run_from_thread(heard.append, "second")

            await anyio.to_thread.run_sync(call)
            with anyio.fail_after(10):
                while len(heard) < 2:
                    await anyio.sleep(0.001)
        assert heard == ["first", "second"]

    anyio.run(main)
