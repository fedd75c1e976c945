"""ack="processed": a message is acknowledged when the application is through with it, by each way of receiving."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from channelkit import Channel, SessionConfig
from channelkit.testing.clock import BACKENDS, Backend
from tests.endpoint.site import HOSTS, Answer, Site, endpoint_of, run

pytestmark = [pytest.mark.parametrize("backend", BACKENDS), pytest.mark.parametrize("where", HOSTS)]
PROCESSED = SessionConfig(ack="processed", window=4)
NDJSON = "application/x-ndjson"


async def say(site: Site, *numbers: int) -> Answer:
    batch = b"".join(b'["m",%d,"%d"]\n' % (number, number) for number in numbers)
    return await site.session("POST", "", batch, Content_Type=NDJSON)


async def ack(site: Site) -> int:
    """What the server acknowledges now."""
    answer = await say(site)
    return int(answer.json["ack"])


async def slow(message: str) -> None:
    """A second for each message."""
    await anyio.sleep(1)


@pytest.mark.parametrize("style", ["iteration", "receive", "callback", "late callback"])
def test_a_message_is_acknowledged_when_it_is_through(style: str, where: str, backend: Backend) -> None:
    """Not when it was taken, nor when its handler began."""

    async def handler(channel: Channel) -> None:
        if style == "iteration":
            async for message in channel:
                await slow(message)
        elif style == "receive":
            while True:
                await slow(await channel.receive())
        else:
            channel.on_receive(slow)
            await channel.wait_closed()

    async def talk(site: Site) -> None:
        await site.create()
        assert (await say(site, 1, 2)).json == {"ack": 0}
        await anyio.sleep(0.9)
        assert await ack(site) == 0
        await anyio.sleep(0.2)
        assert await ack(site) == 1
        await anyio.sleep(1)
        assert await ack(site) == 2
        line = (await site.poll()).lines[0]
        assert line[1]["recv"] == 2

    if style == "callback":
        run(
            endpoint_of(None, on_receive=lambda channel, message: slow(message), session=PROCESSED),
            where,
            backend,
            talk,
        )
    else:
        run(endpoint_of(handler, session=PROCESSED), where, backend, talk)


def test_a_plain_callback_is_through_at_once(where: str, backend: Backend) -> None:
    """The answer of the POST says so already."""
    got: list[Any] = []

    async def talk(site: Site) -> None:
        await site.create()
        await say(site)
        assert (await say(site, 1, 2, 3)).json == {"ack": 3}
        assert got == ["1", "2", "3"]

    run(
        endpoint_of(None, on_receive=lambda channel, message: got.append(message), session=PROCESSED),
        where,
        backend,
        talk,
    )


def test_the_window_is_the_back_pressure(where: str, backend: Backend) -> None:
    """A window of messages that are not through is all the server takes; each one done makes room for one."""

    async def handler(channel: Channel) -> None:
        async for message in channel:
            await slow(message)

    async def talk(site: Site) -> None:
        await site.create()
        full = await say(site, 1, 2, 3, 4, 5, 6)
        assert (full.status, full.json["code"], full.json["ack"]) == (429, "full", 0)
        await anyio.sleep(1.1)
        assert (await say(site, 5, 6)).json["ack"] == 1  # 5 has room now
        await anyio.sleep(1)
        assert (await say(site, 6)).json == {"ack": 2}
        await anyio.sleep(4)
        assert await ack(site) == 6

    run(endpoint_of(handler, session=PROCESSED), where, backend, talk)


@pytest.mark.parametrize("style", ["iteration", "callback"])
def test_what_raised_stays_unacknowledged(style: str, where: str, backend: Backend) -> None:
    """The end is 1011, and its client is told how far the server came: the failed one and all behind are its own."""
    got: list[str] = []

    def take(message: str) -> None:
        if message == "2":
            raise ValueError("as the test says")
        got.append(message)

    async def handler(channel: Channel) -> None:
        if style == "callback":
            channel.on_receive(take)
            await channel.wait_closed()
        async for message in channel:
            take(message)

    async def talk(site: Site) -> None:
        await site.create()
        await say(site, 1, 2, 3)
        lines = (await site.poll()).lines
        assert lines[-1] == ["e", 1, 1011, ""]
        assert lines[0][1]["recv"] == 1
        over = await site.session("GET", "/poll?ack=1")
        assert (over.status, over.json["code"], over.json["ack"]) == (410, "ended", 1)
        assert got == ["1"]

    run(endpoint_of(handler, session=PROCESSED), where, backend, talk)


def test_returning_is_through_and_closing_is_not(where: str, backend: Backend) -> None:
    """A handler that returns is through with its last message; one that closes in the middle of it is not."""

    async def handler(channel: Channel) -> None:
        async for message in channel:
            if message == "return":
                return
            if message == "close":
                await channel.close()

    async def talk(site: Site) -> None:
        for word, recv in (("return", 1), ("close", 0)):
            await site.create()
            await site.session("POST", "?n=1", word.encode())
            lines = (await site.poll()).lines
            assert (lines[0][1]["recv"], lines[1]) == (recv, ["e", 1, 1000, ""])

    run(endpoint_of(handler, session=PROCESSED), where, backend, talk)


def test_the_clients_end_waits_for_its_messages(where: str, backend: Backend) -> None:
    """A clean close says that all was processed, not that it lies somewhere."""
    ends: list[Any] = []

    async def handler(channel: Channel) -> None:
        channel.on_close(ends.append)
        async for message in channel:
            await slow(message)

    async def talk(site: Site) -> None:
        await site.create()
        batch = b'["m",1,"1"]\n["m",2,"2"]\n["e",3,1000,"bye"]\n'
        answer = await site.session("POST", "", batch, Content_Type=NDJSON)
        assert answer.json == {"ack": 0}
        await anyio.sleep(1.5)
        assert (await ack(site), ends) == (1, [])
        await anyio.sleep(1)
        over = await say(site)
        assert (over.status, over.json["code"], over.json["ack"]) == (410, "ended", 3)
        assert ends == ["normal"]

    run(endpoint_of(handler, session=PROCESSED), where, backend, talk)


def test_on_a_websocket_acknowledgements_come_in_time(where: str, backend: Backend) -> None:
    """By themselves, within `ack_delay`, when messages are through; not before."""

    async def handler(channel: Channel) -> None:
        async for message in channel:
            await slow(message)
            await slow(message)

    async def talk(site: Site) -> None:
        peer = await site.host.websocket("/room/ck/ws", subprotocols=["ck.v1"])
        await peer.send('h {"v":1}')
        await peer.receive()
        began = anyio.current_time()
        await peer.send("m 1 x")
        assert await peer.receive() == "a 1"
        assert 2 <= anyio.current_time() - began <= 3
        await peer.close()

    run(endpoint_of(handler, session=SessionConfig(ack="processed")), where, backend, talk)
