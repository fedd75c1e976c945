"""The browser's module in node against a real server: cut connections, moves, reloads; the lists are exact."""

from __future__ import annotations

import base64
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from channelkit import Channel, Endpoint, SessionConfig
from channelkit.testing.strategies import BYTES, TEXTS

sys.path.insert(0, str(Path(__file__).parent))

import node
from hosts import under_our_server, under_uvicorn
from proxy import CuttingProxy
from slow_line import slow_line

pytestmark = pytest.mark.skipif(node.NODE is None, reason=node.MISSING)

Payload = str | bytes
TRANSPORTS = ("websocket", "http_stream", "events", "long_poll")
SESSION = SessionConfig(window=16, window_bytes=20_000, max_message=8000, grace=60.0)
MOVES = (*TRANSPORTS, "reload", "page", "bfcache", "network")


@dataclass
class Rooms:
    """An echo; what each session said is kept, by its id."""

    said: dict[str, list[Payload]] = field(default_factory=dict)

    async def handler(self, channel: Channel) -> None:
        said = self.said.setdefault(getattr(channel, "session_id", ""), [])
        async for message in channel:
            said.append(message)
            await channel.send(message)


@pytest.fixture(scope="module")
def live() -> Iterator[node.Program]:
    """Holds whole sessions in JavaScript."""
    with node.program("live.mjs") as program:
        yield program


@pytest.fixture
def rooms() -> Rooms:
    return Rooms()


@pytest.fixture(params=["asyncio", "trio"])
def port(request: pytest.FixtureRequest, rooms: Rooms) -> Iterator[int]:
    with under_our_server(Endpoint(rooms.handler, session=SESSION), request.param) as port:
        yield port


def plain(payload: Payload) -> Any:
    return payload if isinstance(payload, str) else {"base64": base64.b64encode(payload).decode()}


def conversation(luck: random.Random, count: int) -> list[Payload]:
    """What trips transports, and some that is long."""
    nasty: list[Payload] = [*TEXTS, *BYTES, "x" * 7000, bytes(range(256)) * 20]
    return [luck.choice(nasty) if luck.random() < 0.5 else f"message {at}" for at in range(count)]


def script(luck: random.Random, count: int, moves: int) -> list[list[Any]]:
    return [[at, luck.choice(MOVES)] for at in sorted(luck.sample(range(1, count), moves))]


def judge(answers: list[dict[str, Any]], talks: list[list[Payload]], rooms: Rooms) -> None:
    """Both ways everything arrived, in order, once; and the end was told as it was."""
    for answer, talk in zip(answers, talks, strict=True):
        assert answer["errors"] == []
        assert answer["received"] == [plain(payload) for payload in talk]
        assert (answer["info"]["outcome"], answer["info"]["delivered"], answer["flushed"]) == ("ended", True, True)
        # Unaware: it has not come again yet; lost: it came when the session was over.
        assert set(answer["before"]) <= {"superseded", "unaware", "lost"}
        assert answer["statistics"]["acked"] == answer["statistics"]["sent"] == len(talk)
        assert answer["kept"] == 0  # a session that is over leaves nothing to its successor
    assert sorted(map(repr, rooms.said.values())) == sorted(map(repr, talks))


def test_every_transport(live: node.Program, port: int, rooms: Rooms) -> None:
    """Each by itself, on a network without faults."""
    luck = random.Random(1)
    talks = [conversation(luck, 60) for _ in TRANSPORTS]
    sessions = [
        {
            "url": f"http://127.0.0.1:{port}/",
            "options": {"transport": name},
            "messages": list(map(plain, talk)),
            "moves": [],
        }
        for name, talk in zip(TRANSPORTS, talks, strict=True)
    ]
    answers = live.ask({"sessions": sessions})
    judge(answers, talks, rooms)
    assert [answer["statistics"]["transport"] for answer in answers] == list(TRANSPORTS)


@pytest.mark.parametrize("seed", range(3))
def test_hostile_networks(live: node.Program, port: int, rooms: Rooms, seed: int) -> None:
    """S1, S2: connections cut at any byte, transports switched, pages reloaded and put away: the lists are exact."""
    luck = random.Random(seed)
    starts = [*TRANSPORTS, *TRANSPORTS]
    talks = [conversation(luck, 50) for _ in starts]
    with CuttingProxy(port, faults=40, luck=luck) as proxy:
        sessions = [
            {
                "url": f"http://127.0.0.1:{proxy.port}/",
                "options": {"transport": start, "transports": list(TRANSPORTS)},
                "messages": list(map(plain, talk)),
                "moves": script(luck, len(talk), 6),
            }
            for start, talk in zip(starts, talks, strict=True)
        ]
        answers = live.ask({"sessions": sessions})
        assert proxy.cuts > 5
    judge(answers, talks, rooms)


@pytest.mark.parametrize(("host", "way"), [("ours", "down"), ("uvicorn", "up")])
def test_a_message_that_takes_longer_than_silence_is_suffered(
    host: str, way: Literal["down", "up"], live: node.Program, rooms: Rooms
) -> None:
    """A page sees nothing of a WebSocket's message before it is whole, nor does a server inside an ASGI host."""
    page_suffers, server_suffers = (0.3, 20.0) if way == "down" else (20.0, 0.3)
    session = SessionConfig(ping=0.3, ping_timeout=server_suffers, max_message=50_000, grace=60.0)
    options = {"transports": ["websocket", "http_stream"], "config": {"pingTimeout": page_suffers}}
    talk: list[Payload] = ["x" * 40_000]
    endpoint = Endpoint(rooms.handler, session=session)
    serving = under_uvicorn(endpoint) if host == "uvicorn" else under_our_server(endpoint, "asyncio")
    with serving as port, slow_line(port, way, rate=20_000) as slow:
        question = {"url": f"http://127.0.0.1:{slow}/", "options": options, "messages": talk, "moves": []}
        answers = live.ask({"sessions": [question]})
    judge(answers, [talk], rooms)
    assert answers[0]["statistics"]["transport"] == "http_stream"
