"""What the parsers of several commands share: one line for a mistake, and arguments of the same kind."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import Any, NoReturn

_ELSEWHERE = {"--host": "--ip", "--bind": "--listen"}  # what other servers call it, and no likeness leads there


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line with its cure, not behind a page of usage; guesses no abbreviated names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.allow_abbrev = False
        self.set_defaults(parser=self)  # whose arguments they were: the command's, which is the last to say so

    def reject(self, word: str) -> NoReturn:
        """An argument that nobody wants: name what is like it."""
        name = word.partition("=")[0]
        near = difflib.get_close_matches(name, self._option_string_actions, n=1)
        if (known := _ELSEWHERE.get(name)) in self._option_string_actions:
            near = [known]
        kind = "an option" if name.startswith("-") else "expected here"
        self.error(f"{name} is not {kind}" + (f"; did you mean {near[0]}?" if near else ""))

    def error(self, message: str) -> NoReturn:
        """Say it, and end with 2."""
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help tells more)\n")


def port(text: str) -> int:
    """A port number."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"a whole number is wanted, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """A time."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'seconds are wanted, such as 10, 0.5 or "inf", not {text!r}') from None


def add_backend(parser: argparse.ArgumentParser) -> None:
    """The event loop."""
    parser.add_argument("--backend", default="asyncio", choices=("asyncio", "trio"), help="(default: %(default)s)")
