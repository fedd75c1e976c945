"""The chatroom of http-kit's documentation: who is connected hears what anybody says.

People on a WebSocket speak on it; people on an event stream listen, and speak by POST.  Try it with

    python -m websockets ws://127.0.0.1:8090/
    curl -N http://127.0.0.1:8090/
    curl -d hello http://127.0.0.1:8090/
"""

from __future__ import annotations

import anyio

from channelkit import Channel, CloseStatus, Group, Request, Response, as_channel, serve

room = Group()  # members leave by themselves when they close


async def chatroom(request: Request) -> Channel | Response:
    """Join the room on any transport, or say something by POST."""
    if request.method == "POST":
        said = (await request.body()).decode(errors="replace")
        return Response(body=f"heard by {room.send_nowait(said)}\n")
    return as_channel(request, on_open=joined, on_receive=heard, on_close=left, framing="sse")


def joined(channel: Channel) -> None:
    """Greet the newcomer and let the others know."""
    room.send_nowait(f"somebody came by {channel.transport}")
    room.add(channel)
    channel.send_nowait(f"welcome, you are one of {len(room)}")


def heard(channel: Channel, message: str | bytes) -> None:
    """Pass on what somebody said."""
    room.send_nowait(message)


def left(channel: Channel, status: CloseStatus) -> None:
    """Let the others know, and why."""
    room.discard(channel)
    room.send_nowait(f"somebody left ({status})")


if __name__ == "__main__":
    anyio.run(serve, chatroom)
