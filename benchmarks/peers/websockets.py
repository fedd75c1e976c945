"""websockets, its asyncio server.  It speaks no HTTP beyond the upgrade, so it has no /hello."""

from __future__ import annotations

import asyncio
from ssl import SSLContext

from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.peers._options import BACKLOG, HOST, asyncio_options, context, run_asyncio

fan: set[ServerConnection] = set()


async def handler(connection: ServerConnection) -> None:
    """The two WebSocket endpoints."""
    if connection.request is not None and connection.request.path == "/fan":
        await publish(connection)
        return
    async for message in connection:
        await connection.send(message)


async def publish(connection: ServerConnection) -> None:
    """Every message to all, by the library's own `broadcast`."""
    fan.add(connection)
    try:
        async for message in connection:
            broadcast(fan, message)
    finally:
        fan.discard(connection)


async def main(port: int, tls: SSLContext | None) -> None:
    """Serve until killed."""
    async with serve(handler, HOST, port, compression=None, ping_interval=None, backlog=BACKLOG, ssl=tls):
        await asyncio.Event().wait()


if __name__ == "__main__":
    options = asyncio_options(__doc__)
    run_asyncio(main(options.port, context(options)), uvloop=options.uvloop)
