"""Undoing the mask a WebSocket client lays over every payload (RFC 6455 5.3).

`unmask` is the fastest way at hand: the C function of the `websockets` package when that is installed (the extra
`speed`), else `unmask_python`.  Both take a payload and its four-byte key and give new bytes; masking is its own
inverse.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

BytesLike = bytes | bytearray
Unmask = Callable[[BytesLike, BytesLike], bytes]

from_bytes = int.from_bytes


def unmask_python(data: BytesLike, key: BytesLike) -> bytes:
    """XOR `data` with the repeated four-byte `key`, as two long integers: 3 us per KiB, no loop in Python."""
    size = len(data)
    mask = (key * (size // 4 + 1))[:size]
    return (from_bytes(data) ^ from_bytes(mask)).to_bytes(size)


def _small(size: int) -> tuple[int, int, int]:
    """How to unmask `size` bytes that still stand behind their key, as one integer: see `SMALL`."""
    words = (size + 3) // 4 + 1
    return size * 8, from_bytes(b"\0\0\0\1" * words), -size % 4 * 8


# For each payload of one-byte length (RFC 6455 5.2: up to 125) what a caller needs to unmask it without a call or a
# second slice, a third off the cost of a small frame.  With `both` the integer of key and payload together,
#     bits, repeat, cut = SMALL[size]
#     payload = (both ^ ((both >> bits) * repeat >> cut)).to_bytes(size)
# The key is what is left above the payload's bits; times 0x…0000000100000001 it repeats itself under every word, its
# first copy XORs the key itself away, and `cut` takes off what hangs over when the size is no multiple of four.
SMALL = tuple(_small(size) for size in range(126))


def c_unmask() -> Unmask | None:
    """The C function of `websockets`, or None where that package or its compiled part is missing."""
    try:
        function: Unmask = import_module("websockets.speedups").apply_mask
    except ImportError:
        return None
    return function


unmask: Unmask = c_unmask() or unmask_python
