"""The server's side of the session plans: an endpoint that writes down what its handler saw, said and was told."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio

from channelkit import Channel, Endpoint, SessionConfig
from channelkit.config import Config
from channelkit.endpoint.endpoint import TRANSPORTS
from channelkit.testing.middlebox import Middlebox, open_middlebox
from channelkit.testing.plans import Network, Pump, serving

Payload = str | bytes
#: TLS is far below a session, and has its own plans (test_promises).
CARRIED: tuple[Pump, ...] = ("stream", "reactor", "asgi")


@dataclass(frozen=True)
class Closing:
    """The handler is told to close the channel."""

    code: int
    reason: str


@dataclass(frozen=True)
class Raising:
    """The handler is told to raise."""


Command = Payload | Closing | Raising


class OnPurpose(Exception):
    """A handler's error that a plan wanted."""


@dataclass
class Room:
    """One session, as its handler sees it.  `tell` says what the handler is to do next."""

    config: SessionConfig
    transports: tuple[str, ...] = TRANSPORTS
    received: list[Payload] = field(default_factory=list)
    accepted: list[Payload] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)
    most: int = 0  # bytes unacknowledged at once
    begun: int = 0  # handlers
    channel: Any = None
    broken_rules: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._commands, self._to_do = anyio.create_memory_object_stream[Command](1000)

    def tell(self, command: Command) -> None:
        """Queue what the handler does; it waits for the window before each message."""
        self._commands.send_nowait(command)

    async def handler(self, channel: Any) -> None:
        self.begun += 1
        self.channel = channel
        channel.on_close(lambda status: self.ends.append(str(status)))
        channel.on_attach(lambda: self.moves.append("attach"))
        channel.on_detach(lambda: self.moves.append("detach"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._obey, channel)
            async for message in channel:
                self.received.append(message)
            tasks.cancel_scope.cancel()

    async def _obey(self, channel: Channel) -> None:
        with suppress(anyio.ClosedResourceError, anyio.EndOfStream):  # the plan is over
            while True:
                command = await self._to_do.receive()
                if isinstance(command, Raising):
                    raise OnPurpose
                if isinstance(command, Closing):
                    await channel.close(command.code, command.reason)
                elif await channel.send(command):
                    self.accepted.append(command)
                self.most = max(self.most, channel.statistics().buffered_bytes)

    @asynccontextmanager
    async def open(self, pump: Pump, network: Network = Network()) -> AsyncIterator[Middlebox]:
        """Serve it behind a middlebox, for as long as the block lasts."""
        endpoint = Endpoint(self.handler, transports=self.transports, session=self.config)
        config = Config(server_header=None, slow_callback=60.0)
        with self._commands, self._to_do:
            async with (
                serving(endpoint, config, pump, self.broken_rules) as server,
                open_middlebox(lambda: server.connect(network)) as box,
            ):
                yield box
        assert self.broken_rules == []


@contextmanager
def quietly() -> Iterator[None]:
    """The library logs what the plans provoke; nobody wants to read it a thousand times."""
    logger = logging.getLogger("channelkit")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
