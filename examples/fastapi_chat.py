"""A FastAPI site with a chat mounted in it: people on WebSockets and people on event streams are in one room.

Under any ASGI host, or under our own server, where the chat has no ASGI between it and the wire:

    uvicorn examples.fastapi_chat:app
    python examples/fastapi_chat.py

Then open http://127.0.0.1:8000/ (our server: port 8090), once as it is and once with ?stream behind it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from channelkit import ASGIApp, ASGIHandler, Channel, Group, Request, Response, as_channel, serve

PAGE = """<!doctype html>
<title>chat</title>
<form><input autofocus placeholder="say something"></form>
<pre></pre>
<script>
const show = event => document.querySelector("pre").append(event.data + "\\n")
const input = document.querySelector("input")
let say
if (location.search == "?stream") {
  new EventSource("chat/").onmessage = show
  say = text => fetch("chat/", {method: "POST", body: text})
} else {
  const socket = new WebSocket(location.href.replace(/^http/, "ws").replace(/[?#].*/, "") + "chat/")
  socket.onmessage = show
  say = text => socket.send(text)
}
document.querySelector("form").onsubmit = event => { event.preventDefault(); say(input.value); input.value = "" }
</script>
"""

room = Group()  # members leave by themselves when they close


async def chat(request: Request) -> Channel | Response:
    """Join the room, on a WebSocket or an event stream; or say something by POST."""
    if request.method == "POST":
        said = (await request.body()).decode(errors="replace")
        return Response(body=f"heard by {room.send_nowait(said)}\n")
    return as_channel(request, on_open=room.add, on_receive=heard, framing="sse")


def heard(channel: Channel, message: str | bytes) -> None:
    """Pass on what somebody said."""
    room.send_nowait(message)


channels = ASGIApp(chat)
app = FastAPI(lifespan=channels.lifespan)  # so that the end of the site is the end of the chat
app.mount("/chat", channels)


@app.get("/")
async def page() -> HTMLResponse:
    """The page."""
    return HTMLResponse(PAGE)


@app.get("/people")
async def people() -> dict[str, int]:
    """How many are in the room: the site and the chat share a process, and its variables."""
    return {"people": len(room)}


site = ASGIHandler(app)


async def under_our_server(request: Request) -> Any:
    """The chat itself where it is mounted, the site for everything else."""
    return await (chat(request) if request.path.startswith("/chat/") else site(request))


if __name__ == "__main__":
    anyio.run(partial(serve, under_our_server, lifespan=site.lifespan))
