"""What workers tell their supervisor: that their loops run, and their numbers.  Real processes, real time."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from channelkit import ConfigError
from channelkit.workers import run_workers
from channelkit.workers.reports import numbers_in

sys.path.insert(0, str(Path(__file__).parent))

from commands import PATIENCE, Command, serving

APP = """
import os
import time

async def handle(request):
    if request.path == "/hang":
        return stand_still()
    return f"one {os.getpid()}"

def stand_still():
    while True:
        time.sleep(1)
"""
TIMEOUT = ("--worker-timeout", "3")
SILENT = "has given no sign of life"


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_a_worker_whose_loop_stands_still(tmp_path: Path, backend: str) -> None:
    """It is told, with where it stands; it is killed, and another takes its place."""
    with serving(tmp_path, "--workers", "1", *TIMEOUT, "--backend", backend, source=APP) as command:
        (victim,) = command.workers(1)
        with _asked(command, "/hang"):
            told = command.line(rf"worker 1 \(process (\d+)\) {SILENT} for (\S+) s: something holds its event loop")
            assert (int(told[1]), told[2]) == (victim, "3")
            command.line(r'File ".*served.py", line \d+ in stand_still')
            command.line(rf"worker 1 \(process {victim}\) died \(killed by SIGKILL\); another is started in 0.5 s")
        (fresh,) = command.workers(1)
        assert command.get() == ("one", fresh)
        assert command.end() == 0


def test_whoever_was_suspended_is_excused(tmp_path: Path) -> None:
    """All processes stand still, as in a paused container, and the supervisor goes on first: nobody is killed."""
    with serving(tmp_path, "--workers", "2", "--worker-timeout", "4", source=APP) as command:
        numbers = command.workers(2)
        everybody = (command.process.pid, *numbers)
        for number in everybody:
            os.kill(number, signal.SIGSTOP)
        threading.Event().wait(4.5)
        for number in everybody:
            os.kill(number, signal.SIGCONT)
            threading.Event().wait(0.2)
        command.process.send_signal(signal.SIGHUP)  # a round of everything
        command.workers(2)
        for number in numbers:
            command.line(rf"process {number}\) has stopped\n")
        assert command.end() == 0
        assert SILENT not in "".join(command.seen)


def test_asking_where_a_worker_is(tmp_path: Path) -> None:
    """SIGQUIT: it writes its stacks and goes on."""
    with serving(tmp_path, "--workers", "2", source=APP) as command:
        one, _ = command.workers(2)
        os.kill(one, signal.SIGQUIT)
        command.line(r"Current thread .*most recent call first")
        command.line(r'File ".*process.py", line \d+ in main')
        assert command.end() == 0
        command.line(rf"process {one}\) has stopped\n")


def test_the_metrics_of_all_workers(tmp_path: Path, backend: str) -> None:
    """They are the sum; one that is killed takes nothing away, one that ends in order leaves nothing untold."""
    options = ("--workers", "2", "--metrics", "0", "--no-access-log", "--backend", backend)
    with serving(tmp_path, *options, source=APP) as command:
        scrape = Scrape(int(command.line(r"the metrics of all workers: http://127.0.0.1:(\d+), path /metrics")[1]))
        numbers = command.workers(2)
        answered = [command.get()[1] for _ in range(40)]
        scrape.until("requests_total", 40)
        assert scrape.last["processes"] == 2
        os.kill(answered[-1], signal.SIGKILL)
        command.line(r"died \(killed by SIGKILL\)")
        scrape()
        assert (scrape.last["requests_total"], scrape.last["process_deaths_total"]) == (40, 1)
        numbers |= command.workers(1)
        _, last = command.get()
        assert last in numbers - {answered[-1]}
        os.kill(last, signal.SIGTERM)  # at once: it has not told of this request yet
        command.line(r"died \(exit status 0\)")
        scrape()
        assert (scrape.last["requests_total"], scrape.last["process_deaths_total"]) == (41, 2)
        assert command.end() == 0


def test_a_place_for_the_metrics_that_is_taken(tmp_path: Path) -> None:
    """It is told before any worker starts."""
    with serving(tmp_path, "--workers", "2", source=APP) as command:
        command.workers(2)
        (tmp_path / "two").mkdir()
        with serving(tmp_path / "two", "--metrics", str(command.port), source=APP) as second:
            second.line(rf"cannot listen on 127.0.0.1 port {command.port}: the port is in use")
            assert second.process.wait(PATIENCE) == 1
        assert command.end() == 0


class Scrape:
    """Asks for the metrics; no counter may ever be less than the time before."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.last: dict[str, float] = {}

    def __call__(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        told = {name: float(number) for name, number in re.findall(r"^channelkit_(\S+) (\S+)$", text, re.MULTILINE)}
        counters = [name for name in self.last if name.partition("{")[0].endswith("_total")]
        assert {name: told[name] for name in counters if told[name] < self.last[name]} == {}
        self.last = told

    def until(self, name: str, number: float) -> None:
        """Ask until a number is that; it may not be more."""
        for _ in range(int(PATIENCE * 100)):
            self()
            assert self.last[name] <= number
            if self.last[name] == number:
                return
            threading.Event().wait(0.01)
        raise AssertionError(f"{name} is {self.last[name]}")


@contextmanager
def _asked(command: Command, path: str) -> Iterator[None]:
    """Ask for something that is never answered."""
    connection = HTTPConnection("127.0.0.1", command.port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        yield
    finally:
        with suppress(HTTPException, OSError):
            connection.close()


@pytest.mark.parametrize("seconds", [0.0, 2.0, -1.0, float("nan")])
def test_a_timeout_that_cannot_work(seconds: float) -> None:
    """Healthy workers would be killed, or it means nothing."""
    with pytest.raises(ConfigError, match="worker_timeout must be"):
        run_workers("served:handle", worker_timeout=seconds, port=0)


def test_what_is_no_report() -> None:
    """Lines that others have written into the pipe say no more than that somebody lives."""
    assert numbers_in(b"") is None
    assert numbers_in(b"\xff{") is None
    assert numbers_in(b"[1]") is None
    assert numbers_in(b'{"requests_total": 1}') == {"requests_total": 1}
