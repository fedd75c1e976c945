"""`channelkit serve` with several workers: real processes, real signals."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trustme

sys.path.insert(0, str(Path(__file__).parent))

from commands import PATIENCE, Command
from commands import serving as serving_app

APP = """
import os
import anyio
from channelkit import as_channel

async def handle(request):
    if request.path == "/slow":
        await anyio.sleep(0.5)
    if request.path == "/stream":
        return as_channel(request, streaming=True, on_open=lambda channel: channel.send_nowait("begun"))
    return f"{VERSION} {os.getpid()}"

VERSION = "one"
"""


def serving(folder: Path, *arguments: str, source: str = APP) -> AbstractContextManager[Command]:
    return serving_app(folder, *arguments, source=source)


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_workers_answer_and_stop(tmp_path: Path, backend: str) -> None:
    """Several processes answer on one port; SIGTERM ends all of them, and the command with 0."""
    with serving(tmp_path, "--workers", "2", "--backend", backend) as command:
        numbers = command.workers(2)
        assert len(numbers) == 2
        assert {command.get()[1] for _ in range(4)} <= numbers
        assert command.end() == 0
        assert not any(_alive(number) for number in numbers)


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """SIGKILL of one: one line says so, another starts, and the port answers all the time."""
    with serving(tmp_path, "--workers", "2") as command:
        numbers = command.workers(2)
        victim = min(numbers)
        os.kill(victim, signal.SIGKILL)
        told = command.line(r"worker \d+ \(process (\d+)\) died \((.*)\); another is started in (\S+) s")
        assert (int(told[1]), told[2], told[3]) == (victim, "killed by SIGKILL", "0.5")
        assert command.get()[1] in numbers - {victim}
        (fresh,) = command.workers(1)
        assert fresh not in numbers
        assert command.end(signal.SIGINT) == 0


def test_workers_are_replaced_without_a_refused_connection(tmp_path: Path) -> None:
    """SIGHUP: while new workers come and old ones go, every connection is answered; then all are new."""
    with serving(tmp_path, "--workers", "2") as command:
        old = command.workers(2)
        stop = threading.Event()
        answers: list[tuple[str, int]] = []

        def ask() -> None:
            while not stop.is_set():
                answers.append(command.get())

        asker = threading.Thread(target=ask)
        asker.start()
        try:
            command.process.send_signal(signal.SIGHUP)
            new = command.workers(2)
            for _ in old:
                command.line(r"has stopped")
        finally:
            stop.set()
            asker.join()
        assert old.isdisjoint(new)
        assert answers
        assert {number for _, number in answers} <= old | new
        assert command.get()[1] in new
        assert command.end() == 0


def test_reload(tmp_path: Path, backend: str) -> None:
    """A changed file replaces the worker; one that cannot be loaded does not, and says why."""
    with serving(tmp_path, "--reload", "--backend", backend) as command:
        command.workers(1)
        (tmp_path / "served.py").write_text(APP.replace('"one"', '"two"'))
        command.line(r"served.py changed: reloading")
        command.workers(1)
        command.line(r"has stopped")
        assert command.get()[0] == "two"
        (tmp_path / "served.py").write_text("def broken\n")
        command.line(r"SyntaxError")
        command.line(r"did not start \(exit status 3\): the workers stay as they were")
        assert command.get()[0] == "two"
        assert command.end() == 0


def test_reload_after_a_bad_start(tmp_path: Path) -> None:
    """With --reload a handler that cannot be loaded is waited for."""
    with serving(tmp_path, "--reload", source="import nothing_like_it\n") as command:
        command.line(r"waiting for a file to change")
        (tmp_path / "served.py").write_text(APP)
        command.workers(1)
        assert command.get()[0] == "one"
        assert command.end() == 0


def test_nothing_can_start(tmp_path: Path) -> None:
    """Without --reload it ends, with 1 and the reason."""
    with serving(tmp_path, "--workers", "2", source="handel = None\n") as command:
        command.line(r"served:handle cannot be served: served has no 'handle'; did you mean 'handel'\?")
        assert command.process.wait(timeout=PATIENCE) == 1


def test_a_request_that_runs_is_finished(tmp_path: Path, backend: str) -> None:
    """At SIGTERM a request gets its answer, a stream its proper end, and the exit code is 0."""
    with serving(tmp_path, "--workers", "2", "--backend", backend) as command:
        command.workers(2)
        with socket.create_connection(("127.0.0.1", command.port), timeout=PATIENCE) as slow:
            slow.sendall(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n")
            with socket.create_connection(("127.0.0.1", command.port), timeout=PATIENCE) as stream:
                stream.sendall(b"GET /stream HTTP/1.1\r\nHost: here\r\n\r\n")
                begun = b""
                while b"begun" not in begun:
                    begun += stream.recv(65536)
                assert command.end() == 0
                rest = begun
                while piece := stream.recv(65536):
                    rest += piece
                assert rest.endswith(b"0\r\n\r\n")
            answer = b""
            while piece := slow.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer.lower()


def test_the_second_signal_cuts(tmp_path: Path) -> None:
    """A handler that never ends holds the end up only until somebody insists."""
    source = "import anyio\nasync def handle(request):\n    await anyio.sleep_forever()\n"
    with serving(tmp_path, "--workers", "1", "--reload", "--drain-timeout", "600", source=source) as command:
        command.workers(1)
        with socket.create_connection(("127.0.0.1", command.port), timeout=PATIENCE) as held:
            held.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
            command.process.send_signal(signal.SIGTERM)
            command.line(r"SIGTERM: stopping")
            command.line(r"SIGTERM: stopping")  # the worker's own
            assert command.end() == 0


def test_workers_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    """A supervisor that is killed leaves nobody behind: they stop in order, and do not wait to be killed themselves."""
    with serving(tmp_path, "--workers", "2") as command:
        numbers = command.workers(2)
        command.process.kill()
        while True:  # until the log, which all of them hold open, has come to its end
            try:
                command.line(r"no such line")
            except AssertionError:
                break
        assert not any(_alive(number) for number in numbers)
        assert not any("did not stop in time" in line for line in command.seen)


def test_port_in_use(tmp_path: Path) -> None:
    """It is told by the supervisor, in one line, before any worker starts."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "served.py").write_text(APP)
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "channelkit", "serve", "served:handle", "--port", port, "--workers", "2"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: the port is in use" in done.stderr
    assert done.stderr.count("\n") == 1


