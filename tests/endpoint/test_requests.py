"""An Endpoint's requests, one by one, as curl would send them: answers, refusals, secrets, limits."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import anyio
import pytest
from wsproto.events import CloseConnection

from channelkit import (
    Channel,
    ConfigError,
    Endpoint,
    Request,
    SessionChannel,
    SessionConfig,
    reject,
)
from channelkit.spi import Exchange
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.host import Refused, read_all
from tests.endpoint.site import HOSTS, Answer, Site, echo, endpoint_of, run

pytestmark = [pytest.mark.parametrize("backend", BACKENDS), pytest.mark.parametrize("where", HOSTS)]


# -- the life of a session by curl -------------------------------------------------------------------------------------


def test_create_post_poll_delete(where: str, backend: Backend) -> None:
    """The whole life, each request twice: repeating changes nothing."""

    async def talk(site: Site) -> None:
        created = await site.create()
        assert created.status == 201
        assert created.headers["location"] == f"/room/ck/{site.sid}"
        assert created.headers["cache-control"] == "no-store, no-transform"
        assert (created.json["v"], created.json["recv"], created.json["max"]) == (1, 0, 1 << 20)
        for _ in range(2):
            posted = await site.session("POST", "?n=1", b"hello")
            assert (posted.status, posted.json) == (200, {"ack": 1})
        for _ in range(2):
            polled = await site.poll()
            assert polled.lines[1:] == [["m", 1, "hello"]]
        batch = b'["m",2,"two"]\n["b",3,"AAH/"]\n'
        for _ in range(2):
            assert (await site.session("POST", "?ack=1", batch, Content_Type="application/x-ndjson")).json == {"ack": 3}
        assert (await site.poll(1)).lines[1:] == [["m", 2, "two"], ["b", 3, "AAH/"]]
        assert [(await site.session("DELETE")).status for _ in range(2)] == [204, 204]
        over = await site.poll(3)
        assert (over.status, over.json["code"], over.json["ack"]) == (410, "killed", 3)
        await anyio.sleep(31)
        assert (await site.poll(3)).json["code"] == "unknown"

    run(endpoint_of(), where, backend, talk)


def test_a_session_keeps_nothing_of_the_connection_that_made_it(where: str, backend: Backend) -> None:
    """Its request says what was asked for, for as long as the session lives; the connection is free to go."""

    async def talk(site: Site) -> None:
        await site.create()
        await site.poll()
        channel = endpoint.session(site.sid)
        assert channel is not None
        assert channel.request.path == "/room/ck"
        assert await channel.request.body() == b""
        assert not any(isinstance(one, Exchange) for one in reachable(channel.request))

    endpoint = endpoint_of()
    run(endpoint, where, backend, talk)


def reachable(start: object) -> Iterator[object]:
    """Everything that `start` keeps alive, but for classes, functions and modules, which live anyway."""
    seen: dict[int, object] = {}
    found = [start]
    while found:
        one = found.pop()
        if id(one) in seen or isinstance(one, type | ModuleType) or callable(one):
            continue
        seen[id(one)] = one
        yield one
        found += gc.get_referents(one)


def test_a_poll_waits_for_a_message(where: str, backend: Backend) -> None:
    """A poll is held until something comes, or its wait is over."""

    async def talk(site: Site) -> None:
        await site.create()
        await site.poll()
        began = anyio.current_time()
        assert (await site.poll(0, 5)).status == 204
        assert anyio.current_time() - began == pytest.approx(5, abs=0.01)
        answers: list[Answer] = []

        async def wait() -> None:
            answers.append(await site.poll(0, 20))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(3)
            await site.session("POST", "?n=1", b"now")
        assert answers[0].lines[1:] == [["m", 1, "now"]]
        assert anyio.current_time() - began < 9

    run(endpoint_of(), where, backend, talk)


def test_what_would_be_misread_is_refused(where: str, backend: Backend) -> None:
    """A coded body would be taken for the message itself; a path with ; would give the cookie attributes of its own."""

    async def talk(site: Site) -> None:
        await site.create()
        for coding, status in (("gzip", 400), ("Identity", 200)):
            posted = await site.session(
                "POST", "?n=1", b"\x1f\x8b", Content_Encoding=coding, Content_Type="application/octet-stream"
            )
            assert (posted.status, "Content-Encoding" in str(posted.json)) == (status, status == 400)
        assert (await site.ask("POST", "/room;Path=/;SameSite=None;x/ck?cookie=1")).status == 400

    endpoint = endpoint_of()
    run(endpoint, where, backend, talk)


@pytest.mark.parametrize(("way", "wanted"), [("/stream", b'["m",1,"hi"]\n'), ("/events", b"data: hi\nid: 1\n\n")])
def test_streams(way: str, wanted: bytes, where: str, backend: Backend) -> None:
    """Both streams begin with hello and end behind the end; what was not acknowledged comes again."""

    async def talk(site: Site) -> None:
        await site.create()
        for _ in range(2):
            stream = await site.open(f"{way}")
            received = b""
            while wanted not in received:
                received += await stream.receive()
            assert b"recv" in received
            await stream.aclose()
        stream = await site.open(f"{way}?ack=1")
        with anyio.move_on_after(1):
            await stream.receive()
        live = endpoint.session(site.sid)
        assert live is not None
        live.close_nowait(1000, "done")
        rest = await read_all(stream)
        assert b'"done"' in rest
        assert rest.endswith(b"0\r\n\r\n") or b"done" in rest

    async def greet(channel: Channel) -> None:
        await channel.send("hi")
        await channel.wait_closed()

    endpoint = endpoint_of(greet)
    run(endpoint, where, backend, talk)


def test_a_session_moves_to_a_websocket_and_back(where: str, backend: Backend) -> None:
    """One session over poll, WebSocket and poll: the handler sees one channel."""
    seen: list[str] = []

    async def handler(channel: SessionChannel) -> None:
        channel.on_attach(lambda: seen.append("attached"))
        channel.on_detach(lambda: seen.append("detached"))
        async for message in channel:
            seen.append(message)
            await channel.send(message.upper())

    async def talk(site: Site) -> None:
        await site.create()
        await site.session("POST", "?n=1", b"one")
        assert (await site.poll()).lines[1:] == [["m", 1, "ONE"]]
        peer = await site.host.websocket(f"/room/ck/{site.sid}/ws", subprotocols=["ck.v1"])
        await peer.send(f'h {{"v":1,"secret":"{site.secret}","recv":1}}')
        assert str(await peer.receive()).startswith("h {")
        await peer.send("m 2 two")
        assert await peer.receive() == "m 2 TWO"
        await peer.close()
        await site.session("POST", "?n=3&ack=2", b"three")
        assert (await site.poll(2)).lines[1:] == [["m", 3, "THREE"]]
        assert [one for one in seen if one not in ("attached", "detached")] == ["one", "two", "three"]

    run(endpoint_of(handler), where, backend, talk)


def test_detached_by_the_application(where: str, backend: Backend) -> None:
    """`detach` ends what carries the session, behind what was written, and nothing else; False if nothing does."""

    async def talk(site: Site) -> None:
        await site.create()
        await site.session("POST", "?n=1", b"one")
        channel = endpoint.session(site.sid)
        assert channel is not None
        assert not channel.detach()
        stream = await site.open("/stream?ack=0")
        received = b""
        while b'"one"' not in received:
            received += await stream.receive()
        channel.send_nowait("two")
        assert channel.detach()
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += await stream.receive()
        assert b'["m",2,"two"]' in received
        assert not channel.detach()
        peer = await site.host.websocket(f"/room/ck/{site.sid}/ws", subprotocols=["ck.v1"])
        await peer.send(f'h {{"v":1,"secret":"{site.secret}","recv":2}}')
        assert str(await peer.receive()).startswith("h {")
        assert channel.detach()
        closed = await peer.receive()
        assert isinstance(closed, CloseConnection)
        assert (closed.code, closed.reason) == (1012, "detached")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waiting_poll, site)
            await anyio.sleep(1)
            assert channel.detach()
        assert channel.is_open

    async def waiting_poll(site: Site) -> None:
        assert (await site.poll(2, 20)).status == 204

    endpoint = endpoint_of()
    run(endpoint, where, backend, talk)


def test_create_on_connect(where: str, backend: Backend) -> None:
    """A WebSocket at /ck/ws whose hello names no session gets a new one, and its secret once."""

    async def talk(site: Site) -> None:
        peer = await site.host.websocket("/room/ck/ws", subprotocols=["ck.v1"])
        await peer.send('h {"v":1}')
        hello = json.loads(str(await peer.receive())[2:])
        site.sid, site.secret = hello["sid"], hello["secret"]
        await peer.send("m 1 hi")
        assert await peer.receive() == "m 1 hi"
        await peer.close()
        again = await site.poll(0)
        assert again.lines[1:] == [["m", 1, "hi"]]
        assert b"secret" not in again.body

    run(endpoint_of(), where, backend, talk)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_unknown_and_wrong_secret_are_one_answer(where: str, backend: Backend) -> None:
    """An id that does not exist, a wrong secret, none at all, another's principal: the same to the byte (S6)."""

    async def who(request: Request) -> str:
        return request.headers.get("x-user", "")

    async def talk(site: Site) -> None:
        await site.create(X_User="ann")
        right = site.sid
        answers = []
        for method, way in (("GET", "/poll"), ("GET", "/stream"), ("POST", ""), ("DELETE", "")):
            site.sid = right
            answers.append(await site.session(method, way, Authorization="Bearer wrong", X_User="ann"))
            answers.append(await site.session(method, way, Authorization="Basic eDp5", X_User="ann"))
            answers.append(await site.session(method, way, X_User="bob"))
            site.sid = "A" * 22
            answers.append(await site.session(method, way, X_User="ann"))
        assert {answer.plain for answer in answers} == {answers[0].plain}
        assert (answers[0].status, answers[0].json["code"]) == (404, "unknown")
        site.sid = right
        assert (await site.session("GET", "/poll", X_User="ann")).status == 200

    run(endpoint_of(authenticate=who), where, backend, talk)


