"""Many sessions that poll, at once, against one server: what they hold and what they cost.

    python -m benchmarks.polling [--sessions 5000] [--backend trio] [--style iteration] [--out FILE]

Server and clients (raw sockets, one for each session) are a process each.  It needs Linux and a descriptor limit above
`--sessions`.  The figures: memory of the server for each session, CPU a second while nothing happens but that polls run
out (after `--wait` seconds) and come again, and CPU a message that a group delivers to all: the answer of the held
poll, and the poll that follows and acknowledges it.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import multiprocessing
import re
import select
import socket
import time
from pathlib import Path

import anyio

from benchmarks.process import raise_descriptor_limit, resident, usage
from benchmarks.sessions import wait_for
from benchmarks.soak.__main__ import versions
from benchmarks.soak.sessions import machine
from channelkit import Channel, Endpoint, Group, Request, Response, SessionConfig, serve

PAYLOAD = "x" * 64
PATIENCE = 30.0
RARELY = (20_000, 20, 50)
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)", re.IGNORECASE)
_SECRET = re.compile(rb'"secret":"([^"]+)"')
_SID = re.compile(rb'"sid":"([^"]+)"')
_NUMBER = re.compile(rb'^\["m",([0-9]+),', re.MULTILINE)

members = Group()


def joined(channel: Channel) -> None:
    """`callbacks`: a session needs no task."""
    members.add(channel)


async def iterated(channel: Channel) -> None:
    """`iteration`: each session has a handler that waits for messages."""
    members.add(channel)
    async for _ in channel:
        pass


def serve_forever(port: int, backend: str, style: str, rarely: bool) -> None:
    """The server's process."""
    raise_descriptor_limit()
    if rarely:
        gc.set_threshold(*RARELY)
    # All of them come from this machine, and their one process may be slow to poll.
    config = SessionConfig(max_sessions_per_principal=20000, grace=120.0)
    if style == "callbacks":
        endpoint = Endpoint(on_open=joined, on_receive=lambda channel, message: None, session=config)
    else:
        endpoint = Endpoint(iterated, session=config)

    async def handler(request: Request) -> object:
        if request.path == "/publish":
            return Response(200, {}, str(members.send_nowait(PAYLOAD)))
        return await endpoint(request)

    anyio.run(functools.partial(serve, handler, port=port, backlog=1024), backend=backend)


class Poller:
    """One session, and the connection it polls on."""

    __slots__ = ("_ack", "_data", "_head", "sock")

    def __init__(self, port: int, wait: float) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.settimeout(PATIENCE)
        self.sock.sendall(b"POST /ck HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n")
        self._data = b""
        self._ack = 0
        while (body := self._answer()) is None:
            self._data += self.sock.recv(4096)
        sid, secret = _found(_SID, body), _found(_SECRET, body)
        head = (
            f"GET /ck/{sid}/poll?wait={wait:g}&ack=%d HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {secret}\r\n\r\n"
        )
        self._head = head.encode()

    def poll(self) -> None:
        """Ask for what is behind the last message that came."""
        self.sock.sendall(self._head % self._ack)

    def receive(self) -> int | None:
        """How many messages an answer brought; None while it is not whole."""
        piece = self.sock.recv(65536)
        if not piece:
            raise SystemExit("the server closed a poll's connection")
        self._data += piece
        if (body := self._answer()) is None:
            return None
        numbers = [int(number) for number in _NUMBER.findall(body)]
        if numbers != list(range(self._ack + 1, self._ack + 1 + len(numbers))):
            raise SystemExit(f"messages {numbers} came behind {self._ack}")
        self._ack += len(numbers)
        return len(numbers)

    def _answer(self) -> bytes | None:
        head, found, rest = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if not found or len(rest) < size:
            return None
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201", b"HTTP/1.1 204")):
            raise SystemExit(f"a poll was answered {head[:80]!r} {rest[:200]!r}")
        self._data = rest[size:]
        return rest[:size]


def _found(pattern: re.Pattern[bytes], text: bytes) -> str:
    match = pattern.search(text)
    assert match is not None, text
    return match[1].decode()


