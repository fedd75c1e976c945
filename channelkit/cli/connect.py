"""`channelkit connect URL`: a client at the command line; lines in are sent, messages are printed."""

from __future__ import annotations

import argparse
import ssl
import sys

import anyio
import anyio.to_thread

from channelkit import ConfigError
from channelkit.cli.arguments import add_backend
from channelkit.client import ClientChannel, ConnectFailed, connect
from channelkit.client.channel import KINDS
from channelkit.status import CloseInfo

WAIT = 1.0  # seconds: a server's answer to the last line, from far away too


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the parser."""
    parser = commands.add_parser("connect", help="talk to an Endpoint: lines in are sent, messages are printed")
    parser.add_argument("url", help="of the Endpoint, such as http://127.0.0.1:8090/chat")
    parser.add_argument("--transport", default="websocket", choices=tuple(KINDS), help="(default: %(default)s)")
    parser.add_argument(
        "-H",
        "--header",
        metavar="NAME:VALUE",
        type=_header,
        action="append",
        default=[],
        help="goes with every request, such as 'Authorization: Bearer ...'; any number of them",
    )
    parser.add_argument("--ca-file", metavar="FILE", help="PEM; the authorities to trust in place of the system's")
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        help="when stdin has ended, close once no message has come for so long "
        f"(default: {WAIT:g}, at a terminal 0; inf: the server closes)",
    )
    add_backend(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Talk until either side ends it; 1 if it cannot connect, or there was no end with 1000 that both know of."""
    return anyio.run(_talk, options, backend=options.backend)


async def _talk(options: argparse.Namespace) -> int:
    info: CloseInfo | None = None
    silence = Silence(options.wait if options.wait is not None else 0.0 if sys.stdin.isatty() else WAIT)
    try:
        async with (
            connect(
                options.url,
                transport=options.transport,
                headers=dict(options.header),
                ssl=_trusting(options.ca_file),
                on_change=_state,
            ) as channel,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(_send_lines, channel, silence)
            async for message in channel:
                silence.broken()
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


async def _send_lines(channel: ClientChannel, silence: Silence) -> None:
    """Every line of stdin is a message; its end, and then silence, closes the session."""
    while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        await channel.send(line.removesuffix("\n"))
    await channel.flush()
    await silence.wait()
    await channel.close()


class Silence:
    """The time in which no message came."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._scope = anyio.CancelScope()

    def broken(self) -> None:
        """A message has come."""
        self._scope.deadline = anyio.current_time() + self._seconds

    async def wait(self) -> None:
        """Wait until none has come for so long, from now on."""
        self.broken()
        with self._scope:
            await anyio.sleep_forever()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"a header is NAME:VALUE, such as 'X-Key: 1', not {text!r}")
    return name.strip(), value.strip()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"seconds are a number from 0 to inf, not {text!r}")
    return seconds


def _trusting(file: str | None) -> ssl.SSLContext | None:
    if file is None:
        return None
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError too
        raise ConfigError(f"--ca-file {file}: {error.strerror or error}") from None


def _state(change: str) -> None:
    print(f"channelkit: {change}", file=sys.stderr, flush=True)
