"""Pages of other sites: what a browser asks before, and what lets a page read the answers, refusals included."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from channelkit import Channel, ConfigError, Endpoint, Request, SessionConfig, reject
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.host import Refused
from tests.endpoint.site import HOSTS, Answer, Site, echo, endpoint_of, run

pytestmark = [pytest.mark.parametrize("backend", BACKENDS), pytest.mark.parametrize("where", HOSTS)]

FRIEND = "https://friend.example"
GRANTED = {
    "vary": "Origin",
    "access-control-allow-origin": FRIEND,
    "access-control-allow-credentials": "true",
    "access-control-expose-headers": "Location, Retry-After",
}


def cors(answer: Answer) -> dict[str, str]:
    """The fields that are about other sites."""
    return {name: value for name, value in answer.headers.items() if name == "vary" or name.startswith("access-")}


@pytest.mark.parametrize(
    ("way", "methods"),
    [
        ("/room/ck", "POST"),
        ("/room/ck/AAAAAAAAAAAAAAAAAAAAAA", "POST, DELETE"),
        ("/room/ck/AAAAAAAAAAAAAAAAAAAAAA/poll", "GET"),
        ("/room/ck/AAAAAAAAAAAAAAAAAAAAAA/stream", "GET"),
        ("/room", "GET"),
    ],
)
def test_preflights(way: str, methods: str, where: str, backend: Backend) -> None:
    """A listed origin hears what it may do at this address; nobody is asked who it is, nothing is looked up."""
    asked: list[Request] = []

    async def talk(site: Site) -> None:
        answer = await site.ask(
            "OPTIONS",
            way,
            Origin=FRIEND,
            Access_Control_Request_Method=methods.partition(",")[0],
            Access_Control_Request_Headers="authorization, x-token, b\xe4d",
        )
        assert answer.status == 204
        assert answer.body == b""
        assert cors(answer) == {
            **GRANTED,
            "access-control-allow-methods": methods,
            "access-control-allow-headers": "Authorization, Content-Type, Last-Event-ID, x-token",
            "access-control-max-age": "77",
        }
        assert not asked

    config = SessionConfig(preflight_age=77)
    run(endpoint_of(origins=[FRIEND], authenticate=asked.append, session=config), where, backend, talk)


@pytest.mark.parametrize("origins", [None, [FRIEND]])
def test_a_preflight_of_a_foreign_origin(
    origins: list[str] | None, where: str, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused with a reason, grants nothing, and the log says how to allow it; also where none is listed."""

    async def talk(site: Site) -> None:
        answer = await site.ask(
            "OPTIONS", "/room/ck", Origin="https://evil.example", Access_Control_Request_Method="POST"
        )
        assert (answer.status, answer.json["code"]) == (403, "origin")
        assert cors(answer) == ({"vary": "Origin"} if origins else {})
        assert "'https://evil.example'; if it may, name it in origins=[...]" in caplog.text
        plain = await site.ask("OPTIONS", "/room/ck")
        assert (plain.status, plain.headers["allow"]) == (405, "POST")

    run(endpoint_of(origins=origins), where, backend, talk)


def test_every_answer_can_be_read(where: str, backend: Backend) -> None:
    """Success, each refusal, the application's own, and mistakes: all carry what the page needs."""

    async def authenticate(request: Request) -> Any:
        mood = request.headers.get("x-mood")
        if mood == "raise":
            raise RuntimeError("as the test says")
        return reject(401, {"WWW-Authenticate": "Basic"}, "who?") if mood == "refuse" else None

    async def talk(site: Site) -> None:
        answers = [await site.create(Origin=FRIEND)]
        answers.append(await site.create(Origin=FRIEND))  # one too many
        for method, way, fields in (
            ("GET", "/poll", {}),
            ("GET", "/poll?ack=9", {}),
            ("GET", "/poll", {"Authorization": "Bearer wrong"}),
            ("GET", "/poll", {"X-Mood": "refuse"}),
            ("GET", "/poll", {"X-Mood": "raise"}),
            ("GET", "/poll?ack=x", {}),
            ("GET", "/events?ack=9", {}),
            ("GET", "/ws", {}),
            ("GET", "/nothing", {}),
            ("PUT", "", {}),
            ("POST", "?n=1", {}),
            ("DELETE", "", {}),
            ("GET", "/poll", {}),
        ):
            body = b"hello" if method == "POST" else b""
            answers.append(await site.session(method, way, body, Origin=FRIEND, **fields))
        answers.append(await site.ask("GET", "/room", Origin=FRIEND))
        wanted = [201, 429, 200, 410, 404, 401, 500, 400, 410, 426, 426, 405, 200, 204, 410, 426]
        assert [answer.status for answer in answers] == wanted
        assert [cors(answer) for answer in answers] == [GRANTED] * len(wanted)
        assert answers[5].headers["www-authenticate"] == "Basic"

    config = SessionConfig(max_sessions_per_principal=1)
    run(endpoint_of(origins=[FRIEND], authenticate=authenticate, session=config), where, backend, talk)


