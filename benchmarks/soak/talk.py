"""What both ends of a soaked session say: so many messages each way, and each knows what must come.

The client's first message is `{"count": ..., "pause": ..., "seed": ...}`; then both send theirs, in bursts with pauses
of up to so many seconds, and check the other's; the server's last message is its verdict.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Protocol

import anyio

FILLER = "Grüße, 世界 🌍\r\nline\n" + "abcdefghij" * 2000
BYTES = bytes(range(256)) * 80
VERDICT = "good"
BURST = 200  # messages at most

Message = str | bytes


class Sink(Protocol):
    """What a session's end offers, on either side."""

    async def send(self, data: Message) -> bool: ...

    async def receive(self) -> Message: ...


class Wrong(Exception):
    """A message was lost, repeated or changed, or came out of order."""


def message(seed: int, side: str, number: int) -> Message:
    """Message `number` of a side: text or binary, mostly small, each different from all others."""
    mixed = (seed * 1_000_003 + number * 7919 + len(side)) % 65_521
    size = 8000 + mixed % 8000 if mixed % 200 == 0 else mixed % 200
    head = f"{side} {seed} {number} "
    if mixed % 3 == 0:
        start = mixed % 4096
        return head.encode() + BYTES[start : start + size]
    return head + FILLER[mixed % 24 : mixed % 24 + size]


async def say(sink: Sink, seed: int, side: str, count: int, pause: float) -> None:
    """Send all of a side's messages."""
    rng = random.Random(f"{seed} {side}")
    burst = 0
    for number in range(count):
        if number == burst:
            await anyio.sleep(rng.uniform(0, pause))
            burst += rng.randrange(1, BURST)
        if not await sink.send(message(seed, side, number)):
            raise Wrong(f"{side} {seed}: the session ended before message {number}")


async def hear(sink: Sink, seed: int, side: str, count: int, heard: Counter[str]) -> None:
    """Receive all of a side's messages and count them; Wrong if one is not the next."""
    for number in range(count):
        expect(await sink.receive(), message(seed, side, number))
        heard["messages"] += 1


def expect(came: Message, wanted: Message) -> None:
    """Wrong unless they are equal."""
    if came != wanted:
        raise Wrong(f"{came[:40]!r} came in the place of {wanted[:40]!r}")
