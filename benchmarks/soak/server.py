"""The server that is soaked: prints its port, then what its limits did, once its standard input ends.

python -m benchmarks.soak.server BACKEND [--tls]
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import ssl
import sys
from typing import Any

import anyio
import anyio.to_thread

from benchmarks.process import raise_descriptor_limit
from channelkit import Request, Response, Server, as_channel, serve, with_channel
from channelkit.testing.tls import server_context

PIECE = b"x" * 16384


async def handler(request: Request) -> Any:
    if request.path == "/ws":
        return as_channel(request, on_receive=lambda channel, message: channel.send_nowait(message))
    if request.path == "/stream":
        async with with_channel(request, streaming=True) as channel:
            while await channel.send(PIECE):
                pass
        return None
    if request.path == "/trim":
        gc.collect()  # what waits for the collector, and what malloc keeps for the next peak, is nobody's
        ctypes.CDLL(None).malloc_trim(0)
    if request.path == "/post":
        return str(len(await request.body()))
    return Response(200, {"Content-Type": "text/plain"}, "hello")


async def until_stdin_ends(server: Server) -> None:
    await anyio.to_thread.run_sync(sys.stdin.read)
    print(json.dumps(server.limit_counts), flush=True)
    server.stop_soon(1.0)


async def main(context: ssl.SSLContext | None) -> None:
    async with anyio.create_task_group() as tasks:
        server: Server = await tasks.start(functools.partial(serve, handler, port=0, backlog=4096, ssl=context))
        print(server.port, flush=True)
        tasks.start_soon(until_stdin_ends, server)


if __name__ == "__main__":
    raise_descriptor_limit()
    anyio.run(main, server_context() if "--tls" in sys.argv else None, backend=sys.argv[1])
