"""Ends that take time or two sides: RFC 6455 5.5.1, 6.1, 7.1, and the timeouts and limits around them; both loops."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from channelkit import Channel, CloseStatus, Request, as_channel
from tests.conformance.websocket.rows import BINARY, CLOSE, CONT, FIN, PING, PONG, TEXT, closed, code
from tests.server.conftest import Handler, Host

LONG = 1000.0  # seconds that no test waits


def silent(host: Host, **options: Any) -> Handler:
    """A handler whose channels say nothing by themselves."""

    async def handler(request: Request) -> Channel:
        return as_channel(request, on_open=host.opened, on_close=host.closed, **options)

    return handler


def echo(host: Host) -> Handler:
    async def handler(request: Request) -> Channel:
        return as_channel(
            request,
            on_open=host.opened,
            on_receive=lambda channel, message: channel.send_nowait(message),
            on_close=host.closed,
        )

    return handler


def test_after_the_peers_close_tcp_ends_at_once(host: Host) -> None:
    """RFC 6455 5.5.1 and 7.1.1: the server ends TCP as soon as both close frames have passed, and does not wait."""
    peer = host.serve(silent(host), close_timeout=LONG, linger_timeout=LONG, ping_interval=LONG).connect()
    peer.upgrade()
    peer.send_frame(CLOSE, code(1000))
    assert peer.read_frame() == closed(1000)
    assert peer.rest() == b""


def test_after_our_close_and_the_reply_tcp_ends_at_once(host: Host) -> None:
    """RFC 6455 7.1.1: the same when the server began, and it answers no second time."""
    peer = host.serve(silent(host), close_timeout=LONG, linger_timeout=LONG).connect()
    peer.upgrade()
    assert host.call(host.channel().close_nowait, 3000, "done")
    peer.until(closed(3000, b"done")[1])
    peer.send_frame(PONG)
    peer.send_frame(CLOSE, code(3000, b"done"))
    assert peer.rest() == b""
    assert host.end().status == CloseStatus.SERVER_CLOSE


@pytest.mark.parametrize("ours", [1000, 3000])
@pytest.mark.parametrize("theirs", [1000, 3000])
def test_crossing_closes(host: Host, ours: int, theirs: int) -> None:
    """RFC 6455 5.5.1: two close frames that cross need no answer; each side names itself."""
    peer = host.serve(silent(host), close_timeout=LONG, linger_timeout=LONG).connect()
    peer.upgrade()
    channel = host.channel()

    def cross() -> None:
        peer.send_frame(CLOSE, code(theirs))  # in the kernel before ours leaves, and read after it
        channel.close_nowait(ours)

    host.call(cross)
    peer.until(code(ours))
    assert peer.rest() == b""
    info = host.end()
    assert (info.status, info.code, info.by) == (CloseStatus.SERVER_CLOSE, ours, "local")


def test_a_peer_that_keeps_tcp_open_behind_both_closes(host: Host) -> None:
    """RFC 6455 7.1.1: our FIN follows the close frames; a peer that neither reads nor ends is left after a while."""
    peer = host.serve(silent(host), linger_timeout=0.05).connect()
    peer.upgrade()
    peer.send_frame(CLOSE, code(1000))
    host.end()
    host.idle()
    host.until(lambda: host.core.lingering() == 0)


def test_our_close_is_not_waited_for_longer_than_its_timeout(host: Host) -> None:
    """A close frame that is not answered ends in TCP's end within `close_timeout`, whatever else is sent."""
    peer = host.serve(silent(host), close_timeout=0.1).connect()
    peer.upgrade()
    host.call(host.channel().close_nowait, 1001)
    peer.send_frame(TEXT, b"not an answer")
    peer.send_frame(PING, b"nor this")
    info = host.end()
    assert (info.status, info.code, info.delivered) == (CloseStatus.SERVER_CLOSE, 1001, False)
    host.idle()
    assert host.server is not None
    assert host.server.limit_counts == {"close_timeout": 1}


