"""What a server tells of itself: numbers, log lines, Prometheus text, OpenTelemetry."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any, Literal

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from websockets.sync.client import connect

from channelkit import Endpoint, Request, Server, as_channel, run_server
from channelkit._access_log import log_request
from channelkit.observing import JsonFormatter, exposition, metrics
from channelkit.observing.telemetry import instrument, traced

PATIENCE = 20.0
Backend = Literal["asyncio", "trio"]


async def handler(request: Request) -> Any:
    if request.path == "/metrics":
        return await metrics(request)
    if request.path == "/boom":
        raise RuntimeError("boom")
    if request.path == "/hold":
        time.sleep(0.8)  # noqa: ASYNC251  (blocks the loop, as nobody should)
        return "held"
    if request.is_websocket:
        return as_channel(request, on_receive=lambda channel, message: channel.send_nowait(message))
    return "hello"


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    name: Backend = request.param
    return name


@pytest.fixture
def server(backend: Backend) -> Iterator[Server]:
    server = run_server(handler, port=0, backend=backend)
    yield server
    server.stop(1)


class Lines(logging.Handler):
    """Log records, and waiting for one."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._more = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._more:
            self.records.append(record)
            self._more.notify_all()

    def having(self, **facts: Any) -> logging.LogRecord:
        def found() -> logging.LogRecord | None:
            for record in self.records:
                if all(vars(record).get(name) == value for name, value in facts.items()):
                    return record
            return None

        with self._more:
            record = self._more.wait_for(found, PATIENCE)
        assert record is not None, [vars(each) for each in self.records]
        return record


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, handler = logging.getLogger("channelkit.access"), Lines()
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(before)
    logger.removeHandler(handler)


def get(server: Server, path: str) -> tuple[int, str, str]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()


def until(server: Server, **wanted: Any) -> None:
    """Wait until the numbers are these."""
    end = time.monotonic() + PATIENCE
    while not all(getattr(server.statistics(), name) == value for name, value in wanted.items()):
        assert time.monotonic() < end, server.statistics()
        time.sleep(0.005)


def test_statistics(server: Server) -> None:
    """Connections, requests, messages, bytes, closes, errors and refusals are counted, while open and afterwards."""
    assert get(server, "/")[0] == 200
    assert get(server, "/boom")[0] == 500
    with connect(f"ws://127.0.0.1:{server.port}/ws") as websocket:
        for number in range(3):
            websocket.send(str(number))
            assert websocket.recv(PATIENCE) == str(number)
        until(server, channels=1, messages_sent=3, messages_received=3, connections=1)
    until(server, channels=0, connections=0)
    numbers = server.statistics()
    assert (numbers.connections_total, numbers.requests, numbers.handler_errors) == (3, 3, 1)
    assert numbers.responses == {200: 1, 500: 1, 101: 1}
    assert numbers.channels_closed == {"normal": 1}
    assert (numbers.messages_sent, numbers.messages_received) == (3, 3)
    assert numbers.bytes_received > 3 * len("GET / HTTP/1.1\r\n")
    assert numbers.bytes_sent > 2 * len("HTTP/1.1 200 OK\r\n")
    assert numbers.longest_tick > 0
    server.stop(1)
    assert server.statistics().requests == 3


def test_a_held_loop_is_noticed(server: Server) -> None:
    """Something that blocks the loop for longer than a beat is counted and measured."""
    assert get(server, "/hold")[2] == "held"
    until(server, stalls=1)
    assert server.statistics().longest_stall > 0.1
    assert server.limit_counts["slow_callback"] >= 1


def test_no_numbers_before_there_is_a_server() -> None:
    """Asking too early is told."""
    with pytest.raises(RuntimeError, match="does not listen yet"):
        Server().statistics()


