"""An echo server, with iteration: a handler that stays with its WebSocket.

Try it with `python -m websockets ws://127.0.0.1:8090/`.
"""

from __future__ import annotations

import anyio

from channelkit import Request, Response, serve, with_channel


async def echo(request: Request) -> Response | None:
    """Send every message back until the client leaves."""
    if not request.is_websocket:
        return Response(426, {"Upgrade": "websocket", "Content-Type": "text/plain"}, "this echo needs a WebSocket\n")
    async with with_channel(request) as channel:
        async for message in channel:
            await channel.send(message)
    return None


if __name__ == "__main__":
    anyio.run(serve, echo)
