"""`run_workers`: serve a handler, given by its name, from several processes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from channelkit.config import OF_LISTENERS, ServerOptions
from channelkit.errors import ConfigError
from channelkit.listen import Listen
from channelkit.observing.log_setup import LogSetup
from channelkit.server.listener import Opened, open_all
from channelkit.server.run import checked_config
from channelkit.workers.job import Job
from channelkit.workers.reloading import watching
from channelkit.workers.supervisor import Supervisor

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
    logs: LogSetup | None = None,
    **options: Unpack[ServerOptions],
) -> int:
    """Serve the handler named `target` ("module:handler") from `workers` processes; returns when they have ended.

    Blocks, in the main thread, which it takes over: SIGTERM and SIGINT stop all workers, SIGHUP replaces them one by
    one.  The handler is imported in the workers only, after `app_dir` was put on the module path.  `reload` names
    folders whose Python files are watched; a change replaces the workers (needs `channelkit[reload]`).  `options` are
    those of `serve`.  Each worker has its own limits, groups and sessions: `max_connections` is per process, and a
    session lives in the process that opened it.

    Returns 0 after an orderly end, 1 if no worker could start, or one had to be killed.  Raises ConfigError for
    options that cannot work, OSError if it cannot listen, RuntimeError outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("run_workers handles signals, so it runs in the main thread only")
    if workers < 1:
        raise ConfigError(f"workers must be a whole number from 1, not {workers!r}")
    if backend not in ("asyncio", "trio"):
        raise ConfigError(f"backend must be 'asyncio' or 'trio', not {backend!r}")
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
        )
        sockets = [one.sock for one in opened]
        for one in opened:
            logger.info("listening on %s", one)
        return Supervisor(
            job, sockets, workers, drain_within=config.drain_timeout, close_within=close_within, watch=watch
        ).run()
    finally:
        for one in opened:
            one.close()


def _inherited(listen: Listen, opened: Opened) -> Listen:
    """The same listener for a process that has its socket already."""
    own = {name: getattr(listen, name) for name in OF_LISTENERS if name not in ("backlog", "reuse_port")}
    return Listen(fd=opened.sock.fileno(), **own)
