"""`run_workers`: serve a handler, given by its name, from several processes."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, Unpack

from channelkit.config import OF_LISTENERS, ServerOptions, seconds
from channelkit.errors import ConfigError
from channelkit.listen import Listen
from channelkit.observing.log_setup import LogSetup
from channelkit.observing.totals import Totals
from channelkit.server.listener import Opened, open_all
from channelkit.server.run import checked_config, run_server
from channelkit.workers.job import Job
from channelkit.workers.reloading import watching
from channelkit.workers.supervisor import Supervisor
from channelkit.workers.worker import SHORTEST_TIMEOUT, WORKER_TIMEOUT

_PLACES = ("ip", "port", "listen", "reuse_port")  # what the sockets that workers inherit have settled

logger = logging.getLogger("channelkit")


def run_workers(
    target: str,
    *,
    workers: int = 2,
    app_dir: str = "",
    asgi: bool = False,
    backend: Literal["asyncio", "trio"] = "asyncio",
    reload: Sequence[Path] = (),
    worker_timeout: float | None = None,
    metrics: Listen | None = None,
    logs: LogSetup | None = None,
    **options: Unpack[ServerOptions],
) -> int:
    """Serve the handler named `target` ("module:handler") from `workers` processes; returns when they have ended.

    Blocks, in the main thread, which it takes over: SIGTERM and SIGINT stop all workers, SIGHUP replaces them one by
    one.  The handler is imported in the workers only, after `app_dir` was put on the module path.  `reload` names
    folders whose Python files are watched; a change replaces the workers (needs `channelkit[reload]`).  A worker whose
    event loop gives no sign of life for `worker_timeout` seconds is killed, after it has written its stacks to stderr,
    and replaced; by default these are 60, or math.inf (never) with `reload`, since a breakpoint is silent too.
    `metrics` is where Prometheus finds the numbers of all workers together, at `/metrics`: `Listen(port=9100)`.
    `options` are those of `serve`.  Each worker has its own limits, groups and sessions: `max_connections` is per
    process, and a session lives in the process that opened it; the others hand that one the connections which ask for
    it.

    Returns 0 after an orderly end, 1 if no worker could start, or one had to be killed at the end.  Raises
    ConfigError for options that cannot work, OSError if it cannot listen, RuntimeError outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("run_workers handles signals, so it runs in the main thread only")
    if workers < 1:
        raise ConfigError(f"workers must be a whole number from 1, not {workers!r}")
    if backend not in ("asyncio", "trio"):
        raise ConfigError(f"backend must be 'asyncio' or 'trio', not {backend!r}")
    if worker_timeout is None:
        worker_timeout = math.inf if reload else WORKER_TIMEOUT
    seconds("worker_timeout", worker_timeout)
    if worker_timeout < SHORTEST_TIMEOUT:
        raise ConfigError(
            f"worker_timeout must be at least {SHORTEST_TIMEOUT:g} s: there is a sign of life each second"
        )
    config = checked_config(options)
    watch = watching(reload) if reload else None
    logs = LogSetup() if logs is None else logs
    logs.apply(several=True)
    close_within = config.handler_cleanup_timeout + config.lifespan_timeout
    opened = open_all(config)
    try:
        inherited = [_inherited(listen, one) for listen, one in zip(config.listeners, opened, strict=True)]
        job = Job(
            target=target,
            app_dir=app_dir,
            asgi=asgi,
            backend=backend,
            options={**{name: options[name] for name in options if name not in _PLACES}, "listen": inherited},  # type: ignore[literal-required]
            logs=logs,
            stop_within=config.drain_timeout + close_within,
            numbers=metrics is not None,
        )
        sockets = [one.sock for one in opened]
        for one in opened:
            logger.info("listening on %s", one)
        with ExitStack() as stack:
            totals = None if metrics is None else stack.enter_context(_served_totals(metrics, backend))
            return Supervisor(
                job,
                sockets,
                workers,
                drain_within=config.drain_timeout,
                close_within=close_within,
                worker_timeout=worker_timeout,
                totals=totals,
                watch=watch,
            ).run()
    finally:
        for one in opened:
            one.close()


@contextmanager
def _served_totals(place: Listen, backend: Literal["asyncio", "trio"]) -> Iterator[Totals]:
    """The numbers of all workers, served by this process, in a thread, for as long as there is one of them."""
    totals = Totals()
    server = run_server(totals.handler, backend=backend, listen=[place])
    try:
        logger.info("the metrics of all workers: %s, path /metrics", *server.addresses)
        yield totals
    finally:
        server.stop()


def _inherited(listen: Listen, opened: Opened) -> Listen:
    """The same listener for a process that has its socket already."""
    own = {name: getattr(listen, name) for name in OF_LISTENERS if name not in ("backlog", "reuse_port")}
    return Listen(fd=opened.sock.fileno(), **own)
