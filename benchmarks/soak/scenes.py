"""What the clients do: each scene takes the running server and a random generator, and returns its figures."""

from __future__ import annotations

import random
import selectors
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.soak.running import PATIENCE, Running, client_hello

GET = b"GET /hello HTTP/1.1\r\nHost: soak\r\n\r\n"
STREAM = b"GET /stream HTTP/1.1\r\nHost: soak\r\n\r\n"
POST = b"POST /post HTTP/1.1\r\nHost: soak\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
CHUNKED = (
    b"POST /post HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\nabcde\r\n" * 200 + b"0\r\n\r\n"
)
WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
) + b"\x81\x85\0\0\0\0hello" * 20
EXCHANGES = (GET, STREAM, POST, CHUNKED, WEBSOCKET)


@dataclass(frozen=True)
class Size:
    """How much of each."""

    connections: int = 10_000
    churn: int = 50_000
    resets: int = 10_000
    slow_clients: int = 500
    slow_seconds: float = 60.0


Figures = dict[str, object]
Scene = Callable[[Running, random.Random, Size], Figures]


def source(number: int) -> str:
    """One of eight loopback addresses: one has 28,000 ports, and ended connections keep theirs for a minute."""
    return f"127.0.1.{1 + number % 8}"


def many(running: Running, rng: random.Random, size: Size) -> Figures:
    """As many connections as asked for at once; each was answered and stays, every fourth is a WebSocket."""
    before = running.memory
    socks: list[socket.socket] = []
    try:
        for number in range(size.connections):
            sock = running.connect(source(number))
            socks.append(sock)
            sock.sendall(WEBSOCKET if number % 4 == 0 else GET)
            assert sock.recv(65536).startswith(b"HTTP/1.1 ")
        held = running.memory
        slowest = max(running.hello() for _ in range(20))
    finally:
        for sock in socks:
            sock.close()
    return {
        "open": len(socks),
        "bytes_per_connection": round((held - before) / len(socks)),
        "hello_among_them_ms": round(slowest * 1000, 2),
    }


def churn(running: Running, rng: random.Random, size: Size) -> Figures:
    """Connections that come, ask and go, one after another, closed by either side first."""
    start = time.perf_counter()
    for number in range(size.churn):
        with running.connect(source(number)) as sock:
            if number % 2:
                sock.sendall(GET)
                assert sock.recv(4096).startswith(b"HTTP/1.1 200")
            else:
                sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                while sock.recv(4096):
                    pass
    return {"connections": size.churn, "per_second": round(size.churn / (time.perf_counter() - start))}


def resets(running: Running, rng: random.Random, size: Size) -> Figures:
    """Clients that vanish in the middle of everything: after any byte sent or read, by reset or by FIN.

    With TLS every fourth does so in its handshake.
    """
    hello = client_hello()
    for number in range(size.resets):
        if running.tls and number % 4 == 0:
            exchange, sock = hello, running.connect_plainly(source(number))
        else:
            exchange, sock = rng.choice(EXCHANGES), running.connect(source(number))
        sock.sendall(exchange[: rng.randrange(len(exchange) + 1)])
        if rng.random() < 0.5:
            sock.settimeout(rng.choice((0.0001, 0.001)))
            try:
                sock.recv(rng.randrange(1, 100_000))
            except TimeoutError:
                pass
        if rng.random() < 0.5:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    return {"connections": size.resets}


SLOW = {"head": GET, "body": POST, "reader": STREAM, "frames": WEBSOCKET, "handshake": client_hello()}
QUICK = {"body": 100, "reader": len(STREAM), "frames": 170}  # so much of it is sent at once
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Slow:
    """A client that does what it does very slowly, until it is thrown out."""

    def __init__(self, running: Running, rng: random.Random, number: int) -> None:
        kinds = list(SLOW) if running.tls else list(SLOW)[:4]
        self.kind = kinds[number % len(kinds)]
        connect = running.connect_plainly if self.kind == "handshake" else running.connect
        self.sock = connect(source(number), receive_buffer=4096)
        self.due = time.monotonic() + rng.random()
        self._data = SLOW[self.kind]
        self._place = QUICK.get(self.kind, 0)
        self.sock.sendall(self._data[: self._place])
        self.sock.setblocking(False)

    def step(self, rng: random.Random) -> bool:
        """One byte more written, or a few read; False once the server has ended it."""
        self.due += 0.5 + rng.random()
        try:
            if self._place < len(self._data):
                self._place += self.sock.send(self._data[self._place : self._place + 1])
            if self.kind == "reader":
                return bool(self.sock.recv(200))
            return bool(self.sock.recv(4096))
        except _NOT_NOW:
            return True
        except OSError:
            return False


def slow(running: Running, rng: random.Random, size: Size) -> Figures:
    """Slow writers of heads, bodies, frames and handshakes, and slow readers; one that is thrown out comes back."""
    until = time.monotonic() + size.slow_seconds
    clients = [Slow(running, rng, number) for number in range(size.slow_clients)]
    thrown_out = dict.fromkeys((client.kind for client in clients), 0)
    largest = running.memory
    waiter = selectors.DefaultSelector()
    try:
        while (now := time.monotonic()) < until:
            for number, client in enumerate(clients):
                if client.due <= now and not client.step(rng):
                    thrown_out[client.kind] += 1
                    client.sock.close()
                    clients[number] = Slow(running, rng, number)
            largest = max(largest, running.memory)
            waiter.select(0.05)
    finally:
        waiter.close()
        for client in clients:
            client.sock.close()
    return {"clients": len(clients), "seconds": size.slow_seconds, "thrown_out": thrown_out, "largest_mb": mb(largest)}


def slowhttptest(running: Running, rng: random.Random, size: Size) -> Figures:
    """Somebody else's slow clients: slow heads, slow bodies, slow readers, 1000 of each (the Debian package)."""
    program = shutil.which("slowhttptest")
    if program is None:
        return {"skipped": "slowhttptest is not installed"}
    seconds = str(max(10, min(int(size.slow_seconds / 3), 240)))
    url = f"{'https' if running.tls else 'http'}://127.0.0.1:{running.port}"
    kinds = {
        "headers": ["-H", "-i", "5", "-u", f"{url}/hello"],
        "body": ["-B", "-i", "5", "-u", f"{url}/post"],
        "read": ["-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3", "-u", f"{url}/hello"],
    }
    ends: dict[str, int] = {}
    for name, options in kinds.items():
        line = [program, *options, "-c", "1000", "-r", "500", "-l", seconds, "-p", "5"]
        limit = float(seconds) + PATIENCE + 30
        ends[name] = subprocess.run(line, capture_output=True, timeout=limit, check=False).returncode
    return {"seconds_each": int(seconds), "exit_codes": ends}


def mb(size: int) -> float:
    return round(size / 1024 / 1024, 1)


SCENES: dict[str, Scene] = {
    "many": many,
    "churn": churn,
    "resets": resets,
    "slow": slow,
    "slowhttptest": slowhttptest,
}
