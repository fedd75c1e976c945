"""Reading plain sockets, as a client does that knows nothing."""

from __future__ import annotations

import socket


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """Up to `end`, and what came with it."""
    data = b""
    while end not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    return data


def read_rest(sock: socket.socket, *, reset: bytes | None = None) -> bytes:
    """Everything to the end of the connection, which is closed then.

    A reset is a ConnectionResetError, or stands as `reset` at the end of what came.
    """
    data = b""
    with sock:
        try:
            while piece := sock.recv(65536):
                data += piece
        except ConnectionResetError:
            if reset is None:
                raise
            data += reset
    return data
