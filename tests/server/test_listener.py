"""Where a server listens: TCP, UNIX sockets, inherited descriptors; what stands in the way, and what is left behind."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest

from channelkit import Config, ConfigError, Listen, Request
from channelkit.server.listener import Opened, open_all, open_one

if TYPE_CHECKING:
    from tests.server.conftest import Host


async def where(request: Request) -> str:
    """Both ends of the connection, as the handler sees them."""
    return f"{request.client and request.client[0]} {request.server and request.server[0]}"


def ask(sock: socket.socket) -> bytes:
    """The body of an answer to one request."""
    with sock:
        sock.settimeout(10)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := sock.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return body


def unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def refused(text: str, listen: Listen, **options: Any) -> str:
    """The error of a listener that cannot be opened; it leaves no descriptor behind."""
    config = Config(listen=[listen], **options)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((OSError, ConfigError), match=text) as caught:
        open_all(config)
    assert len(os.listdir("/proc/self/fd")) == before
    return str(caught.value)


# -- several at once


def test_several_listeners_serve_the_same_handler(host: Host, tmp_path: Path) -> None:
    """TCP of both families and a UNIX socket at once; the server tells where, and its port is the first TCP one."""
    path = str(tmp_path / "app.sock")
    host.serve(where, listen=[Listen(unix=path), Listen(port=0), Listen(ip="::1", port=0)])
    assert host.server is not None
    first, second, third = host.server.addresses
    assert first == f"unix:{path}"
    assert second == f"http://127.0.0.1:{host.server.port}"
    assert (v6 := re.fullmatch(r"http://\[::1\]:(\d+)", third))
    assert ask(unix(path)) == b"None None"
    assert ask(socket.create_connection(("127.0.0.1", host.port))) == b"127.0.0.1 127.0.0.1"
    assert ask(socket.create_connection(("::1", int(v6[1])))) == b"::1 ::1"
    assert repr(host.server).startswith(f"<channelkit server on unix:{path}, http://127.0.0.1:")
    host.server.stop()
    assert not os.path.exists(path)


def test_ipv6_takes_ipv4_too(host: Host) -> None:
    """A server on `::` serves both; an IPv4 client is known by its IPv4 address."""
    host.serve(where, ip="::", port=0)
    assert ask(socket.create_connection(("127.0.0.1", host.port))) == b"127.0.0.1 127.0.0.1"
    assert ask(socket.create_connection(("::1", host.port))) == b"::1 ::1"


def test_ipv6_only_leaves_ipv4_to_another(host: Host) -> None:
    """With `ipv6_only` the same port may have an IPv4 listener of its own, and otherwise IPv4 is refused."""
    host.serve(where, listen=[Listen(ip="::", port=0, ipv6_only=True)])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", host.port))
    config = Config(ip="0.0.0.0", port=host.port)
    open_all(config)[0].close()


def test_one_that_cannot_be_opened_closes_the_others(tmp_path: Path) -> None:
    """All or none: the first error is raised, and what was opened before is closed and removed."""
    path = tmp_path / "app.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}: the port is in use"):
            open_all(Config(listen=[Listen(unix=path), Listen(port=0), Listen(port=port)]))
        assert len(os.listdir("/proc/self/fd")) == before
    assert not path.exists()


def test_listening_is_logged(host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each listener."""
    with caplog.at_level("INFO", "channelkit"):
        host.serve(where, listen=[Listen(port=0), Listen(unix=tmp_path / "s")])
    lines = [one.getMessage() for one in caplog.records if "listening" in one.getMessage()]
    assert lines == [f"listening on http://127.0.0.1:{host.port}", f"listening on unix:{tmp_path}/s"]


def test_several_processes_may_share_a_port() -> None:
    """With `reuse_port` on both; without, the second is told."""
    first = open_one(Listen(ip="127.0.0.1", port=0), Config(reuse_port=True))
    try:
        open_one(Listen(ip="127.0.0.1", port=first.port), Config(reuse_port=True)).close()
        refused("the port is in use", Listen(ip="127.0.0.1", port=first.port))
    finally:
        first.close()


# -- mistakes with TCP


def test_no_numeric_address() -> None:
    """A name is no address to listen on."""
    refused("ip must be a numeric address such as 127.0.0.1 or ::, not 'localhost'", Listen(ip="localhost"))


def test_an_address_of_another_machine() -> None:
    """The error says what would be all addresses of this one."""
    refused("this machine does not have that address", Listen(ip="192.0.2.1"))


def test_the_other_family_has_the_port() -> None:
    """`::` takes IPv4 too, which an IPv4 listener of the same port does not allow: the error names the option."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        refused("needs ipv6_only=True here", Listen(ip="::", port=taken.getsockname()[1]))


# -- UNIX sockets


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_mode_is_what_was_asked_for(tmp_path: Path, mode: int) -> None:
    """Whatever the umask."""
    path = tmp_path / "s"
    old = os.umask(0o077)
    try:
        opened = open_one(Listen(unix=path, mode=mode), Config())
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    opened.close()
    opened.close()
    assert not path.exists()


def test_owner_and_group(tmp_path: Path) -> None:
    """By name or number; a name that nobody has is an error, and leaves no file."""
    path = tmp_path / "s"
    opened = open_one(Listen(unix=path, owner=os.getuid(), group=os.getgid()), Config())
    assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())
    opened.close()
    refused(
        "cannot give unix:.* to :nobody-is-called-so: no such group", Listen(unix=path, group="nobody-is-called-so")
    )
    assert not path.exists()


def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    """Nobody listens: it is taken away, and ours is there."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    inode = path.stat().st_ino
    opened = open_one(Listen(unix=path), Config())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    opened.close()
    assert inode
    assert not path.exists()


