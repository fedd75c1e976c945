"""The numbers of a server in Prometheus' text format, without a dependency.

https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any, TypeAlias

from channelkit.http import Request, Response
from channelkit.statistics import ServerStatistics

#: The numbers by their names in METRICS: one, or one for each value of a label.
Number: TypeAlias = float | Mapping[str, float]
Numbers: TypeAlias = Mapping[str, Number]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# name, type, help, field of ServerStatistics, label (for a field that is a mapping)
METRICS = (
    ("connections", "gauge", "Connections open now.", "connections", ""),
    ("connections_total", "counter", "Connections accepted.", "connections_total", ""),
    (
        "connections_handed_over_total",
        "counter",
        "Connections given to the worker that has their session.",
        "connections_handed_over",
        "",
    ),
    ("channels", "gauge", "Channels open now.", "channels", ""),
    ("channels_closed_total", "counter", "Channels that are over, by their close status.", "channels_closed", "status"),
    ("requests_total", "counter", "Requests whose handler was called.", "requests", ""),
    ("responses_total", "counter", "Responses begun, by HTTP status; 101 is a WebSocket.", "responses", "status"),
    ("handlers", "gauge", "Handlers running now.", "handlers", ""),
    ("handler_errors_total", "counter", "Handlers that raised.", "handler_errors", ""),
    ("messages_sent_total", "counter", "Messages accepted for sending.", "messages_sent", ""),
    ("messages_received_total", "counter", "Messages that came from peers.", "messages_received", ""),
    ("bytes_sent_total", "counter", "Bytes on the wire, framing and TLS included.", "bytes_sent", ""),
    ("bytes_received_total", "counter", "Bytes from the wire, framing and TLS included.", "bytes_received", ""),
    ("refusals_total", "counter", "How often each limit or timeout has acted.", "refusals", "reason"),
    ("longest_tick_seconds", "gauge", "The longest the loop served sockets without a break.", "longest_tick", ""),
    ("loop_stalls_total", "counter", "How often something held the event loop.", "stalls", ""),
    ("longest_stall_seconds", "gauge", "The longest such hold.", "longest_stall", ""),
    ("worker_threads", "gauge", "Threads of the worker pool.", "workers.threads", ""),
    ("worker_requests", "gauge", "Plain handlers that run.", "workers.requests", ""),
    ("worker_callbacks", "gauge", "Callbacks that run on workers.", "workers.callbacks", ""),
    ("worker_waiting", "gauge", "Workers that wait, or have waited, for a peer.", "workers.waiting", ""),
    ("worker_queued_requests", "gauge", "Requests that wait for a worker.", "workers.queued_requests", ""),
    ("worker_queued_callbacks", "gauge", "Callbacks that wait for a worker.", "workers.queued_callbacks", ""),
    ("worker_jobs_total", "counter", "Calls begun on workers.", "workers.begun", ""),
    ("worker_wait_seconds_total", "counter", "Seconds such calls waited for a worker.", "workers.waited", ""),
    ("longest_worker_wait_seconds", "gauge", "The longest such wait.", "workers.longest", ""),
)


async def metrics(request: Request) -> Response:
    """A handler that tells the numbers of the server it runs in: `if request.path == "/metrics": ...`.

    Each process has its own numbers, which carry its process number as the label `process`.  They tell about your
    traffic: let only your Prometheus see them.
    """
    exchange = request._exchange
    if exchange is None:
        raise RuntimeError("this request came from no server, so there are no numbers to tell")
    return told(request, exposition(exchange.host.statistics(), process=str(os.getpid())))


def told(request: Request, text: str) -> Response:
    """The answer to a scrape."""
    if request.method not in ("GET", "HEAD"):
        return Response(405, {"Allow": "GET, HEAD"}, "only GET\n")
    return Response(200, {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}, text)


def exposition(statistics: ServerStatistics, **labels: str) -> str:
    """The numbers as text, each with `labels`."""
    return as_text(numbers_of(statistics), labels)


def numbers_of(statistics: ServerStatistics) -> Numbers:
    """The numbers by their names, ready for JSON."""
    found: dict[str, Any] = {}
    for name, _, _, field, label in METRICS:
        value: Any = attrgetter(field)(statistics)
        found[name] = {str(key): number for key, number in value.items()} if label else value
    return found


def as_text(numbers: Numbers, labels: Mapping[str, str]) -> str:
    """The exposition of numbers that have all names."""
    return "".join(_lines(numbers, labels))


def _lines(numbers: Numbers, labels: Mapping[str, str]) -> Iterator[str]:
    for name, kind, text, _, label in METRICS:
        yield f"# HELP channelkit_{name} {text}\n# TYPE channelkit_{name} {kind}\n"
        value = numbers[name]
        if isinstance(value, Mapping):
            for key, number in sorted(value.items()):
                yield f"channelkit_{name}{_braces({**labels, label: key})} {number}\n"
        else:
            yield f"channelkit_{name}{_braces(labels)} {value}\n"


def _braces(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
