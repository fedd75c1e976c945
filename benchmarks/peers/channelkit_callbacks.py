"""channelkit with callbacks: an idle channel owns no task."""

from __future__ import annotations

from benchmarks.peers._channelkit import fan, hello, main
from channelkit import Channel, Request, Response, as_channel


async def handler(request: Request) -> Channel | Response:
    """The three endpoints."""
    if request.path == "/echo":
        return as_channel(request, on_receive=Channel.send_nowait)
    if request.path == "/fan":
        return as_channel(request, on_open=fan.add, on_receive=publish)
    return hello()


def publish(channel: Channel, message: str | bytes) -> None:
    """To all, the sender too."""
    fan.send_nowait(message)


if __name__ == "__main__":
    main(__doc__, handler)
