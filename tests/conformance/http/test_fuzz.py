"""Any bytes, cut anywhere, into the HTTP engine: no unhandled error, no hang, no growth past the limits.

`HYPOTHESIS_PROFILE=soak` runs a hundred times as many.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channelkit.config import Config
from channelkit.errors import BadRequest
from channelkit.http import Request
from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.peers import HttpPeer, PeerConnection
from channelkit.testing.plans import PUMPS, Network, Pump, serving
from channelkit.wire.http1_heads import RequestHead, RequestLimits
from channelkit.wire.http1_requests import END, RequestReader
from tests.conformance.http.streams import cut, request, streams

LIMITS = RequestLimits(max_line=120, max_head=300, max_headers=6, max_body=40)
TIGHT = RequestLimits(max_line=40, max_head=60, max_headers=2, max_body=2)
NOISE = st.binary(max_size=400) | st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"\0", b"GET / HTTP/1.1", b"Host: a", b":", b"0", b"ff", b" ", b"x" * 90]),
    max_size=60,
).map(b"".join)


class Watched:
    """A reader that is fed piece by piece, and judged after each."""

    def __init__(self, limits: RequestLimits, fast: bool) -> None:
        self.limits = limits
        self.reader = RequestReader(limits, fast=fast)
        self.methods: list[str] = []
        self.refused = False
        self._body = 0

    def feed(self, piece: bytes) -> None:
        before = self.reader.buffered
        self.reader.feed(piece)
        steps = 0
        while not self.refused and self._step():
            steps += 1
            assert steps <= 3 * (before + len(piece)) + 3, "it turns without getting on"
        # What waits is part of one line, or a head, or a trailer section, that is still within its limits.
        assert self.reader.buffered <= self.limits.max_head + 2

    def _step(self) -> bool:
        try:
            event = self.reader.next_event()
        except BadRequest as error:
            self._refuse(error)
            return False
        if isinstance(event, RequestHead):
            assert len(event.headers) <= self.limits.max_headers + 1  # a Host of an absolute target may be added
            self.methods.append(event.method)
            self._body = 0
        elif isinstance(event, bytes):
            self._body += len(event)
            assert self._body <= self.limits.max_body
        elif event is END:
            self.reader.next_request()
        return event is not None

    def _refuse(self, error: BadRequest) -> None:
        assert 400 <= error.status <= 505
        assert self.reader.buffered == 0
        self.refused = True


MORE = settings(max_examples=3 * settings().max_examples)


@MORE
@given(st.data(), streams() | NOISE | st.tuples(streams(), NOISE).map(b"".join), st.booleans())
def test_the_reader_takes_anything(data: st.DataObject, stream: bytes, fast: bool) -> None:
    """Whatever arrives becomes requests, a BadRequest or a wait, in as many steps as bytes, and within the limits."""
    watched = Watched(data.draw(st.sampled_from([LIMITS, TIGHT])), fast)
    for piece in data.draw(cut(stream)):
        watched.feed(piece)


# -- the whole connection, on both loops and pumps, with others beside it

CONFIG = Config(max_line=120, max_head=300, max_headers=6, max_body=40, read_ahead=500)


async def handler(request: Request) -> str:
    body = await request.body()
    return f"{request.method} {len(body)}"


class Raw:
    """A client that only collects."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        self.data += data
        return b""

    def eof(self) -> None:
        self.ended = True


