"""The command `channelkit`, run as a process of its own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from channelkit import __version__
from channelkit.cli import main

COMMAND = (sys.executable, "-m", "channelkit.cli")
PATIENCE = 20.0


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_demo(backend: str) -> None:
    """The demo prints its address, serves the page there, and Ctrl-C ends it with 0 and no traceback."""
    with started("demo", "--port", "0", "--backend", backend) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+) ", line)
        assert found is not None, line
        connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=PATIENCE)
        connection.request("GET", "/")
        with connection.getresponse() as response:
            assert b"channelkit chat" in response.read()
        connection.request("GET", "/chat?name=Ada", headers={"Accept": "text/event-stream"})
        with connection.getresponse() as held:  # somebody is here when it ends
            assert held.status == 200
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=PATIENCE)
        connection.close()
    assert (process.returncode, out, errors) == (0, "", "")


def test_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    """A port that is taken is named, with the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert f"port {port} on 127.0.0.1 is in use already" in told.err
    assert "--port 0" in told.err


@pytest.mark.parametrize("ip", ["192.0.2.1", "no.such.address.invalid", ""])
def test_address_that_is_not_here(ip: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An address of another machine, or none at all, is named in one line, with one that works."""
    assert main(["demo", "--ip", ip, "--port", "0"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("channelkit: ")
    assert ip in told
    assert "127.0.0.1" in told
    assert told.count("\n") == 1


def test_on_every_address() -> None:
    """Listening everywhere, it prints the address a browser on this machine can visit."""
    with started("demo", "--ip", "0.0.0.0", "--port", "0") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("The chat is at http://127.0.0.1:")


@pytest.mark.parametrize("port", ["65536", "-1", "http", "\u0663", ""])
def test_bad_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A port that is none is refused before anything starts."""
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--port", port])
    assert ended.value.code == 2
    assert "port" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the version."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"channelkit {__version__}\n"


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command one is told which there are."""
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "command" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_handler_is_imported(number: signal.Signals, workers: str, tmp_path: Path) -> None:
    """An orderly end, 0: also of process 1 of a container, to which only signals come that have a handler."""
    (tmp_path / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    with started("serve", "slow:handle", "--app-dir", str(tmp_path), "--port", "0", "--workers", workers) as process:
        assert process.stdout is not None
        for _ in range(int(workers)):
            assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert not re.search("Traceback|killed", errors)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_storm_of_signals(backend: str, tmp_path: Path) -> None:
    """Whoever insists and insists ends it no worse: 0, and no traceback, whichever moment a signal hits."""
    (tmp_path / "quick.py").write_text("async def handle(request):\n    return 'hello'\n")
    with started("serve", "quick:handle", "--app-dir", str(tmp_path), "--port", "0", "--backend", backend) as process:
        assert process.stderr is not None
        assert "listening" in process.stderr.readline()
        for _ in range(2000):
            process.send_signal(signal.SIGTERM)
            if process.poll() is not None:
                break
            threading.Event().wait(0.0005)
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


STUBBORN = """
import anyio, time

async def handle(request):
    print("here", flush=True)
    if request.path == "/shielded":
        with anyio.CancelScope(shield=True):
            await anyio.sleep(10**6)
    while True:
        time.sleep(10**6)
"""


@pytest.mark.parametrize(
    ("backend", "path", "drain_timeout", "signals"),
    [
        ("asyncio", "/shielded", "0.1", 1),
        ("asyncio", "/holding", "600", 2),
        ("trio", "/shielded", "600", 2),
        ("trio", "/holding", "0.1", 1),
    ],
)
def test_a_handler_that_does_not_end(backend: str, path: str, drain_timeout: str, signals: int, tmp_path: Path) -> None:
    """When the deadlines are over the process is cut: one line, where it stands, and a status that is not 0."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    times = ("--drain-timeout", drain_timeout, "--handler-cleanup-timeout", "0.1")
    where = ("--app-dir", str(tmp_path), "--port", "0", "--backend", backend)
    with started("serve", "stubborn:handle", *where, *times) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        port = re.search(r"127\.0\.0\.1:(\d+)", process.stderr.readline())
        assert port is not None
        with socket.create_connection(("127.0.0.1", int(port[1]))) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            assert process.stdout.readline() == "here\n"
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
                threading.Event().wait(0.05)  # two at once are one
            _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert len(re.findall(r"ERROR told to stop \d+ s ago", errors)) == 1
    assert "stubborn.py" in errors or path == "/shielded"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--drain-timout", "5"], "serve: --drain-timout is not an option; did you mean --drain-timeout?"),
        (["--drain-timout=5"], "serve: --drain-timout is not an option; did you mean --drain-timeout?"),
        (["--host", "0.0.0.0"], "did you mean --ip?"),
        (["--bind", "0.0.0.0:80"], "did you mean --listen?"),
        (["--xyzzy"], "--xyzzy is not an option ("),
        (["--lifespan", "60"], "--lifespan is not an option; did you mean --lifespan-timeout?"),  # nothing is guessed
        (["more"], "more is not expected here"),
        (["--drain-timeout", "10s"], "seconds are wanted, such as 10, 0.5 or \"inf\", not '10s'"),
        (["--fd", "-1"], "a whole number is wanted, not '-1'"),
        (["--max-body", "8M"], "a whole number is wanted, not '8M'"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with the mistake and what may have been meant, and 2."""
    with pytest.raises(SystemExit) as ended:
        main(["serve", "nowhere:nothing", *arguments])
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert told in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--uds", "x.sock", "--port", "8090"], "--port would be ignored beside --listen, --uds"),
        (["--listen", "127.0.0.1:0", "--ip", "0.0.0.0", "--port", "0"], "--ip and --port would be ignored"),
        (["--uds-mode", "600"], "--uds-mode is of a --uds, and there is none"),
        (["--reload-dir", "x"], "--reload-dir says what --reload watches, and there is no --reload"),
        (["--fd", "99999999999999"], "cannot listen on descriptor 99999999999999: it is not open in this process"),
    ],
)
def test_arguments_that_would_be_ignored(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever gives them expects something of them: one line that says so, and 1."""
    assert main(["serve", "time:sleep", *arguments]) == 1
    text = capsys.readouterr().err
    assert told in text
    assert text.count("\n") == 1


SERVER = """
import anyio, channelkit
async def who(request):
    return request.headers.get("x-user")
async def echo(channel):
    if channel.principal:
        await channel.send("hello " + channel.principal)
    async for message in channel:
        await channel.send(message + "!")
        if message == "last":
            return
async def main():
    async with anyio.create_task_group() as tasks:
        async def start(*, task_status):
            endpoint = channelkit.Endpoint(echo, authenticate=who)
            await channelkit.serve(endpoint, ip="127.0.0.1", port=0, task_status=task_status)
        server = await tasks.start(start)
        print(server.port, flush=True)
anyio.run(main)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("transport", ["websocket", "http_stream", "events", "long_poll"])
def test_connect(transport: str, backend: str) -> None:
    """Lines go out, messages come back, states are told on stderr, and a clean end is 0."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            command = [*COMMAND, "connect", url, "--transport", transport, "--backend", backend]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as client:
                try:
                    assert client.stdin is not None
                    assert client.stdout is not None
                    client.stdin.write(b"one\ntwo\nlast\n")
                    client.stdin.flush()  # and not closed: the end of stdin closes, and who closes takes nothing more
                    told = [client.stdout.readline() for _ in range(3)]
                    assert told == [b"one!\n", b"two!\n", b"last!\n"]
                    out, errors = client.communicate(timeout=PATIENCE)
                finally:
                    client.kill()
        finally:
            server.kill()
    assert (client.returncode, out) == (0, b""), errors
    assert errors.count(f"attached by {transport}".encode()) == 1  # and not again with each poll


def test_connect_in_a_pipe() -> None:
    """What the server says to the last line is printed, though stdin has ended long before."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            command = [*COMMAND, "connect", f"http://127.0.0.1:{int(server.stdout.readline())}", "--wait", "inf"]
            command += ["--header", "X-User: Ann"]
            done = subprocess.run(command, input=b"one\nlast\n", capture_output=True, timeout=PATIENCE, check=False)
        finally:
            server.kill()
    assert (done.returncode, done.stdout) == (0, b"hello Ann\none!\nlast!\n"), done.stderr


def test_connect_whose_server_dies() -> None:
    """An end that nobody confirmed is not in order, whatever code we gave it ourselves: it is told, and 1."""
    program = SERVER.replace("Endpoint(", "Endpoint(session=SessionConfig(grace=0.5), handler=")
    program = f"from channelkit import SessionConfig\n{program}"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            command = [*COMMAND, "connect", f"http://127.0.0.1:{int(server.stdout.readline())}"]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as client:
                try:
                    assert client.stdin is not None
                    assert client.stdout is not None
                    client.stdin.write(b"one\n")
                    client.stdin.flush()
                    assert client.stdout.readline() == b"one!\n"
                    server.kill()
                    server.wait(PATIENCE)
                    _, errors = client.communicate(timeout=PATIENCE)
                finally:
                    client.kill()
        finally:
            server.kill()
    assert client.returncode == 1, errors


def test_connect_to_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody there, and no URL at all: one line that says so, and 1."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert main(["connect", f"http://127.0.0.1:{port}"]) == 1
    assert f"cannot reach http://127.0.0.1:{port}" in capsys.readouterr().err
    assert main(["connect", "nonsense"]) == 1
    assert "'nonsense' is not a URL" in capsys.readouterr().err
    assert main(["connect", f"http://127.0.0.1:{port}", "--ca-file", "/nowhere/ca.pem"]) == 1
    assert "--ca-file /nowhere/ca.pem: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        (("--header", "nonsense"), "a header is NAME:VALUE"),
        (("--wait", "long"), "seconds are a number from 0 to inf"),
        (("--wait", "nan"), "seconds are a number from 0 to inf"),
    ],
)
def test_connect_with_nonsense(argument: tuple[str, str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad argument is named before anything starts."""
    with pytest.raises(SystemExit) as ended:
        main(["connect", "http://127.0.0.1:1", *argument])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
