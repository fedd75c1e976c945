"""The numbers of several processes as one: what a scrape of a whole server needs.

Each process tells its own again and again.  Counters and gauges are summed, the longest of the longest is kept.  What
a process has counted stays when it ends, so that no counter ever goes back; what it had open ends with it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import reduce

from channelkit.http import Request, Response
from channelkit.observing.prometheus import METRICS, Number, Numbers, as_text, told

_LABELLED = {name for name, _, _, _, label in METRICS if label}
_LONGEST = {name for name, *_ in METRICS if name.startswith("longest_")}
_LASTING = {name for name, kind, *_ in METRICS if kind == "counter"} | _LONGEST

NOTHING: Numbers = {name: {} if name in _LABELLED else 0 for name, *_ in METRICS}


def merged(one: Numbers, other: Numbers) -> Numbers:
    """The numbers of both together; `one` has all names, `other` may lack some."""
    return {name: _together(name, value, other.get(name, NOTHING[name])) for name, value in one.items()}


def _together(name: str, one: Number, other: Number) -> Number:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {key: one.get(key, 0) + other.get(key, 0) for key in (*one, *other)}
    assert not isinstance(one, Mapping)
    assert not isinstance(other, Mapping)
    return max(one, other) if name in _LONGEST else one + other


def lasting(numbers: Numbers) -> Numbers:
    """What stays of a process that has ended."""
    return {name: value if name in _LASTING else NOTHING[name] for name, value in numbers.items()}


class Totals:
    """What all processes have told, those that have ended too.  All of it may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # between the death of a process and its totals nobody may look
        self._living: dict[int, Numbers] = {}
        self._ended = NOTHING
        self._deaths = 0

    def tell(self, process: int, numbers: Numbers) -> None:
        """The numbers of a process, now; they replace those it had told before."""
        with self._lock:
            self._living[process] = numbers

    def ended(self, process: int, *, died: bool) -> None:
        """It tells no more; `died`: nobody had asked it to end."""
        with self._lock:
            self._ended = merged(self._ended, lasting(self._living.pop(process, NOTHING)))
            self._deaths += died

    def now(self) -> Numbers:
        """All numbers together."""
        with self._lock:
            return reduce(merged, self._living.values(), self._ended)

    def text(self) -> str:
        """In Prometheus' text format, with two numbers about the processes themselves."""
        with self._lock:
            living, deaths = len(self._living), self._deaths
        return (
            as_text(self.now(), {})
            + "# HELP channelkit_processes Worker processes that serve.\n# TYPE channelkit_processes gauge\n"
            + f"channelkit_processes {living}\n"
            + "# HELP channelkit_process_deaths_total Worker processes that nobody had asked to end.\n"
            + f"# TYPE channelkit_process_deaths_total counter\nchannelkit_process_deaths_total {deaths}\n"
        )

    async def handler(self, request: Request) -> Response:
        """What serves them."""
        if request.path != "/metrics":
            return Response(404, {}, "the numbers are at /metrics\n")
        return told(request, self.text())
