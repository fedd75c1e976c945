"""The command `channelkit`: the demo, a client, and the version."""

from __future__ import annotations

import argparse
import errno
import functools
import sys
from collections.abc import Sequence

import anyio
import anyio.to_thread

from channelkit import ConfigError, __version__, serve
from channelkit.client import ClientChannel, ConnectFailed, connect
from channelkit.client.channel import KINDS
from channelkit.config import Config
from channelkit.demo import Chat
from channelkit.status import CloseInfo


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments `argv` (those of the process by default); returns the exit code.

    0 after Ctrl-C or an end with 1000, 1 if the demo cannot listen, the client cannot connect, or its session
    ended otherwise.  Raises SystemExit(2) for arguments that make no sense, as argparse
    does.
    """
    options = _parser().parse_args(argv)
    try:
        if options.command == "connect":
            work = functools.partial(_connect, options.url, options.transport)
        else:
            work = functools.partial(_demo, options.ip, options.port)
        return anyio.run(work, backend=options.backend)
    except KeyboardInterrupt:  # before `serve` took the signal over, or after it gave it back
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="channelkit", description="One channel for every way to talk to a client.")
    parser.add_argument("--version", action="version", version=f"channelkit {__version__}")
    commands = parser.add_subparsers(metavar="command", dest="command", required=True)
    demo = commands.add_parser("demo", help="a chat room to open in a browser")
    demo.add_argument("--ip", default=Config().ip, help="the address to listen on (default: %(default)s)")
    demo.add_argument("--port", default=Config().port, type=_port, help="0: any free one (default: %(default)s)")
    demo.add_argument("--backend", default="asyncio", choices=("asyncio", "trio"), help="(default: %(default)s)")
    client = commands.add_parser("connect", help="talk to an Endpoint: lines in are sent, messages are printed")
    client.add_argument("url", help="of the Endpoint, such as http://127.0.0.1:8090/chat")
    client.add_argument("--transport", default="websocket", choices=tuple(KINDS), help="(default: %(default)s)")
    client.add_argument("--backend", default="asyncio", choices=("asyncio", "trio"), help="(default: %(default)s)")
    return parser


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


async def _demo(ip: str, port: int) -> int:
    async with anyio.create_task_group() as tasks:
        try:
            server = await tasks.start(functools.partial(serve, Chat().handle, ip=ip, port=port))
        except (OSError, ConfigError) as error:
            print(f"channelkit: {_cannot_listen(ip, port, error)}", file=sys.stderr)
            return 1
        print(f"The chat is at http://{_address(ip)}:{server.port} (Ctrl-C ends it)", flush=True)
    return 0


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
    return 0 if info.code == 1000 else 1


async def _send_lines(channel: ClientChannel) -> None:
    """Every line of stdin is a message; its end closes the session."""
    while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        await channel.send(line.removesuffix("\n"))
    await channel.close()


def _state(change: str) -> None:
    print(f"channelkit: {change}", file=sys.stderr, flush=True)


def _cannot_listen(ip: str, port: int, error: OSError | ConfigError) -> str:
    """What went wrong, and what to do about it."""
    if isinstance(error, ConfigError):
        return str(error)
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {ip} is in use already; `channelkit demo --port 0` takes a free one"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges; `channelkit demo --port 0` takes a free one that does not"
    return f"{error.strerror or error}; `--ip 127.0.0.1` always works"


def _address(ip: str) -> str:
    """The address for a browser on this machine: one cannot visit "everywhere"."""
    if ip in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{ip}]" if ":" in ip else ip


if __name__ == "__main__":
    sys.exit(main())
