"""aiohttp's web server."""

from __future__ import annotations

import asyncio
from ssl import SSLContext

from aiohttp import WSMessage, WSMsgType, web

from benchmarks.peers._options import BACKLOG, HELLO, HOST, asyncio_options, context, run_asyncio

fan: set[web.WebSocketResponse] = set()


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Every message back."""
    socket = await accept(request)
    async for message in socket:
        await send(socket, message)
    return socket


async def publish(request: web.Request) -> web.WebSocketResponse:
    """Every message to all, the sender too."""
    socket = await accept(request)
    fan.add(socket)
    try:
        async for message in socket:
            for member in tuple(fan):
                await send(member, message)
    finally:
        fan.discard(socket)
    return socket


async def accept(request: web.Request) -> web.WebSocketResponse:
    """Upgrade, without compression."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    return socket


async def send(socket: web.WebSocketResponse, message: WSMessage) -> None:
    """A message as the kind it came as."""
    if message.type is WSMsgType.TEXT:
        await socket.send_str(message.data)
    elif message.type is WSMsgType.BINARY:
        await socket.send_bytes(message.data)


async def hello(request: web.Request) -> web.Response:
    """A plain response."""
    return web.Response(text=HELLO.decode())


async def main(port: int, tls: SSLContext | None) -> None:
    """Serve until killed."""
    application = web.Application()
    application.add_routes([web.get("/echo", echo), web.get("/fan", publish), web.get("/hello", hello)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port, backlog=BACKLOG, ssl_context=tls).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    options = asyncio_options(__doc__)
    run_asyncio(main(options.port, context(options)), uvloop=options.uvloop)
