"""Arguments that several commands take."""

from __future__ import annotations

import argparse


def port(text: str) -> int:
    """A port number."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def add_backend(parser: argparse.ArgumentParser) -> None:
    """The event loop."""
    parser.add_argument("--backend", default="asyncio", choices=("asyncio", "trio"), help="(default: %(default)s)")
