"""Soak sessions: messages each way through a network that never stops failing, over all bindings, switching at random.

    python -m benchmarks.soak.sessions [--messages 1000000] [--server asyncio] [--client trio] [--out FILE]

Server, clients and the proxy between them (`proxy.py`) are a process each.  Both ends know every message that must
come: nothing may be lost, repeated, changed or out of order, every session must end in order, and the memory of the
server and of the clients must be flat (the slope of the last half is in the report).  Exits 1 if not.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.process import family, resident, usage
from benchmarks.soak.__main__ import versions

STOP = 60.0  # seconds in which a process must end when asked
WARM = 5.0  # seconds before memory is looked at
FLAT = 3.0  # MB of growth in the last half of a run that is long enough to tell: more is a leak
LONG = 60.0  # seconds


class Process:
    """A part of the soak, which says in lines of JSON what it has to say."""

    def __init__(self, module: str, *args: object, nice: int) -> None:
        command = ["nice", "-n", str(nice), sys.executable, "-m", f"benchmarks.soak.{module}", *map(str, args)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said: Any = None
        self.first = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said = json.loads(line)
            self.first.set()

    def port(self) -> int:
        """The first that it says."""
        if not self.first.wait(STOP):
            raise SystemExit("a process of the soak did not start")
        return int(self.said)

    def stop(self) -> Any:
        """End it; the last that it said."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return {"errors": ["it did not stop"]}
        self._reader.join(STOP)
        return self.said

    def kill(self) -> None:
        """At once, if it is still there, and let go of its pipes."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(STOP)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Memory:
    """RSS over time, in MB, of a process with its children."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.samples: list[tuple[float, float]] = []

    def look(self, seconds: float) -> None:
        size = sum(resident(pid) for pid in family(self._pid))
        self.samples.append((seconds, size / 1024 / 1024))

    def report(self) -> dict[str, object]:
        """Of the last half: its slope by least squares, and what that makes of it."""
        half = self.samples[len(self.samples) // 2 :]
        slope = _slope(half)
        seconds = half[-1][0] - half[0][0] if half else 0.0
        every = max(1, len(self.samples) // 20)
        return {
            "mb": [round(mb, 1) for _, mb in self.samples[::every]],
            "largest_mb": round(max((mb for _, mb in self.samples), default=0.0), 1),
            "last_half_mb_per_minute": round(slope * 60, 3),
            "last_half_growth_mb": round(slope * seconds, 2),
        }


def _slope(samples: list[tuple[float, float]]) -> float:
    """Least squares."""
    if len(samples) < 3:
        return 0.0
    mean_x = sum(x for x, _ in samples) / len(samples)
    mean_y = sum(y for _, y in samples) / len(samples)
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread


def _server(options: argparse.Namespace) -> Process:
    if options.workers:
        return Process("session_workers", options.server, options.workers, nice=options.nice)
    return Process("session_server", options.server, nice=options.nice)


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """One run: all its figures."""
    server = _server(options)
    parts = [server]
    try:
        proxy = Process("proxy", server.port(), options.seed, nice=options.nice)
        parts.append(proxy)
        numbers = (proxy.port(), options.seed, options.messages, options.sessions, options.each, options.pause)
        client = Process("session_client", options.client, *numbers, nice=options.nice)
        parts.append(client)
        memory = {"server": Memory(server.process.pid), "client": Memory(client.process.pid)}
        seconds, in_time = _watch(client, memory, options)
        used = {name: _used(part.process.pid) for name, part in (("server", server), ("proxy", proxy))}
        if not in_time:
            client.process.kill()
        told = {"client": client.stop(), "proxy": proxy.stop(), "server": server.stop()}
    finally:
        for part in parts:
            part.kill()
    return _report(options, told, memory, seconds, used, in_time=in_time)


def _used(pid: int) -> float:
    return sum(usage(one).total for one in family(pid))


def _watch(client: Process, memory: dict[str, Memory], options: argparse.Namespace) -> tuple[float, bool]:
    """Look at memory every second, say how far it is every ten, until the client is done or time is over."""
    start = time.monotonic()
    said = 0.0
    while client.process.poll() is None:
        time.sleep(min(1.0, options.limit / 100))
        seconds = time.monotonic() - start
        if seconds > options.limit:
            return seconds, False
        if seconds > WARM and client.process.poll() is None:
            for one in memory.values():
                one.look(seconds)
        if seconds - said >= 10:
            said = seconds
            sizes = {name: round(one.samples[-1][1], 1) for name, one in memory.items() if one.samples}
            print(f"{seconds:6.0f} s {json.dumps(client.said)} {sizes} MB", file=sys.stderr, flush=True)
    return time.monotonic() - start, True


def _report(
    options: argparse.Namespace,
    told: dict[str, Any],
    memory: dict[str, Memory],
    seconds: float,
    used: dict[str, float],
    *,
    in_time: bool,
) -> dict[str, Any]:
    errors = [*(told["client"] or {}).get("errors", ["nothing was said"]), *told["server"].get("errors", [])]
    if not in_time:
        errors.append(f"not done after {options.limit} s")
    sizes = {name: one.report() for name, one in memory.items()}
    flat = seconds < LONG or all(float(str(one["last_half_growth_mb"])) < FLAT for one in sizes.values())
    counts = (told["client"] or {}).get("counts", {})
    all_came = counts.get("messages") == told["server"].get("counts", {}).get("messages") == options.messages
    good = not errors and flat and all_came
    return {
        "good": good,
        "errors": errors[:20],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "server": options.server,
        "workers": options.workers,
        "client": options.client,
        "seed": options.seed,
        "sessions_at_once": options.sessions,
        "messages_of_a_session": options.each,
        "pause": options.pause,
        "seconds": round(seconds, 1),
        "cpu_seconds": {name: round(one, 1) for name, one in used.items()},
        "client_saw": counts,
        "server_saw": {name: told["server"].get(name) for name in ("counts", "limits")},
        "faults": told["proxy"],
        "memory": sizes,
        "machine": machine(),
        "versions": versions(),
    }


def machine() -> dict[str, object]:
    """What it ran on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {"cpu": model or platform.machine(), "cores": os.cpu_count(), "memory_gb": round(memory, 1)}


def main(args: list[str] | None = None) -> int:
    """Run it, print and store the figures; 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--workers", type=int, default=0, help="processes that serve, under a supervisor; 0: one alone")
    parser.add_argument("--client", choices=("asyncio", "trio"), default="trio")
    parser.add_argument("--messages", type=int, default=1_000_000, help="each way, of all sessions together")
    parser.add_argument("--sessions", type=int, default=40, help="at once")
    parser.add_argument("--each", type=int, default=5000, help="messages each way of one session")
    parser.add_argument("--pause", type=float, default=4.0, help="seconds at most between two bursts of a session")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which it is given up")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(args)
    report = soak(options)
    text = json.dumps(report, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0 if report["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
