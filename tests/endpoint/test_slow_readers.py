"""A client that reads slowly, or not at all, while the application goes on sending: what is kept for it, and that it
gets everything all the same."""

from __future__ import annotations

from typing import Any

import anyio
import h11
import pytest

from channelkit import Channel, SessionConfig
from channelkit.session.codec import EventFrames, LineFrames
from channelkit.session.frames import Text
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.host import WebSocketPeer, read_all
from tests.endpoint.site import HOSTS, Site, endpoint_of, run

pytestmark = [pytest.mark.parametrize("backend", BACKENDS), pytest.mark.parametrize("where", HOSTS)]

MARK = 64 * 1024  # soft_mark
SIZE = 4000
COUNT = 200


async def flood(channel: Channel) -> None:
    """More than the marks of any connection, and far less than a window."""
    for n in range(COUNT):
        await channel.send(f"{n:04d}" + "é" * (SIZE // 2))
    await channel.wait_closed()


def unsent(endpoint: Any, site: Site) -> int:
    """What waits in the connection that carries the session."""
    (carrier,) = endpoint._sessions._sessions[site.sid].live._carriers.values()
    return int(carrier._exchange.outbox.unsent)


async def attach(site: Site, way: str, ack: int = 0) -> Any:
    if way == "ws":
        peer = await site.host.websocket(f"/room/ck/{site.sid}/ws", subprotocols=["ck.v1"])
        await peer.send(f'h {{"v":1,"secret":"{site.secret}","recv":{ack}}}')
        return peer
    return await site.open(f"/{way}?ack={ack}")


class Reader:
    """Reads the messages of an attachment, and whether it has ended."""

    def __init__(self, source: Any, way: str) -> None:
        self.source = source
        self.messages: list[str] = []
        self.ended = False
        self._frames = EventFrames(1 << 20) if way == "events" else LineFrames(1 << 20)
        self._http = h11.Connection(h11.CLIENT)
        self._http.send(h11.Request(method="GET", target="/", headers=[("Host", "test")]))
        self._http.send(h11.EndOfMessage())

    async def read(self, count: int) -> None:
        """Until there are so many, or the end."""
        while len(self.messages) < count and not self.ended:
            if isinstance(self.source, WebSocketPeer):
                message = await self.source.receive()
                assert isinstance(message, str), message
                if message.startswith("m "):
                    self.messages.append(message.split(" ", 2)[2])
            else:
                await self._read_http()

    async def _read_http(self) -> None:
        event = self._http.next_event()
        if event is h11.NEED_DATA:
            self._http.receive_data(await self.source.receive())
        elif isinstance(event, h11.Data):
            found = self._frames.feed(bytes(event.data))
            self.messages += [frame.text for frame in found if isinstance(frame, Text)]
        elif isinstance(event, h11.EndOfMessage):
            self.ended = True


def numbers(messages: list[str]) -> list[int]:
    assert all(len(one) == 4 + SIZE // 2 for one in messages)
    return [int(one[:4]) for one in messages]


@pytest.mark.parametrize("way", ["stream", "events", "ws"])
def test_what_is_kept_is_not_written_beyond_what_the_connection_takes(way: str, where: str, backend: Backend) -> None:
    """The window holds it already: a connection gets its copies as it takes them, and then all of them, in order."""

    async def talk(site: Site) -> None:
        await site.create()
        reader = Reader(await attach(site, way), way)
        await anyio.sleep(5)
        assert unsent(endpoint, site) < MARK + 7 * SIZE
        await reader.read(COUNT)
        assert numbers(reader.messages) == list(range(COUNT))
        channel = endpoint.session(site.sid)
        assert channel is not None
        channel.send_nowait("9999" + "e" * (SIZE // 2))
        await reader.read(COUNT + 1)
        assert numbers(reader.messages)[-1] == 9999

    endpoint = endpoint_of(flood)
    run(endpoint, where, backend, talk)


@pytest.mark.parametrize("way", ["stream", "events"])
def test_a_rotation_that_is_due_waits_for_what_is_under_way(way: str, where: str, backend: Backend) -> None:
    """A full window ends a stream, so that its client acknowledges; not in the midst of that window, and meanwhile the
    session is attached, however long its reader takes."""

    async def talk(site: Site) -> None:
        await site.create()
        seen: list[int] = []
        while len(seen) < COUNT:
            reader = Reader(await attach(site, way, len(seen)), way)
            await anyio.sleep(25)
            await reader.read(10)
            await anyio.sleep(25)
            await reader.read(COUNT)
            assert reader.ended
            assert len(reader.messages) >= min(100, COUNT - len(seen))
            seen += numbers(reader.messages)
        assert seen == list(range(COUNT))

    run(endpoint_of(flood, session=SessionConfig(window=100)), where, backend, talk)


def test_answers_to_polls_that_are_not_read_do_not_add_up(where: str, backend: Backend) -> None:
    """Of one session one is kept: the next poll brings the same again.  Who reads gets them whole."""

    async def talk(site: Site) -> None:
        await site.create()
        await site.poll()
        polls = []
        head = f"GET /room/ck/{site.sid}/poll HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
        for _ in range(6):
            polls.append(site.host.connect())
            await polls[-1].send(f"{head}Authorization: Bearer {site.secret}\r\n\r\n".encode())
            await anyio.sleep(2)
        answers = [await read_all(one) for one in polls]
        whole = [answer.endswith(b'"]\n') and answer.count(b"\n[") == COUNT + 1 for answer in answers]
        assert whole == [False] * 5 + [True]
        assert len((await site.poll(COUNT)).lines) == 1

    run(endpoint_of(flood), where, backend, talk)
