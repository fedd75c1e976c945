"""The command `channelkit`: the demo, and the version."""

from __future__ import annotations

import argparse
import errno
import functools
import sys
from collections.abc import Sequence

import anyio

from channelkit import ConfigError, __version__, serve
from channelkit.config import Config
from channelkit.demo import Chat


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments `argv` (those of the process by default); returns the exit code.

    0 after Ctrl-C, 1 if the demo cannot listen.  Raises SystemExit(2) for arguments that make no sense, as argparse
    does.
    """
    options = _parser().parse_args(argv)
    try:
        return anyio.run(functools.partial(_demo, options.ip, options.port), backend=options.backend)
    except KeyboardInterrupt:  # before `serve` took the signal over, or after it gave it back
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="channelkit", description="One channel for every way to talk to a client.")
    parser.add_argument("--version", action="version", version=f"channelkit {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)
    demo = commands.add_parser("demo", help="a chat room to open in a browser")
    demo.add_argument("--ip", default=Config().ip, help="the address to listen on (default: %(default)s)")
    demo.add_argument("--port", default=Config().port, type=_port, help="0: any free one (default: %(default)s)")
    demo.add_argument("--backend", default="asyncio", choices=("asyncio", "trio"), help="(default: %(default)s)")
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
