"""The hosts, as processes: how each is started, reached and told to stop."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import channelkit
from hosting.clients import Client, Http1, Http2

T = TypeVar("T")

FOLDER = Path(__file__).parents[1]
START_TIMEOUT = 30.0  # seconds: a busy machine starts eight of them at once
PATIENCE = 5.0

APP = "hosting.application:app"


def uvicorn(*options: str, app: str = APP) -> tuple[str, ...]:
    quiet = ("--log-level", "warning", "--no-access-log", "--timeout-graceful-shutdown", "5")
    return (sys.executable, "-m", "uvicorn", "--port", "{port}", *quiet, *options, app)


def hypercorn(worker: str, *options: str, app: str = APP) -> tuple[str, ...]:
    return (sys.executable, "-m", "hypercorn", "-k", worker, "-b", "127.0.0.1:{port}", *options, app)


def granian(*options: str, app: str = APP) -> tuple[str, ...]:
    quiet = ("--log-level", "warning", "--no-access-log", "--workers-kill-timeout", "5")
    return (sys.executable, "-m", "granian", "--interface", "asgi", "--port", "{port}", *quiet, *options, app)


def own(kind: str, backend: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "hosting.application", kind, backend, "{port}")


@dataclass(frozen=True)
class Host:
    """One way to serve the application."""

    name: str
    command: tuple[str, ...]
    client: type[Client] = Http1
    packages: tuple[str, ...] = ()
    native: bool = False  # our own server, the reference

    @property
    def http2(self) -> bool:
        return self.client is Http2

    @property
    def family(self) -> str:
        """Whose program it is."""
        return self.name.split()[0]


UVICORN_H11 = uvicorn("--http", "h11", "--ws", "wsproto")
UVICORN_HTTPTOOLS = uvicorn("--http", "httptools", "--ws", "websockets")
UVICORN_SANSIO = uvicorn("--http", "h11", "--ws", "websockets-sansio", "--lifespan", "off")
HYPERCORN = hypercorn("asyncio")
HYPERCORN_TRIO = hypercorn("trio")

HOSTS = (
    Host("uvicorn h11", UVICORN_H11, packages=("uvicorn", "h11", "wsproto")),
    Host("uvicorn httptools", UVICORN_HTTPTOOLS, packages=("uvicorn", "httptools", "websockets")),
    Host("uvicorn sansio", UVICORN_SANSIO, packages=("uvicorn", "websockets")),
    Host("hypercorn", HYPERCORN, packages=("hypercorn", "h11", "wsproto")),
    Host("hypercorn h2", HYPERCORN, Http2, packages=("hypercorn", "h2", "wsproto")),
    Host("hypercorn trio", HYPERCORN_TRIO, packages=("hypercorn", "trio")),
    Host("hypercorn trio h2", HYPERCORN_TRIO, Http2, packages=("hypercorn", "trio")),
    Host("granian", granian(), packages=("granian",)),
    Host("channelkit", own("native", "asyncio"), native=True),
    Host("channelkit trio", own("native", "trio"), native=True),
    Host("channelkit ASGI", own("asgi", "asyncio")),
    Host("channelkit ASGI trio", own("asgi", "trio")),
)


def until(condition: Callable[[], T], what: str = "", patience: float = PATIENCE) -> T:
    """Poll until `condition()` is true, for at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (result := condition()):
        assert time.monotonic() < deadline, f"did not come true: {what or condition}"
        time.sleep(0.01)
    return result


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class Process:
    """A host that runs, in a process group of its own."""

    command: tuple[str, ...]
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        self._process = subprocess.Popen(
            [part.replace("{port}", str(self.port)) for part in self.command],
            cwd=FOLDER,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """What it has said."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def wait_ready(self) -> Process:
        """Until it listens."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            assert self._process.poll() is None, f"ended: {self.log()}"
            assert time.monotonic() < deadline, f"does not listen: {self.log()}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            time.sleep(0.02)

    @property
    def ended(self) -> bool:
        """Whether it is no more."""
        return self._process.poll() is not None

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the whole group, as a terminal does."""
        os.killpg(self._process.pid, signal.SIGINT)

    def terminate(self) -> None:
        """SIGTERM to the main process, as a supervisor does."""
        self._process.terminate()

    def wait(self, timeout: float) -> int | None:
        """Its exit status, or None if it has not ended in time."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End it and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


class _Lifeline:
    """What hosts are connected to for as long as the tests run; nobody has to be told when they end."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)  # never accepted, which is enough
        self.port: int = self._listener.getsockname()[1]


lifeline = _Lifeline()


def environment() -> dict[str, str]:
    """Hosts load the application, and the very channelkit that is tested."""
    paths = [str(FOLDER), str(Path(channelkit.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HOSTS_LIFELINE": str(lifeline.port)}


def version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"
