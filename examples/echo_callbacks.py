"""An echo server, with callbacks: an idle channel has no task of its own.

`send_nowait` is enough here: while a client does not read what it is sent, `on_receive` is not called either.
Try it with `python -m websockets ws://127.0.0.1:8090/`.
"""

from __future__ import annotations

import anyio

from channelkit import Channel, Request, Response, as_channel, serve


async def echo(request: Request) -> Channel | Response:
    """Send every message back until the client leaves."""
    if not request.is_websocket:
        return Response(426, {"Upgrade": "websocket", "Content-Type": "text/plain"}, "this echo needs a WebSocket\n")
    return as_channel(request, on_receive=Channel.send_nowait)


if __name__ == "__main__":
    anyio.run(serve, echo)
