"""`channelkit demo`: the chat, to open in a browser."""

from __future__ import annotations

import argparse
import errno
import functools
import sys

import anyio

from channelkit import ConfigError, serve
from channelkit.cli.arguments import add_backend, port
from channelkit.config import Config
from channelkit.demo import Chat


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the parser."""
    parser = commands.add_parser("demo", help="a chat room to open in a browser")
    parser.add_argument("--ip", default=Config().ip, help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=Config().port, type=port, help="0: any free one (default: %(default)s)")
    add_backend(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve the chat until Ctrl-C; 1 if it cannot listen."""
    return anyio.run(_demo, options.ip, options.port, backend=options.backend)


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
