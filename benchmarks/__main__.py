"""channelkit beside its peers, on this machine.

    python -m benchmarks [--quick] [--tls] [--cells a,b] [--servers x,y*] [--rounds N] [--out FILE]
    python -m benchmarks pair A B [--cells a,b] [--rounds N]

The servers take turns, round after round, so that what else the machine does hits all alike; each figure is the
median of the rounds.  How to read the tables is told in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.cells import CELLS, QUICK
from benchmarks.process import raise_descriptor_limit
from benchmarks.servers import SERVERS, RunningServer, ServerFailed, Spec, default_servers, extra

PACKAGES = ("channelkit", "anyio", "trio", "uvloop", "h11", "wsproto", "websockets", "aiohttp", "picows")
QUICK_BUDGET = 150.0  # the whole is promised in three minutes; the last round begun may take its time


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.  Times are seconds."""

    cells: tuple[str, ...]
    servers: Mapping[str, Spec]
    rounds: int
    seconds: float  # of each run, measured
    warm: float  # of each run, before that
    budget: float  # a cell's second and later rounds are left out once its share of this is used up
    out: Path | None
    pair: tuple[str, str] | None


def main(args: Sequence[str] | None = None) -> int:
    """Run the plan of a command line and print the tables; 1 if a run failed for other reasons than missing parts."""
    if not sys.platform.startswith("linux"):
        print("the benchmarks read /proc and use epoll: they need Linux", file=sys.stderr)
        return 2
    plan = parse(args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves through `finally`, which ends the servers
    raise_descriptor_limit()
    rows: list[report.Row] = []
    try:
        _run(plan, rows)
    except KeyboardInterrupt:
        print("interrupted; this is what there is so far", file=sys.stderr)
    _show(plan, rows)
    if plan.out is not None:
        plan.out.write_text(json.dumps({"machine": _machine(), "rows": rows}, indent=1))
    return 1 if any("error" in row and not row.get("expected") for row in rows) else 0


# -- running -----------------------------------------------------------------------------------------------------------


def _run(plan: Plan, rows: list[report.Row]) -> None:
    """Append a row for each run."""
    start = time.monotonic()
    for number, cell in enumerate(plan.cells, 1):
        deadline = start + plan.budget * number / len(plan.cells)
        with _servers(plan, cell, rows) as running:
            _run_cell(plan, cell, running, deadline, rows)


def _run_cell(plan: Plan, cell: str, running: list[RunningServer], deadline: float, rows: list[report.Row]) -> None:
    # A server's memory does not shrink again, so there is one opening to be measured in each.
    for number in range(1 if cell == "idle" else plan.rounds):
        if number and time.monotonic() > deadline:
            print(f"{cell:10} no more rounds: the time is up", flush=True)
            return
        for server in running:
            _add(rows, cell, server.name, server.load(cell, plan.seconds, plan.warm))


def _add(rows: list[report.Row], cell: str, server: str, figures: Mapping[str, Any]) -> None:
    row = {"cell": cell, "server": server, **figures}
    rows.append(row)
    print(report.progress(row), flush=True)


@contextmanager
def _servers(plan: Plan, cell: str, rows: list[report.Row]) -> Iterator[list[RunningServer]]:
    """All servers that can do this cell, freshly started; the others get a row that says why not."""
    running: list[RunningServer] = []
    try:
        for name, spec in plan.servers.items():
            if reason := _unable(spec, cell):
                _add(rows, cell, name, {"error": reason, "expected": True})
            else:
                running.append(RunningServer(name, spec))
        yield [server for server in running if _ready(server, cell, rows)]
    finally:
        for server in running:
            server.stop()


def _unable(spec: Spec, cell: str) -> str:
    if spec.missing:
        return spec.missing
    if spec.cells and cell not in spec.cells:
        return f"shows {' and '.join(spec.cells)} only"
    return "" if spec.http or CELLS[cell].kind != "get" else "serves WebSockets only"


def _ready(server: RunningServer, cell: str, rows: list[report.Row]) -> bool:
    try:
        server.wait_ready()
    except ServerFailed as error:
        _add(rows, cell, server.name, {"error": str(error)})
        return False
    return True


# -- showing -----------------------------------------------------------------------------------------------------------


def _show(plan: Plan, rows: list[report.Row]) -> None:
    print("\n" + " | ".join(f"{name}: {value}" for name, value in _machine().items()))
    peers = {name: not spec.own for name, spec in plan.servers.items()}
    for cell in dict.fromkeys(row["cell"] for row in rows):
        print("\n" + report.table(rows, cell, peers))
    if plan.pair is not None:
        print()
        for cell in dict.fromkeys(row["cell"] for row in rows):
            print(report.comparison(rows, cell, *plan.pair))


def _machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Linux": platform.release(),
        "cores": str(len(os.sched_getaffinity(0))),
        "packages": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


# -- the command line --------------------------------------------------------------------------------------------------


def parse(args: Sequence[str] | None = None) -> Plan:
    """The plan of a command line.  SystemExit, with what is wrong, for one that cannot work."""
    parser = _parser()
    given = parser.parse_args(args)
    servers = {**SERVERS, **dict(given.extra)}
    try:
        pair = _pair(given.words, servers)
        cells = _chosen("cell", given.cells, CELLS) or (list(QUICK) if given.quick or pair else list(CELLS))
        names = list(pair) if pair else _chosen("server", given.servers, servers) or default_servers(given.tls)
    except ValueError as error:
        parser.error(str(error))
    names += [name for name, _ in given.extra if name not in names]
    return Plan(
        cells=tuple(cells),
        servers={name: servers[name] for name in names},
        rounds=given.rounds or (2 if given.quick else 5),
        seconds=given.seconds or (0.6 if given.quick else 1.5),
        warm=0.2 if given.quick else 0.4,
        budget=QUICK_BUDGET if given.quick else math.inf,
        out=given.out,
        pair=pair,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"cells: {', '.join(CELLS)}.  servers: {', '.join(SERVERS)}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="pair A B", help="two servers in turn, with the ratio of each round"
    )
    parser.add_argument("--quick", action="store_true", help="the main cells, in less than three minutes")
    parser.add_argument("--cells", default="", help="names or patterns, with commas between")
    parser.add_argument("--servers", default="", help="names or patterns, with commas between")
    parser.add_argument("--tls", action="store_true", help="what TLS costs: those that speak it, with and without")
    parser.add_argument("--rounds", type=_positive, help="runs of each server in each cell")
    parser.add_argument("--seconds", type=_run_length, help="measured in each run")
    parser.add_argument("--out", type=Path, help="a file for every figure of every run, as JSON")
    parser.add_argument(
        "--extra", type=_extra, action="append", default=[], metavar="NAME=COMMAND", help="one more server, on {port}"
    )
    return parser


def _pair(words: list[str], servers: Mapping[str, Spec]) -> tuple[str, str] | None:
    if not words:
        return None
    if len(words) != 3 or words[0] != "pair" or words[1] == words[2]:
        raise ValueError("pair takes the names of two servers")
    for name in words[1:]:
        if name not in servers:
            raise ValueError(f"no such server: {name}")
    return words[1], words[2]


def _chosen(what: str, patterns: str, known: Mapping[str, object]) -> list[str]:
    """The names that a list of patterns selects, in its order.  ValueError for a pattern that selects none."""
    chosen: dict[str, None] = {}
    for pattern in filter(None, patterns.split(",")):
        found = fnmatch.filter(known, pattern)
        if not found:
            raise ValueError(f"no such {what}: {pattern} (there are {', '.join(known)})")
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError("rounds are 1 to 1000")
    return value


def _run_length(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 60:
        raise argparse.ArgumentTypeError("a run is measured for 0.1 to 60 seconds")
    return value


def _extra(text: str) -> tuple[str, Spec]:
    try:
        return extra(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
