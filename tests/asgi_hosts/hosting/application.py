"""The one application that all hosts serve: handlers by path, and a record of how channels ended.

`handler` is what they share; `app` is it under ASGI, also mounted in Starlette at /starlette and FastAPI at /fastapi;
`site` is FastAPI's application with our lifespan.  `python -m hosting.application native BACKEND PORT` serves it by
our own server.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from channelkit import (
    ASGIApp,
    ASGIHandler,
    Channel,
    CloseStatus,
    Group,
    Request,
    Response,
    as_channel,
    reject,
    schedule_task,
    serve,
    with_channel,
)

PIECE = b"x" * 16384
FAR_TOO_MUCH = 64 << 20
MIB = bytes(range(256)) * 4096
MAX_WS = 4 << 20
MAX_BODY = 2 << 20

room = Group()
waiting: dict[str, Channel] = {}
ends: dict[str, list[dict[str, Any]]] = {}
notes: dict[str, list[Any]] = {}

Answer = Channel | Response | None | str
Scope = MutableMapping[str, Any]


def key(request: Request) -> str:
    """What a test calls its channel."""
    return request.query_params.get("id", "")


def number(request: Request, name: str, default: int) -> int:
    return int(request.query_params.get(name, default))


def closed(channel: Channel, status: CloseStatus) -> None:
    """An `on_close` that records the end."""
    info = channel.close_info
    assert info is not None
    end = {name: getattr(info, name) for name in ("code", "reason", "by", "delivered", "unsent", "unread")}
    ends.setdefault(key(channel.request), []).append({"status": str(status), **end})


def note(name: str, what: Any) -> None:
    notes.setdefault(name, []).append(what)


# -- WebSockets --------------------------------------------------------------------------------------------------------


async def echo(request: Request) -> Answer:
    """Every message back, by iteration."""
    if not request.is_websocket:
        return reject(426, {"Upgrade": "websocket"}, "a WebSocket is needed\n")
    options: dict[str, Any] = {"subprotocols": ["b", "a"], "headers": {"X-Extra": "yes", "Set-Cookie": ["a=1", "b=2"]}}
    async with with_channel(request, **options) as channel:
        channel.on_close(lambda status: closed(channel, status))
        async for message in channel:
            await channel.send(message)
    return None


async def group(request: Request) -> Answer:
    """Everything to everybody, by callbacks."""
    return as_channel(request, on_open=room.add, on_receive=lambda _, message: room.send_nowait(message), framing="sse")


async def closing(request: Request) -> Answer:
    """Close from our side when the first message comes, with the code and reason of the query."""
    reason = request.query_params.get("reason", "")

    def received(channel: Channel, message: Any) -> None:
        channel.send_nowait("last words")
        channel.close_nowait(number(request, "code", 1000), reason)

    return as_channel(request, on_receive=received, on_close=closed)


async def deaf(request: Request) -> Answer:
    """A WebSocket that is read only when told to, by another request."""
    waiting[key(request)] = channel = as_channel(request, on_close=closed)
    while channel.is_open and key(request) in waiting:
        await anyio.sleep(0.01)
    return channel


async def ping(request: Request) -> Answer:
    """Whether an application may ping here."""

    def opened(channel: Channel) -> None:
        try:
            channel.send_nowait(str(channel.ping(b"p")))
        except NotImplementedError as error:
            channel.send_nowait(str(error))

    return as_channel(request, on_open=opened, on_ping=lambda _, data: note(key(request), data.decode()))


async def failing(request: Request) -> Answer:
    """A callback that raises."""

    def received(channel: Channel, message: Any) -> None:
        raise ZeroDivisionError("this is what the test asked for")

    return as_channel(request, on_receive=received, on_close=closed)


# -- responses ---------------------------------------------------------------------------------------------------------


async def held(request: Request) -> Answer:
    """A single answer, held until /release."""
    waiting[key(request)] = channel = as_channel(request, on_close=closed)
    return channel


async def release(request: Request) -> Answer:
    """Answer what is held."""
    channel = waiting.pop(key(request), None)
    if channel is None:
        return reject(404)
    if channel.is_websocket:
        return "reading"
    return f"accepted: {channel.send_nowait(Response(200, {'X-Held': 'yes'}, 'released'))}"


async def stream(request: Request) -> Answer:
    """A stream with the framing of the query, whose messages come by /say and which ends by /finish."""

    def opened(channel: Channel) -> None:
        waiting[key(request)] = channel
        channel.send_nowait("begun\n")

    framing = request.query_params.get("framing") or None
    return as_channel(request, on_open=opened, on_close=closed, streaming=True, framing=framing)


async def say(request: Request) -> Answer:
    """Send the body on a stream."""
    return str(waiting[key(request)].send_nowait((await request.body()).decode()))


async def finish(request: Request) -> Answer:
    """End a stream, with the code of the query."""
    return str(waiting.pop(key(request)).close_nowait(number(request, "code", 1000)))


async def flood(request: Request) -> Answer:
    """Send as fast as `send` lets us, until the channel closes or it is far too much; note how much was accepted."""
    async with with_channel(request, streaming=True) as channel:
        channel.on_close(lambda status: closed(channel, status))
        accepted = 0
        while accepted < FAR_TOO_MUCH and await channel.send(PIECE):
            accepted += len(PIECE)
            notes[key(request)] = [accepted]
    return None


async def payloads(request: Request) -> Answer:
    """What came, back: as one body, or in the pieces in which it came."""
    if "streamed" in request.query_params:

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in request.stream():
                yield piece

        return Response(200, {"Content-Type": "application/octet-stream"}, pieces())
    return Response(200, {"Content-Type": "application/octet-stream"}, await request.body())


async def big(request: Request) -> Answer:
    """A big body, whole."""
    return Response(200, {"Content-Type": "application/octet-stream"}, MIB)


async def file(request: Request) -> Answer:
    """A file."""
    return Response(200, {"Content-Type": "text/x-python"}, Path(__file__))


async def early(request: Request) -> Answer:
    """An answer before the body was read."""
    return Response(202, {}, "early\n")


async def count(request: Request) -> Answer:
    """How long a streamed body is, noting each piece."""
    size = 0
    async for piece in request.stream():
        size += len(piece)
        notes[key(request)] = [size]
    return f"{size}"


async def status(request: Request) -> Answer:
    """A response with the status of the query."""
    headers = {"ETag": '"x"', "Connection": "x-hop", "Transfer-Encoding": "chunked", "Keep-Alive": "timeout=5"}
    return Response(number(request, "status", 200), headers, "a body\n")


async def cookies(request: Request) -> Answer:
    """Repeated fields, both ways."""
    body = json.dumps([request.headers.getlist("x-many"), request.cookies])
    return Response(200, {"Set-Cookie": ["a=1; Path=/", "b=2"], "X-Many": ["1", "2"]}, body)


async def info(request: Request) -> Answer:
    """What the request is to us."""
    names = ("method", "path", "raw_path", "query_string", "root_path", "scheme", "http_version")
    return json.dumps({**{name: getattr(request, name) for name in names}, "client": request.client is not None})


async def refuse(request: Request) -> Answer:
    """A refusal, of a WebSocket too."""
    return reject(number(request, "status", 401), {"WWW-Authenticate": "Basic", "X-Why": "because"}, "not you\n")


async def raising(request: Request) -> Answer:
    """An exception before the head."""
    raise ZeroDivisionError("this is what the test asked for")


async def torn(request: Request) -> Answer:
    """An exception after the head."""
    async with with_channel(request, streaming=True) as channel:
        channel.on_close(lambda status: closed(channel, status))
        await channel.send("half\n")
        await channel.flush()
        raise ZeroDivisionError("this is what the test asked for")


async def torn_body(request: Request) -> Answer:
    """An exception inside a streamed body."""

    async def pieces() -> AsyncIterator[str]:
        yield "half\n"
        raise ZeroDivisionError("this is what the test asked for")

    return Response(200, {}, pieces())


async def long(request: Request) -> Answer:
    """A handler that takes its time, without a channel."""
    note(key(request), "begun")
    try:
        await anyio.sleep(float(request.query_params.get("seconds", "60")))
    except BaseException as error:
        note(key(request), type(error).__name__)
        raise
    note(key(request), "done")
    return "done"


async def scheduled(request: Request) -> Answer:
    """A task that runs after its request is over."""
    schedule_task(0.05, note, key(request), "ran")
    return "scheduled"


# -- the record --------------------------------------------------------------------------------------------------------


async def told(request: Request) -> Answer:
    """How channels ended, and what was noted."""
    return Response(
        200,
        {"Content-Type": "application/json"},
        json.dumps({"ends": ends.get(key(request), []), "notes": notes.get(key(request), [])}),
    )


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def memory(request: Request) -> Answer:
    """The resident size of this process, in bytes."""
    gc.collect()
    return str(resident())


async def drain(request: Request) -> Answer:
    """The pre-stop hook of a parent application, as a task: a handler of ours must not wait for it."""
    schedule_task(0, channels.drain)
    return "draining"


async def only_get(request: Request) -> Answer:
    return "get" if request.method in ("GET", "HEAD") else reject(405, {"Allow": "GET, HEAD"})


HANDLERS: dict[str, Callable[[Request], Awaitable[Answer]]] = {
    "big": big,
    "closing": closing,
    "cookies": cookies,
    "count": count,
    "deaf": deaf,
    "drain": drain,
    "early": early,
    "echo": echo,
    "failing": failing,
    "file": file,
    "finish": finish,
    "flood": flood,
    "get": only_get,
    "group": group,
    "held": held,
    "info": info,
    "long": long,
    "memory": memory,
    "payloads": payloads,
    "ping": ping,
    "raising": raising,
    "refuse": refuse,
    "release": release,
    "say": say,
    "scheduled": scheduled,
    "status": status,
    "stream": stream,
    "told": told,
    "torn": torn,
    "torn-body": torn_body,
}


async def handler(request: Request) -> Any:
    """The endpoint that the first part of the path names."""
    chosen = HANDLERS.get(request.path.split("/")[1])
    return None if chosen is None else await chosen(request)


def hold_lifeline(port: int) -> None:
    """End with the tests, even when they are killed: no host may be left behind, in a flood least of all."""
    with socket.create_connection(("127.0.0.1", port)) as lifeline:
        lifeline.recv(1)
    os._exit(1)


if "HOSTS_LIFELINE" in os.environ:
    threading.Thread(target=hold_lifeline, args=(int(os.environ["HOSTS_LIFELINE"]),), daemon=True).start()

channels = ASGIApp(handler, max_ws=MAX_WS, max_body=MAX_BODY)


async def parent_drains(request: Any) -> PlainTextResponse:
    """A pre-stop hook in the parent application: answers when all is over."""
    await channels.drain()
    return PlainTextResponse("drained")


starlette = Starlette(routes=[Route("/starlette/pre-stop", parent_drains), Mount("/starlette/chat", app=channels)])

site = FastAPI(lifespan=channels.lifespan)
site.mount("/fastapi/chat", channels)
site.add_route("/pre-stop", parent_drains)


async def app(scope: Scope, receive: Any, send: Any) -> None:
    """Ours at the root, with the lifespan of the host, and inside two frameworks."""
    path = scope.get("path", "")
    root = scope.get("root_path", "")
    below = path.removeprefix(root)
    target: Any = starlette if below.startswith("/starlette/") else site if below.startswith("/fastapi/") else channels
    await target(scope, receive, send)


async def _serve(backend: str, port: int, asgi: bool) -> None:
    if asgi:
        await serve(ASGIHandler(app), port=port, max_ws=MAX_WS, max_body=MAX_BODY)
    else:
        await serve(handler, port=port, max_ws=MAX_WS, max_body=MAX_BODY)


if __name__ == "__main__":
    kind, backend, port = sys.argv[1:]
    anyio.run(_serve, backend, int(port), kind == "asgi", backend=backend)
