"""What a plain `def` handler costs more than an `async def` one: CPU time of the server's process for each request.

    python -m benchmarks.threads [--backend trio] [--seconds 2]

A client in a process of its own asks over 1 and over 16 connections, or sends messages to an echo and waits for each.
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
MESSAGE = b"\x81\x81\x00\x00\x00\x00x"  # masked by zeros
CELLS = {"get, 1 connection": ("get", 1), "get, 16 connections": ("get", 16), "echo, 16 WebSockets": ("echo", 16)}


async def on_loop(request: Any) -> Any:
    if request.is_websocket:
        return as_channel(request, on_receive=lambda channel, message: channel.send_nowait(message))
    return "hello"


def plain(request: SyncRequest) -> Any:
    if request.is_websocket:
        return as_channel(request, on_receive=lambda channel, message: channel.send_nowait(message))
    return "hello"


def load(port: int, kind: str, connections: int, seconds: float) -> int:
    """The client: every connection asks, then every answer is awaited; how many there were."""
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    question, end = (GET, b"hello") if kind == "get" else (MESSAGE, b"\x81\x01x")
    for sock in socks:
        if kind == "echo":
            sock.sendall(UPGRADE)
            assert sock.recv(4096).endswith(b"\r\n\r\n")
    count = 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for sock in socks:
            sock.sendall(question)
        for sock in socks:
            assert sock.recv(4096).endswith(end)
        count += connections
    for sock in socks:
        sock.close()
    return count


def microseconds(handler: Callable[..., Any], backend: Any, kind: str, connections: int, seconds: float) -> float:
    """CPU time of this process for one answer."""
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
    print(f"{options.backend:24} {'async def':>10} {'def':>8} {'ratio':>6}   CPU us an answer")
    for name, (kind, connections) in CELLS.items():
        runs = [
            [microseconds(handler, options.backend, kind, connections, options.seconds) for handler in (on_loop, plain)]
            for _ in range(ROUNDS)
        ]
        fast, slow = (min(times) for times in zip(*runs, strict=True))
        print(f"{name:24} {fast:10.1f} {slow:8.1f} {slow / fast:6.1f}")


if __name__ == "__main__":
    main()
