"""channelkit's callbacks as an ASGI application under uvicorn: what a foreign host costs over our own server."""

from __future__ import annotations

import uvicorn

from benchmarks.peers._options import BACKLOG, HOST, port_and_uvloop
from benchmarks.peers.channelkit_callbacks import handler
from channelkit import ASGIApp

if __name__ == "__main__":
    port, uvloop = port_and_uvloop(__doc__)
    uvicorn.run(
        ASGIApp(handler),
        host=HOST,
        port=port,
        backlog=BACKLOG,
        loop="uvloop" if uvloop else "asyncio",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        access_log=False,
        log_level="warning",
    )