def test_streams_can_be_read(where: str, backend: Backend) -> None:
    """Also the heads that are written before anything is answered: both streams, and an EventSource of the URL."""
    head = b"access-control-allow-origin: https://friend.example\r\naccess-control-allow-credentials: true\r\n"

    async def talk(site: Site) -> None:
        await site.create()
        for path, field in (
            (f"/room/ck/{site.sid}/stream", f"Authorization: Bearer {site.secret}"),
            (f"/room/ck/{site.sid}/events", f"Cookie: ck={site.secret}"),  # EventSource with credentials
            ("/room", "Accept: text/event-stream"),
        ):
            stream = site.host.connect()
            await stream.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n{field}\r\nOrigin: {FRIEND}\r\n\r\n".encode())
            received = b""
            while b"\r\n\r\n" not in received:
                received += await stream.receive()
            assert received.startswith(b"HTTP/1.1 200")
            assert head in received.lower()
            assert b"vary: origin" in received.lower()
            await stream.aclose()
            await anyio.sleep(1)

    async def quiet(channel: Channel) -> None:
        await channel.wait_closed()

    run(endpoint_of(quiet, origins=[FRIEND]), where, backend, talk)


def test_who_is_not_listed_reads_nothing(where: str, backend: Backend) -> None:
    """No grant for a foreign origin, for the own one (which needs none), or where nothing is listed."""

    async def talk(site: Site) -> None:
        foreign = await site.create(Origin="https://evil.example")
        assert (foreign.status, cors(foreign)) == (403, {"vary": "Origin"})
        for origin in ("http://test", None):
            own = await site.create(**({"Origin": origin} if origin else {}))
            assert (own.status, cors(own)) == (201, {"vary": "Origin"})

    run(endpoint_of(origins=[FRIEND]), where, backend, talk)

    async def alone(site: Site) -> None:
        created = await site.create(Origin="http://test")
        assert (created.status, cors(created)) == (201, {})

    run(endpoint_of(), where, backend, alone)


def test_all_origins_but_no_cookies(where: str, backend: Backend) -> None:
    """ "*" lets every page come with a bearer's secret; a cookie's authority it lends to nobody."""

    async def talk(site: Site) -> None:
        created = await site.create("?cookie=1", Origin="https://any.example")
        assert cors(created) == {
            "vary": "Origin",
            "access-control-allow-origin": "https://any.example",
            "access-control-expose-headers": "Location, Retry-After",
        }
        assert (await site.session("GET", "/poll", Origin="https://any.example")).status == 200
        refused = await site.session("GET", "/poll", Cookie=f"ck={site.secret}", Origin="https://any.example")
        assert (refused.status, refused.json["code"]) == (403, "origin")
        assert (await site.session("GET", "/poll", Cookie=f"ck={site.secret}", Origin="http://test")).status == 200

    run(endpoint_of(origins=["*"]), where, backend, talk)


def test_websockets_of_pages(where: str, backend: Backend) -> None:
    """One rule for both kinds of WebSocket: the own host's pages, those listed, nobody else's."""

    async def talk(site: Site) -> None:
        for path, subprotocols in (("/room", []), ("/room/ck/ws", ["ck.v1"])):
            for origin in (b"http://test", FRIEND.encode()):
                peer = await site.host.websocket(path, [(b"Origin", origin)], subprotocols)
                await peer.close()
            with pytest.raises(Refused) as refused:
                await site.host.websocket(path, [(b"Origin", b"https://evil.example")], subprotocols)
            assert refused.value.status == 403

    run(endpoint_of(origins=[FRIEND]), where, backend, talk)


@pytest.mark.parametrize(
    "origin",
    ["friend.example", "https://friend.example/", "https://Friend.example", "https://friend.example:443", "https://"],
)
def test_origins_that_no_browser_sends(origin: str, where: str, backend: Backend) -> None:
    """They would never match, so they are refused when the endpoint is made."""
    with pytest.raises(ConfigError, match="is no origin: write scheme://host"):
        Endpoint(echo, origins=[FRIEND, origin])
    with pytest.raises(ConfigError, match="takes several"):
        Endpoint(echo, origins=FRIEND)
