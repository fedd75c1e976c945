"""Listening sockets: opened before anything runs, so that a port in use is the caller's error at once."""

from __future__ import annotations

import contextlib
import errno
import socket

from channelkit.errors import ConfigError


def listen(ip: str, port: int, backlog: int) -> socket.socket:
    """A non-blocking listening TCP socket.  Raises OSError as the system gives it, with the address in its text."""
    try:
        found = socket.getaddrinfo(ip, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST)
    except socket.gaierror:
        raise ConfigError(f"ip must be a numeric address such as 127.0.0.1 or ::, not {ip!r}") from None
    family, kind, proto, _, address = found[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {ip} port {port}: {_why(error)}") from error
    return listener


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use (port=0 takes any free one)"
    if error.errno == errno.EACCES:
        return "this user may not use that port (ports below 1024 need a privilege)"
    return error.strerror or str(error)
