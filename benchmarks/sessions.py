"""What a session costs over a bare WebSocket: the same conversation, the same client, with and without `ck.v1`.

    python -m benchmarks.sessions [echo64] [fan64] [--backend trio] [--rounds 5]

echo64: 64 connections, one 64-byte message in flight on each.  fan64: one member of a group of 1000 sends bursts of
16; an operation is one message delivered to one member.  Server and client are a process and a core each.  The figure
is the server's CPU time (user and system) an operation, and the ratio of the two, measured in turns.
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
from dataclasses import dataclass

import anyio

from benchmarks.frames import upgrade
from benchmarks.process import Usage, raise_descriptor_limit, usage
from channelkit import Channel, Endpoint, Group, SessionConfig, serve

MARK = b"!"  # once in every payload, and in nothing else that a server sends
PAYLOAD = "x" * 63 + MARK.decode()
ACK_EVERY = 256  # messages: a quarter of the window, as docs/protocol.md 7 says
PATIENCE = 10.0  # seconds of silence that mean a message was lost
ONE_ADDRESS = SessionConfig(max_sessions_per_principal=5000)  # all of them come from this machine

members = Group()


async def converse(channel: Channel) -> None:
    """Every message back, or on /fan to all members of the group."""
    if channel.request.path.startswith("/fan"):
        members.add(channel)
        async for message in channel:
            members.send_nowait(message)
    else:
        async for message in channel:
            await channel.send(message)


@dataclass(frozen=True)
class Cell:
    """One kind of conversation."""

    path: str
    connections: int
    burst: int = 1
    fan: bool = False


CELLS = {"echo64": Cell("", 64), "fan64": Cell("/fan", 1000, 16, fan=True)}


def serve_forever(port: int, backend: str) -> None:
    """The server's process."""
    raise_descriptor_limit()
    server = functools.partial(serve, Endpoint(converse, session=ONE_ADDRESS), port=port, backlog=1024)
    anyio.run(server, backend=backend)


def frame(text: str) -> bytes:
    """A masked text frame whose mask is zero."""
    data = text.encode()
    head = bytes([0x81, 0x80 | len(data)]) if len(data) < 126 else b"\x81\xfe" + len(data).to_bytes(2)
    return head + bytes(4) + data


class Talker:
    """One connection: counts the messages that come, and as a session numbers its own and acknowledges."""

    def __init__(self, port: int, path: str, session: bool) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.session = session
        self.sent = self.received = self.acked = 0
        handshake = upgrade(f"{path}/ck/ws" if session else path or "/", port)
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

    def ask(self, count: int) -> None:
        """Send so many messages at once."""
        if self.session:
            first = self.sent + 1
            self.sock.send(b"".join(frame(f"m {number} {PAYLOAD}") for number in range(first, first + count)))
            self.sent += count
        else:
            self.sock.send(frame(PAYLOAD) * count)

    def receive(self) -> int:
        """How many messages came; the server's own acknowledgements are none."""
        count = self.sock.recv(1 << 18).count(MARK)
        self.received += count
        if self.session and self.received - self.acked >= ACK_EVERY:
            self.acked = self.received
            self.sock.send(frame(f"a {self.acked}"))
        return count

    def close(self) -> None:
        """End the session too, or it would stay for a grace, and in its group."""
        if self.session:
            self.sock.sendall(frame(f"e {self.sent + 1} 1000 "))
            self.sock.settimeout(PATIENCE)
            while not self.sock.recv(65536).endswith(b"\x03\xe8ended"):  # the close frame
                pass
        self.sock.close()


class Load:
    """All connections of a cell."""

    def __init__(self, cell: Cell, port: int, session: bool) -> None:
        self._cell = cell
        self._talkers = {talker.sock.fileno(): talker for talker in self._open(port, session)}
        self._poller = select.epoll()
        for fd in self._talkers:
            self._poller.register(fd, select.EPOLLIN)

    def _open(self, port: int, session: bool) -> list[Talker]:
        return [Talker(port, self._cell.path, session) for _ in range(self._cell.connections)]

    def play(self, seconds: float) -> int:
        """Talk for so long; how many messages came."""
        return self._fan(seconds) if self._cell.fan else self._echo(seconds)

    def _echo(self, seconds: float) -> int:
        done = 0
        for talker in self._talkers.values():
            talker.ask(1)
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            for talker, count in self._round():
                done += count
                if count:
                    talker.ask(count)
        missing = len(self._talkers)
        while missing:
            missing -= sum(count for _, count in self._round())
        return done + len(self._talkers)

    def _fan(self, seconds: float) -> int:
        done = 0
        publisher = next(iter(self._talkers.values()))
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            publisher.ask(self._cell.burst)
            missing = self._cell.burst * len(self._talkers)
            done += missing
            while missing:
                missing -= sum(count for _, count in self._round())
        return done

    def _round(self) -> list[tuple[Talker, int]]:
        events = self._poller.poll(PATIENCE, len(self._talkers))
        if not events:
            raise SystemExit("a message was lost")
        return [(self._talkers[fd], self._talkers[fd].receive()) for fd, _ in events]

    def close(self) -> None:
        """The connections end."""
        self._poller.close()
        for talker in self._talkers.values():
            talker.close()


def measure(cell: Cell, port: int, pid: int, session: bool, seconds: float) -> Usage:
    """CPU microseconds of the server a message."""
    load = Load(cell, port, session)
    try:
        load.play(seconds / 5)
        before = usage(pid)
        done = load.play(seconds)
        used = usage(pid).since(before)
    finally:
        load.close()
    return Usage(used.user / done * 1e6, used.system / done * 1e6)


def compare(name: str, port: int, pid: int, rounds: int, seconds: float) -> dict[str, object]:
    """Both ways in turns."""
    found: dict[str, list[Usage]] = {"bare": [], "session": []}
    for _ in range(rounds):
        for way, one in found.items():
            one.append(measure(CELLS[name], port, pid, way == "session", seconds))
            time.sleep(0.1)
    total = {way: statistics.median(used.total for used in one) for way, one in found.items()}
    user = {way: statistics.median(used.user for used in one) for way, one in found.items()}
    return {
        "cell": name,
        **{f"{way}_us": round(figure, 2) for way, figure in total.items()},
        **{f"{way}_user_us": round(figure, 2) for way, figure in user.items()},
        "ratio": round(total["session"] / total["bare"], 2),
        "rounds": [[round(used.total, 2) for used in one] for one in found.values()],
    }


def main() -> None:
    """Measure, print one line of JSON a cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="cell", help=f"of {', '.join(CELLS)}; default: all")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    if unknown := set(options.cells) - set(CELLS):
        parser.error(f"no such cell: {', '.join(sorted(unknown))}")
    raise_descriptor_limit()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve_forever, args=(port, options.backend))
    process.start()
    try:
        assert process.pid is not None
        wait_for(port)
        for name in options.cells or CELLS:
            result = compare(name, port, process.pid, options.rounds, options.seconds)
            print(json.dumps({"backend": options.backend, **result}), flush=True)
    finally:
        process.terminate()
        process.join()


def wait_for(port: int) -> None:
    """Until a server answers there."""
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
