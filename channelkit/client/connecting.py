"""`connect`: from a URL to an open session, and to its end."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from ssl import SSLContext

import anyio

from channelkit.client.address import parse_address
from channelkit.client.channel import ClientChannel, kind_of
from channelkit.client.connections import Connections
from channelkit.client.http import Dial, HttpClient, dialer
from channelkit.errors import ConfigError
from channelkit.session.client import ClientConfig, ClientSession, Saved
from channelkit.session.identity import next_instance


@asynccontextmanager
async def connect(
    url: str,
    *,
    transport: str = "websocket",
    headers: Mapping[str, str] | None = None,
    saved: Saved | None = None,
    config: ClientConfig | None = None,
    on_change: Callable[[str], None] | None = None,
    ssl: SSLContext | None = None,
    dial: Dial | None = None,
) -> AsyncIterator[ClientChannel]:
    """A session of the `Endpoint` at `url`, open inside the `async with`.

    `transport` is websocket, http_stream, events or long_poll.  `headers` go with every request.  `saved` is what
    `channel.save()` gave a predecessor, whose session goes on.  `on_change(text)` hears of attaching and detaching;
    `ssl` says, for https and wss, whom to trust and which certificate to show (by default the system's authorities, and
    none); `dial` gives the byte streams in place of TCP and TLS.

    Waits for the first hello.  Left in order, it closes with 1000 and waits until the server knows; after an exception
    with 1011; cancelled, it cuts, and the server's grace ends the session.  Raises ConfigError for arguments that
    cannot work, ConnectFailed if no session can be had.
    """
    address = parse_address(url)
    kind = kind_of(transport)
    if ssl is not None and not address.secure:
        raise ConfigError(f"ssl= is given, and {url!r} does not speak TLS; write https:// or wss://")
    a = 1 if saved is None else next_instance(saved.a, int(time.time() * 1000), random.randrange(1000))
    machine = ClientSession(config or ClientConfig(), random.random, a=a, saved=saved)
    channel = ClientChannel(machine, on_change)
    failure: Exception | None = None
    dial = dial or dialer(address, ssl)
    fields = tuple((headers or {}).items())
    # The kept connections are closed last, cancelled too: a task that ends may still give one back.
    async with HttpClient(dial, address.host, fields) as http, anyio.create_task_group() as tasks:
        channel.links = Connections(channel, tasks, address, dial, http, fields)
        try:
            tasks.start_soon(channel.run_clock)
            channel.do(machine.start(kind, anyio.current_time()))
            await channel.wait_ready()
            try:
                yield channel
            except Exception as error:
                failure = error
            if channel.is_open and not channel.saved:
                await channel.close(1000 if failure is None else 1011)
            if not channel.saved:
                await channel.wait_drained()
        except Exception as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