def test_refusals_by_number(where: str, backend: Backend) -> None:
    """Future and smaller acknowledgements, gaps, fences, malformed numbers: each its own answer, nothing changed."""

    async def talk(site: Site) -> None:
        await site.create()
        assert (await site.session("POST", "?n=1", b"one")).status == 200
        assert (await site.poll(7)).json["code"] == "lost"
        assert (await site.session("POST", "?n=3", b"three")).json == {
            "code": "gap",
            "reason": "messages before these are missing; send again from ack+1",
            "ack": 1,
        }
        assert (await site.session("POST", "?ack=9")).json["code"] == "malformed"
        assert (await site.session("POST", "", b"no number")).status == 400
        for bad in ("?n=x", "?n=0", "?n=01", "?ack=-1", "?a=99999999999999999999"):
            assert (await site.session("POST", bad, b"x")).status == 400
        assert (await site.session("GET", "/poll?a=2")).status == 200
        superseded = await site.session("GET", "/poll?a=1")
        assert (superseded.status, superseded.json["code"]) == (409, "superseded")
        assert (await site.session("POST", "?n=2&a=1", b"x")).json["code"] == "superseded"
        assert (await site.session("DELETE", "?a=1")).json["code"] == "superseded"
        assert (await site.session("POST", "?n=2&a=2", b"two")).json == {"ack": 2}
        events = await site.session("GET", "/events?a=1")
        assert (events.status, events.body) == (204, b"")

    run(endpoint_of(), where, backend, talk)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'["m",1,"x"]', "application/x-ndjson", 400),  # no LF
        (b'["m",1]\n', "application/x-ndjson", 400),
        (b'{"m":1}\n', "application/x-ndjson", 400),
        (b'["m",1,"x"]\n["m",3,"y"]\n', "application/x-ndjson", 400),
        (b'["m",1,"\\ud800"]\n', "application/x-ndjson", 400),
        (b'["b",1,"!"]\n', "application/x-ndjson", 400),
        (b"\xff", "text/plain", 400),
        (b"x" * 101, "text/plain", 413),
        (b"x" * 3000, "text/plain", 413),
    ],
)
def test_malformed_bodies(body: bytes, kind: str, status: int, where: str, backend: Backend) -> None:
    """What is no message is 400 or 413 with a reason; the session goes on."""

    async def talk(site: Site) -> None:
        await site.create()
        bad = await site.session("POST", "?n=1", body, Content_Type=kind)
        assert (bad.status, bad.json["code"]) == (status, "size" if status == 413 else "malformed")
        assert (await site.session("POST", "?n=1", b"fine")).json == {"ack": 1}

    run(endpoint_of(session=SessionConfig(max_message=100)), where, backend, talk)


