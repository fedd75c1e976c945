"""The server's process seen from outside, and a client that keeps asking whether it still answers."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time

from benchmarks.process import resident
from benchmarks.wires import trusting

HELLO = b"GET %s HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n"
PATIENCE = 30.0  # seconds an answer to /hello may take before it counts as none
SETTLE = 120.0  # seconds for the server to be back at its baseline


class Running:
    """A server in a process of its own."""

    def __init__(self, backend: str, *, tls: bool = False) -> None:
        self.tls = tls
        # OpenSSL's memory is malloc's.  With one allocator for all, that of a peak is given back when it is asked to.
        allocator = {"PYTHONMALLOC": "malloc"} if tls else {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak.server", backend, *(["--tls"] if tls else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **allocator},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def memory(self) -> int:
        return resident(self.process.pid)

    def connect(self, source: str = "", receive_buffer: int = 0) -> socket.socket:
        """A new client, bound to a loopback address if one is named; with TLS its handshake is done."""
        sock = self.connect_plainly(source, receive_buffer)
        return trusting().wrap_socket(sock) if self.tls else sock

    def connect_plainly(self, source: str = "", receive_buffer: int = 0) -> socket.socket:
        """The same, and nothing is said yet."""
        sock = socket.socket()
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(PATIENCE)
            if source:
                # The port is chosen at connect, when the whole pair must be free, and not at bind.
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            sock.connect(("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def hello(self, path: bytes = b"/hello") -> float:
        """Seconds until it was answered.  Raises OSError or AssertionError if it was not."""
        start = time.perf_counter()
        with self.connect() as sock:
            sock.sendall(HELLO % path)
            data = b""
            while piece := sock.recv(4096):
                data += piece
        assert data.startswith(b"HTTP/1.1 200 "), data
        assert data.endswith(b"hello"), data
        return time.perf_counter() - start

    def trimmed(self) -> int:
        """Its memory without garbage, when malloc has given back to Linux what is free."""
        self.hello(b"/trim")
        return self.memory

    def settle(self, descriptors: int) -> bool:
        """Whether the descriptors come back to what they were."""
        deadline = time.monotonic() + SETTLE
        while self.descriptors > descriptors:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def stop(self) -> dict[str, int]:
        """End it; what its limits did."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        counts: dict[str, int] = json.loads(self.process.stdout.readline() or "{}")
        self.process.wait(20)
        return counts


def client_hello() -> bytes:
    """What a TLS client says first."""
    said = ssl.MemoryBIO()
    try:
        trusting().wrap_bio(ssl.MemoryBIO(), said).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return said.read()


IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the socket module of Python 3.11 does not have it


class Probe:
    """Asks /hello again and again while it is open."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.times: list[float] = []
        self.errors: list[str] = []

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            try:
                self.times.append(self._running.hello())
            except (OSError, AssertionError) as error:
                self.errors.append(repr(error)[:200])

    def result(self) -> dict[str, object]:
        ordered = sorted(self.times) or [0.0]
        return {
            "answered": len(self.times),
            "failed": len(self.errors),
            "errors": self.errors[:5],
            "median_ms": round(ordered[len(ordered) // 2] * 1000, 2),
            "slowest_ms": round(ordered[-1] * 1000, 2),
        }
