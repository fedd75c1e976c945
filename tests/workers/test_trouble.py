"""Workers in trouble: ones that hang, that die in odd moments, that are killed under load; a supervisor that is."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from channelkit.errors import ConfigError
from channelkit.observing.log_setup import LogSetup
from channelkit.workers.job import Job
from channelkit.workers.supervisor import Supervisor
from channelkit.workers.target import why
from channelkit.workers.worker import LONGEST_PAUSE, Slot

sys.path.insert(0, str(Path(__file__).parent))

from commands import PATIENCE, Command, serving

APP = """
import os
import sys
import time

async def handle(request):
    if request.path == "/hang":
        print("hanging", file=sys.stderr, flush=True)
        while True:
            time.sleep(1)
    return f"one {os.getpid()}"
"""
IMPATIENT = ("--drain-timeout", "0.1", "--handler-cleanup-timeout", "0.1", "--lifespan-timeout", "0.1")
JOB = Job(
    target="nowhere:nothing", app_dir="", asgi=False, backend="asyncio", options={}, logs=LogSetup(), stop_within=1.0
)


def supervisor(workers: int = 2) -> Supervisor:
    return Supervisor(JOB, [], workers, drain_within=10.0, close_within=1.0, worker_timeout=60.0)


# -- of the supervisor alone


def test_a_worker_may_die_for_days() -> None:
    """The pause doubles up to its longest, however often."""
    slot = Slot(1)
    pauses = [slot.pause(0.0) for _ in range(3000)]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == LONGEST_PAUSE
    assert slot.pause(3600.0) == 0.5


def test_a_supervisor_that_stops_sleeps() -> None:
    """A place that is empty because its worker has stopped is no reason to look again and again."""
    one = supervisor()
    assert one._nap() == 0.0  # they are to be started
    one._stopping = True
    assert one._nap() > 1.0


def test_a_supervisor_that_stood_still_itself() -> None:
    """Wherever in its turn it was suspended, a worker that nobody could hear meanwhile is not silent for too long."""
    one = supervisor(1)
    worker = one._start(one._slots[0])
    assert worker is not None
    one._slots[0].worker = worker
    try:
        one._looked_at = time.monotonic() - 5.0
        worker.silent_at = one._looked_at + 1.5  # so long it might still have been silent then
        one._turn(-1)
        assert worker.kill_at == math.inf
        worker.silent_at = time.monotonic()  # but here it was awake
        one._turn(-1)
        assert worker.kill_at < math.inf
    finally:
        worker.process.kill()
        worker.process.wait()
        one._gone(worker)


def test_no_room_for_another_process(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is told, nothing is left open, and it is tried again later; those that run go on."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    one = supervisor(1)
    before = os.listdir("/proc/self/fd")
    one._fill(0.0)
    assert set(os.listdir("/proc/self/fd")) <= set(before)  # others may have been closed meanwhile
    assert "worker 1 cannot be started ([Errno 2]" in caplog.text
    assert "tried again in 0.5 s" in caplog.text
    assert 0.0 < one._nap() <= 0.5


def test_whose_fault() -> None:
    """An error out of the handler's own code has a traceback; one that names the operator's mistake has none."""
    assert why(_raised("raise OSError(98, 'taken')", "channelkit.server.listener")) == "taken"
    assert why(_raised("raise ConfigError('wrong')", "channelkit.config")) == "wrong"
    assert "Traceback" in why(_raised("raise OSError('mine')", "served"))
    assert "Traceback" in why(_raised("raise ConfigError('mine')", "served"))
    assert "Traceback" in why(_raised("raise ValueError('mine')", "channelkit.server.listener"))


def _raised(source: str, module: str) -> Exception:
    try:
        exec(source, {"__name__": module, "ConfigError": ConfigError})
    except Exception as error:
        return error
    raise AssertionError


# -- what users see


@pytest.mark.parametrize(
    ("source", "told", "traceback"),
    [
        ("import sys; sys.exit('no database')", "ended the process while it was imported: sys.exit('no database')", 0),
        ("open('settings.toml')", "No such file or directory: 'settings.toml'", 1),
        ("import channelkit; channelkit.Endpoint(None)", "None", 1),
        ("handle = 7", "served:handle is an int, not a handler", 0),
    ],
)
def test_a_module_that_cannot_be_served(tmp_path: Path, source: str, told: str, traceback: int) -> None:
    """The reason, once; a traceback if the module's own code has raised it; exit status 1."""
    (tmp_path / "served.py").write_text(source)
    line = [sys.executable, "-m", "channelkit", "serve", "served:handle", "--port", "0", "--workers", "2"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1, done.stderr
    assert told in done.stderr
    assert ("Traceback" in done.stderr) == bool(traceback)


def test_a_child_of_a_worker_that_died_holds_its_pipe(tmp_path: Path) -> None:
    """A worker dies before it was ready, and a process that it forked lives on: just another death."""
    source = "import os, time\nif not os.fork():\n    time.sleep(2)\n    os._exit(0)\nos._exit(7)\n"
    with serving(tmp_path, "--workers", "2", source=source) as command:
        command.line(r"worker \d .* died \(exit status 7\); another is started in 0.5 s")
        command.line(r"worker \d .* died \(exit status 7\); another is started in 0.5 s")
        assert command.end() == 0


def test_a_change_while_a_successor_hangs(tmp_path: Path) -> None:
    """A successor that hangs while it is imported gives way to the next one; the old workers serve all the time."""
    with serving(tmp_path, "--workers", "2", source=APP) as command:
        old = command.workers(2)
        hanging = "import sys, time\nprint('successor hangs', file=sys.stderr, flush=True)\ntime.sleep(600)\n"
        (tmp_path / "served.py").write_text(hanging)
        command.process.send_signal(signal.SIGHUP)
        command.line("replacing")
        command.line("successor hangs")
        assert command.get()[1] in old
        (tmp_path / "served.py").write_text(APP.replace("one", "two"))
        command.process.send_signal(signal.SIGHUP)
        assert old.isdisjoint(command.workers(2))
        for _ in range(3):
            command.line("has stopped")
        assert command.get()[0] == "two"
        assert command.end() == 0


def test_systemd_hears_of_the_end_of_a_reload_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """READY=1 again, or `systemctl reload` would wait for it, and think the service broken."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with serving(tmp_path, "--workers", "2", source=APP) as command:
            assert manager.recv(999) == b"READY=1"
            (tmp_path / "served.py").write_text("def broken\n")
            command.process.send_signal(signal.SIGHUP)
            assert manager.recv(999).startswith(b"RELOADING=1\n")
            assert manager.recv(999) == b"READY=1"
            assert command.end() == 0
            assert manager.recv(999) == b"STOPPING=1"


def test_workers_that_something_holds_are_killed(tmp_path: Path) -> None:
    """A loop that stands still hears no signal: its worker is killed at a reload, and when the supervisor is gone."""
    with ExitStack() as stack:
        folders = [tmp_path / "reloaded", tmp_path / "abandoned"]
        for folder in folders:
            folder.mkdir()
        reloaded, abandoned = (
            stack.enter_context(serving(folder, "--workers", "2", *IMPATIENT, source=APP)) for folder in folders
        )
        for command in (reloaded, abandoned):
            numbers = command.workers(2)
            stack.enter_context(_hanging(command))
            command.line("hanging")  # from now on it accepts no connection
            assert command.get()[1] in numbers
        abandoned.process.kill()
        reloaded.process.send_signal(signal.SIGHUP)
        reloaded.workers(2)
        told = reloaded.line(r"worker \d \(process (\d+)\) did not stop in time: it is killed")
        reloaded.line(rf"process {told[1]}\) has stopped \(killed by SIGKILL\)")
        assert reloaded.end() == 0
        abandoned.line("this worker did not stop in time: it is killed")


@contextmanager
def _hanging(command: Command) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", command.port), PATIENCE) as sock:
        sock.sendall(b"GET /hang HTTP/1.1\r\nHost: here\r\n\r\n")
        yield sock


# -- under load


class Load:
    """Threads that ask again and again, each on a connection that lasts; who answered, and what failed whose."""

    def __init__(self, command: Command, threads: int) -> None:
        self._command = command
        self._stop = threading.Event()
        self.answers: list[int] = []
        self.failures: list[int | None] = []  # the worker that had answered last on that connection; None: nobody had
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            connection = HTTPConnection("127.0.0.1", self._command.port, timeout=PATIENCE)
            last = None
            try:
                connection.connect()  # what is refused here ends the test
                for _ in range(20):
                    connection.request("GET", "/")
                    last = int(connection.getresponse().read().split()[1])
                    self.answers.append(last)
            except (HTTPException, ConnectionResetError, BrokenPipeError):
                self.failures.append(last)
            finally:
                connection.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_worker_is_killed_under_load(tmp_path: Path) -> None:
    """Only what was in flight at that worker fails, each connection once; the port answers all the time."""
    with serving(tmp_path, "--workers", "2", "--no-access-log", source=APP) as command:
        numbers = command.workers(2)
        victim = min(numbers)
        with Load(command, 8) as load:
            _until(lambda: set(load.answers) == numbers)
            os.kill(victim, signal.SIGKILL)
            (fresh,) = command.workers(1)
            survivor = (numbers - {victim}).pop()
            count = len(load.answers)
            _until(lambda: fresh in load.answers[count:] and survivor in load.answers[count:])
        assert set(load.answers) == numbers | {fresh}
        assert set(load.failures) <= {victim, None}
        assert len(load.failures) <= 8  # as many as there were connections: none was refused or lost afterwards
        assert command.end() == 0
        assert not re.search("CRITICAL|Traceback", "".join(command.seen))


def _until(holds: object) -> None:
    assert callable(holds)
    for _ in range(int(PATIENCE * 100)):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came to that")
