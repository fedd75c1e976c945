"""The load: one process that talks to one server in the way of one cell, and says what that cost the server.

    python -m benchmarks.load CELL --port PORT --pid PID

prints one line of JSON.  It ends with 1, and the reason, if a reply was lost, reordered or corrupted: then the server
did not do the work.  The CPU time is the server's own (user and system) over exactly the measured time; warming up
is not in it.  All of it is bounded, in time and in operations, and it talks to this machine only.
"""

from __future__ import annotations

import argparse
import gc
import ipaddress
import json
import os
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks.cells import CELLS, MOST_CONNECTIONS, Cell
from benchmarks.process import Usage, cores, raise_descriptor_limit, resident, usage
from benchmarks.wires import BadReply, Wire, open_wires

EVENTS = 1024  # reported by one poll: all connections of any busy cell
SURPLUS_WAIT = 0.02  # seconds in which a reply that nobody asked for would show
IDLE_WARM = 100  # connections opened before memory is looked at, so that what is made once is there already


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to do.  Times are seconds."""

    cell: Cell
    host: str = "127.0.0.1"
    port: int
    pid: int | None = None  # the server's process
    seconds: float = 1.0
    warm: float = 0.2
    count: int = 50_000_000  # operations at most, in the measured time and in the warm-up each
    patience: float = 5.0  # silence that means a reply was lost
    tls: bool = False  # the server speaks it


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run found."""

    operations: int  # replies; for "idle" connections
    seconds: float
    cpu_us: float = 0.0  # of the server, for one operation
    user_us: float = 0.0  # the part of it outside the kernel
    rate: float = 0.0  # operations a second
    server_busy: float = 0.0  # the share of one core the server took
    load_busy: float = 0.0  # the same of this process: near 1 means it could not ask faster
    p50_us: float | None = None  # one connection only
    p99_us: float | None = None
    bytes_each: float | None = None  # "idle" only: memory of one connection


class Talk:
    """Echo and GET: every reply is followed by the next message, so `in_flight` stays what it is."""

    def __init__(self, wires: list[Wire], in_flight: int, patience: float) -> None:
        self._poller = select.epoll()
        self._wires = {wire.fd: wire for wire in wires}
        self._in_flight = in_flight
        self._patience = patience
        self._missing = 0
        #: Seconds each round took, if there is one connection.
        self.times: list[float] = []
        for wire in wires:
            wire.watch(self._poller)

    def begin(self) -> None:
        """The first messages."""
        for wire in self._wires.values():
            wire.ask(self._in_flight)
            self._missing += self._in_flight

    def play(self, seconds: float, count: int) -> int:
        """Go on for so long, or so many replies; returns how many came.  Raises BadReply."""
        done = 0
        alone = len(self._wires) == 1
        now = time.perf_counter()
        deadline = now + seconds
        while now < deadline and done < count:
            before = now
            done += self._round(asking=True)
            now = time.perf_counter()
            if alone:
                self.times.append(now - before)
        return done

    def _round(self, *, asking: bool) -> int:
        """What one poll reports; returns how many replies came."""
        total = 0
        for fd, event in self._poll(self._patience):
            wire = self._wires[fd]
            if event & select.EPOLLOUT:
                wire.on_writable()
            if event & ~select.EPOLLOUT:
                done = wire.receive()
                total += done
                if asking and done:
                    wire.ask(done)
        return total

    def _poll(self, timeout: float) -> list[tuple[int, int]]:
        events = self._poller.poll(timeout, EVENTS)
        if not events and timeout == self._patience:
            raise BadReply(f"nothing came back for {timeout:g} s; replies still missing: {self._missing}")
        return events

    def finish(self) -> None:
        """Wait for every reply that is still due, then look whether one too many comes.  Raises BadReply."""
        while self._missing:
            self._missing -= self._round(asking=False)
        for fd, _ in self._poller.poll(SURPLUS_WAIT, 1):
            self._wires[fd].receive()
            raise BadReply(f"{self._wires[fd].name}: more came back than was sent")

    def close(self) -> None:
        """The connections end."""
        self._poller.close()
        for wire in self._wires.values():
            wire.close()


class Broadcast(Talk):
    """The first connection sends a burst; when all have all of it, the next."""

    def begin(self) -> None:
        """Nothing is sent in advance."""

    def play(self, seconds: float, count: int) -> int:
        """Whole bursts, at least one."""
        deadline = time.perf_counter() + seconds
        done = 0
        publisher = next(iter(self._wires.values()))
        while not done or (time.perf_counter() < deadline and done < count):
            self._missing = len(self._wires) * self._in_flight
            done += self._missing
            publisher.ask(self._in_flight)
            while self._missing:
                self._missing -= self._round(asking=False)
        return done


def run(options: Options) -> Result:
    """Run one cell.  Raises BadReply if the server did not do all of its work."""
    return _idle(options) if options.cell.kind == "idle" else _talk(options)


def _talk(options: Options) -> Result:
    cell = options.cell
    wires = open_wires(cell, (options.host, options.port), options.patience, tls=options.tls)
    talk = (Broadcast if cell.kind == "fan" else Talk)(wires, cell.in_flight, options.patience)
    try:
        talk.begin()
        if options.warm:
            talk.play(options.warm, options.count)
        talk.times.clear()
        result = _measured(talk, options)
        talk.finish()
    finally:
        talk.close()
    return result


