"""A worker process: it reads its job from the pipe the supervisor left it, serves, and ends when told, or alone."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping

import anyio

from channelkit.responding import Handler
from channelkit.server.run import Server, serve
from channelkit.workers.early_signals import Early, ignore_the_rest, terminable
from channelkit.workers.job import DUMP_SIGNAL, KILL_MARGIN, START_FAILED, Job, unpacked
from channelkit.workers.neighbours import Neighbours
from channelkit.workers.reports import Reports
from channelkit.workers.target import load, why

logger = logging.getLogger("channelkit")

INTRODUCTION = 5.0  # seconds for a neighbour that is busy to make room in its mailbox for a new worker's name


def main(
    job_pipe: int, report_pipe: int, leash: int, mailbox: int, way_in: int, name: str, others: Mapping[str, int]
) -> int:
    """Run the job; returns the exit code.

    `job_pipe` gives the job, `report_pipe` takes the reports from when the server listens on, and the end of `leash`
    means that the supervisor is gone: then this process stops too, by force if it does not within its own deadlines.
    `mailbox` is where others hand it connections, by `way_in`, and `others` are the ways to those that live; `name` is
    its own.
    """
    for number in (job_pipe, report_pipe, leash, mailbox, way_in, *others.values()):
        os.set_inheritable(number, False)  # a process the handler starts must not hold them open
    with open(job_pipe, "rb") as pipe:
        job = unpacked(pipe.read())
    followed = (leash, job.stop_within)
    threading.Thread(target=_end_with_supervisor, args=followed, name="channelkit-leash", daemon=True).start()
    if sys.stderr is not None:
        faulthandler.register(DUMP_SIGNAL)  # works whatever holds the interpreter
    job.logs.apply(several=True)
    neighbours = Neighbours(name, mailbox, way_in, others)
    try:
        with terminable() as early:
            handler = load(job.target, job.app_dir, asgi=job.asgi)
            anyio.run(_serve, handler, job, report_pipe, neighbours, early, backend=job.backend)
    except KeyboardInterrupt:
        return 0
    except Exception as error:
        logger.critical("%s cannot be served: %s", job.target, why(error))
        return START_FAILED
    return 0


async def _serve(handler: Handler, job: Job, report_pipe: int, neighbours: Neighbours, early: Early) -> None:
    neighbours.introduce(INTRODUCTION)
    problem: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        reports = Reports(report_pipe, tasks, numbers=job.numbers)
        try:
            await serve(handler, task_status=_Started(early, neighbours, reports), **job.options)
            ignore_the_rest()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # kept out of the group, which would wrap it
            problem = error
        neighbours.close()
        reports.send()
        tasks.cancel_scope.cancel()
    if problem is not None:
        raise problem


class _Started:
    """The task status of `serve`: tells all."""

    def __init__(self, early: Early, neighbours: Neighbours, reports: Reports) -> None:
        self._early = early
        self._neighbours = neighbours
        self._reports = reports

    def started(self, value: Server | None = None) -> None:
        self._early.served = True
        if value is not None and value.status == "running":  # else it was stopped before it came to that
            self._neighbours.started(value)
            self._reports.started(value)


def _end_with_supervisor(leash: int, patience: float) -> None:
    os.read(leash, 1)
    logger.warning("the supervisor is gone: this worker stops")
    os.kill(os.getpid(), signal.SIGTERM)
    # A loop that something holds for ever hears no signal, and nobody is left who would kill this process.
    threading.Event().wait(min(patience + KILL_MARGIN, threading.TIMEOUT_MAX))
    logger.error("this worker did not stop in time: it is killed")
    os.kill(os.getpid(), signal.SIGKILL)


def _command_line(arguments: list[str]) -> int:
    job_pipe, report_pipe, leash, mailbox, way_in = map(int, arguments[:5])
    name, *others = arguments[5:]
    ways = {other: int(way) for other, _, way in (one.partition("=") for one in others)}
    return main(job_pipe, report_pipe, leash, mailbox, way_in, name, ways)


if __name__ == "__main__":
    sys.exit(_command_line(sys.argv[1:]))