class Pollers:
    """All of them."""

    def __init__(self, port: int, count: int, wait: float) -> None:
        self._by_fd: dict[int, Poller] = {}
        self._epoll = select.epoll()
        self._port = port
        for _ in range(count):
            poller = Poller(port, wait)
            poller.poll()
            self._by_fd[poller.sock.fileno()] = poller
            self._epoll.register(poller.sock, select.EPOLLIN)

    def idle(self, seconds: float) -> int:
        """Nothing is sent; how many polls ran out and came again."""
        until = time.monotonic() + seconds
        polls = 0
        while (left := until - time.monotonic()) > 0:
            polls += self._answers(left)[0]
        return polls

    def publish(self, rounds: int) -> int:
        """So many messages, each to all, one after the other; how many were delivered."""
        with socket.create_connection(("127.0.0.1", self._port)) as publisher:
            publisher.settimeout(PATIENCE)
            for _ in range(rounds):
                publisher.sendall(b"GET /publish HTTP/1.1\r\nHost: bench\r\n\r\n")
                if not publisher.recv(4096).startswith(b"HTTP/1.1 200"):
                    raise SystemExit("nothing was published")
                self._delivery()
        return rounds * len(self._by_fd)

    def _delivery(self) -> None:
        """Wait until all have the message."""
        missing = len(self._by_fd)
        until = time.monotonic() + PATIENCE
        while missing:
            missing -= self._answers(PATIENCE)[1]
            if time.monotonic() > until:
                raise SystemExit(f"{missing} messages were lost")

    def _answers(self, seconds: float) -> tuple[int, int]:
        """Answers and messages of one round; each is followed by the next poll."""
        polls = came = 0
        for fd, _ in self._epoll.poll(seconds, len(self._by_fd)):
            poller = self._by_fd[fd]
            if (messages := poller.receive()) is not None:
                polls += 1
                came += messages
                poller.poll()
        return polls, came


def measure(port: int, pid: int, options: argparse.Namespace) -> dict[str, object]:
    """All figures of one run."""
    for _ in range(50):
        warm = Poller(port, 0.0)
        warm.sock.close()
    before = resident(pid)
    made = usage(pid)
    pollers = Pollers(port, options.sessions, options.wait)
    creating = usage(pid).since(made)
    pollers.idle(2.0)
    held = resident(pid)
    start, at = usage(pid), time.monotonic()
    polls = pollers.idle(options.seconds)
    idle, seconds = usage(pid).since(start), time.monotonic() - at
    start, at = usage(pid), time.monotonic()
    delivered = pollers.publish(options.publish)
    used, took = usage(pid).since(start), time.monotonic() - at
    return {
        "sessions": options.sessions,
        "bytes_each_polling": round((held - before) / options.sessions),
        "bytes_each_after_messages": round((resident(pid) - before) / options.sessions),
        "begin_cpu_us": round(creating.total / options.sessions * 1e6, 1),
        "idle_seconds": round(seconds, 1),
        "idle_polls": polls,
        "idle_cpu_percent": round(idle.total / seconds * 100, 2),
        "idle_cpu_us_per_poll": round(idle.total / polls * 1e6, 1) if polls else None,
        "delivered": delivered,
        "message_cpu_us": round(used.total / delivered * 1e6, 1),
        "message_user_us": round(used.user / delivered * 1e6, 1),
        "messages_per_second": round(delivered / took),
    }


def main(args: list[str] | None = None) -> None:
    """Measure, print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--style", choices=("callbacks", "iteration"), default="callbacks")
    parser.add_argument("--gc-rarely", action="store_true", help=f"the server calls gc.set_threshold{RARELY}")
    parser.add_argument("--wait", type=float, default=25.0, help="seconds a poll waits")
    parser.add_argument("--seconds", type=float, default=30.0, help="of idling")
    parser.add_argument("--publish", type=int, default=20, help="messages to all")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(args)
    raise_descriptor_limit()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (port, options.backend, options.style, options.gc_rarely)
    process = multiprocessing.get_context("spawn").Process(target=serve_forever, args=arguments)
    process.start()
    try:
        assert process.pid is not None
        wait_for(port)
        figures = measure(port, process.pid, options)
    finally:
        process.terminate()
        process.join()
    result = {"backend": options.backend, "style": options.style, "gc_rarely": options.gc_rarely, **figures}
    print(json.dumps(result))
    if options.out is not None:
        told = {**result, "wait": options.wait, "machine": machine(), "versions": versions()}
        options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
