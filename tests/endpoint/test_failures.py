"""Guessing: failed credentials are counted for each address, and held back without a word about what exists."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.events import CloseConnection

from channelkit import Request, SessionConfig, reject
from channelkit.endpoint.failures import Failures
from channelkit.testing.clock import BACKENDS, Backend
from tests.endpoint.site import HOSTS, Answer, Site, endpoint_of, run

everywhere = pytest.mark.parametrize(("where", "backend"), [(where, one) for where in HOSTS for one in BACKENDS])
LIMIT = SessionConfig(failed_credentials=3, failure_interval=60)
NEAR, FAR = ("192.0.2.1", 5000), ("2001:db8:1:1::1", 5000)


async def wrong(site: Site, **headers: str) -> Answer:
    return await site.session("GET", "/poll", Authorization="Bearer wrong", **headers)


@everywhere
def test_wrong_secrets_are_held_back(where: str, backend: Backend) -> None:
    """First 404, then each kind is the same 429, until the interval is over; a right secret passes all the time."""

    async def talk(site: Site) -> None:
        site.address = NEAR
        await site.create()
        right = site.sid
        assert [(await wrong(site)).json["code"] for _ in range(3)] == ["unknown"] * 3
        await anyio.sleep(20)
        held = [await wrong(site), await site.session("DELETE", Authorization="Basic eDp5")]
        site.sid = "A" * 22
        held.append(await site.session("POST", "?n=1", b"x"))
        site.sid = right
        assert {one.plain for one in held} == {held[0].plain}
        assert (held[0].status, held[0].json["code"]) == (429, "rate")
        assert 38 <= int(held[0].headers["retry-after"]) <= 40
        events = await site.session("GET", "/events", Authorization="Bearer wrong")
        assert (events.status, events.body) == (200, b'retry: 5000\nevent: ck-refused\ndata: "rate"\nid: 0\n\n')
        assert (await site.poll()).status == 200
        assert (await site.session("POST", "?n=1", b"hello")).json == {"ack": 1}
        site.address = FAR
        assert (await wrong(site)).status == 404
        site.address = NEAR
        await anyio.sleep(41)
        assert (await wrong(site)).status == 404
        assert (await site.create()).status == 201  # without `authenticate` a creation presents no credential

    run(endpoint_of(session=LIMIT), where, backend, talk)


@everywhere
def test_an_ipv6_customer_is_one_address(where: str, backend: Backend) -> None:
    """A /64 is counted together, its neighbour not."""

    async def talk(site: Site) -> None:
        site.sid, site.secret = "A" * 22, "none"
        for last in range(3):
            site.address = (f"2001:db8:1:1::{last}", 5000)
            assert (await wrong(site)).status == 404
        site.address = ("2001:db8:1:1:ffff::1", 5000)
        assert (await wrong(site)).status == 429
        site.address = ("2001:db8:1:2::1", 5000)
        assert (await wrong(site)).status == 404

    run(endpoint_of(session=LIMIT), where, backend, talk)


@everywhere
def test_authenticate_is_not_asked_any_more(where: str, backend: Backend) -> None:
    """Passwords can be guessed: after the limit nobody from there is asked for one but who has a session's secret."""
    asked: list[str] = []

    async def authenticate(request: Request) -> Any:
        asked.append(request.headers.get("x-password", ""))
        return "ann" if asked[-1] == "right" else reject(401, {"WWW-Authenticate": "Basic"}, "who?")

    async def talk(site: Site) -> None:
        site.address = NEAR
        await site.create(X_Password="right")
        assert [(await site.create(X_Password=str(n))).status for n in range(3)] == [401] * 3
        for headers in ({"X-Password": "right"}, {}):
            held = await site.create(**headers)
            assert (held.status, held.json["code"]) == (429, "rate")
            stream = await site.ask("GET", "/room", Accept="text/event-stream", **headers)
            assert (stream.status, stream.json["code"]) == (429, "rate")
            assert (await wrong(site, **headers)).status == 429
        assert asked == ["right", "0", "1", "2"]
        assert (await site.session("GET", "/poll", X_Password="right")).status == 200
        for password in ("stale", "of somebody else"):  # held back too: a session of one's own helps nobody to guess
            held = await site.session("GET", "/poll", X_Password=password)
            assert (held.status, held.json["code"]) == (429, "rate")

    run(endpoint_of(session=LIMIT, authenticate=authenticate), where, backend, talk)


