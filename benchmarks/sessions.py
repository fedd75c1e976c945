"""What a session costs over a bare WebSocket: the same echo, the same client, with and without `ck.v1`.

    python -m benchmarks.sessions [--backend trio] [--rounds 5]

64 connections, one 64-byte message in flight on each; server and client are a process and a core each.  The figure is
the server's CPU time (user and system) a message, and the ratio of the two, measured in turns.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import select
import socket
import statistics
import time
from typing import Any

import anyio

from benchmarks.frames import upgrade
from benchmarks.process import usage
from channelkit import Channel, Endpoint, serve

CONNECTIONS = 64
PAYLOAD = "x" * 64
ACK_EVERY = 64  # messages; a client may wait for a quarter of the window


async def echo(channel: Channel) -> None:
    """Every message back."""
    async for message in channel:
        await channel.send(message)


def serve_forever(port: int, backend: str) -> None:
    """The server's process."""
    server = functools.partial(serve, Endpoint(echo), port=port)
    anyio.run(server, backend=backend)


def frame(text: str) -> bytes:
    """A masked text frame whose mask is zero."""
    data = text.encode()
    head = bytes([0x81, 0x80 | len(data)]) if len(data) < 126 else b"\x81\xfe" + len(data).to_bytes(2)
    return head + bytes(4) + data


class Talker:
    """One connection: sends a message, waits for its echo, and so on."""

    def __init__(self, port: int, session: bool) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.session = session
        self.number = 0
        handshake = upgrade("/ck/ws" if session else "/", port)
        if session:
            handshake = handshake[:-2] + b"Sec-WebSocket-Protocol: ck.v1\r\n\r\n"
        self.sock.sendall(handshake)
        self._until(b"\r\n\r\n")
        if session:
            self.sock.sendall(frame('h {"v":1}'))
            self._until(b"}")

    def _until(self, end: bytes) -> None:
        data = b""
        while not data.endswith(end):
            data += self.sock.recv(65536)

    def ask(self) -> None:
        self.number += 1
        if not self.session:
            self.sock.send(frame(PAYLOAD))
            return
        message = frame(f"m {self.number} {PAYLOAD}")
        if self.number % ACK_EVERY == 0:
            message = frame(f"a {self.number - 1}") + message
        self.sock.send(message)

    def answered(self) -> bool:
        """Whether the echo came; the server's own acknowledgements are no echo."""
        return PAYLOAD.encode() in self.sock.recv(65536)


def measure(port: int, pid: int, session: bool, seconds: float) -> float:
    """CPU microseconds of the server a message."""
    talkers = [Talker(port, session) for _ in range(CONNECTIONS)]
    poller = select.epoll()
    by_fd = {talker.sock.fileno(): talker for talker in talkers}
    for talker in talkers:
        poller.register(talker.sock.fileno(), select.EPOLLIN)
        talker.ask()
    done = 0
    before = usage(pid)
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for fd, _ in poller.poll(5, CONNECTIONS):
            if by_fd[fd].answered():
                done += 1
                by_fd[fd].ask()
    after = usage(pid)
    for talker in talkers:
        talker.sock.close()
    poller.close()
    return (after.user + after.system - before.user - before.system) / done * 1e6


def main() -> None:
    """Measure in turns, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve_forever, args=(port, options.backend))
    process.start()
    figures: dict[str, list[float]] = {"bare": [], "session": []}
    try:
        assert process.pid is not None
        _wait(port)
        for _ in range(options.rounds):
            for name, one in figures.items():
                one.append(measure(port, process.pid, name == "session", options.seconds))
    finally:
        process.terminate()
        process.join()
    result: dict[str, Any] = {name: round(statistics.median(one), 2) for name, one in figures.items()}
    print(json.dumps({"backend": options.backend, **result, "ratio": round(result["session"] / result["bare"], 2)}))


def _wait(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            os.sched_yield()
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
