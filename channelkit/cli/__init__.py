"""The command `channelkit`: a server for a handler, the demo, a client, and the version.

One file a command; each adds itself to the parser and names the function that runs it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from channelkit import __version__
from channelkit.cli import connect, demo, serve
from channelkit.cli.arguments import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments `argv` (those of the process by default); returns the exit code.

    0 after Ctrl-C, SIGTERM or a session's end with 1000; 1 if the server cannot start or listen, the client cannot
    connect, or its session ended otherwise.  Raises SystemExit(2) for arguments that make no sense, as argparse does.
    """
    options, rest = _parser().parse_known_args(argv)
    if rest:
        options.parser.reject(rest[0])
    try:
        code: int = options.run(options)
    except KeyboardInterrupt:  # before `serve` took the signal over, or after it gave it back
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="channelkit", description="One channel for every way to talk to a client.")
    parser.add_argument("--version", action="version", version=f"channelkit {__version__}")
    commands = parser.add_subparsers(metavar="command", dest="command", required=True)
    for command in (serve, demo, connect):
        command.add_to(commands)
    return parser