def test_nothing_follows_our_close_frame(host: Host) -> None:
    """RFC 6455 5.5.1 and 6.1: no data and no pong leaves behind our close frame."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()

    def close() -> None:
        host.channel().close_nowait()
        assert not host.channel().send_nowait("late")
        assert not host.channel().ping(b"late")

    host.channel()
    host.call(close)
    peer.send_frame(PING, b"unanswered")
    peer.send_frame(TEXT, b"unanswered")
    peer.until(code(1000))
    peer.send_frame(CLOSE, code(1000))
    assert peer.rest() == b""


def test_what_our_close_left_unread_is_counted(host: Host) -> None:
    """Messages that arrive behind our close frame are not delivered; whole ones are counted, however they come."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()
    peer.send_frame(TEXT, b"begun ", fin=False)
    peer.send_frame(PING)
    assert peer.read_frame() == (FIN | PONG, b"")
    host.call(host.channel().close_nowait)
    peer.send_frame(CONT, b"before our close")
    peer.send_frame(TEXT, b"one")
    peer.send_frame(BINARY, b"", fin=False)
    peer.send_frame(PONG)
    peer.send_frame(CONT, bytes(70_000))
    peer.send_frame(TEXT, b"never ended", fin=False)
    peer.send_frame(CLOSE, code(1000))
    assert host.end().unread == 3


def test_messages_held_when_we_close_are_counted(host: Host) -> None:
    """So are those that waited in a full inbox and behind it."""

    async def handler(request: Request) -> Channel:
        gate = anyio.Event()
        gates.append(gate)

        async def busy(channel: Channel, message: str) -> None:
            await gate.wait()

        return as_channel(request, on_open=host.opened, on_receive=busy, on_close=host.closed)

    gates: list[anyio.Event] = []
    peer = host.serve(handler, max_inbox=2).connect()
    peer.upgrade(more=b"".join(peer.frame(TEXT, b"%d" % number) for number in range(10)))
    channel = host.channel()
    host.until(lambda: not channel.statistics().reading)
    host.call(channel.close_nowait)
    host.call(gates[0].set)
    peer.send_frame(CLOSE, code(1000))
    assert host.end().unread == 9  # the first is with the callback


def test_half_open(host: Host) -> None:
    """RFC 6455 7.1.5: a FIN without a close frame is 1006; what came before it is still handled."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()
    peer.send_frame(TEXT, b"last")
    peer.fin()
    assert peer.read_frame() == (FIN | TEXT, b"last")
    info = host.end()
    assert (info.status, info.code, info.by) == (CloseStatus.ABNORMAL, 1006, "network")


def test_a_fin_inside_a_frame(host: Host) -> None:
    """RFC 6455 7.1.5: half a frame is no message, and the end is 1006."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()
    peer.send(peer.frame(TEXT, b"half a frame")[:9])
    peer.fin()
    assert host.end().code == 1006


def test_a_silent_peer(host: Host) -> None:
    """A peer that answers no ping is let go, and counted."""
    peer = host.serve(silent(host), ping_interval=0.05, pong_timeout=0.05).connect()
    peer.upgrade()
    assert peer.read_frame()[0] == FIN | PING
    assert host.end().status == CloseStatus.ABNORMAL
    assert host.server is not None
    assert host.server.limit_counts == {"pong_timeout": 1}


def test_limits_are_logged_once_in_a_while(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Twenty connections that run into a limit are counted and give one line in the log."""
    caplog.set_level(logging.INFO, "channelkit")
    host.serve(silent(host), max_ws=1000, max_fragments=3)
    for _ in range(20):
        peer = host.connect()
        peer.upgrade(more=peer.frame(BINARY, bytes(1001)))
        assert peer.read_frame() == closed(1009)
    peer = host.connect()
    peer.upgrade(more=peer.frame(BINARY, fin=False) + peer.frame(CONT, fin=False) * 3)
    assert peer.read_frame() == closed(1008)
    assert host.server is not None
    assert host.server.limit_counts == {"max_ws": 20, "max_fragments": 1}
    lines = [record.getMessage() for record in caplog.records if "since the last such line" in record.getMessage()]
    assert [line.split(":")[0] for line in lines] == ["max_ws", "max_fragments"]
