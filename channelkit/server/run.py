"""`serve` and `run_server`: a server on this loop, or in a thread with a loop of its own; and how it stops."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Unpack

import anyio
from anyio.abc import TaskStatus

from channelkit._draining import LastAct, OnStop, on_stop_of
from channelkit._handover import Handover
from channelkit._lifecycle import logger
from channelkit._loop import Loop, open_loop
from channelkit._threads.jobs import current_job
from channelkit.config import Config, ServerOptions
from channelkit.errors import ConfigError
from channelkit.responding import Handler, PlainFunction, checked_handler
from channelkit.server import systemd
from channelkit.server.certificates import Certificates, reload_all
from channelkit.server.core import ServerCore
from channelkit.server.heartbeat import Heartbeat
from channelkit.server.lifespan import Life, Lifespan, lifespan_of, living
from channelkit.server.listener import Opened, open_all
from channelkit.server.pump.reactor import Reactor
from channelkit.server.pump.tls_link import TlsAcceptor
from channelkit.server.signals import heard
from channelkit.server.taking_over import take_over
from channelkit.statistics import ServerStatistics
from channelkit.wire.client_hello import INTERNAL_ERROR
from channelkit.wire.http1_responses import BUSY

Status = Literal["starting", "running", "stopping", "stopped"]


class Server:
    """A running server.  Calling it stops it: `stop = run_server(handler); ...; stop(timeout=1)`."""

    def __init__(self) -> None:
        self._status: Status = "starting"
        self._opened: list[Opened] = []
        self._addresses: tuple[str, ...] = ()
        self._port = 0
        self._owns_process = False
        self._patience = 0.0  # that the next signal has with it
        self._core: ServerCore | None = None
        self._take_over: Callable[[Handover], None] | None = None  # once it listens
        self._loop: Loop | None = None
        self._stop_requested = False
        self._timeout = 0.1
        self._starting: anyio.CancelScope | None = None
        self._life: Life | None = None
        self._wanted: anyio.Event | None = None
        self._hurry: anyio.CancelScope | None = None
        self._on_stop: LastAct | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        return f"<channelkit server on {', '.join(self._addresses) or 'nothing'}, {self._status}>"

    @property
    def port(self) -> int:
        """The TCP port it listens on, the first of several; the one the system chose, if 0 was asked for.

        0 if it listens on UNIX sockets only.
        """
        return self._port

    @property
    def addresses(self) -> tuple[str, ...]:
        """Everything it listens on, in the order of the options: `http://127.0.0.1:8090`, `unix:/run/app.sock`."""
        return self._addresses

    @property
    def status(self) -> Status:
        """ "starting", "running", "stopping" or "stopped"."""
        return self._status

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._core.connections) if self._core is not None else 0

    def statistics(self) -> ServerStatistics:
        """What it has done and what is open, now.  May be called from any thread, while it runs and afterwards.

        Raises RuntimeError before it listens.
        """
        if self._core is None:
            raise RuntimeError("the server does not listen yet, so there are no numbers")
        return self._core.statistics()

    @property
    def limit_counts(self) -> dict[str, int]:
        """How often each limit and timeout has acted since the start, by its name; see docs/limits.md."""
        return dict(self._loop.tally.counts) if self._loop is not None else {}

    def reload_certificates(self) -> None:
        """Read the files of `ssl=TLS(...)` again, for the handshakes to come; open connections stay as they are.

        From any thread; it reads files.  Raises ConfigError if something is wrong with one of them, or there are none:
        then everything stays as it was.
        """
        reload_all(self._certificates)
        logger.info("the certificates were read again; new TLS connections get them")

    @property
    def _certificates(self) -> list[Certificates]:
        return [one.certificates for one in self._opened if one.certificates is not None]

    def stop(self, timeout: float = 0.1) -> None:
        """Stop, and wait until it has stopped.  For any thread but the loop's own; there use `stop_soon`.

        The listener closes at once; running requests get `timeout` seconds to finish, WebSockets and streams are
        closed with 1001; every `on_close` runs; what is left then is cut.  A second call waits for the first.
        """
        loop = self._loop
        if loop is not None and loop.in_loop_thread and self._status != "stopped":
            raise RuntimeError("stop() would block the loop it waits for; use stop_soon(timeout) here")
        job = current_job()
        if self._core is not None and job is not None and job.pool is self._core.workers:
            raise RuntimeError("stop() in a worker of this server would wait for itself; use stop_soon(timeout) here")
        if loop is not None and self._status != "stopped":
            self.stop_soon(timeout)
        self.join()

    __call__ = stop

    def stop_soon(self, timeout: float = 0.1) -> None:
        """Begin to stop; `serve` returns when it is done.  Never waits; from any thread."""
        if math.isnan(timeout) or timeout < 0:
            raise ValueError(f"timeout must be seconds from 0, not {timeout!r}")
        if self._loop is not None and not self._loop.in_loop_thread:
            try:
                self._loop.run_from_thread(self.stop_soon, timeout)
            except RuntimeError:
                pass  # it has ended
            return
        if self._stop_requested:
            if timeout < self._timeout:  # asked again with less patience
                self._timeout = timeout
                if self._hurry is not None and self._loop is not None:
                    self._hurry.deadline = min(self._hurry.deadline, self._loop.time() + timeout)
            return
        self._stop_requested = True
        self._timeout = timeout
        if self._wanted is not None:
            self._wanted.set()
        elif self._starting is not None:
            self._starting.cancel()

    def join(self, timeout: float | None = None) -> bool:
        """Wait, in another thread than the loop's, until it has stopped; False if `timeout` seconds were not enough.

        Raises what ended the server, if something other than `stop` did.
        """
        if not self._done.wait(timeout):
            return False
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return True

    # -- inside the loop

    async def _run(
        self,
        handler: Handler,
        lifespan: Lifespan | None,
        config: Config,
        handle_signals: bool,
        task_status: TaskStatus[Server],
    ) -> None:
        try:
            self._patience = config.drain_timeout
            async with heard(self, handle_signals, config):
                with anyio.CancelScope() as self._starting:
                    async with living(lifespan, config.lifespan_timeout) as self._life:
                        await self._listen(handler, config, task_status)
                if self._starting.cancelled_caught and self._status == "starting":
                    self._status = "stopped"
                    task_status.started(self)  # or whoever waits for it would take the end for a failure
        finally:
            self._status = "stopped"
            self._done.set()

    async def _listen(self, handler: Handler, config: Config, task_status: TaskStatus[Server]) -> None:
        self._opened = open_all(config)
        self._addresses = tuple(map(str, self._opened))
        self._port = next((one.port for one in self._opened if one.port), 0)
        self._wanted = anyio.Event()
        try:
            async with open_loop() as loop:
                self._loop = loop
                reactor = Reactor(loop, config)
                try:
                    await self._serve(reactor, loop, handler, config, task_status)
                finally:
                    self._take_over = None
                    reactor.close()
        finally:
            self._stop_listening()

    async def _serve(
        self,
        reactor: Reactor,
        loop: Loop,
        handler: Handler,
        config: Config,
        task_status: TaskStatus[Server],
    ) -> None:
        async with anyio.create_task_group() as handlers:
            core = self._core = ServerCore(handler, config, loop, handlers)
            core.on_stop = self._on_stop
            core.lingering = lambda: reactor.links
            reactor.on_link_closed = core.changed
            core.listeners = [one.config for one in self._opened]
            self._take_over = partial(take_over, core=core, reactor=reactor)
            for one in self._opened:
                _serve_listener(one, reactor, core)
            heartbeat = Heartbeat(loop, config.slow_callback)
            self._status = "running"
            try:
                self._tell(systemd.READY, f"STATUS=listening on {', '.join(self.addresses)}")
                task_status.started(self)
                assert self._wanted is not None
                await self._wanted.wait()
                self._stop_listening()
                with anyio.CancelScope() as self._hurry:
                    await core.drain(self._timeout, config.spread)
            finally:
                self._stop_listening()
                heartbeat.stop()
                with anyio.CancelScope(shield=True):
                    await core.cut()

    def _stop_listening(self) -> None:
        """The end has begun, or is over."""
        if self._status == "running":
            self._status = "stopping"
            self._tell(systemd.STOPPING)
        for one in self._opened:
            one.close()

    def _serve_handed_over(self, handover: Handover) -> None:
        """Another process has accepted a connection that is for this one."""
        if self._take_over is None:
            handover.sock.close()  # too late
        else:
            self._take_over(handover)

    def _insist(self) -> None:
        """A signal: the first one stops it, each further one cuts short what it finds: requests, or the lifespan."""
        self.stop_soon(self._patience)
        if self._patience == 0.0 and self._life is not None:
            self._life.hurry()
        self._patience = 0.0

    def _tell(self, *states: str) -> None:
        """Tell the service manager, if this server is what the process is there for."""
        if self._owns_process:
            systemd.notify(*states)


def _serve_listener(one: Opened, reactor: Reactor, core: ServerCore) -> None:
    if one.certificates is None:
        one.listener = reactor.listen(one.sock, core.connect, BUSY, one.config)
    else:
        tls = TlsAcceptor(one.certificates)
        one.listener = reactor.listen(one.sock, core.connect, INTERNAL_ERROR, one.config, tls)
    logger.info("listening on %s", one)


async def serve(
    handler: Handler | PlainFunction,
    *,
    lifespan: Lifespan | None = None,
    on_stop: OnStop | None = None,
    handle_signals: bool = True,
    task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve `handler` until stopped: `anyio.run(serve, handler)`, or `server = await tg.start(serve, handler)`.

    `lifespan` makes an async context manager that is opened before the server listens and closed after it has
    drained; by default it is the handler's own `lifespan`, if it has one, as an `ASGIHandler` does.  `on_stop()` is
    called when it begins to stop, before anything is closed, and awaited if it is asynchronous: the time to say a last
    word to everybody; by default the handler's own `on_stop`, if it has one.  A plain one beside a plain handler runs
    on a worker.  It is part of the patience, is cancelled with it, and is not called when `serve` is cancelled.
    `options` are the fields of `Config`.  Reports its `Server` once it listens, or was stopped before.  In the main
    thread SIGINT and SIGTERM stop it with the patience of `drain_timeout`, a second one at once (what closes the
    lifespan is cancelled by one more), and with `ssl=TLS(...)` SIGHUP reads the certificates again;
    `handle_signals=False` leaves all of them alone.
    Cancelled, it closes every channel with 1001, runs every `on_close`, and cuts the rest.

    Raises ConfigError for options or a handler that cannot work, OSError if it cannot listen; what the lifespan
    raises, such as LifespanFailed of an ASGI application that cannot start; and whatever BaseException, such as
    KeyboardInterrupt, a callback lets out.
    """
    config = checked_config(options)
    server = Server()
    server._on_stop = on_stop_of(handler, on_stop)
    await server._run(checked_handler(handler), lifespan_of(handler, lifespan), config, handle_signals, task_status)


