"""Telling systemd how the service is."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from channelkit.server import systemd
from channelkit.testing import tls

PROGRAM = """
import sys, anyio, channelkit
async def hello(request):
    return "hello"
async def main():
    ssl = channelkit.TLS(certificate=sys.argv[2]) if sys.argv[2:] else None
    await channelkit.serve(hello, port=0, ssl=ssl)
anyio.run(main, backend=sys.argv[1])
"""


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that a service manager reads, as it is told to this process."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@channelkit-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.bind(name.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def test_states_are_lines_of_one_datagram(manager: socket.socket) -> None:
    """READY with a status; a reload tells when it began, which systemd asks for."""
    assert systemd.notify(systemd.READY, "STATUS=fine")
    assert manager.recv(4096) == b"READY=1\nSTATUS=fine"
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert systemd.reloading()
    assert (found := re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=(\d+)", manager.recv(4096)))
    assert 0 <= int(found[1]) - before < 20_000_000


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """No socket is named, or none that can be reached: False, and in the second case a line in the log."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify(systemd.READY)
    assert not caplog.records
    for name in ("/nowhere/notify", "vsock:2:1"):
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert not systemd.notify(systemd.READY)
    assert [one.levelname for one in caplog.records] == ["WARNING", "WARNING"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_service_tells_when_it_is_ready_and_when_it_stops(manager: socket.socket, backend: str) -> None:
    """READY once it listens, STOPPING as soon as it was asked to stop."""
    service = subprocess.Popen([sys.executable, "-P", "-c", PROGRAM, backend])
    try:
        assert re.fullmatch(rb"READY=1\nSTATUS=listening on http://127.0.0.1:\d+", manager.recv(4096))
        service.send_signal(signal.SIGTERM)
        assert manager.recv(4096) == b"STOPPING=1"
        assert service.wait(20) == 0
    finally:
        service.kill()
        service.wait()


def test_a_service_tells_of_a_reload(manager: socket.socket, tmp_path: Path) -> None:
    """SIGHUP: that it has begun, and that it is over, also when it has changed nothing (`Type=notify-reload`)."""
    pem = tmp_path / "all.pem"
    pem.write_text(tls.PEM)
    service = subprocess.Popen([sys.executable, "-P", "-c", PROGRAM, "asyncio", str(pem)])
    try:
        assert manager.recv(4096).startswith(b"READY=1\nSTATUS=listening on https://127.0.0.1:")
        for text in (tls.PEM, "nothing"):
            pem.write_text(text)
            service.send_signal(signal.SIGHUP)
            assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(4096) == b"READY=1"
    finally:
        service.kill()
        service.wait()
