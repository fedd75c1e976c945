"""How a process that is all server sets up `logging`: the command does it; in a program of your own it is yours."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from channelkit.observing.json_logs import JsonFormatter

TEXT = "%(asctime)s %(levelname)s %(message)s"
TEXT_OF_SEVERAL = "%(asctime)s [%(process)d] %(levelname)s %(message)s"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSetup:
    """Which lines there are, and how they look.  They go to stderr."""

    level: str = "info"
    style: Literal["text", "json"] = "text"
    access: bool = True  # a line for each request and each channel that is over

    def apply(self, *, several: bool = False) -> None:
        """Set up `logging` for this process; `several`: one of more whose lines are read together."""
        handler = logging.StreamHandler()
        plain = logging.Formatter(TEXT_OF_SEVERAL if several else TEXT)
        handler.setFormatter(JsonFormatter() if self.style == "json" else plain)
        logging.basicConfig(level=self.level.upper(), handlers=[handler])
        if not self.access:
            logging.getLogger("channelkit.access").setLevel(logging.CRITICAL)
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # we say ourselves what changed
