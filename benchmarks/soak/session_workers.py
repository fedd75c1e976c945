"""The same as `session_server` from several processes: the arguments are the event loop and how many.

A session's connections meet any of them, and must find their way to the one that has it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.request import urlopen

from benchmarks.process import raise_descriptor_limit
from benchmarks.soak import session_server
from channelkit import Endpoint, Listen, Request
from channelkit.observing.log_setup import LogSetup
from channelkit.workers import run_workers
from channelkit.workers.reports import BEAT

ROOT = Path(__file__).parent.parent.parent
FOLDER = "CHANNELKIT_SOAK_FOLDER"  # where each worker leaves what it saw


class Soaked:
    """The handler of a worker, which tells what it saw when it is to stop."""

    def __init__(self) -> None:
        self._endpoint = Endpoint(session_server.converse, session=session_server.SESSIONS)

    async def __call__(self, request: Request) -> object:
        return await self._endpoint(request)

    def on_stop(self) -> None:
        text = json.dumps({"counts": session_server.counts, "errors": session_server.errors})
        Path(os.environ[FOLDER], f"{os.getpid()}.json").write_text(text, encoding="utf-8")


soaked = Soaked()


def main(backend: str, workers: int) -> None:
    """Serve until standard input ends; say what all have seen."""
    numbers: dict[str, int] = {}
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock, tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        metrics = _free_port()
        threading.Thread(target=_stop_with_stdin, args=(metrics, numbers), daemon=True).start()
        print(sock.getsockname()[1], flush=True)
        run_workers(
            "benchmarks.soak.session_workers:soaked",
            workers=workers,
            app_dir=str(ROOT),
            backend="trio" if backend == "trio" else "asyncio",
            listen=[Listen(fd=sock.fileno())],
            metrics=Listen(port=metrics),
            logs=LogSetup(level="warning", access=False),
            drain_timeout=1.0,
        )
        reports = [json.loads(report.read_text(encoding="utf-8")) for report in Path(folder).iterdir()]
    counts: Counter[str] = sum((Counter(report["counts"]) for report in reports), Counter())
    errors = [error for report in reports for error in report["errors"]]
    if len(reports) != workers:
        errors.append(f"{len(reports)} of {workers} workers told what they saw")
    print(json.dumps({"counts": counts, "errors": errors, "limits": numbers}), flush=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _stop_with_stdin(metrics: int, numbers: dict[str, int]) -> None:
    """Note the numbers at the end, when all workers have told theirs, and stop the workers."""
    sys.stdin.read()
    while (seen := _scraped(metrics)) != numbers or not numbers["connections_total"]:
        numbers.update(seen)
        time.sleep(2 * BEAT)
    os.kill(os.getpid(), signal.SIGTERM)


def _scraped(metrics: int) -> dict[str, int]:
    with urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    names = ("connections_total", "connections_handed_over_total")
    return {name: int(re.findall(rf"^channelkit_{name} (\d+)$", text, re.MULTILINE)[0]) for name in names}


if __name__ == "__main__":
    raise_descriptor_limit()
    main(sys.argv[1], int(sys.argv[2]))