@everywhere
def test_a_right_hello_passes_authenticate_too(where: str, backend: Backend) -> None:
    """S6: a WebSocket shows its secret after `authenticate` was asked.  All others get one answer, whoever they are."""

    async def authenticate(request: Request) -> Any:
        return request.headers.get("x-user") or reject(401, {}, "who?")

    async def hello(site: Site, way: str, user: bytes, **members: str) -> Any:
        headers = [(b"X-User", user)] if user else None
        peer = await site.host.websocket(f"/room/ck{way}", headers, ["ck.v1"], address=NEAR)
        await peer.send(f"h {json.dumps({'v': 1, **members})}")
        first = await peer.receive()
        return (first.code, first.reason) if isinstance(first, CloseConnection) else str(first)[:2]

    async def talk(site: Site) -> None:
        site.address = NEAR
        await site.create(X_User="ann")
        for _ in range(3):
            await wrong(site, X_User="ann")
        way, secret, rate = f"/{site.sid}/ws", site.secret, (4429, "rate")
        assert await hello(site, way, b"ann", secret=secret) == "h "
        assert await hello(site, way, b"bob", secret=secret) == rate
        assert await hello(site, way, b"", secret=secret) == rate
        assert await hello(site, way, b"ann", secret="wrong") == rate
        assert await hello(site, "/ws", b"ann") == rate

    run(endpoint_of(session=LIMIT, authenticate=authenticate), where, backend, talk)


@everywhere
def test_hellos_are_counted_too(where: str, backend: Backend) -> None:
    """A WebSocket presents its secret in its first frame: 4404, then 4429; a right one passes."""

    async def hello(site: Site, secret: str) -> Any:
        peer = await site.host.websocket(f"/room/ck/{site.sid}/ws", None, ["ck.v1"], address=NEAR)
        await peer.send(f"h {json.dumps({'v': 1, 'secret': secret})}")
        first = await peer.receive()
        return first.code if isinstance(first, CloseConnection) else str(first)[:2]

    async def talk(site: Site) -> None:
        site.address = NEAR
        await site.create()
        assert [await hello(site, "wrong") for _ in range(5)] == [4404, 4404, 4404, 4429, 4429]
        assert await hello(site, site.secret) == "h "

    run(endpoint_of(session=LIMIT), where, backend, talk)


@everywhere
def test_who_has_no_address_is_not_held_back(where: str, backend: Backend) -> None:
    """Behind a UNIX socket all clients look alike: one that guesses must not shut the others out."""

    async def talk(site: Site) -> None:
        await site.create()
        assert [(await wrong(site)).status for _ in range(5)] == [404] * 5

    run(endpoint_of(session=LIMIT), where, backend, talk)


Events = list[tuple[str, float]]


def events(places: str) -> st.SearchStrategy[Events]:
    """Who fails, and how much later."""
    return st.lists(st.tuples(st.sampled_from(places), st.sampled_from((0.0, 1.0, 4.0, 11.0))), max_size=60)


@given(events("abcd"))
def test_who_is_held_back_and_how_long(events: Events) -> None:
    """From a place's third failure until ten seconds after its first; then it begins anew."""
    failures = Failures(limit=3, interval=10.0, places=4)
    windows: dict[str, list[float]] = {}  # the failures since the first that counts
    now = 0.0
    for place, later in events:
        now += later
        window = windows.get(place, [])
        if window and now >= window[0] + 10:
            window = []
        assert failures.wait(place, now) == (window[0] + 10 - now if len(window) >= 3 else None)
        failures.add(place, now)
        windows[place] = [*window, now]


@given(events("abcdefghijkl"))
def test_the_table_is_bounded(events: Events) -> None:
    """However many addresses fail, no more are remembered than allowed, the latest always among them."""
    failures = Failures(limit=1, interval=10.0, places=4)
    now = 0.0
    for place, later in events:
        now += later
        failures.add(place, now)
        assert len(failures) <= 4
        assert failures.wait(place, now) is not None


def test_another_loops_clock() -> None:
    """An endpoint that moves to another event loop, whose clock began elsewhere, holds nobody for ever."""
    failures = Failures(limit=1, interval=10.0, places=4)
    failures.add("a", 1e9)
    assert failures.wait("a", 1e9) == 10.0
    assert failures.wait("a", 5.0) is None
    failures.add("a", 5.0)
    assert failures.wait("a", 6.0) == 9.0