@pytest.mark.parametrize("full", [False, True])
def test_the_socket_of_a_living_server_is_left(tmp_path: Path, full: bool) -> None:
    """Also if its queue is full, so that it does not answer."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as waiting:
        living.bind(str(path))
        living.listen(0)
        if full:
            waiting.connect(str(path))
        refused("cannot listen on unix:.*: another server listens there", Listen(unix=path))
        assert path.is_socket()


def test_a_file_that_is_no_socket_is_left(tmp_path: Path) -> None:
    """Whatever it is, it is somebody's: files, directories, links, also links to a dead socket."""
    dead, link = tmp_path / "dead", tmp_path / "link"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    link.symlink_to(dead)
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dir").mkdir()
    for name in ("file", "dir", "link"):
        refused("a file that is no socket; it is left alone", Listen(unix=tmp_path / name))
    assert (tmp_path / "file").read_text() == "precious"
    assert link.is_symlink()


def test_somebody_elses_datagram_socket_is_left(tmp_path: Path) -> None:
    """A socket of another kind is alive as well."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        refused("another server listens there", Listen(unix=path))
        assert path.is_socket()


def test_a_successor_keeps_its_socket(tmp_path: Path) -> None:
    """What stands at our path when we stop is removed only if it is ours."""
    path = tmp_path / "s"
    first = open_one(Listen(unix=path), Config())
    path.unlink()
    second = open_one(Listen(unix=path), Config())
    first.close()
    assert path.is_socket()
    second.close()
    assert not path.exists()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """The error names it."""
    refused(f"there is no directory {tmp_path}/sub ", Listen(unix=tmp_path / "sub" / "s"))
    (tmp_path / "file").write_text("")
    refused(f"{tmp_path}/file is no directory", Listen(unix=tmp_path / "file" / "s"))


def test_without_permission(tmp_path: Path) -> None:
    """A user who may not write there is told so (in a process of its own, where we can be nobody)."""
    if os.getuid() != 0:
        os.chmod(tmp_path, 0o500)
        refused(f"this user may not create files in {tmp_path}", Listen(unix=tmp_path / "s"))
        return
    program = (
        "import os, sys; from channelkit import *; from channelkit.server.listener import open_one\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: open_one(Listen(unix=sys.argv[1]), Config())\n"
        "except PermissionError as error: print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", program, "/etc/s"], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "[Errno 13] cannot listen on unix:/etc/s: this user may not create files in /etc\n"


def test_the_abstract_namespace(host: Host) -> None:
    """`@name` makes no file; a second server of that name is told."""
    name = f"@channelkit-test-{os.getpid()}-{host.backend}"
    host.serve(where, listen=[Listen(unix=name)])
    assert host.server is not None
    assert host.server.addresses == (f"unix:{name}",)
    assert host.server.port == 0
    assert ask(unix("\0" + name[1:])) == b"None None"
    refused("another server listens there", Listen(unix=name))
    refused("no mode, owner, group", Listen(unix=name, mode=0o600))


# -- descriptors


def test_a_descriptor_stays_its_owners(host: Host) -> None:
    """The server works on a duplicate: when it has stopped, the socket still listens, for the next server."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        host.serve(where, listen=[Listen(fd=sock.fileno())])
        assert host.server is not None
        assert (host.server.port, host.server.addresses) == (port, (f"http://127.0.0.1:{port}",))
        assert ask(socket.create_connection(("127.0.0.1", port))) == b"127.0.0.1 127.0.0.1"
        host.server.stop()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def test_a_unix_socket_by_descriptor_keeps_its_file(host: Host, tmp_path: Path) -> None:
    """Who made the file removes it."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        host.serve(where, listen=[Listen(fd=sock.fileno())])
        assert ask(unix(path)) == b"None None"
        assert host.server is not None
        host.server.stop()
        assert os.path.exists(path)


def test_descriptors_that_cannot_work() -> None:
    """Not open, no socket, not a stream, not listening: each is told apart."""
    refused("descriptor 9999: it is not open in this process", Listen(fd=9999))
    with open("/dev/null") as file:
        refused(f"descriptor {file.fileno()} is no socket", Listen(fd=file.fileno()))
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        refused("is a AF_INET SOCK_DGRAM, no stream", Listen(fd=sock.fileno()))
    with socket.socket() as sock:
        refused("is not listening: call listen", Listen(fd=sock.fileno()))


def test_of_many_that_start_at_once_one_wins(tmp_path: Path) -> None:
    """Over a dead server's file: the others find the winner, however young it is."""
    path = tmp_path / "s"
    starting = Barrier(8)

    def start(_: int) -> Opened | str:
        starting.wait(10)
        try:
            return open_one(Listen(unix=path), Config())
        except OSError as error:
            return str(error)

    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(start, range(8)))
        (winner,) = (one for one in results if isinstance(one, Opened))
        assert all("another server listens there" in one for one in results if isinstance(one, str))
        with unix(str(path)):
            winner.close()