def test_origins_and_cookies(where: str, backend: Backend) -> None:
    """A foreign page is refused before any look-up; a cookie must prove where its request comes from (P8)."""

    async def talk(site: Site) -> None:
        assert (await site.create(Origin="http://evil.example")).json["code"] == "origin"
        assert (await site.create(Origin="https://friend.example")).status == 201
        created = await site.create("?cookie=1", Origin="http://test")
        cookie = created.headers["set-cookie"]
        assert f"Path=/room/ck/{site.sid}" in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        value = cookie.partition(";")[0]
        assert (await site.poll(Cookie=value)).json["code"] == "origin"
        assert (await site.poll(Cookie=value, Sec_Fetch_Site="cross-site")).status == 403
        assert (await site.poll(Cookie=value, Sec_Fetch_Site="same-origin")).status == 200
        assert (await site.poll(Cookie=value, Referer="http://test/page?x")).status == 200
        assert (await site.poll(Cookie=value, Referer="http://evil.example/test")).status == 403
        assert (await site.poll(Cookie=value, Origin="http://evil.example")).status == 403
        with pytest.raises(Refused) as refused:
            await site.host.websocket("/room/ck/ws", [(b"Origin", b"http://evil.example")], ["ck.v1"])
        assert refused.value.status == 403

    run(endpoint_of(origins=["https://friend.example"]), where, backend, talk)