def test_prometheus(server: Server) -> None:
    """Every line is what the text format allows, each metric has its help and type once, and the numbers are true."""
    get(server, "/")
    status, kind, text = get(server, "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    line = r'channelkit_[a-z_]+(\{[a-z]+="[^"\\\n]*"(,[a-z]+="[^"\\\n]*")*\})? [0-9.e+-]+'
    for each in text.splitlines():
        assert re.fullmatch(rf"# (HELP|TYPE) channelkit_[a-z_]+ .+|{line}", each), each
    helps = re.findall(r"# HELP (\S+)", text)
    assert len(helps) == len(set(helps)) == text.count("# TYPE")
    assert re.search(r'channelkit_requests_total\{process="\d+"\} 2\n', text)
    assert re.search(r'channelkit_responses_total\{process="\d+",status="200"\} 1\n', text)


def test_label_values_are_escaped(server: Server) -> None:
    """A label may be any text."""
    assert r'channelkit_handlers{place="a\"b\\c\nd"} 0' in exposition(server.statistics(), place='a"b\\c\nd')


def test_metrics_of_a_request_without_a_server() -> None:
    """A request that somebody made has no server to tell of."""
    with pytest.raises(RuntimeError, match="came from no server"):
        metrics(Request(method="GET", target="/metrics")).send(None)


def test_the_access_log(server: Server, lines: Lines) -> None:
    """A line for each request and each channel that is over, with its facts as `extra`; the query is left out."""
    get(server, "/path?token=hidden")
    record = lines.having(event="request", path="/path")
    assert re.fullmatch(r'127\.0\.0\.1:\d+ "GET /path HTTP/1\.1" 200 5 B \d+\.\d ms', record.getMessage())
    facts = vars(record)
    assert (facts["method"], facts["status"], facts["bytes"], facts["whole"]) == ("GET", 200, 5, True)
    with connect(f"ws://127.0.0.1:{server.port}/ws?token=hidden") as websocket:
        websocket.send("x")
        websocket.recv(PATIENCE)
    facts = vars(lines.having(event="channel"))
    assert (facts["transport"], facts["close_status"], facts["code"], facts["by"]) == (
        "websocket",
        "normal",
        1000,
        "peer",
    )
    assert (facts["sent"], facts["received"], facts["unsent"], facts["unread"]) == (1, 1, 0, 0)
    lines.having(event="request", status=101)
    assert not any("hidden" in JsonFormatter().format(record) for record in lines.records)


def test_a_target_cannot_forge_lines(lines: Lines) -> None:
    """What a client sends is one line of plain text, whatever it contains."""
    log_request(("::1", 5), "GET", "/a\nb\x1b[31m\xe9?q", "1.1", 0, 0, 0.5, False)
    (record,) = lines.records
    assert record.getMessage() == r'[::1]:5 "GET /a\nb\x1b[31m\xe9 HTTP/1.1" - 0 B 500.0 ms (cut)'
    log_request(None, "GET", '/" HTTP/1.1"', "1.1", 200, 0, 0.0, True)
    assert lines.records[1].getMessage().count('"') == 2


def test_a_request_that_cannot_be_read(server: Server, lines: Lines) -> None:
    """Nobody knows its method or target, so none is told."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        sock.sendall(b"PO\x1bST /x HTTP/1.1\r\nHost: here\r\n\r\n")
        assert sock.recv(99).startswith(b"HTTP/1.1 400 ")
        record = lines.having(event="request", status=400)
    assert '"- - HTTP/1.1" 400' in record.getMessage()


def test_no_secret_of_a_session_is_logged(lines: Lines, backend: Backend) -> None:
    """The secret is in no line, of whatever logger and level."""

    async def room(channel: Any) -> None:
        async for message in channel:
            await channel.send(message)

    root = logging.getLogger()
    everything = Lines()
    root.addHandler(everything)
    before = root.level
    root.setLevel(logging.DEBUG)
    server = run_server(Endpoint(room), port=0, backend=backend)
    try:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        connection.request("POST", "/ck")
        session = json.loads(connection.getresponse().read())
        authorization = {"Authorization": f"Bearer {session['secret']}"}
        connection.request("POST", f"/ck/{session['sid']}?n=1", "hello", authorization)
        connection.getresponse().read()
        connection.request("GET", f"/ck/{session['sid']}/poll?ack=0", headers={"Authorization": "Bearer wrong"})
        assert connection.getresponse().status == 404
        connection.close()
    finally:
        server.stop(1)
        root.removeHandler(everything)
        root.setLevel(before)
    told = [JsonFormatter().format(record) for record in (*lines.records, *everything.records)]
    assert any(session["sid"] in line for line in told)
    assert not any(session["secret"] in line for line in told)


def test_json_lines() -> None:
    """One JSON object a line: the message, what `extra` has, an exception; odd values by their repr."""
    record = logging.makeLogRecord({"name": "some", "levelname": "INFO", "msg": "a %s", "args": ("b",), "size": 3})
    record.odd = {1, 2}  # JSON has no sets
    try:
        raise ValueError("a\nb")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["level"], told["logger"], told["message"], told["size"], told["odd"]) == (
        "INFO",
        "some",
        "a b",
        3,
        "{1, 2}",
    )
    assert told["exception"].endswith("ValueError: a\nb")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", told["time"])


@pytest.mark.parametrize(
    "value", [float("inf"), float("nan"), {(1, 2): 3}, {"a": float("-inf")}, "a\udc80b", ["\udfff"], {"\ud800": 1}]
)
def test_json_lines_whatever_they_are_given(value: Any) -> None:
    """Infinities, keys that are no text, half characters, circles: still a line of JSON in UTF-8."""
    circle: list[Any] = [value]
    circle.append(circle)
    for given in (value, circle):
        record = logging.makeLogRecord({"msg": "said", "levelname": "INFO", "given": given, "size": 3})
        line = JsonFormatter().format(record).encode()

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        told = json.loads(line, parse_constant=refuse)
        assert (told["message"], told["size"]) == ("said", 3)
        assert "given" in told


def test_opentelemetry_metrics(server: Server) -> None:
    """The numbers are read when the reader asks."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    instrument(server, provider)
    get(server, "/")
    data = reader.get_metrics_data()
    assert data is not None
    points: dict[str, list[Any]] = {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    (requests,) = points["channelkit.requests"]
    assert requests.value == 1
    (responses,) = points["channelkit.responses"]
    assert (responses.value, dict(responses.attributes or {})) == (1, {"status": 200})
    provider.shutdown()


def test_opentelemetry_spans(backend: Backend) -> None:
    """A span for a request, child of the caller's; a channel's ends with it and tells why; an error is recorded."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    server = run_server(traced(handler, provider), port=0, backend=backend)
    try:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        connection.request("GET", "/plain", headers={"traceparent": parent})
        connection.getresponse().read()
        connection.request("GET", "/boom")
        connection.getresponse().read()
        connection.close()
        with connect(f"ws://127.0.0.1:{server.port}/ws") as websocket:
            websocket.send("x")
            websocket.recv(PATIENCE)
            assert {"/plain", "/boom"} == {dict(s.attributes or {})["url.path"] for s in exporter.get_finished_spans()}
    finally:
        server.stop(1)
    spans = {dict(span.attributes or {})["url.path"]: span for span in exporter.get_finished_spans()}
    plain = spans["/plain"]
    assert plain.parent is not None
    assert f"{plain.parent.span_id:x}" == "b7ad6b7169203331"
    assert dict(plain.attributes or {})["http.response.status_code"] == 200
    assert not spans["/boom"].status.is_ok
    assert spans["/boom"].events[0].name == "exception"
    channel = dict(spans["/ws"].attributes or {})
    assert (channel["channelkit.transport"], channel["channelkit.close.status"]) == ("websocket", "normal")
    provider.shutdown()
