"""What a plain `def` handler costs more than an `async def` one: CPU time of the server's process for each request.

    python -m benchmarks.threads [--backend trio] [--seconds 2]

A client in a process of its own asks over 1 and over 16 connections, or sends messages to an echo and waits for each,
or for the answer to the last of a hundred; or for the answers to ten at once.
The two kinds take turns, three times each, and the best run of each counts: whoever else uses the machine only adds.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from channelkit import SyncRequest, as_channel, run_server

ROUNDS = 3
GET = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ECHOED = b"\x81\x81\x00\x00\x00\x00x"  # masked by zeros
SILENT = b"\x81\x81\x00\x00\x00\x00y"
ANSWER = b"\x81\x01x"
#: What is sent at once, how many messages or requests that is, and what answers it.
KINDS = {
    "get": (GET, 1, b"hello"),
    "echo": (ECHOED, 1, ANSWER),
    "ten": (ECHOED * 10, 10, ANSWER * 10),
    "hundred": (SILENT * 99 + ECHOED, 100, ANSWER),
}
CELLS = {
    "get, 1 connection": ("get", 1),
    "get, 16 connections": ("get", 16),
    "echo, 16 WebSockets": ("echo", 16),
    "... of 10 at once": ("ten", 16),
    "100 at once, 1 answer": ("hundred", 16),
}


def echo(channel: Any, message: str) -> None:
    if message == "x":
        channel.send_nowait(message)


async def on_loop(request: Any) -> Any:
    return as_channel(request, on_receive=echo) if request.is_websocket else "hello"


def plain(request: SyncRequest) -> Any:
    return as_channel(request, on_receive=echo) if request.is_websocket else "hello"


def load(port: int, kind: str, connections: int, seconds: float) -> int:
    """The client: every connection asks, then every answer is awaited; how many requests or messages there were."""
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    question, size, end = KINDS[kind]
    for sock in socks:
        if kind != "get":
            sock.sendall(UPGRADE)
            assert sock.recv(4096).endswith(b"\r\n\r\n")
    count = 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for sock in socks:
            sock.sendall(question)
        for sock in socks:
            got = b""
            while not got.endswith(end):
                got += sock.recv(4096)
        count += connections * size
    for sock in socks:
        sock.close()
    return count


def microseconds(handler: Callable[..., Any], backend: Any, kind: str, connections: int, seconds: float) -> float:
    """CPU time of this process for one request or message."""
    server = run_server(handler, port=0, backend=backend)
    line = [sys.executable, "-m", "benchmarks.threads", "--load", str(server.port), kind, str(connections)]
    try:
        began = time.process_time()
        done = subprocess.run(
            [*line, "--seconds", str(seconds)], capture_output=True, text=True, check=True, timeout=seconds + 30
        )
        return (time.process_time() - began) / int(done.stdout) * 1e6
    finally:
        server.stop(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        port, kind, connections = options.load
        print(load(int(port), kind, int(connections), options.seconds))
        return
    print(f"{options.backend:24} {'async def':>10} {'def':>8} {'ratio':>6}   CPU us a request or message")
    for name, (kind, connections) in CELLS.items():
        runs = [
            [microseconds(handler, options.backend, kind, connections, options.seconds) for handler in (on_loop, plain)]
            for _ in range(ROUNDS)
        ]
        fast, slow = (min(times) for times in zip(*runs, strict=True))
        print(f"{name:24} {fast:10.1f} {slow:8.1f} {slow / fast:6.1f}")


if __name__ == "__main__":
    main()
