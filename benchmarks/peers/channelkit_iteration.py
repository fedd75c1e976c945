"""channelkit with iteration: each WebSocket has a handler that stays with it."""

from __future__ import annotations

from benchmarks.peers._channelkit import fan, hello, main
from channelkit import Request, Response, with_channel


async def handler(request: Request) -> Response | None:
    """The three endpoints."""
    if request.path == "/echo":
        await echo(request)
    elif request.path == "/fan":
        await publish(request)
    else:
        return hello()
    return None


async def echo(request: Request) -> None:
    """Every message back."""
    async with with_channel(request) as channel:
        async for message in channel:
            await channel.send(message)


async def publish(request: Request) -> None:
    """Every message to all, the sender too."""
    async with with_channel(request) as channel:
        fan.add(channel)
        async for message in channel:
            fan.send_nowait(message)


if __name__ == "__main__":
    main(__doc__, handler)
