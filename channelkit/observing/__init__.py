"""Seeing what a server does: log lines as JSON, numbers for Prometheus, and OpenTelemetry.

`json_logs` formats log records; `prometheus` is a handler that tells the numbers of its server as text; `totals` are
those of several processes; `telemetry` (needs `channelkit[otel]`) gives them to OpenTelemetry, and makes spans of
requests.  The lines themselves come from the loggers `channelkit` (what went wrong, what the server does) and
`channelkit.access` (requests, channels).
"""

from channelkit.observing.json_logs import JsonFormatter
from channelkit.observing.prometheus import exposition, metrics

__all__ = ["JsonFormatter", "exposition", "metrics"]
