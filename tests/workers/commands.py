"""`channelkit serve` as a process, its log line by line."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from queue import Empty, Queue

PATIENCE = 60.0


class Command:
    """A running `channelkit serve`, and its log line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: list[str] = []
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = 0

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put("")

    def line(self, pattern: str) -> re.Match[str]:
        """Wait for a line with `pattern` in it that was not asked for yet."""
        for number, line in enumerate(self.seen):
            if found := re.search(pattern, line):
                del self.seen[number]
                return found
        while line := self._next():
            if found := re.search(pattern, line):
                return found
            self.seen.append(line)
        raise AssertionError(f"no line with {pattern!r} in:\n{''.join(self.seen)}")

    def _next(self) -> str:
        try:
            return self._lines.get(timeout=PATIENCE)
        except Empty:
            return ""

    def workers(self, count: int) -> set[int]:
        """Wait until `count` workers have become ready; their process numbers."""
        return {int(self.line(r"worker \d+ \(process (\d+)\) is ready")[1]) for _ in range(count)}

    def get(self, path: str = "/") -> tuple[str, int]:
        """What a worker says, and which."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            version, number = connection.getresponse().read().decode().split()
            return version, int(number)
        finally:
            connection.close()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE)


@contextmanager
def serving(folder: Path, *arguments: str, source: str) -> Iterator[Command]:
    (folder / "served.py").write_text(source)
    process = subprocess.Popen(
        [sys.executable, "-m", "channelkit", "serve", "served:handle", "--port", "0", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        command = Command(process)
        try:
            command.port = int(command.line(r"listening on https?://127.0.0.1:(\d+)|cannot be served")[1] or 0)
            yield command
        finally:
            if process.poll() is None:
                process.kill()  # its workers notice
