"""New certificates while connections are open: those stay, new ones get the new."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from channelkit import TLS, ConfigError

if TYPE_CHECKING:
    from tests.server.conftest import Backend, Peer
    from tests.server.tls.conftest import Authority, SecureHost


def serial(peer: Peer) -> str:
    assert isinstance(peer.sock, ssl.SSLSocket)
    certificate = peer.sock.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def replace(tls: TLS, authority: Authority) -> None:
    """As a tool that renews does it: other files at the same place."""
    certificate, key = authority.files()
    assert tls.key is not None
    shutil.copy(certificate, tls.certificate)
    shutil.copy(key, tls.key)


def test_open_connections_stay_and_new_ones_get_the_new(secure: SecureHost) -> None:
    """And bad files change nothing but raise."""
    tls = secure.authority.tls()
    secure.serve(tls)
    server = secure.host.server
    assert server is not None
    old = secure.connect()
    replace(tls, secure.authority)
    assert serial(secure.connect()) == serial(old)
    server.reload_certificates()
    new = secure.connect()
    assert serial(new) != serial(old)
    assert (old.ask().status, new.ask().status) == (200, 200)
    Path(tls.certificate).write_text("oops")
    with pytest.raises(ConfigError, match="no certificate in PEM form"):
        server.reload_certificates()
    assert serial(secure.connect()) == serial(new)


def test_reload_under_load(secure: SecureHost) -> None:
    """Clients that come and go while files change and are read again from another thread: none fails."""
    tls = secure.authority.tls()
    secure.serve(tls)
    server = secure.host.server
    assert server is not None
    context = secure.authority.trust()
    failures: list[BaseException] = []
    seen: set[str] = set()

    def come_and_go() -> None:
        try:
            for _ in range(25):
                peer = secure.connect(context)
                seen.add(serial(peer))
                assert peer.ask().status == 200
                peer.close()
        except BaseException as error:
            failures.append(error)

    clients = [threading.Thread(target=come_and_go) for _ in range(3)]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        replace(tls, secure.authority)
        server.reload_certificates()
    assert failures == []
    assert len(seen) > 1


def test_a_server_without_tls_has_nothing_to_reload(secure: SecureHost) -> None:
    """A clear error, not a success."""
    secure.host.serve(secure.handle)
    assert secure.host.server is not None
    with pytest.raises(ConfigError, match="no files to read again"):
        secure.host.server.reload_certificates()


PROGRAM = """
    import sys, logging, functools
    import anyio
    from channelkit import TLS, serve
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
    async def handler(request):
        return "hello"
    async def main():
        tls = TLS(certificate=sys.argv[2], key=sys.argv[3])
        async with anyio.create_task_group() as tasks:
            await tasks.start(functools.partial(serve, handler, port=0, ssl=tls))
            print("started")
    anyio.run(main, backend=sys.argv[1])
"""


def test_sighup(authority: Authority, backend: Backend) -> None:
    """The signal reads the files again; with bad ones it says what is wrong and serves on; SIGTERM still ends it."""
    tls = authority.tls()
    assert tls.key is not None
    line = [sys.executable, "-c", textwrap.dedent(PROGRAM), backend, str(tls.certificate), str(tls.key)]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as server:
        assert server.stdout is not None
        try:
            assert "listening on https://127.0.0.1:" in server.stdout.readline()
            assert server.stdout.readline() == "started\n"  # from here on the signals are the server's
            server.send_signal(signal.SIGHUP)
            assert "were read again" in server.stdout.readline()
            Path(tls.certificate).write_text("oops")
            server.send_signal(signal.SIGHUP)
            text = server.stdout.readline()
            assert text.startswith("ERROR SIGHUP: the certificates stay as they were: TLS(certificate=): there is no")
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0
        finally:
            server.kill()
