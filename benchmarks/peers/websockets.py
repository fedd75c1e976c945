"""websockets, its asyncio server.  It speaks no HTTP beyond the upgrade, so it has no /hello."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.peers._options import BACKLOG, HOST, port_and_uvloop, run_asyncio

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


async def main(port: int) -> None:
    """Serve until killed."""
    async with serve(handler, HOST, port, compression=None, ping_interval=None, backlog=BACKLOG):
        await asyncio.Event().wait()


if __name__ == "__main__":
    port, uvloop = port_and_uvloop(__doc__)
    run_asyncio(main(port), uvloop=uvloop)
