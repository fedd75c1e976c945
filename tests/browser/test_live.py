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

from channelkit import Channel, Endpoint, Server, SessionConfig, run_server
from channelkit.testing.strategies import BYTES, TEXTS

sys.path.insert(0, str(Path(__file__).parent))

import node
from proxy import CuttingProxy

pytestmark = pytest.mark.skipif(node.NODE is None, reason=node.MISSING)

Backend = Literal["asyncio", "trio"]
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
def server(request: pytest.FixtureRequest, rooms: Rooms) -> Iterator[Server]:
    backend: Backend = request.param
    running = run_server(Endpoint(rooms.handler, session=SESSION), port=0, backend=backend)
    yield running
    running.stop(timeout=1)


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


def test_every_transport(live: node.Program, server: Server, rooms: Rooms) -> None:
    """Each by itself, on a network without faults."""
    luck = random.Random(1)
    talks = [conversation(luck, 60) for _ in TRANSPORTS]
    sessions = [
        {
            "url": f"http://127.0.0.1:{server.port}/",
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
def test_hostile_networks(live: node.Program, server: Server, rooms: Rooms, seed: int) -> None:
    """S1, S2: connections cut at any byte, transports switched, pages reloaded and put away: the lists are exact."""
    luck = random.Random(seed)
    starts = [*TRANSPORTS, *TRANSPORTS]
    talks = [conversation(luck, 50) for _ in starts]
    with CuttingProxy(server.port, faults=40, luck=luck) as proxy:
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
