"""OpenTelemetry: the numbers of a server as metrics, and a span for each request.  Needs `channelkit[otel]`.

Names and attributes follow the semantic conventions for HTTP servers where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Protocol

from channelkit.channel import Channel
from channelkit.errors import ConfigError
from channelkit.http import Request, to_response
from channelkit.observing.prometheus import METRICS
from channelkit.responding import ANSWERED, Handler, PlainFunction, checked_handler
from channelkit.statistics import ServerStatistics

try:
    from opentelemetry import metrics, propagate, trace
except ModuleNotFoundError:
    raise ConfigError("OpenTelemetry is not installed: pip install 'channelkit[otel]'") from None


class Counted(Protocol):
    """A server, or whatever else has its numbers."""

    def statistics(self) -> ServerStatistics: ...


def instrument(server: Counted, meter_provider: metrics.MeterProvider | None = None) -> None:
    """Give the numbers of `server` to OpenTelemetry, from now on; they are read when its reader asks for them.

    Call it once, when the server runs.  The names are those of the Prometheus text, with dots: `channelkit.channels`.
    """
    meter = metrics.get_meter("channelkit", meter_provider=meter_provider)
    for name, kind, text, field, label in METRICS:
        read = _reader(server, field, label)
        told = f"channelkit.{name.removesuffix('_total').removesuffix('_seconds')}"
        unit = "s" if "_seconds" in name else "By" if field.startswith("bytes") else "1"
        make = meter.create_observable_gauge if kind == "gauge" else meter.create_observable_counter
        make(told, callbacks=[read], unit=unit, description=text)


def _reader(
    server: Counted, field: str, label: str
) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
    def read(options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        value: Any = attrgetter(field)(server.statistics())
        if not label:
            return [metrics.Observation(value)]
        return [metrics.Observation(number, {label: key}) for key, number in value.items()]

    return read


def traced(handler: Handler | PlainFunction, tracer_provider: trace.TracerProvider | None = None) -> Handler:
    """`handler` with a span around each request, the child of the caller's (the `traceparent` header).

    The span ends with the handler; that of a request that became a channel ends with the channel, and tells why it
    closed.  An exception out of the handler is recorded, and goes on.
    """
    tracer = trace.get_tracer("channelkit", tracer_provider=tracer_provider)
    checked = checked_handler(handler)

    async def traced_handler(request: Request) -> Any:
        parent = propagate.extract(dict(request.headers.items()))
        span = tracer.start_span(request.method, parent, trace.SpanKind.SERVER, _attributes(request))
        try:
            with trace.use_span(span, record_exception=True, set_status_on_exception=True):
                result = await checked(request)
        except BaseException:
            span.end()
            raise
        channel = request._exchange.channel if request._exchange is not None else None
        if channel is not None:
            _end_with(channel, span)
        else:
            if result is not ANSWERED:
                _tell_status(span, 404 if result is None else to_response(result).status)
            span.end()
        return result

    return traced_handler


def _attributes(request: Request) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": request.method,
        "url.path": request.path,
        "url.scheme": request.scheme,
        "network.protocol.version": request.http_version,
    }
    if request.client:
        attributes["client.address"] = request.client[0]
    return attributes


def _end_with(channel: Channel, span: trace.Span) -> None:
    span.set_attribute("channelkit.transport", channel.transport)

    def ended(status: object) -> None:
        info = channel.close_info
        if info is not None:
            span.set_attribute("channelkit.close.status", info.status.value)
            span.set_attribute("channelkit.close.code", info.code)
            span.set_attribute("channelkit.close.by", info.by)
        span.end()

    channel.on_close(ended)


def _tell_status(span: trace.Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(trace.StatusCode.ERROR)
