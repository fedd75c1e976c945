"""A listening UNIX socket and its file: who may connect, what may be replaced, what is removed at the end.

A socket's file outlives its server unless someone removes it, and then stands in the way of the next one.  It is
taken for dead only if it is a socket and a connection to it is refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from channelkit.errors import ConfigError
from channelkit.listen import Listen

_LOCK_TRIES, _LOCK_PAUSE = 100, 0.01  # a second: another start holds the lock for a millisecond


def listen_unix(listen: Listen, backlog: int) -> tuple[socket.socket, Callable[[], None]]:
    """The listening socket, and what removes its file.  Raises OSError or ConfigError that say what is wrong."""
    path = listen.unix
    assert isinstance(path, str)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        remove = _bind_abstract(sock, path, listen) if path.startswith("@") else None
        if remove is None:
            with _alone_in(os.path.dirname(path) or "."):
                remove = _bind_file(sock, path, listen, backlog)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on unix:{path}: {_why(error, path)}") from error
    except BaseException:
        sock.close()
        raise
    return sock, remove


def _bind_abstract(sock: socket.socket, path: str, listen: Listen) -> Callable[[], None]:
    if (listen.mode, listen.owner, listen.group) != (0o660, None, None):
        raise ConfigError(f"{path} is in the abstract namespace, where there are no permissions: no mode, owner, group")
    sock.bind("\0" + path[1:])
    return lambda: None


def _bind_file(sock: socket.socket, path: str, listen: Listen, backlog: int) -> Callable[[], None]:
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _remove_dead(path)
        sock.bind(path)
    mine = _identity(path)

    def remove() -> None:
        if mine is not None and _identity(path) == mine:  # not that of a server which has replaced us
            try:
                os.unlink(path)
            except OSError:
                pass  # the directory is no longer ours to write to; the next start takes the file for dead

    try:
        # Before listen: until then nobody can connect, whatever the umask has made of the file.
        os.chmod(path, listen.mode)
        if listen.owner is not None or listen.group is not None:
            _give(path, listen)
        sock.listen(backlog)
    except BaseException:
        remove()
        raise
    return remove


def _give(path: str, listen: Listen) -> None:
    try:
        shutil.chown(path, listen.owner, listen.group)  # type: ignore[arg-type,call-overload,misc,unused-ignore]
    except LookupError as error:
        raise ConfigError(f"cannot give unix:{path} to {listen.owner or ''}:{listen.group or ''}: {error}") from None
    except PermissionError as error:
        raise OSError(
            error.errno,
            f"this user may not give it to {listen.owner or ''}:{listen.group or ''} (only root gives files away; "
            "others may choose among their own groups)",
        ) from None


def _remove_dead(path: str) -> None:
    """Remove the socket of a server that is gone; raise if it is anything else."""
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return  # gone meanwhile
    if not is_socket:
        raise OSError(errno.EADDRINUSE, "there is a file that is no socket; it is left alone, choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full queue must not hold us up: whoever has one is alive
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.EACCES:
                raise OSError(error.errno, "this user may not even ask whether a server listens there") from None
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):  # EPROTOTYPE: someone's datagram socket
                raise
    raise OSError(errno.EADDRINUSE, "another server listens there")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    """One start at a time in a directory: between bind and listen a socket looks as dead as one that was left.

    Advisory, and only as far as it can be had: a directory that cannot be read or locked is no reason not to start.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # what is wrong with it, bind says
        return
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    break
                time.sleep(_LOCK_PAUSE)
        yield
    finally:
        os.close(fd)


def _why(error: OSError, path: str) -> str:
    directory = os.path.dirname(path) or "."
    if error.errno == errno.ENOENT:
        return f"there is no directory {directory} (systemd makes one in /run by RuntimeDirectory=)"
    if error.errno == errno.ENOTDIR:
        return f"{directory} is no directory"
    if error.errno == errno.EACCES and error.strerror == os.strerror(errno.EACCES):
        return f"this user may not create files in {directory}"
    if error.errno == errno.EADDRINUSE and path.startswith("@"):
        return "another server listens there"
    return error.strerror or str(error)
