"""The servers under test: which there are, what each needs, and how one is started, measured beside and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import cores, prefer, usage

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 20.0
QUIET_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Spec:
    """A server: its command, with {port} in it, and the packages it needs."""

    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    install: str = ""  # how to get them
    own: bool = False  # channelkit, not a peer
    http: bool = True  # answers plain requests too
    cells: tuple[str, ...] = ()  # the only ones it is for, if not all
    tls: bool = False

    @property
    def missing(self) -> str:
        """How to install what is missing; empty if nothing is."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"needs {', '.join(absent)}: `{self.install}`" if absent else ""


BENCH, UVLOOP, PICOWS = "pip install .[bench]", "pip install .[bench,uvloop]", "pip install picows"


def _peer(module: str, *args: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.peers.{module}", "{port}", *args)


def _over_tls(spec: Spec) -> Spec:
    return dataclasses.replace(spec, command=(*spec.command, "--tls"), tls=True)


def _own(module: str, backend: str, *needs: str) -> Spec:
    install = UVLOOP if "uvloop" in needs else BENCH
    return Spec(_peer(module, "--backend", backend), needs, install, own=True)


SERVERS: dict[str, Spec] = {
    "channelkit-callbacks": _own("channelkit_callbacks", "asyncio"),
    "channelkit-callbacks-uvloop": _own("channelkit_callbacks", "asyncio+uvloop", "uvloop"),
    "channelkit-callbacks-trio": _own("channelkit_callbacks", "trio", "trio"),
    "channelkit-iteration": _own("channelkit_iteration", "asyncio"),
    "channelkit-iteration-uvloop": _own("channelkit_iteration", "asyncio+uvloop", "uvloop"),
    "channelkit-iteration-trio": _own("channelkit_iteration", "trio", "trio"),
    "asgi-uvicorn-channelkit": Spec(
        _peer("asgi_uvicorn_channelkit"), ("uvicorn", "httptools"), BENCH, own=True, cells=("echo64", "get")
    ),
    "websockets": Spec(_peer("websockets"), ("websockets",), BENCH, http=False),
    "websockets-uvloop": Spec(_peer("websockets", "--uvloop"), ("websockets", "uvloop"), UVLOOP, http=False),
    "aiohttp": Spec(_peer("aiohttp"), ("aiohttp",), BENCH),
    "aiohttp-uvloop": Spec(_peer("aiohttp", "--uvloop"), ("aiohttp", "uvloop"), UVLOOP),
    "picows": Spec(_peer("picows"), ("picows",), PICOWS, http=False),
    "picows-uvloop": Spec(_peer("picows", "--uvloop"), ("picows", "uvloop"), f"{PICOWS} uvloop", http=False),
}

SERVERS |= {
    f"{name}-tls": _over_tls(SERVERS[name])
    for name in ("channelkit-callbacks", "channelkit-callbacks-trio", "channelkit-iteration", "websockets", "aiohttp")
}


def default_servers(tls: bool = False) -> list[str]:
    """All that the extra `bench` is for, and those of the others whose packages happen to be there.

    With `tls` only those that speak it, each beside itself without.
    """
    optional = {"uvloop", "picows"}
    there = [name for name, spec in SERVERS.items() if not spec.missing or optional.isdisjoint(spec.needs)]
    if tls:
        return [name for name in there if SERVERS[name].tls or f"{name}-tls" in there]
    return [name for name in there if not SERVERS[name].tls]


def extra(text: str) -> tuple[str, Spec]:
    """NAME=COMMAND: one more server, no peer but another build of ours.  ValueError if it is not of that form."""
    name, _, command = text.partition("=")
    if not name or "{port}" not in command:
        raise ValueError(f"{text!r} is not of the form NAME=COMMAND with {{port}} in the command")
    return name, Spec(tuple(shlex.split(command)), own=True)


class ServerFailed(Exception):
    """A server did not start."""


class RunningServer:
    """A server's process, on the first core."""

    def __init__(self, name: str, spec: Spec) -> None:
        self.name = name
        self._port = _free_port()
        self._tls = spec.tls
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [part.replace("{port}", str(self._port)) for part in spec.command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        prefer(self._process.pid)
        if (pinned := cores()) is not None:
            os.sched_setaffinity(self._process.pid, {pinned[0]})

    def wait_ready(self) -> None:
        """Until it listens.  Raises ServerFailed."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return
            time.sleep(0.05)
        raise ServerFailed(f"did not start: {self._last_line()}")

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it says nothing")

    def load(self, cell: str, seconds: float, warm: float) -> dict[str, Any]:
        """Run a cell against it, by a load in a process of its own; the figures, or what went wrong as `error`."""
        line = [sys.executable, "-m", "benchmarks.load", cell, "--port", str(self._port)]
        line += ["--pid", str(self._process.pid), "--seconds", str(seconds), "--warm", str(warm)]
        line += ["--tls"] if self._tls else []
        with subprocess.Popen(
            line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as load:
            prefer(load.pid)
            try:
                output, complaint = load.communicate(timeout=seconds + warm + 60)
            except subprocess.TimeoutExpired:
                output, complaint = "", "the load did not end"
            finally:
                load.kill()
        self._settle()
        try:
            result: dict[str, Any] = json.loads(output)
        except ValueError:
            return {"error": (complaint.strip() or f"the load ended with {load.returncode}").splitlines()[-1]}
        return result

    def _settle(self) -> None:
        """Until it has put its connections away: the next server needs the core."""
        deadline = time.monotonic() + QUIET_TIMEOUT
        before = -1.0
        while self._process.poll() is None and time.monotonic() < deadline:
            now = usage(self._process.pid).total
            if now == before:
                return
            before = now
            time.sleep(0.06)

    def stop(self) -> None:
        """End it; by force if it takes its time."""
        self._process.terminate()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