def run_server(
    handler: Handler | PlainFunction,
    *,
    lifespan: Lifespan | None = None,
    on_stop: OnStop | None = None,
    backend: Literal["asyncio", "trio"] = "asyncio",
    **options: Unpack[ServerOptions],
) -> Server:
    """Serve `handler` in a thread with an event loop of its own; returns once it listens.

    The thread is a daemon: keep the program alive with `server.join()`.  Options and errors as for `serve`.
    """
    config = checked_config(options)
    lifespan = lifespan_of(handler, lifespan)
    checked = checked_handler(handler)
    if backend not in ("asyncio", "trio"):
        raise ConfigError(f"backend must be 'asyncio' or 'trio', not {backend!r}")
    server = Server()
    server._on_stop = on_stop_of(handler, on_stop)
    started = threading.Event()
    status = _ThreadStatus(started)
    main = partial(server._run, checked, lifespan, config, False, status)
    server._thread = threading.Thread(
        target=_thread_main, args=(server, main, backend, started), name="channelkit-loop", daemon=True
    )
    server._thread.start()
    started.wait()
    if server.status != "running" and server._error is not None:
        server.join()  # raises it
    return server


class _ThreadStatus:
    """A task status that another thread waits for."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def started(self, value: Any = None) -> None:
        self._event.set()


def _thread_main(server: Server, main: Any, backend: str, started: threading.Event) -> None:
    try:
        anyio.run(main, backend=backend)
    except BaseException as error:
        server._error = error
        if started.is_set():
            logger.critical("the server ended by an error", exc_info=error)
    finally:
        server._status = "stopped"
        server._done.set()
        started.set()


def checked_config(options: Any) -> Config:
    """The options as a Config.  Raises ConfigError, or TypeError for a name that is no option."""
    try:
        return Config(**options)
    except TypeError as error:
        raise TypeError(f"{error}; the options are the fields of channelkit.Config") from None
