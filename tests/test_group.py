"""Group: one message to many, encoded once; a slow member never holds up the rest."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from channelkit import Channel, ConfigError, Group, Request, as_channel
from channelkit.testing import clock
from channelkit.testing.host import Host, open_host


def run(main: Any, backend: str) -> None:
    clock.run(main, backend=backend, max_ticks=200_000)  # type: ignore[arg-type]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def room_handler(group: Group) -> Any:
    async def handler(request: Request) -> Any:
        framing = "sse" if request.path == "/events" else None
        return as_channel(request, on_open=group.add, framing=framing)

    return handler


async def members(host: Host, group: Group, count: int, **network: Any) -> list[Any]:
    peers = [await host.websocket(**network) for _ in range(count)]
    while len(group) < count:
        await anyio.sleep(0.001)
    return peers


def test_every_member_gets_the_message(backend: str) -> None:
    """A message reaches all members once, and the number of those who accepted it is told."""

    async def main() -> None:
        group = Group()
        async with open_host(room_handler(group)) as host:
            peers = await members(host, group, 3)
            assert group.send_nowait("hello") == 3
            assert await group.send(b"bytes", exclude=next(iter(group))) == 2
            assert [await peer.receive() for peer in peers] == ["hello"] * 3

    run(main, backend)


def test_a_message_is_encoded_once_for_each_wire_format(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of one format share the very same encoded bytes; another format has its own."""
    encoded: list[str] = []

    async def main() -> None:
        group = Group()
        async with open_host(room_handler(group)) as host:
            await members(host, group, 3)
            stream = host.connect()
            await stream.send(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
            while len(group) < 4:
                await anyio.sleep(0.001)
            for channel in group:
                original = type(channel)._encode

                def counting(self: Channel, data: Any, original: Any = original) -> Any:
                    encoded.append(self.transport)
                    return original(self, data)

                if "counting" not in original.__name__:
                    monkeypatch.setattr(type(channel), "_encode", counting)
            assert group.send_nowait("once") == 4

    run(main, backend)
    assert sorted(encoded) == ["http_stream", "websocket"]


def test_members_leave_by_themselves(backend: str) -> None:
    """A channel that ends, by whatever way, is no member any more; a closed one cannot join."""

    async def main() -> None:
        group = Group()
        async with open_host(room_handler(group)) as host:
            one, two = await members(host, group, 2)
            channels = list(group)
            await one.close()
            two.stream.cut()
            while len(group):
                await anyio.sleep(0.01)
            group.add(channels[0])
            assert len(group) == 0
            assert channels[0] not in group

    run(main, backend)


def test_discard_lets_go_of_the_channel(backend: str) -> None:
    """A channel that joins and leaves often carries nothing of it along."""

    async def main() -> None:
        group = Group()
        async with open_host(room_handler(group)) as host:
            await members(host, group, 1)
            channel = next(iter(group))
            for _ in range(100):
                group.discard(channel)
                group.add(channel)
            assert len(channel._close_listeners or ()) == 1
            assert len(group) == 1

    run(main, backend)


@pytest.mark.parametrize("slow", ["close", "drop-newest", "drop-oldest"])
def test_a_slow_member_meets_the_policy_and_never_stalls_the_rest(backend: str, slow: Any) -> None:
    """One member reads nothing: the others get everything, and what happens to it is what was asked for."""

    async def main() -> None:
        group = Group(slow=slow, backlog=4)
        async with open_host(room_handler(group), soft_mark=1000, hard_mark=4000, write_timeout=1000.0) as host:
            (lazy,) = await members(host, group, 1, capacity=1000)
            quick = await host.websocket()
            while len(group) < 2:
                await anyio.sleep(0.001)
            for number in range(50):
                group.send_nowait(f"{number:04}" + "x" * 496)
                assert (await quick.receive())[:4] == f"{number:04}"  # type: ignore[index]
            if slow == "close":
                assert group.closed_slow == 1
                assert len(group) == 1
                return
            assert group.dropped > 0
            assert len(group) == 2
            got = []
            with anyio.move_on_after(5):
                while True:
                    got.append(int(str(await lazy.receive())[:4]))
            assert got == sorted(set(got))
            assert len(got) + group.dropped == 50
            assert (49 in got) == (slow == "drop-oldest")

    run(main, backend)


def test_a_policy_that_is_none_is_refused() -> None:
    """A wrong policy or backlog is named together with what would do."""
    with pytest.raises(ConfigError, match="close, drop-newest, drop-oldest"):
        Group(slow="ignore")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1"):
        Group(backlog=0)


def test_a_message_nobody_can_carry_raises(backend: str) -> None:
    """A wrong type is the caller's mistake, told at once."""

    async def main() -> None:
        group = Group()
        async with open_host(room_handler(group)) as host:
            (peer,) = await members(host, group, 1)
            with pytest.raises(TypeError, match="encode it first"):
                group.send_nowait(5)
            assert group.send_nowait("still") == 1
            assert await peer.receive() == "still"

    run(main, backend)