def _alive(number: int) -> bool:
    """Whether a process runs still (one that is dead and not yet waited for does not)."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_speak_tls(tmp_path: Path) -> None:
    """Every worker reads the files; SIGHUP replaces the workers, and the new ones have the new certificate."""
    ca = trustme.CA()
    context = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())

    def issue() -> None:
        issued = ca.issue_cert("localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")

    def serial(port: int) -> object:
        sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        with context.wrap_socket(sock, server_hostname="localhost") as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            certificate = client.getpeercert()
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
            assert certificate is not None
            return certificate["serialNumber"]

    issue()
    with serving(tmp_path, "--workers", "2", "--ssl-certificate", "server.pem") as command:
        command.workers(2)
        before = serial(command.port)
        issue()
        command.process.send_signal(signal.SIGHUP)
        command.workers(2)
        deadline = time.monotonic() + PATIENCE
        while serial(command.port) == before:  # by an old one, which stops soon
            assert time.monotonic() < deadline
        assert command.end() == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ssl-certificate", "no.pem"], "cannot read no.pem"),
        (["--ssl-key", "no.pem"], "belong to a --ssl-certificate"),
    ],
)
def test_bad_files_of_tls_are_told(tmp_path: Path, arguments: list[str], text: str) -> None:
    """One line, and 1."""
    (tmp_path / "served.py").write_text(APP)
    line = [sys.executable, "-m", "channelkit", "serve", "served:handle", "--port", "0", *arguments]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert text in done.stderr
    assert "Traceback" not in done.stderr
