"""Streamed response bodies: every form of `Body` that is not in memory, as pieces of bytes.

Files are read in a worker thread, so that a slow disk holds nobody up; iterables are iterated on the loop, where
their code belongs to the handler.  Whatever happens, the file or generator is closed.
"""

from __future__ import annotations

import pathlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

FILE_PIECE = 256 * 1024
PIECES_PER_YIELD = 16  # of an iterable that never waits


@asynccontextmanager
async def open_body(body: Any) -> AsyncIterator[AsyncIterator[bytes]]:
    """The pieces of `body`; closes it on leaving, by whatever way."""
    if isinstance(body, pathlib.Path):
        body = await anyio.to_thread.run_sync(lambda: body.open("rb"))
    pieces = _pieces(body)
    try:
        yield pieces
    finally:
        with anyio.CancelScope(shield=True):
            await pieces.aclose()
            await _close(body)


async def _close(body: Any) -> None:
    if hasattr(body, "aclose"):
        await body.aclose()
    elif hasattr(body, "read") and hasattr(body, "close"):
        await anyio.to_thread.run_sync(body.close)
    elif hasattr(body, "close"):
        body.close()


def _pieces(body: Any) -> AsyncGenerator[bytes, None]:
    if hasattr(body, "read"):
        return _read_file(body)
    if hasattr(body, "__aiter__"):
        return _iterate_async(body)
    return _iterate(body)


async def _read_file(file: Any) -> AsyncGenerator[bytes, None]:
    while piece := await anyio.to_thread.run_sync(file.read, FILE_PIECE):
        if not isinstance(piece, bytes):
            raise TypeError("a file given as a body must be open in binary mode")
        yield piece


async def _iterate(body: Any) -> AsyncGenerator[bytes, None]:
    for count, piece in enumerate(body, 1):
        if count % PIECES_PER_YIELD == 0:
            await anyio.lowlevel.checkpoint()
        yield _to_bytes(piece)


async def _iterate_async(body: Any) -> AsyncGenerator[bytes, None]:
    async for piece in body:
        yield _to_bytes(piece)


def _to_bytes(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    raise TypeError(f"a body's pieces are str or bytes, not {type(piece).__name__}")
