"""The pool by itself, on both loops: accounting, giving up, its end."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from channelkit._loop import open_loop
from channelkit._threads.jobs import CALLBACK, REQUEST, current_job
from channelkit._threads.pool import Workers
from channelkit.config import Config
from channelkit.errors import ConfigError, WorkersBusy

PATIENCE = 10.0

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def pool(**options: Any) -> AsyncIterator[Workers]:
    """A pool, stopped at the end."""
    async with open_loop() as loop:
        workers = Workers(loop, Config(**options))
        try:
            yield workers
        finally:
            workers.stop()
            assert workers.statistics().threads == 0


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


async def test_results_and_errors() -> None:
    """What the function returns or raises comes out of `run`, and it ran on a worker."""
    async with pool() as workers:
        assert current_job() is None
        assert await workers.run(REQUEST, lambda: current_job() is not None)
        with pytest.raises(ZeroDivisionError):
            await workers.run(CALLBACK, lambda: 1 // 0)
        assert (workers.statistics().begun, workers.busy) == (2, False)


async def test_threads_are_made_when_needed_and_kept() -> None:
    """One after another needs one; at once as many as there are places; idle ones wait for more."""
    async with pool(thread=2) as workers:
        for _ in range(10):
            await workers.run(REQUEST, int)
        assert workers.statistics().threads == 1
        barrier = threading.Barrier(2)
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(workers.run, REQUEST, barrier.wait, PATIENCE)
        assert workers.statistics().threads == 2


async def test_a_cancelled_caller() -> None:
    """One that is queued never begins and leaves the queue; one that runs goes on, unheard."""
    async with pool(thread=1) as workers:
        gate = threading.Event()
        ran: list[str] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(workers.run, REQUEST, gate.wait, PATIENCE)
            await until(lambda: workers.statistics().requests)
            for _ in range(200):
                tasks.start_soon(workers.run, REQUEST, ran.append, "ran")
            await until(lambda: workers.statistics().queued_requests == 200)
            tasks.cancel_scope.cancel()
        assert workers.statistics().queued_requests == 0
        assert len(workers._places._queues[REQUEST]) < 100, "those that were given up are not kept for ever"
        gate.set()
        await workers.ended()
        assert (ran, workers.statistics().begun) == ([], 1)
        await workers.run(REQUEST, ran.append, "next")
        assert ran == ["next"]


async def test_the_queue_is_bounded_but_for_what_must_be() -> None:
    """Each queue for itself; what has room without a thread is on_open and on_close."""
    async with pool(thread=1, queue_size=1) as workers:
        gate = threading.Event()
        async with anyio.create_task_group() as tasks:
            for kind in (REQUEST, CALLBACK):
                for _ in range(2):
                    tasks.start_soon(workers.run, kind, gate.wait, PATIENCE)
            await until(lambda: workers.busy and workers.statistics().queued_callbacks == 1)
            await until(lambda: workers.statistics().queued_requests == 1)
            for kind in (REQUEST, CALLBACK):
                with pytest.raises(WorkersBusy, match=r"queue_size \(1\)"):
                    await workers.run(kind, int)
            with pytest.raises(WorkersBusy):
                workers.check_room()
            done: list[int] = []
            workers.start(done.append, 1)
            assert workers.statistics().queued_callbacks == 2
            gate.set()
        await workers.ended()
        workers.check_room()
        assert done == [1]
        assert workers.loop.tally.counts == {"queue_size": 3}


async def test_nobody_waits_for_what_is_started(caplog: pytest.LogCaptureFixture) -> None:
    """What it raises is logged."""
    async with pool() as workers:
        workers.start(lambda: 1 // 0)
        await until(lambda: not workers.busy)
        assert "ZeroDivisionError" in caplog.text


async def test_a_stopped_pool_begins_nothing() -> None:
    """And says that it has ended."""
    async with pool() as workers:
        workers.stop()
        workers.stop()
        with pytest.raises(RuntimeError, match="ended with its server"):
            await workers.run(REQUEST, int)


async def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a full queue if there is none at all; else the work waits for one of those there are."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with pool() as workers:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)  # the system's refusal, which no test should provoke
            with pytest.raises(WorkersBusy):
                await workers.run(REQUEST, int)
        assert not workers.busy
        gate = threading.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(workers.run, REQUEST, gate.wait, PATIENCE)
            await until(lambda: workers.statistics().requests)
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", start)
                tasks.start_soon(workers.run, REQUEST, int)
                await until(lambda: workers.statistics().queued_requests)
                gate.set()
        assert workers.statistics().begun == 2


def test_an_executor_must_run_threads() -> None:
    """Another process can have neither handlers nor channels."""
    from concurrent.futures import ProcessPoolExecutor

    with pytest.raises(ConfigError, match="must run threads"), ProcessPoolExecutor(1) as processes:
        Config(executor=processes)
    with pytest.raises(ConfigError, match=r"concurrent\.futures\.Executor or None"):
        Config(executor=4)  # type: ignore[arg-type]
