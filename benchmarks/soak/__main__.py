"""Soak channelkit: many clients, hostile ones, slow ones; `/hello` must always be answered, and nothing may be left.

    python -m benchmarks.soak [many churn resets slow slowhttptest] [--backend trio] [--tls] [--seed 1] [--small]
                              [--connections 10000] [--slow-seconds 600] [--out FILE] ...

It needs Linux and a descriptor limit above `--connections` (`ulimit -Hn`).  Exits 1 if a scene left something behind.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import platform
import random
import sys
import time
from pathlib import Path

from benchmarks.process import raise_descriptor_limit
from benchmarks.soak.running import Probe, Running
from benchmarks.soak.scenes import SCENES, Size, mb

SMALL = Size(connections=500, churn=2000, resets=500, slow_clients=100, slow_seconds=5.0)
GROWTH = 30 * 1024 * 1024  # bytes of memory that may stay behind a scene: Python's allocator does not give all back
WARM_UP = 200


def main(args: list[str] | None = None) -> int:
    """Run the scenes of a command line, print and store the figures; 1 if a scene left something behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", metavar="scene", help=f"of {', '.join(SCENES)}; default: all")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument(
        "--tls", action="store_true", help="all of it over TLS, and clients that hang in their handshake"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    for name, default in dataclasses.asdict(Size()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), help=f"(default: {default})")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(args)
    if unknown := set(given.scenes) - set(SCENES):
        parser.error(f"no such scene: {', '.join(sorted(unknown))}")
    asked = {name: value for name in dataclasses.asdict(SMALL) if (value := getattr(given, name)) is not None}
    size = dataclasses.replace(SMALL if given.small else Size(), **asked)
    raise_descriptor_limit()
    report = soak(given.scenes or list(SCENES), given.backend, given.seed, size, tls=given.tls)
    text = json.dumps(report, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0 if report["good"] else 1


def soak(scenes: list[str], backend: str, seed: int, size: Size, *, tls: bool = False) -> dict[str, object]:
    """All figures of a run."""
    running = Running(backend, tls=tls)
    results: dict[str, object] = {}
    good = True
    try:
        for _ in range(WARM_UP):
            running.hello()
        for name in scenes:
            result = play(running, name, random.Random(f"{seed} {name}"), size)
            results[name] = result
            good = good and result["good"] is True
    finally:
        counts = running.stop()
    return {
        "good": good,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "backend": backend,
        "tls": tls,
        "seed": seed,
        "size": dataclasses.asdict(size),
        "versions": versions(),
        "scenes": results,
        "limit_counts": counts,
    }


def play(running: Running, name: str, rng: random.Random, size: Size) -> dict[str, object]:
    """One scene, with a probe beside it, and what is left behind it."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    descriptors, memory = running.descriptors, running.memory
    start = time.monotonic()
    with Probe(running) as probe:
        figures = SCENES[name](running, rng, size)
    seconds = time.monotonic() - start
    settled = running.settle(descriptors)
    left, after = running.descriptors, running.memory
    trimmed = running.trimmed()
    return {
        "good": settled and not probe.errors and trimmed - memory < GROWTH,
        "seconds": round(seconds, 1),
        **figures,
        "hello": probe.result(),
        "descriptors": {"before": descriptors, "after": left},
        "memory_mb": {"before": mb(memory), "after": mb(after), "trimmed": mb(trimmed)},
    }


def versions() -> dict[str, str]:
    """What the figures depend on."""
    found = {"python": platform.python_version(), "linux": platform.release()}
    for name in ("channelkit", "anyio", "trio", "h11", "wsproto"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


if __name__ == "__main__":
    sys.exit(main())
