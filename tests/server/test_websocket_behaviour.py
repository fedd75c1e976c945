"""What WebSocket clients see, byte by byte: the opening handshake, frames, the closing handshake, liveness."""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from channelkit import Channel, ChannelClosed, CloseStatus, Request, as_channel, reject, with_channel

if TYPE_CHECKING:
    from tests.server.conftest import Handler, Host, Peer

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def code(number: int, reason: bytes = b"") -> bytes:
    return struct.pack("!H", number) + reason


def echo(host: Host, **options: Any) -> Handler:
    """A handler that sends back what it gets."""

    async def handler(request: Request) -> Channel:
        return as_channel(
            request,
            on_open=host.opened,
            on_receive=lambda channel, message: channel.send_nowait(message),
            on_close=host.closed,
            **options,
        )

    return handler


def assert_closed(peer: Peer, number: int) -> None:
    """The server closes with this code, and then TCP."""
    first, payload = peer.read_frame()
    assert (first, payload[:2]) == (0x88, code(number))
    assert peer.rest() == b""


# -- the opening handshake


def test_the_handshake(host: Host) -> None:
    """The answer to RFC 6455's own key is the one it gives; nothing is agreed that was not offered."""
    reply = host.serve(echo(host)).connect().upgrade("Sec-WebSocket-Extensions: permessage-deflate")
    assert reply.get("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (reply.get("upgrade"), reply.get("connection")) == ("websocket", "Upgrade")
    assert reply.get("sec-websocket-protocol") is None
    assert reply.get("sec-websocket-extensions") is None
    assert reply.get("content-length") is None


def test_subprotocol_and_headers(host: Host) -> None:
    """The first of the server's subprotocols that was offered is agreed on; extra headers come with the 101."""
    handler = echo(host, subprotocols=["b", "a"], headers={"Set-Cookie": ["x=1", "y=2"]})
    reply = host.serve(handler).connect().upgrade("Sec-WebSocket-Protocol: a, c", "Sec-WebSocket-Protocol: b")
    assert reply.get("sec-websocket-protocol") == "b"
    assert reply.getlist("set-cookie") == ["x=1", "y=2"]


def test_frames_in_the_packet_of_the_handshake(host: Host) -> None:
    """Frames that came with the handshake are delivered after it."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade(more=peer.frame(TEXT, b"early") + peer.frame(TEXT, b"bird"))
    assert peer.read_frame() == (0x81, b"early")
    assert peer.read_frame() == (0x81, b"bird")


GOOD = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def handshake(method: str = "GET", version: str = "1.1", **changes: str | None) -> bytes:
    fields = GOOD | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"{method} / HTTP/{version}", "Host: test", *lines, "", ""]).encode()


BAD: dict[str, tuple[bytes, int]] = {
    "method": (handshake("POST", Content_Length="0"), 405),
    "http-1.0": (handshake(version="1.0"), 400),
    "no-connection": (handshake(Connection=None), 400),
    "other-connection": (handshake(Connection="keep-alive"), 400),
    "no-version": (handshake(Sec_WebSocket_Version=None), 400),
    "old-version": (handshake(Sec_WebSocket_Version="8"), 426),
    "no-key": (handshake(Sec_WebSocket_Key=None), 400),
    "short-key": (handshake(Sec_WebSocket_Key="AAAA"), 400),
    "no-base64": (handshake(Sec_WebSocket_Key="!" * 24), 400),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_handshakes(host: Host, name: str) -> None:
    """A handshake that is wrong gets a status that says how, and the end; the frames behind it are not looked at."""
    data, status = BAD[name]
    peer = host.serve(echo(host)).connect()
    peer.send(data + peer.frame(TEXT, b"early"))
    reply = peer.reply()
    # RFC 9110 7.8: who sends Upgrade, which 426 must, names it in Connection.
    assert (reply.status, reply.get("connection")) == (status, "close, upgrade" if status == 426 else "close")
    assert reply.get("sec-websocket-version") == ("13" if status == 426 else None)
    assert reply.get("allow") == ("GET" if status == 405 else None)
    assert peer.rest() == b""
    assert host.ends == []


@pytest.mark.parametrize(
    "result", [reject(403, {"X": "1"}, "no"), {"status": 403, "headers": {"X": "1"}, "body": "no"}]
)
def test_a_refusal_before_the_upgrade(host: Host, result: Any) -> None:
    """A plain response to an upgrade is that response, and the end: what follows may be frames."""

    async def handler(request: Request) -> Any:
        return result

    peer = host.serve(handler).connect()
    peer.send(peer.handshake() + peer.frame(TEXT, b"early"))
    reply = peer.reply()
    assert (reply.status, reply.body, reply.get("x")) == (403, b"no", "1")
    assert reply.get("connection") == "close"
    assert peer.rest() == b""


@pytest.mark.parametrize(
    ("origin", "origins", "status"),
    [
        ("http://test", None, 101),
        ("http://evil.example", None, 403),
        ("null", None, 403),
        ("http://[", None, 403),
        ("http://evil.example", ["*"], 101),
        ("https://good.example", ["https://good.example"], 101),
        ("http://test", ["https://good.example"], 101),
        ("http://evil.example", ["https://good.example"], 403),
    ],
)
def test_origins(host: Host, origin: str, origins: list[str] | None, status: int) -> None:
    """Pages of other origins are refused unless they are admitted."""
    peer = host.serve(echo(host, origins=origins)).connect()
    peer.send(peer.handshake(f"Origin: {origin}"))
    assert peer.head().status == status


def test_an_upgrade_to_something_else_is_a_plain_request(host: Host) -> None:
    """`Upgrade: h2c` is passed over."""

    async def handler(request: Request) -> str:
        return str(request.is_websocket)

    assert host.serve(handler).connect().ask("GET", "/", "Upgrade: h2c", "Connection: Upgrade").body == b"False"


def test_a_handler_that_raises_before_the_upgrade(host: Host) -> None:
    """An exception before the upgrade is a 500."""

    async def handler(request: Request) -> None:
        raise RuntimeError("kaboom")

    peer = host.serve(handler).connect()
    peer.send(peer.handshake())
    reply = peer.reply()
    assert (reply.status, b"kaboom" in reply.body) == (500, False)


# -- messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 300_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_messages_of_every_length(host: Host, opcode: int, size: int) -> None:
    """Text comes back as text, bytes as bytes, in one unmasked frame of minimal length."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()
    peer.send_frame(opcode, b"x" * size)
    assert peer.read_frame() == (0x80 | opcode, b"x" * size)


def test_fragments_with_a_ping_between(host: Host) -> None:
    """Fragments make one message, a character may be split over them, and a ping between them is answered first."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()
    peer.send_frame(TEXT, b"h\xc3", fin=False)
    peer.send_frame(PING, b"p")
    assert peer.read_frame() == (0x8A, b"p")
    peer.send_frame(0, b"", fin=False)
    peer.send_frame(0, b"\xa9llo")
    assert peer.read_frame() == (0x81, "héllo".encode())


def test_pings_and_pongs(host: Host) -> None:
    """A ping is answered with its payload and told to `on_ping`; a pong nobody asked for is passed over."""
    pings: list[bytes] = []

    async def handler(request: Request) -> Channel:
        return as_channel(request, on_ping=lambda channel, data: pings.append(data))

    peer = host.serve(handler).connect()
    peer.upgrade()
    peer.send_frame(PONG, b"unasked")
    peer.send_frame(PING, b"x" * 125)
    assert peer.read_frame() == (0x8A, b"x" * 125)
    host.until(lambda: pings == [b"x" * 125])


def test_messages_in_order(host: Host) -> None:
    """Messages are handled one at a time in the order they came, awaited callbacks included."""
    running: list[str] = []

    async def receive(channel: Channel, message: str) -> None:
        running.append(message)
        assert len(running) == 1
        await channel.send(message)
        await channel.flush()
        running.remove(message)

    async def handler(request: Request) -> Channel:
        return as_channel(request, on_receive=receive)

    peer = host.serve(handler).connect()
    peer.upgrade(more=b"".join(peer.frame(TEXT, b"%d" % number) for number in range(500)))
    assert [peer.read_frame()[1] for _ in range(500)] == [b"%d" % number for number in range(500)]


VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "unmasked": (b"\x81\x02hi", 1002),
    "rsv1": (b"\xc1\x80\0\0\0\0", 1002),
    "rsv3": (b"\x91\x80\0\0\0\0", 1002),
    "opcode-3": (b"\x83\x80\0\0\0\0", 1002),
    "opcode-b": (b"\x8b\x80\0\0\0\0", 1002),
    "long-ping": (b"\x89\xfe\x00\x7e\0\0\0\0" + b"x" * 126, 1002),
    "fragmented-ping": (b"\x09\x80\0\0\0\0", 1002),
    "continuation-of-nothing": (b"\x80\x80\0\0\0\0", 1002),
    "text-inside-a-message": (b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0", 1002),
    "length-not-minimal": (b"\x82\xfe\x00\x05\0\0\0\0hello", 1002),
    "close-of-one-byte": (b"\x88\x81\0\0\0\0\x03", 1002),
    "close-999": (b"\x88\x82\0\0\0\0\x03\xe7", 1002),
    "close-1005": (b"\x88\x82\0\0\0\0\x03\xed", 1002),
    "close-1006": (b"\x88\x82\0\0\0\0\x03\xee", 1002),
    "close-5000": (b"\x88\x82\0\0\0\0\x13\x88", 1002),
    "text-not-utf-8": (b"\x81\x82\0\0\0\0\xc3\x28", 1007),
    "text-not-ended": (b"\x81\x81\0\0\0\0\xc3", 1007),
    "reason-not-utf-8": (b"\x88\x83\0\0\0\0\x03\xe8\xff", 1007),
    "too-big": (b"\x82\xfe\x03\xe9\0\0\0\0", 1009),
    "too-big-by-2**40": (b"\x82\xff\0\0\x01\0\0\0\0\0\0\0\0\0", 1009),
    "too-big-in-parts": (b"\x02\xfe\x03\xe8\0\0\0\0" + b"x" * 1000 + b"\x80\x81\0\0\0\0", 1009),
}

_STATUS = {
    1002: CloseStatus.PROTOCOL_ERROR,
    1007: CloseStatus.INVALID_PAYLOAD_DATA,
    1009: CloseStatus.MESSAGE_TOO_BIG,
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violations(host: Host, name: str) -> None:
    """What breaks the protocol is closed with its code, from the frame's header where that tells; then TCP ends.

    What came before it is delivered first.
    """
    data, number = VIOLATIONS[name]
    peer = host.serve(echo(host), max_ws=1000).connect()
    peer.upgrade()
    peer.send(peer.frame(TEXT, b"before") + data)
    assert peer.read_frame() == (0x81, b"before")
    assert_closed(peer, number)
    info = host.end()
    assert (info.status, info.code, info.by) == (_STATUS[number], number, "peer")


def test_a_message_of_exactly_max_ws(host: Host) -> None:
    """A message of `max_ws` bytes is served, in one frame or several."""
    peer = host.serve(echo(host), max_ws=1000).connect()
    peer.upgrade()
    peer.send_frame(BINARY, b"x" * 1000)
    assert peer.read_frame() == (0x82, b"x" * 1000)
    peer.send_frame(BINARY, b"x" * 600, fin=False)
    peer.send_frame(0, b"x" * 400)
    assert peer.read_frame() == (0x82, b"x" * 1000)


@pytest.mark.parametrize("bad", [3, None, NotImplemented, {}, {"status": 200}, ["a"], "\ud800"], ids=repr)
def test_a_message_that_cannot_be_carried_raises_to_its_caller(host: Host, bad: Any) -> None:
    """What a WebSocket cannot carry raises in the handler; the channel goes on."""

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            with pytest.raises((TypeError, ValueError)):
                await channel.send(bad)
            await channel.send("recovered")

    peer = host.serve(handler).connect()
    peer.upgrade()
    assert peer.read_frame() == (0x81, b"recovered")


# -- closing


@pytest.mark.parametrize(
    ("payload", "status", "number", "reason"),
    [
        (code(1000, b"bye"), CloseStatus.NORMAL, 1000, "bye"),
        (code(1001), CloseStatus.GOING_AWAY, 1001, ""),
        (code(3000, "é".encode()), CloseStatus.UNKNOWN, 3000, "é"),
        (b"", CloseStatus.NO_STATUS_RECEIVED, 1005, ""),
    ],
)
def test_the_client_closes(host: Host, payload: bytes, status: CloseStatus, number: int, reason: str) -> None:
    """The client's close comes back as it is, what follows it is passed over, and TCP ends."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()
    peer.send(peer.frame(TEXT, b"last") + peer.frame(CLOSE, payload) + peer.frame(TEXT, b"too late"))
    assert peer.read_frame() == (0x81, b"last")
    first, answer = peer.read_frame()
    assert (first, answer[:2]) == (0x88, payload[:2])
    assert peer.rest() == b""
    info = host.end()
    assert (info.status, info.code, info.reason, info.by) == (status, number, reason, "peer")
    assert host.call(host.channel().send_nowait, "x") is False


def test_the_server_closes(host: Host) -> None:
    """The server's close has its code and reason; the reply ends TCP at once and confirms all that was sent."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()
    host.call(host.channel().send_nowait, "last")
    assert host.call(host.channel().close_nowait, 4001, "réason") is True
    assert host.call(host.channel().close_nowait) is False
    assert host.call(host.channel().send_nowait, "x") is False
    assert peer.read_frame() == (0x81, b"last")
    assert peer.read_close() == (0x88, code(4001, "réason".encode()))
    peer.send_frame(TEXT, b"crossing")
    peer.send_frame(CLOSE, code(4001))
    assert peer.rest() == b""  # no second close frame
    info = host.end()
    assert (info.status, info.code, info.reason, info.by) == (CloseStatus.SERVER_CLOSE, 4001, "réason", "local")
    assert info.delivered is True


def test_closes_that_cross(host: Host) -> None:
    """Two closes that cross are one end, ours; nobody answers the other's."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()
    host.call(host.channel().close_nowait, 1000)
    peer.send_frame(CLOSE, code(3001, b"mine"))
    assert peer.read_close(answer=False) == (0x88, code(1000))
    assert peer.rest() == b""
    info = host.end()
    assert (info.status, info.code, info.by) == (CloseStatus.SERVER_CLOSE, 1000, "local")
    assert info.delivered is None


@pytest.mark.parametrize("pong", [True, False])
def test_only_who_has_read_all_confirms(host: Host, pong: bool) -> None:
    """The same code back is no proof, it may have crossed; a pong to the ping before our close frame is."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()
    host.call(host.channel().send_nowait, "last")
    host.call(host.channel().close_nowait)
    assert peer.read_frame() == (0x81, b"last")
    peer.send_frame(PONG, b"some")  # not the one that was asked for
    assert peer.read_close(answer=pong) == (0x88, code(1000))
    peer.send_frame(CLOSE, code(1000))
    assert peer.rest() == b""
    assert host.end().delivered is (True if pong else None)


@pytest.mark.parametrize("answers", [True, False])
def test_close_timeout(host: Host, answers: bool) -> None:
    """A peer that does not answer our close is cut after `close_timeout`; one that answers is not kept waiting."""
    peer = host.serve(echo(host), close_timeout=0.1 if not answers else 1000).connect()
    peer.upgrade()
    host.call(host.channel().close_nowait)
    assert peer.read_close() == (0x88, code(1000))
    if answers:
        peer.send_frame(CLOSE, code(1000))
        assert peer.rest() == b""
    assert host.end().delivered is answers
    host.idle()


@pytest.mark.parametrize(("number", "reason"), [(999, ""), (1005, ""), (1006, ""), (5000, ""), (1000, "x" * 124)])
def test_a_close_that_may_not_be_sent(host: Host, number: int, reason: str) -> None:
    """A code or reason that no close frame may carry raises, and the channel stays open."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()
    with pytest.raises(ValueError, match="close"):
        host.call(host.channel().close_nowait, number, reason)
    peer.send_frame(TEXT, b"still")
    assert peer.read_frame() == (0x81, b"still")


@pytest.mark.parametrize("fails", [False, True])
def test_leaving_the_block(host: Host, fails: bool) -> None:
    """Leaving a `with_channel` block closes with 1000, leaving it by an exception with 1011."""

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            channel.on_close(lambda status: host.closed(channel, status))
            await channel.send("hi")
            if fails:
                raise RuntimeError("kaboom")

    peer = host.serve(handler).connect()
    peer.upgrade()
    assert peer.read_frame() == (0x81, b"hi")
    number = 1011 if fails else 1000
    assert peer.read_close() == (0x88, code(number))
    peer.send_frame(CLOSE, code(number))
    assert peer.rest() == b""
    assert host.end().by == "local"


def test_a_callback_that_raises(host: Host) -> None:
    """A callback that raises ends its own channel with 1011, and no other."""

    async def handler(request: Request) -> Channel:
        return as_channel(request, on_receive=lambda channel, message: channel.send_nowait(str(1 // int(message))))

    bad, good = host.serve(handler).connect(), host.connect()
    bad.upgrade()
    good.upgrade()
    bad.send_frame(TEXT, b"0")
    assert bad.read_close() == (0x88, code(1011))
    good.send_frame(TEXT, b"1")
    assert good.read_frame() == (0x81, b"1")


def test_receive_after_the_end(host: Host) -> None:
    """What came before the peer's close is received; then iteration ends and `receive` raises the `close_info`."""
    got: list[Any] = []

    async def handler(request: Request) -> None:
        async with with_channel(request) as channel:
            got.extend([message async for message in channel])
            with pytest.raises(ChannelClosed) as caught:
                await channel.receive()
            got.append(caught.value.info.code)

    peer = host.serve(handler).connect()
    peer.upgrade(more=peer.frame(TEXT, b"a") + peer.frame(BINARY, b"b") + peer.frame(CLOSE, code(1000)))
    assert peer.read_frame() == (0x88, code(1000))
    host.until(lambda: got == ["a", b"b", 1000])


def test_messages_and_fin_with_the_handshake(host: Host) -> None:
    """What came with the handshake and the client's FIN is received by a slow reader too; then the end is abnormal."""
    got: list[str] = []
    may_open = threading.Event()

    async def handler(request: Request) -> None:
        while not may_open.is_set():
            await anyio.sleep(0.001)
        async with with_channel(request) as channel:
            channel.on_close(lambda status: host.closed(channel, status))
            async for message in channel:
                got.append(message)
                await anyio.sleep(0.001)

    peer = host.serve(handler, max_inbox=2).connect()
    peer.send(peer.handshake() + b"".join(peer.frame(TEXT, b"%d" % number) for number in range(20)))
    peer.fin()
    connection = host.until(lambda: next(iter(host.core.connections), None))
    host.until(lambda: getattr(connection, "_eof", False))
    may_open.set()
    assert host.end().code == 1006
    host.until(lambda: got == [str(number) for number in range(20)])


def test_a_client_that_vanishes(host: Host) -> None:
    """A connection that ends without a close frame is abnormal, 1006."""
    peer = host.serve(echo(host)).connect()
    peer.upgrade()
    peer.close()
    info = host.end()
    assert (info.status, info.code, info.by) == (CloseStatus.ABNORMAL, 1006, "network")


# -- liveness


def test_a_silent_peer_is_pinged_and_let_go(host: Host) -> None:
    """After `ping_interval` of silence comes a ping; silence for `pong_timeout` more is an abnormal end."""
    peer = host.serve(echo(host), ping_interval=0.05, pong_timeout=0.05).connect()
    peer.upgrade()
    assert peer.read_frame() == (0x89, b"")
    info = host.end()
    assert (info.status, info.code, info.by) == (CloseStatus.ABNORMAL, 1006, "network")
    host.idle()


def test_a_peer_that_answers_pings_is_kept(host: Host) -> None:
    """A peer that says nothing but pongs stays, and is pinged every `ping_interval`, not each `pong_timeout` later."""
    peer = host.serve(echo(host), ping_interval=0.02, pong_timeout=1000).connect()
    peer.upgrade()
    for _ in range(5):
        assert peer.read_frame() == (0x89, b"")
        peer.send_frame(PONG)
    assert host.ends == []