def test_authenticate_sees_every_request(where: str, backend: Backend) -> None:
    """A Response refuses; the principal reaches the channel; every verb is asked again."""
    seen: list[tuple[str, str]] = []
    principals: list[Any] = []

    async def authenticate(request: Request) -> Any:
        seen.append((request.method, request.path.rpartition("/")[2]))
        user = request.headers.get("x-user")
        return user or reject(401, {"WWW-Authenticate": "Basic"}, "who?")

    async def handler(channel: SessionChannel) -> None:
        principals.append(channel.principal)
        await channel.wait_closed()

    async def talk(site: Site) -> None:
        assert (await site.create()).status == 401
        await site.create(X_User="ann")
        await site.poll(X_User="ann")
        await site.session("DELETE", X_User="ann")
        assert [method for method, _ in seen] == ["POST", "POST", "GET", "DELETE"]
        assert principals == ["ann"]

    run(endpoint_of(handler, authenticate=authenticate), where, backend, talk)


@pytest.mark.parametrize("principal", [False, {"name": "ann"}, ("ann", [])])
def test_what_is_no_principal(principal: Any, where: str, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """`authenticate=is_valid`, and what cannot be compared: nobody gets in by mistake, and the log names the cure."""

    async def talk(site: Site) -> None:
        assert (await site.create(Origin="https://friend.example")).status == 500
        assert (await site.ask("GET", "/room", Accept="text/event-stream")).status == 500

    endpoint = endpoint_of(authenticate=lambda request: principal, origins=["https://friend.example"])
    run(endpoint, where, backend, talk)
    told = [str(one.exc_info[1]) for one in caplog.records if one.exc_info]
    assert len(told) == 2
    assert all("return" in one and "authenticate returned" in one for one in told)


def test_no_secret_in_any_log_line(where: str, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that is logged while sessions live, fail and end holds a secret, whatever the level."""
    caplog.set_level(logging.DEBUG)
    secrets: list[str] = []

    async def handler(channel: Channel) -> None:
        await channel.receive()
        raise RuntimeError("as the test says")

    async def talk(site: Site) -> None:
        await site.create()
        secrets.append(site.secret)
        await site.poll()
        await site.session("POST", "?n=1", b"boom")
        await site.session("GET", "/poll?a=x")
        await site.session("POST", "?n=2", b"late")
        peer = await site.host.websocket(f"/room/ck/{site.sid}/ws", subprotocols=["ck.v1"])
        await peer.send(f'h {{"v":1,"secret":"{site.secret}","recv":99}}')
        assert isinstance(await peer.receive(), CloseConnection)
        await site.session("DELETE")

    run(endpoint_of(handler), where, backend, talk)
    assert "as the test says" in caplog.text
    assert secrets[0] not in caplog.text
    assert not any(secrets[0] in repr(record.__dict__) for record in caplog.records)


# -- WebSockets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ("m 1 x", 4400),
        (b"m 1 x", 4400),
        ("h nonsense", 4400),
        ('h {"v":2}', 4400),
        ('h {"v":1,"secret":"wrong","sid":"AAAAAAAAAAAAAAAAAAAAAA"}', 4404),
        ('h {"v":1,"secret":"alone"}', 4400),
        ('h {"v":1,"recv":5}', 4410),
        (None, 1008),
    ],
)
def test_a_websocket_without_a_proper_hello(first: str | bytes | None, code: int, where: str, backend: Backend) -> None:
    """Every wrong beginning, silence included, gets its close code, and no session lives on."""

    async def talk(site: Site) -> None:
        peer = await site.host.websocket("/room/ck/ws", subprotocols=["ck.v1"])
        if first is not None:
            await peer.send(first)
        close = await peer.receive()
        assert isinstance(close, CloseConnection)
        assert close.code == code
        assert code != 4400 or str(close.reason).startswith("malformed ")
        await peer.answer_close(close)
        with pytest.raises(Refused) as refused:
            await site.host.websocket("/room/ck/ws")
        assert refused.value.status == 400
        assert endpoint.session_count == 0

    endpoint = endpoint_of()
    run(endpoint, where, backend, talk)


def test_a_malformed_frame_ends_the_connection_not_the_session(where: str, backend: Backend) -> None:
    """Close 1008 with a reason; the session is there for the next attach."""

    async def talk(site: Site) -> None:
        await site.create()
        peer = await site.host.websocket(f"/room/ck/{site.sid}/ws", subprotocols=["ck.v1"])
        await peer.send(f'h {{"v":1,"secret":"{site.secret}"}}')
        await peer.receive()
        await peer.send("m 3 gap")
        close = await peer.receive()
        assert isinstance(close, CloseConnection)
        assert (close.code, close.reason) == (1008, "a gap in the numbers")
        assert (await site.session("POST", "?n=1", b"fine")).json == {"ack": 1}

    run(endpoint_of(), where, backend, talk)


# -- the endpoint's own URL, methods, options --------------------------------------------------------------------------


def test_one_handler_for_every_channel(where: str, backend: Backend) -> None:
    """What a handler of sessions asks, a channel of one connection answers too."""
    seen: list[tuple[Any, ...]] = []

    async def handler(channel: Channel) -> None:
        told: list[str] = []
        channel.on_attach(lambda: told.append("attached"))
        channel.on_detach(lambda: told.append("detached"))
        seen.append((channel.transport, channel.principal, channel.sync.principal))
        assert channel.attached or channel.transport == "session"
        assert channel.session_id == channel.sync.session_id
        assert (channel.session_id is None) is (channel.transport == "websocket")
        await channel.send("hello")
        await channel.wait_closed()
        assert not told or channel.transport == "session"
        assert not channel.attached

    async def authenticate(request: Request) -> str:
        return request.headers["x-user"]

    async def talk(site: Site) -> None:
        peer = await site.host.websocket("/room", [(b"X-User", b"ann")])
        assert await peer.receive() == "hello"
        await peer.close()
        await site.create(X_User="bob")
        await site.poll(X_User="bob")
        await site.session("DELETE", X_User="bob")
        assert seen == [("websocket", "ann", "ann"), ("session", "bob", "bob")]

    run(endpoint_of(handler, authenticate=authenticate), where, backend, talk)


def test_connection_scoped_channels(where: str, backend: Backend) -> None:
    """On the URL itself a raw WebSocket and an event stream get the same handler; others hear what is offered."""
    ends: list[str] = []

    async def handler(channel: Channel) -> None:
        await channel.send(channel.transport)
        async for message in channel:
            await channel.send(message)
        ends.append(channel.transport)

    async def talk(site: Site) -> None:
        peer = await site.host.websocket("/room")
        assert await peer.receive() == "websocket"
        await peer.send("raw")
        assert await peer.receive() == "raw"
        await peer.close()
        stream = site.host.connect()
        await stream.send(b"GET /room HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n")
        received = b""
        while b"data: http_stream\n\n" not in received:
            received += await stream.receive()
        await stream.aclose()
        await anyio.sleep(1)
        assert ends == ["websocket", "http_stream"]
        plain = await site.ask("GET", "/room")
        assert (plain.status, plain.headers["upgrade"]) == (426, "websocket")
        assert b"sessions at /room/ck" in plain.body

    run(endpoint_of(handler), where, backend, talk)


def test_methods_and_unknown_addresses(where: str, backend: Backend) -> None:
    """405 with Allow where the address is right, and no session is made or touched."""

    async def talk(site: Site) -> None:
        await site.create()
        for method, path, allow in (
            ("GET", "/room/ck", "POST"),
            ("PUT", f"/room/ck/{site.sid}", "POST, DELETE"),
            ("POST", f"/room/ck/{site.sid}/poll", "GET"),
        ):
            answer = await site.ask(method, path, Authorization=f"Bearer {site.secret}")
            assert (answer.status, answer.headers["allow"]) == (405, allow)
        assert (await site.ask("GET", "/room/ck/ws")).status == 426
        for path in ("/room", "/room/", "/room/ck/", f"/room/ck/{site.sid}/pol", f"/room/ck/{site.sid}/"):
            answer = await site.ask("GET", path)
            assert (answer.status, answer.body.endswith(b"sessions at /room/ck\n")) == (426, True), answer.body

    run(endpoint_of(), where, backend, talk)


def test_transports_that_are_not_offered(where: str, backend: Backend) -> None:
    """Only what the endpoint offers is served."""

    async def talk(site: Site) -> None:
        await site.create()
        assert (await site.poll()).status == 200
        assert (await site.session("GET", "/stream")).status == 406
        with pytest.raises(Refused) as refused:
            await site.host.websocket("/room/ck/ws", subprotocols=["ck.v1"])
        assert refused.value.status in (403, 406)
        assert (await site.ask("GET", "/room", Accept="text/event-stream")).status == 406

    run(endpoint_of(transports=["long_poll"]), where, backend, talk)


def test_limits_of_sessions(where: str, backend: Backend) -> None:
    """Too many for one address is 429, too many at all 503, both with Retry-After; an ended one makes room."""

    async def talk(site: Site) -> None:
        await site.create()
        await site.create()
        one_more = await site.create()
        assert (one_more.status, one_more.json["code"]) == (429, "full")
        assert int(one_more.headers["retry-after"]) >= 1
        await site.session("DELETE")
        assert (await site.create()).status == 201

    run(endpoint_of(session=SessionConfig(max_sessions_per_principal=2)), where, backend, talk)

    async def talk_from(site: Site) -> None:
        statuses = []
        for host in ("2001:db8::1", "2001:db8::2:3", "2001:db8::4", "2001:db8:0:1::1"):
            site.address = (host, 1)
            statuses.append((await site.create()).status)
        assert statuses == [201, 201, 429, 201]  # what one customer is given, a /64, is one address

    run(endpoint_of(session=SessionConfig(max_sessions_per_principal=2)), where, backend, talk_from)

    async def talk_again(site: Site) -> None:
        await site.create()
        assert (await site.create()).status == 503

    run(endpoint_of(session=SessionConfig(max_sessions=1)), where, backend, talk_again)


def test_ended_sessions_are_remembered_within_a_bound(where: str, backend: Backend) -> None:
    """Who makes and deletes without end fills no memory: as many ends are remembered as sessions may be open."""

    async def talk(site: Site) -> None:
        ended = []
        for _ in range(5):
            await site.create()
            assert (await site.session("DELETE")).status == 204
            ended.append((site.sid, site.secret))
        statuses = []
        for site.sid, site.secret in ended:
            statuses.append((await site.poll()).status)
        assert statuses == [404, 404, 410, 410, 410]

    run(endpoint_of(session=SessionConfig(max_sessions=3)), where, backend, talk)


def test_what_is_remembered_of_an_ended_session_holds_no_message(where: str, backend: Backend) -> None:
    """Who makes a session, fills it and deletes it, again and again, leaves nothing of what it sent."""

    async def never_reads(channel: Channel) -> None:
        await channel.wait_closed()

    async def talk(site: Site) -> None:
        await site.create()
        await site.session("POST", "?n=1", b"a large message")
        assert (await site.session("DELETE")).status == 204
        await anyio.sleep(1)
        kept = endpoint._sessions._sessions[site.sid]
        assert not any(isinstance(one, Channel) for one in reachable(kept))
        assert (await site.poll()).json == {"code": "killed", "reason": "the session is over", "ack": 1}

    endpoint = endpoint_of(never_reads)
    run(endpoint, where, backend, talk)


def test_an_abandoned_session_ends_by_its_grace(where: str, backend: Backend) -> None:
    """A client that never comes back: `on_close` once, abandoned, within grace; and the handler's rest is told."""
    told: list[tuple[Any, float]] = []

    async def handler(channel: Channel) -> None:
        channel.on_close(lambda status: told.append((status, anyio.current_time())))
        assert await channel.send("x")
        assert (await channel.wait_closed()).unsent == 1
        assert not await channel.send("y")
        told.append(("through", anyio.current_time()))

    async def talk(site: Site) -> None:
        await site.create()
        await site.poll()
        await anyio.sleep(60)
        assert sorted(status for status, _ in told) == ["abandoned", "through"]
        assert told[0][1] == pytest.approx(30, abs=1)
        assert endpoint.session(site.sid) is None
        assert endpoint.session_count == 0

    endpoint = endpoint_of(handler)
    run(endpoint, where, backend, talk)


def test_send_waits_on_the_window_detached_too(where: str, backend: Backend) -> None:
    """Nobody is attached: `send` is accepted up to the window, then waits; `flush` waits for the acknowledgement."""
    accepted: list[int] = []
    flushed: list[float] = []

    async def handler(channel: Channel) -> None:
        for number in range(6):
            await channel.send(str(number))
            accepted.append(number)
        await channel.flush()
        flushed.append(anyio.current_time())
        await channel.wait_closed()

    async def talk(site: Site) -> None:
        await site.create()
        await site.session("POST")
        await anyio.sleep(1)
        assert accepted == [0, 1, 2, 3]
        assert len((await site.poll()).lines) == 5
        assert len((await site.poll(2)).lines) == 3
        await anyio.sleep(1)
        assert accepted == [0, 1, 2, 3, 4, 5]
        assert not flushed
        await site.poll(6)
        await anyio.sleep(1)
        assert len(flushed) == 1

    run(endpoint_of(handler, session=SessionConfig(window=4)), where, backend, talk)


def test_drain_closes_every_session(where: str, backend: Backend) -> None:
    """A WebSocket hears the end and may confirm it, a held poll is answered with it, what is detached is cut at the
    deadline; new ones are refused; every `on_close` runs once (S8)."""
    ends: dict[str, Any] = {}
    seen: dict[str, Any] = {}

    async def handler(channel: SessionChannel) -> None:
        await channel.wait_closed()

    def over(channel: Channel, status: str) -> None:
        assert isinstance(channel, SessionChannel)
        assert channel.session_id not in ends
        ends[channel.session_id] = (status, channel.close_info and channel.close_info.code)

    async def poll(site: Site) -> None:
        seen["poll"] = (await site.session("GET", "/poll?wait=20")).lines[-1]

    async def talk(site: Site) -> None:
        await site.create()  # detached
        await site.session("POST")
        polling = Site(site.host, None)
        await polling.create()
        await polling.poll()
        peer = await site.host.websocket("/room/ck/ws", subprotocols=["ck.v1"])
        await peer.send('h {"v":1}')
        await peer.receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll, polling)
            await anyio.sleep(1)
            began = anyio.current_time()
            tasks.start_soon(site.drain, 4)
            assert await peer.receive() == "e 1 1001 "
            await peer.send("a 1")
            close = await peer.receive()
            assert isinstance(close, CloseConnection)
            assert close.code == 1000
            await peer.answer_close(close)
        assert anyio.current_time() - began == pytest.approx(4, abs=0.5)
        assert seen["poll"] == ["e", 1, 1001, ""]
        await anyio.sleep(1)
        assert list(ends.values()) == [("server-close", 1001)] * 3
        assert endpoint.session_count == 0

    endpoint = endpoint_of(handler, on_close=over)
    run(endpoint, where, backend, talk)


def test_options(where: str, backend: Backend) -> None:
    """What cannot work is refused when the endpoint is made."""
    with pytest.raises(ConfigError, match="needs a handler"):
        Endpoint()
    with pytest.raises(ConfigError, match="transports must be some of"):
        Endpoint(echo, transports=["pigeon"])
    with pytest.raises(ConfigError, match="transports must be some of"):
        Endpoint(echo, transports=[])
    with pytest.raises(ConfigError, match="write both `async def`, or neither"):
        Endpoint(lambda channel: None, on_open=echo)
