"""Unmasking a client's frames (RFC 6455 5.3): in C where the `speed` extra is installed, else by one big XOR."""

from __future__ import annotations

from collections.abc import Callable


def unmask_python(data: bytes, mask: bytes) -> bytes:
    """`data` XOR the repeated 4-byte `mask`."""
    size = len(data)
    if not size:
        return b""
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def _choose() -> Callable[[bytes, bytes], bytes]:
    try:
        from websockets.speedups import apply_mask
    except ImportError:
        return unmask_python
    return apply_mask


unmask: Callable[[bytes, bytes], bytes] = _choose()
