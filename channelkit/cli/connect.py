"""`channelkit connect URL`: a client at the command line; lines in are sent, messages are printed."""

from __future__ import annotations

import argparse
import functools
import sys

import anyio
import anyio.to_thread

from channelkit import ConfigError
from channelkit.cli.arguments import add_backend
from channelkit.client import ClientChannel, ConnectFailed, connect
from channelkit.client.channel import KINDS
from channelkit.status import CloseInfo


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the parser."""
    parser = commands.add_parser("connect", help="talk to an Endpoint: lines in are sent, messages are printed")
    parser.add_argument("url", help="of the Endpoint, such as http://127.0.0.1:8090/chat")
    parser.add_argument("--transport", default="websocket", choices=tuple(KINDS), help="(default: %(default)s)")
    add_backend(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Talk until either side ends it; 1 if it cannot connect, or there was no end with 1000 that both know of."""
    return anyio.run(functools.partial(_connect, options.url, options.transport), backend=options.backend)


async def _connect(url: str, transport: str) -> int:
    info: CloseInfo | None = None
    try:
        async with connect(url, transport=transport, on_change=_state) as channel, anyio.create_task_group() as tasks:
            tasks.start_soon(_send_lines, channel)
            async for message in channel:
                print(message if isinstance(message, str) else repr(message), flush=True)
            info = await channel.wait_closed()
            tasks.cancel_scope.cancel()
    except (ConfigError, ConnectFailed) as error:
        print(f"channelkit: {error}", file=sys.stderr)
        return 1
    assert info is not None
    if not info.delivered:
        _state("the last messages sent were not acknowledged; whether they arrived is not known")
    confirmed = info.delivered or info.by == "peer"  # our own 1000 says nothing if nobody heard it
    return 0 if info.code == 1000 and confirmed else 1


async def _send_lines(channel: ClientChannel) -> None:
    """Every line of stdin is a message; its end closes the session."""
    while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        await channel.send(line.removesuffix("\n"))
    await channel.close()


def _state(change: str) -> None:
    print(f"channelkit: {change}", file=sys.stderr, flush=True)
