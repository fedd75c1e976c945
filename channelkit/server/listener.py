"""Listening sockets: opened before anything runs, so that a port in use is the caller's error at once."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from channelkit.config import Config
from channelkit.errors import ConfigError
from channelkit.listen import Listen
from channelkit.server.certificates import Certificates
from channelkit.server.unix_listener import listen_unix

if TYPE_CHECKING:
    from channelkit.server.pump.accepting import Listener


class Opened:
    """A non-blocking listening socket, where it is, and what it leaves in the file system."""

    def __init__(self, sock: socket.socket, config: Config, remove: Callable[[], None] = lambda: None) -> None:
        self.sock = sock
        self.certificates: Certificates | None = None  # if TLS is spoken
        self.config = config  # of the connections that come by it
        self.listener: Listener | None = None  # once the reactor serves it
        self._remove: Callable[[], None] | None = remove
        name = sock.getsockname()
        self.port: int = name[1] if isinstance(name, tuple) else 0  # of TCP
        scheme = "http" if config.ssl is None else "https"
        self._text = _url(scheme, name) if isinstance(name, tuple) else f"unix:{os.fsdecode(name).replace(chr(0), '@')}"

    def __str__(self) -> str:
        return self._text

    def close(self) -> None:
        """Stop listening.  May be called again."""
        remove, self._remove = self._remove, None
        if remove is not None:
            remove()  # while the socket is open: its file's inode cannot become another's meanwhile
        if self.listener is not None:
            self.listener.close()
        self.sock.close()


def _url(scheme: str, name: tuple[Any, ...]) -> str:
    host, port = name[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def open_all(config: Config) -> list[Opened]:
    """All of `config.listeners`, or none: raises for the first that cannot be opened, as `open_one` does."""
    opened: list[Opened] = []
    read: dict[int, Certificates] = {}  # the same files are read once
    try:
        for listen in config.listeners:
            here = config.at(listen)
            if here.ssl is not None and id(here.ssl) not in read:
                read[id(here.ssl)] = Certificates(here.ssl)
            opened.append(open_one(listen, here))
            opened[-1].certificates = read.get(id(here.ssl))
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened


def open_one(listen: Listen, config: Config) -> Opened:
    """Listen there.

    Raises OSError as the system gives it, with the place and the cure in its text; ConfigError for what no system
    could do.
    """
    if listen.unix is not None:
        sock, remove = listen_unix(listen, config.backlog)
        return Opened(sock, config, remove)
    if listen.fd is not None:
        return Opened(_inherited(listen.fd), config)
    return Opened(_listen_tcp(listen, config), config)


def _listen_tcp(listen: Listen, config: Config) -> socket.socket:
    ip, port = listen.ip, listen.port
    assert ip is not None
    try:
        found = socket.getaddrinfo(ip, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST)
    except socket.gaierror:
        raise ConfigError(f"ip must be a numeric address such as 127.0.0.1 or ::, not {ip!r}") from None
    family, kind, proto, _, address = found[0]
    try:
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {ip} port {port}: {error.strerror}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # Said always, because systems differ in what holds unsaid (/proc/sys/net/ipv6/bindv6only).
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, listen.ipv6_only)
        sock.bind(address)
        sock.listen(config.backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {ip} port {port}: {_why(error, listen)}") from error
    return sock


def _why(error: OSError, listen: Listen) -> str:
    if error.errno == errno.EADDRINUSE:
        if listen.ip == "::" and not listen.ipv6_only:
            return (
                "the port is in use (port=0 takes any free one); :: takes IPv4 too, so a listener on 0.0.0.0 "
                "with the same port needs ipv6_only=True here"
            )
        return "the port is in use (port=0 takes any free one)"
    if error.errno == errno.EACCES:
        return "this user may not use that port (ports below 1024 need a privilege)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address (0.0.0.0 and :: are all it has)"
    if error.errno == errno.EINVAL and (listen.ip or "").lower().startswith("fe80:") and "%" not in (listen.ip or ""):
        return "a link-local address is one of an interface: fe80::1%eth0"
    return error.strerror or str(error)


def _inherited(fd: int) -> socket.socket:
    """A duplicate of a listening socket: who opened the original may close it, or use it for the next server."""
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except (OSError, OverflowError):
        raise OSError(errno.EBADF, f"cannot listen on descriptor {fd}: it is not open in this process") from None
    if not is_socket:
        raise ConfigError(f"descriptor {fd} is no socket")
    sock = socket.socket(fileno=os.dup(fd))
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) or sock.type != socket.SOCK_STREAM:
            raise ConfigError(f"descriptor {fd} is a {sock.family.name} {sock.type.name}, no stream of TCP or UNIX")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ConfigError(
                f"the socket at descriptor {fd} is not listening: call listen() on it (in a .socket unit: Accept=no)"
            )
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