def _measured(talk: Talk, options: Options) -> Result:
    """The measured time: nothing but the conversation happens between the two looks at the server's clock."""
    own, start, before = time.process_time(), time.perf_counter(), usage(options.pid)
    done = talk.play(options.seconds, options.count)
    used = usage(options.pid).since(before)
    seconds, own = time.perf_counter() - start, time.process_time() - own
    times = sorted(talk.times)
    return replace(
        _result(done, seconds, used),
        load_busy=own / seconds,
        p50_us=times[len(times) // 2] * 1e6 if times else None,
        p99_us=times[len(times) * 99 // 100] * 1e6 if times else None,
    )


def _result(operations: int, seconds: float, used: Usage) -> Result:
    return Result(
        operations=operations,
        seconds=seconds,
        cpu_us=used.total / operations * 1e6,
        user_us=used.user / operations * 1e6,
        rate=operations / seconds,
        server_busy=used.total / seconds,
    )


def _idle(options: Options) -> Result:
    """Memory before and after the connections open; a few are there already."""
    if options.pid is None:
        raise ValueError("the memory of a server without --pid cannot be seen")
    cell, address = options.cell, (options.host, options.port)
    wires = open_wires(replace(cell, connections=IDLE_WARM), address, options.patience, tls=options.tls)
    try:
        memory, before, start = _settled(options.pid), usage(options.pid), time.perf_counter()
        wires += open_wires(cell, address, options.patience, first=IDLE_WARM, tls=options.tls)
        seconds = time.perf_counter() - start
        grown = _settled(options.pid) - memory
        used = usage(options.pid).since(before)
        _all_silent(wires)
    finally:
        for wire in wires:
            wire.close()
    return replace(_result(cell.connections, seconds, used), bytes_each=grown / cell.connections)


def _settled(pid: int) -> int:
    """The memory of a process once it has not changed for a fifth of a second, or after two."""
    seen = [resident(pid)]
    while len(seen) < 20 and (len(seen) < 3 or len(set(seen[-3:])) > 1):
        time.sleep(0.1)
        seen.append(resident(pid))
    return seen[-1]


def _all_silent(wires: list[Wire]) -> None:
    with select.epoll() as poller:
        for wire in wires:
            wire.watch(poller)
        if talking := poller.poll(0, len(wires)):
            raise BadReply(f"{len(talking)} of {len(wires)} idle connections were not left alone")


# -- the command line --------------------------------------------------------------------------------------------------


def parse(args: Sequence[str] | None = None) -> Options:
    """The options of a command line.  SystemExit, with what is wrong, for one that cannot work."""
    parser = _parser()
    given = parser.parse_args(args)
    changes = {name: value for name in ("connections", "in_flight") if (value := getattr(given, name)) is not None}
    cell = replace(CELLS[given.cell], **changes)
    if cell.kind == "idle" and given.pid is None:
        parser.error("idle looks at the server's memory: it needs --pid")
    return Options(
        cell=cell,
        host=given.host,
        port=given.port,
        pid=given.pid,
        seconds=given.seconds,
        warm=given.warm,
        count=given.count,
        patience=given.patience,
        tls=given.tls,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("cell", choices=tuple(CELLS))
    parser.add_argument("--host", type=_loopback, default="127.0.0.1", help="an address in 127.0.0.0/8")
    parser.add_argument("--port", type=_Within(int, 1, 65535), required=True)
    parser.add_argument("--pid", type=_Within(int, 1, 2**22), help="the server's process, whose CPU time is read")
    parser.add_argument("--seconds", type=_Within(float, 0.01, 60), default=1.0, help="measured (default: %(default)s)")
    parser.add_argument("--warm", type=_Within(float, 0, 30), default=0.2, help="before that (default: %(default)s)")
    parser.add_argument("--count", type=_Within(int, 1, 10**9), default=50_000_000, help="operations at most")
    parser.add_argument("--patience", type=_Within(float, 0.01, 60), default=5.0, help="silence that means: lost")
    parser.add_argument(
        "--connections", type=_Within(int, 1, MOST_CONNECTIONS), help="instead of the cell's own number"
    )
    parser.add_argument("--tls", action="store_true", help="the server speaks TLS; its certificate is not looked at")
    parser.add_argument("--in-flight", type=_Within(int, 1, 1024), help="instead of the cell's own number")
    return parser


@dataclass(frozen=True)
class _Within:
    """A number of a kind, within limits."""

    kind: type[int] | type[float]
    low: float
    high: float

    def __call__(self, text: str) -> float:
        value = self.kind(text)
        if not self.low <= value <= self.high:  # not a number is within nothing
            raise argparse.ArgumentTypeError(f"{text} is not within {self.low:g} and {self.high:g}")
        return value


def _loopback(text: str) -> str:
    """This is made to overload a server; it shall not be one of somebody else's."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no IPv4 address") from None
    if not address.is_loopback:
        raise argparse.ArgumentTypeError(f"{text} is not within 127.0.0.0/8")
    return text


def main(args: Sequence[str] | None = None) -> int:
    """Run one cell and print the result; returns the exit code."""
    options = parse(args)
    raise_descriptor_limit()
    if (pinned := cores()) is not None:
        os.sched_setaffinity(0, {pinned[1]})
    gc.disable()  # nothing here makes cycles; a collection would be a pause in the middle of the measured time
    try:
        result = run(options)
    except BadReply as error:
        print(json.dumps({"error": str(error)}))
        return 1
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