@pytest.mark.parametrize("pump", PUMPS)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    pieces=(streams() | NOISE).flatmap(cut),
    pause=st.sampled_from((0.0, 0.01)),
    half_close=st.booleans(),
    randomness=st.random_module(),
)
def test_a_connection_takes_anything(
    backend: Backend,
    pump: Pump,
    pieces: list[bytes],
    pause: float,
    half_close: bool,
    randomness: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each request that was read has its own answer, at most one refusal is the last; then it ends by itself.

    Meanwhile another client is served, and nothing is logged as an error.
    """
    caplog.clear()
    raw, quiet = clock.run(converse, pieces, pause, half_close, pump, backend=backend, max_ticks=200_000)
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert quiet == [200] * 3
    assert raw.ended, "the connection was not ended in time"
    check_answers(raw.data, b"".join(pieces), "https" if pump == "tls" else "http")


async def converse(pieces: list[bytes], pause: float, half_close: bool, pump: Pump) -> tuple[Raw, list[int]]:
    raw, other = Raw(), HttpPeer()
    async with serving(handler, CONFIG, pump) as server, anyio.create_task_group() as tasks:
        connection = PeerConnection(server.connect(Network()), raw)
        quiet = PeerConnection(server.connect(Network()), other)
        tasks.start_soon(connection.run)
        tasks.start_soon(quiet.run)
        for number, piece in enumerate(pieces):
            connection.say(piece)
            if number in (0, len(pieces) // 2, len(pieces) - 1) and len(other.responses) < 3:
                quiet.say(other.request(f"/{number}"))
            if pause:
                await anyio.sleep(pause)
        while len(other.responses) < 3 or not all(one.complete for one in other.responses):
            if all(one.complete for one in other.responses):
                quiet.say(other.request("/late"))
            await anyio.sleep(0.1)
        if half_close:
            connection.half_close()
        await anyio.sleep(CONFIG.keep_alive_timeout + CONFIG.head_timeout + CONFIG.body_timeout)
        connection.hang_up()
        quiet.hang_up()
    return raw, [one.status for one in other.responses[:3]]


RESPONSE = re.compile(
    rb"HTTP/1\.1 (\d\d\d) [^\r\n]*\r\n(?:[^\r\n]+\r\n)*?Content-Length: (\d+)\r\n(?:[^\r\n]+\r\n)*?\r\n"
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def check_answers(data: bytes, stream: bytes, scheme: str) -> None:
    """The bytes that came back are whole responses: one for each request that was read, in order, then no more."""
    methods = served_methods(stream, scheme)
    number = 0
    while data:
        if data.startswith(CONTINUE):
            data = data[len(CONTINUE) :]
            continue
        match = RESPONSE.match(data)
        assert match is not None, data
        status, length = int(match[1]), int(match[2])
        method = methods[number] if number < len(methods) else "GET"
        size = 0 if method == "HEAD" and status == 200 else length
        body = data[match.end() : match.end() + size]
        data = data[match.end() + size :]
        if status == 200:
            assert number < len(methods)
            assert method == "HEAD" or body.startswith(method.encode() + b" ")
            number += 1
        else:
            assert 400 <= status <= 505
            assert not data, "something behind a refusal"


def served_methods(stream: bytes, scheme: str) -> list[str]:
    """The methods of the requests that the engine finds, as long as the connection persists."""
    reader = RequestReader(LIMITS, scheme=scheme)
    reader.feed(stream)
    methods: list[str] = []
    try:
        while (event := reader.next_event()) is not None:
            if isinstance(event, RequestHead):
                methods.append(event.method)
                if not event.keep_alive:
                    break
            elif event is END:
                reader.next_request()
    except BadRequest:
        pass
    return methods


def test_a_flood_of_pipelined_requests_leaves_the_loop_to_others() -> None:
    """Three thousand requests in one go are served in turns: another client's request is not behind them all."""

    async def main() -> tuple[int, int]:
        raw, other = Raw(), HttpPeer()
        async with serving(handler, Config(), "reactor") as server, anyio.create_task_group() as tasks:
            flood = PeerConnection(server.connect(Network()), raw)
            quiet = PeerConnection(server.connect(Network()), other)
            tasks.start_soon(flood.run)
            tasks.start_soon(quiet.run)
            flood.say(request() * 3_000)
            quiet.say(other.request("/"))
            while not other.responses:
                await anyio.lowlevel.checkpoint()
            early = raw.data.count(b"HTTP/1.1 200")
            await anyio.sleep(10)
            flood.hang_up()
            quiet.hang_up()
        return early, raw.data.count(b"HTTP/1.1 200")

    for backend in BACKENDS:
        early, late = clock.run(main, backend=backend, max_ticks=2_000_000)
        assert early < 1500
        assert late == 3_000
