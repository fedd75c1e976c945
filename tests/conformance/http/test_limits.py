"""Limits and timeouts: each holds to the byte, whether bytes come at once or one by one, and each is counted."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from channelkit import Request
from channelkit.config import Config

if TYPE_CHECKING:
    from tests.server.conftest import Host, Peer

SMALL = {"max_line": 100, "max_head": 400, "max_headers": 5, "max_body": 50, "read_ahead": 1000}


async def read_all(request: Request) -> bytes:
    return b"read %d" % len(await request.body())


def head(*lines: str, start: str = "GET / HTTP/1.1") -> bytes:
    return "\r\n".join([start, "Host: a", *lines, "", ""]).encode()


def sized_head(size: int) -> bytes:
    """A head of `size` bytes, none of whose lines is too long."""
    lines = ["A: " + "x" * 90] * 3
    return head(*lines, "B: " + "x" * (size - len(head(*lines, "B: "))))


def chunked(body: bytes) -> bytes:
    return head("Transfer-Encoding: chunked", start="POST / HTTP/1.1") + body


# name -> (what just fits, what does not, its status, the option that counts it)
SIZES: dict[str, tuple[bytes, bytes, int, str]] = {
    "9112-3-long request line": (
        head(start="GET /" + "x" * 86 + " HTTP/1.1"),
        head(start="GET /" + "x" * 87 + " HTTP/1.1"),
        414,
        "max_line",
    ),
    "9112-3-long request line without an end": (head(), b"GET /" + b"x" * 96, 414, "max_line"),
    "9110-5.4-large field line": (head("A: " + "x" * 97), head("A: " + "x" * 98), 431, "max_line"),
    "9110-5.4-large field line without an end": (head(), head()[:-2] + b"A: " + b"x" * 98, 431, "max_line"),
    "9110-5.4-large head": (sized_head(400), sized_head(401), 431, "max_head"),
    "9110-5.4-large number of fields": (head(*["A: b"] * 4), head(*["A: b"] * 5), 431, "max_headers"),
    "9110-8.6-large body by its length": (
        head("Content-Length: 50", start="POST / HTTP/1.1") + b"x" * 50,
        head("Content-Length: 51", start="POST / HTTP/1.1"),
        413,
        "max_body",
    ),
    "9112-7.1-large body in one chunk": (
        chunked(b"32\r\n" + b"x" * 50 + b"\r\n0\r\n\r\n"),
        chunked(b"33\r\n"),
        413,
        "max_body",
    ),
    "9112-7.1-large body in chunks": (
        chunked(b"1\r\nx\r\n" * 50 + b"0\r\n\r\n"),
        chunked(b"1\r\nx\r\n" * 50 + b"1\r\nx\r\n0\r\n\r\n"),
        413,
        "max_body",
    ),
    "9112-7.1.1-limit chunk-size line": (
        chunked(b"1;" + b"x" * 98 + b"\r\nx\r\n0\r\n\r\n"),
        chunked(b"1;" + b"x" * 99 + b"\r\nx\r\n0\r\n\r\n"),
        400,
        "max_line",
    ),
    "9112-7.1.1-limit extensions together": (
        chunked((b"1;" + b"x" * 49 + b"\r\nx\r\n") * 8 + b"0\r\n\r\n"),
        chunked((b"1;" + b"x" * 49 + b"\r\nx\r\n") * 8 + b"0;a\r\n\r\n"),
        413,
        "max_head",
    ),
    "9110-6.5-limit trailer line": (
        chunked(b"0\r\nA: " + b"x" * 97 + b"\r\n\r\n"),
        chunked(b"0\r\nA: " + b"x" * 98 + b"\r\n\r\n"),
        431,
        "max_line",
    ),
    "9110-6.5-limit trailers": (
        chunked(b"0\r\n" + b"A: b\r\n" * 5 + b"\r\n"),
        chunked(b"0\r\n" + b"A: b\r\n" * 6 + b"\r\n"),
        431,
        "max_headers",
    ),
    "9110-6.5-limit trailers together": (
        chunked(b"0\r\n" + (b"A: " + b"x" * 95 + b"\r\n") * 3 + b"A: " + b"x" * 93 + b"\r\n\r\n"),
        chunked(b"0\r\n" + (b"A: " + b"x" * 95 + b"\r\n") * 3 + b"A: " + b"x" * 94 + b"\r\n\r\n"),
        431,
        "max_head",
    ),
}


@pytest.mark.parametrize("step", [1, 7, 100000], ids=["by one", "by seven", "at once"])
@pytest.mark.parametrize("case", SIZES.values(), ids=SIZES.keys())
def test_a_size(host: Host, case: tuple[bytes, bytes, int, str], step: int) -> None:
    """What just fits is served, one byte more is refused and counted, however the bytes arrive."""
    fits, exceeds, status, option = case
    host.serve(read_all, **SMALL)  # type: ignore[arg-type]
    peer = host.connect()
    feed(peer, fits, step)
    assert peer.reply().status == 200
    assert counts(host) == {}
    peer = host.connect()
    feed(peer, exceeds, step)
    reply = peer.reply()
    assert (reply.status, reply.get("connection")) == (status, "close")
    assert peer.rest() == b""
    assert counts(host) == {option: 1}


def feed(peer: Peer, data: bytes, step: int) -> None:
    for place in range(0, len(data), step):
        peer.send(data[place : place + step])


def counts(host: Host) -> dict[str, int]:
    assert host.server is not None
    return host.server.limit_counts


# -- time


@pytest.mark.parametrize(
    ("option", "sent", "status"),
    [
        ("head_timeout", b"GET / HTTP/1.1\r\nHost", 408),
        ("head_timeout", head()[:-2], 408),
        ("body_timeout", head("Content-Length: 5", start="POST / HTTP/1.1") + b"x", 408),
        ("body_timeout", chunked(b"5\r\nx"), 408),
        ("body_timeout", chunked(b"1\r\nx\r\n0\r\nTrailer: x"), 408),
        ("head_timeout", b"", None),
        ("head_timeout", b"\r\n", None),
        ("head_timeout", b"\r", None),
    ],
)
def test_a_timeout(host: Host, option: str, sent: bytes, status: int | None) -> None:
    """9110-15.5.9-timeout: what is late is 408, silence is nothing; either is the end, and counted."""
    peer = host.serve(read_all, **{option: 0.05}).connect()  # type: ignore[arg-type]
    peer.send(sent)
    if status is not None:
        reply = peer.reply()
        assert (reply.status, reply.get("connection")) == (status, "close")
    assert peer.rest() == b""
    host.until(lambda: counts(host) == {option: 1})


def test_keep_alive_timeout_is_counted(host: Host) -> None:
    """An idle connection is closed without a word."""
    peer = host.serve(read_all, keep_alive_timeout=0.05).connect()
    assert peer.ask().status == 200
    assert peer.rest() == b""
    assert counts(host) == {"keep_alive_timeout": 1}


def test_write_timeout_is_counted(host: Host) -> None:
    """A client that takes nothing is cut."""

    async def handler(request: Request) -> bytes:
        return b"x" * 8_000_000

    peer = host.serve(handler, write_timeout=0.05).connect(receive_buffer=8192)
    peer.request()
    host.until(lambda: counts(host) == {"write_timeout": 1})
    host.idle()


# -- how many


def test_max_connections(host: Host) -> None:
    """More connections than `max_connections` wait until there is room, and are served then."""
    host.serve(read_all, max_connections=3)
    peers = [host.connect() for _ in range(3)]
    assert [peer.ask().status for peer in peers] == [200] * 3
    waiting = host.connect()
    waiting.request()
    host.until(lambda: counts(host) == {"max_connections": 1})
    assert peers[0].ask().status == 200
    peers[0].close()
    assert waiting.reply().status == 200


def test_max_connections_per_address(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """9110-15.6.4-busy: one too many from an address is told 503, others are served; places become free."""
    host.serve(read_all, max_connections_per_address=2, linger_timeout=0.05)
    first, second = host.connect(source="127.0.0.2"), host.connect(source="127.0.0.2")
    assert [first.ask().status, second.ask().status] == [200, 200]
    for number in range(20):
        turned_away = host.connect(source="127.0.0.2")
        reply = turned_away.reply()
        assert (reply.status, reply.get("connection"), reply.get("retry-after")) == (503, "close", "1")
        assert turned_away.rest() == b""
        assert counts(host) == {"max_connections_per_address": number + 1}
    lines = [one for one in caplog.records if "max_connections_per_address" in one.getMessage()]
    assert [one.levelno for one in lines] == [logging.WARNING]  # once, not once a connection
    assert host.connect(source="127.0.0.3").ask().status == 200
    first.close()

    def served_again() -> bool:
        with contextlib.suppress(AssertionError, ConnectionError):
            return host.connect(source="127.0.0.2").ask().status == 200
        return False

    host.until(served_again)
    assert second.ask().status == 200


def test_a_flood_of_bad_requests_is_one_line_in_the_log(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Refusals are counted by their status and logged once in a while."""
    caplog.set_level(logging.INFO)
    host.serve(read_all)
    for _ in range(30):
        peer = host.connect()
        peer.send("bad\r\n\r\n")
        assert peer.reply().status == 400
    assert counts(host) == {"refused 400": 30}
    assert len([one for one in caplog.records if "refused 400" in one.getMessage()]) == 1


# -- the documentation


def test_every_limit_is_documented() -> None:
    """docs/limits.md has each option that is a number, with its default."""
    text = (Path(__file__).parents[3] / "docs" / "limits.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", text, re.MULTILINE))
    defaults: dict[str, Any] = {
        one.name: one.default for one in dataclasses.fields(Config) if one.type in ("int", "float")
    }
    del defaults["port"]
    assert {name: value(text) for name, text in rows.items()} == defaults


def value(text: str) -> float:
    number, _, unit = text.partition(" ")
    return float(number) * {"": 1, "s": 1, "KiB": 1024, "MiB": 1024 * 1024}[unit]
