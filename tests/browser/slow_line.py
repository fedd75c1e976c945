"""A TCP line to a server that is slow one way."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

MORSEL = 1000  # bytes


@contextmanager
def slow_line(port: int, way: Literal["up", "down"], rate: float) -> Iterator[int]:
    """The port of a line to `port` that carries `rate` bytes a second to the server ("up") or from it ("down")."""
    threads: list[threading.Thread] = []
    clients: list[socket.socket] = []

    def carry(one: socket.socket, other: socket.socket, slow: bool) -> None:
        with suppress(OSError):  # either end has reset it
            while data := one.recv(MORSEL):
                other.sendall(data)
                if slow:
                    time.sleep(len(data) / rate)
        end(one, other)

    def end(*sockets: socket.socket) -> None:
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def join(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=carry, args=(server, client, way == "down"))
            back.start()
            carry(client, server, way == "up")
            back.join()

    def accept() -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = listener.accept()
                clients.append(client)
                threads.append(threading.Thread(target=join, args=(client,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            end(listener)
            accepting.join()
            end(*clients)
            for thread in threads:
                thread.join()
