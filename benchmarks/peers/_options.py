"""What the servers have in common: where they listen, what they say, and how to run on uvloop."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import ssl
from collections.abc import Coroutine, Sequence
from typing import Any

from channelkit.testing.tls import server_context

HOST = "127.0.0.1"
BACKLOG = 4096  # the load opens its connections in batches; none of them may wait for a retransmitted SYN
HELLO = b"Hello, world!"
TEXT = "text/plain; charset=utf-8"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line that takes a port."""
    made = argparse.ArgumentParser(description=doc)
    made.add_argument("port", type=int)
    made.add_argument("--tls", action="store_true", help="speak TLS, with a certificate that is nobody's secret")
    return made


def context(options: argparse.Namespace) -> ssl.SSLContext | None:
    """The same TLS for every server: 1.3, and an ECDSA key; None without --tls."""
    return server_context() if options.tls else None


def run_asyncio(main: Coroutine[Any, Any, None], *, uvloop: bool) -> None:
    """Run on asyncio's own loop, or on uvloop's."""
    if uvloop:
        importlib.import_module("uvloop").run(main)
    else:
        asyncio.run(main)


def port_and_uvloop(doc: str | None, args: Sequence[str] | None = None) -> tuple[int, bool]:
    """The command line of the servers that know asyncio only, without --tls."""
    options = asyncio_options(doc, args)
    return options.port, options.uvloop


def asyncio_options(doc: str | None, args: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of the servers that know asyncio only."""
    made = parser(doc)
    made.add_argument("--uvloop", action="store_true")
    return made.parse_args(args)
