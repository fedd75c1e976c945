"""What is measured: each cell is one kind of conversation, always the same for every server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["echo", "fan", "get", "idle"]
MOST_CONNECTIONS = 5000  # well below the 28,000 client ports of one address, and within the usual descriptor limits
PATHS: dict[Kind, str] = {"echo": "/echo", "fan": "/fan", "get": "/hello", "idle": "/echo"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One kind of conversation."""

    kind: Kind
    connections: int
    in_flight: int = 1  # messages sent, and not yet answered, on a connection; for "fan" those of one burst
    size: int = 64  # payload bytes
    binary: bool = False
    text: str

    @property
    def path(self) -> str:
        """Where on the server it takes place."""
        return PATHS[self.kind]


CELLS: dict[str, Cell] = {
    "echo64": Cell(kind="echo", connections=64, text="64 WebSockets, one 64-byte message in flight on each"),
    "echo64p32": Cell(kind="echo", connections=16, in_flight=32, text="16 WebSockets, 32 messages in flight on each"),
    "echo16k": Cell(
        kind="echo", connections=16, in_flight=4, size=16384, binary=True, text="16 WebSockets, 4 x 16 KiB"
    ),
    "lat": Cell(kind="echo", connections=1, text="one WebSocket, one message in flight: the time until it is back"),
    "fan64": Cell(kind="fan", connections=1000, in_flight=16, text="bursts of 16 messages, each to 1000 WebSockets"),
    "fan64w1": Cell(kind="fan", connections=1000, text="one message at a time to 1000 WebSockets"),
    "get": Cell(kind="get", connections=64, text="64 keep-alive connections, GET of 13 bytes"),
    "idle": Cell(kind="idle", connections=2000, text="memory of an open, silent WebSocket"),
}
QUICK = ("echo64", "echo64p32", "fan64", "get", "idle")
