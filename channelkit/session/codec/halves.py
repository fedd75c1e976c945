"""The form of a message that many share, each of whom gives it a number of its own."""

from __future__ import annotations

#: A form that many share, of a message to which each of them gives a number of its own: what stands before it, and
#: what behind.
Halves = tuple[bytes, bytes]


def around(halves: Halves, n: int) -> bytes:
    """The form of message `n`."""
    return b"%b%d%b" % (halves[0], n, halves[1])
