"""One site of Starlette and FastAPI, served three times: by uvicorn, and by our server on asyncio and on trio."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

import anyio
import anyio.lowlevel
import pytest
import uvicorn
from fastapi import BackgroundTasks, Depends, FastAPI, Form, HTTPException, Response, UploadFile
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from starlette.responses import Response as StarletteResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from channelkit import ASGIHandler, run_server

PATIENCE = 10.0
MODIFIED = 1_700_000_000  # seconds: so that validators are the same for every server

Seen = list[Any]


class State(TypedDict):
    started: bool


class Item(BaseModel):
    name: str
    price: float


class Pieces:
    """No generator: Starlette leaves those of a HEAD request to the garbage collector, which warns."""

    def __init__(self) -> None:
        self._numbers = iter(range(5))

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        await anyio.lowlevel.checkpoint()
        number = next(self._numbers, None)
        if number is None:
            raise StopAsyncIteration
        return f"piece {number}\n"


class Site:
    """The application, and what it has seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: Seen = []
        self.lives: list[str] = []
        self.app = Starlette(routes=[*self.pages(), *self.sockets(), *self.mounts()], lifespan=self.lifespan)

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[State]:
        self.lives.append("up")
        yield {"started": True}
        self.lives.append("down")

    # -- Starlette, HTTP

    def pages(self) -> list[Route]:
        return [
            Route("/plain", lambda request: PlainTextResponse("plain")),
            Route("/html", lambda request: HTMLResponse("<p>€</p>", headers={"X-One": "1"})),
            Route("/json", lambda request: JSONResponse({"a": ["b", None]})),
            Route("/empty", lambda request: StarletteResponse(status_code=204)),
            Route("/unchanged", lambda request: StarletteResponse(status_code=304, headers={"ETag": '"x"'})),
            Route("/teapot", lambda request: PlainTextResponse("short and stout", status_code=418)),
            Route("/redirect", lambda request: RedirectResponse("/plain?x=€")),
            Route("/cookies", self.cookies),
            Route("/scope", self.scope),
            Route("/state", lambda request: JSONResponse(request.state.started)),
            Route("/slash/", lambda request: PlainTextResponse("slash")),
            Route("/stream", lambda request: StreamingResponse(self.pieces(), media_type="text/plain")),
            Route("/stream-sync", lambda request: StreamingResponse(iter(["a", "b" * 70_000, "c"]))),
            Route("/stream-nothing", lambda request: StreamingResponse(iter(()))),
            Route("/stream-fails", lambda request: StreamingResponse(self.failing())),
            Route("/events", self.events),
            Route("/watched", self.watched),
            Route("/raise", self.raises),
            Route("/raise-http", self.raises_http),
            Route("/echo", self.echo, methods=["POST", "PUT"]),
            Route("/echo-pieces", self.echo_pieces, methods=["POST"]),
            Route("/unread", lambda request: PlainTextResponse("unread"), methods=["POST"]),
            Route("/form", self.form, methods=["POST"]),
            Route("/background", self.background),
            Route("/file", lambda request: FileResponse(self.folder / "data.bin", filename="däta.bin")),
            Route("/gone-file", lambda request: FileResponse(self.folder / "none")),
            Route("/endpoint", Endpoint),
            Route("/raw/{way}", Raw()),
        ]

    async def cookies(self, request: Request) -> StarletteResponse:
        response = JSONResponse(request.cookies)
        response.set_cookie("one", "1")
        response.set_cookie("two", "2", httponly=True)
        return response

    async def scope(self, request: Request) -> StarletteResponse:
        scope = request.scope
        told = {key: repr(scope[key]) for key in ("type", "asgi", "http_version", "method", "scheme", "root_path")}
        told |= {key: repr(scope[key]) for key in ("path", "raw_path", "query_string", "headers")}
        return JSONResponse(told | {"client": scope["client"][0], "server": scope["server"][0]})

    def pieces(self) -> AsyncIterator[str]:
        return Pieces()

    async def failing(self) -> AsyncIterator[str]:
        yield "first"
        await anyio.sleep(0.02)  # so that the head is on its way
        raise RuntimeError("in the middle of a stream")

    async def events(self, request: Request) -> StarletteResponse:
        ended = BackgroundTask(self.seen.append, "events ended")
        return StreamingResponse(Events(), media_type="text/event-stream", background=ended)

    async def watched(self, request: Request) -> StarletteResponse:
        while not await request.is_disconnected():
            await anyio.sleep(0.005)
        self.seen.append("client gone")
        return PlainTextResponse("to nobody")

    async def raises(self, request: Request) -> StarletteResponse:
        raise RuntimeError("a page that raises")

    async def raises_http(self, request: Request) -> StarletteResponse:
        raise HTTPException(402, "pay first", {"X-Price": "1"})

    async def echo(self, request: Request) -> StarletteResponse:
        return StarletteResponse(await request.body(), media_type=request.headers.get("content-type"))

    async def echo_pieces(self, request: Request) -> StarletteResponse:
        body = b""
        async for piece in request.stream():
            body += piece
        return StarletteResponse(body)

    async def form(self, request: Request) -> StarletteResponse:
        async with request.form() as form:
            told: dict[str, Any] = {}
            for name, value in form.multi_items():
                told[name] = value if isinstance(value, str) else [value.filename, len(await value.read())]
            return JSONResponse(told)

    async def background(self, request: Request) -> StarletteResponse:
        return PlainTextResponse("at once", background=BackgroundTask(self.later))

    async def later(self) -> None:
        await anyio.sleep(0.01)
        self.seen.append("background")

    # -- Starlette, WebSocket

    def sockets(self) -> list[WebSocketRoute]:
        return [
            WebSocketRoute("/ws/echo", self.ws_echo),
            WebSocketRoute("/ws/chosen", self.ws_chosen),
            WebSocketRoute("/ws/close/{code:int}", self.ws_close),
            WebSocketRoute("/ws/refuse", self.ws_refuse),
            WebSocketRoute("/ws/deny", self.ws_deny),
            WebSocketRoute("/ws/deny-http", self.ws_deny_http),
            WebSocketRoute("/ws/raise-before", self.ws_raise_before),
            WebSocketRoute("/ws/raise-after", self.ws_raise_after),
            WebSocketRoute("/ws/return", self.ws_return),
            WebSocketRoute("/ws/return-before", self.ws_return_before),
            WebSocketRoute("/ws/scope", self.ws_scope),
        ]

    async def ws_echo(self, websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message["code"], message.get("reason"))
                await websocket.send({**message, "type": "websocket.send"})
        except WebSocketDisconnect as end:
            self.seen.append([end.code, end.reason])

    async def ws_chosen(self, websocket: WebSocket) -> None:
        wanted = websocket.query_params.get("take")
        await websocket.accept(wanted, [(b"x-own", b"1"), (b"set-cookie", b"a=b"), (b"set-cookie", b"c=d")])
        await websocket.send_json(websocket.scope["subprotocols"])
        await websocket.close()

    async def ws_close(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("before")
        await websocket.close(websocket.path_params["code"], websocket.query_params.get("reason"))

    async def ws_refuse(self, websocket: WebSocket) -> None:
        await websocket.close(4000, "not you")

    async def ws_deny(self, websocket: WebSocket) -> None:
        await websocket.receive()
        await websocket.send_denial_response(JSONResponse({"why": "closed"}, status_code=401, headers={"X-Why": "a"}))

    async def ws_deny_http(self, websocket: WebSocket) -> None:
        raise HTTPException(403, "not for you")

    async def ws_raise_before(self, websocket: WebSocket) -> None:
        raise RuntimeError("before accept")

    async def ws_raise_after(self, websocket: WebSocket) -> None:
        await websocket.accept()
        raise RuntimeError("after accept")

    async def ws_return(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("that was all")

    async def ws_return_before(self, websocket: WebSocket) -> None:
        return

    async def ws_scope(self, websocket: WebSocket) -> None:
        await websocket.accept()
        scope = websocket.scope
        told = {key: repr(scope[key]) for key in ("type", "asgi", "http_version", "scheme", "root_path", "extensions")}
        told |= {key: repr(scope[key]) for key in ("path", "raw_path", "query_string", "subprotocols")}
        await websocket.send_json(told | {"state": websocket.state.started})
        await websocket.close()

    # -- applications inside it

    def mounts(self) -> list[Mount]:
        pages = [
            Route("/page", lambda request: PlainTextResponse(f"{request.url.path} {request.scope['root_path']}")),
            Route("/stream", lambda request: StreamingResponse(self.pieces())),
            Route("/raise", self.raises),
            Route("/stream-fails", lambda request: StreamingResponse(self.failing())),
            Route("/echo", self.echo, methods=["POST"]),
            Route("/large", lambda request: PlainTextResponse("large " * 1000)),
        ]
        return [
            Mount("/sub", routes=pages),
            Mount("/wrapped", routes=pages, middleware=[Middleware(BaseHTTPMiddleware, dispatch=stamp)]),
            Mount("/zipped", routes=pages, middleware=[Middleware(GZipMiddleware)]),
            Mount("/static", StaticFiles(directory=self.folder, html=True)),
            Mount("/api", fast_api(self.seen)),
        ]


class Events:
    """An endless stream; no generator, which a Starlette that is cancelled in `send` leaves to be collected."""

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> str:
        await anyio.sleep(0.005)
        return "data: x\n\n"


async def stamp(request: Request, call_next: Callable[[Request], Any]) -> StarletteResponse:
    """A middleware that reads what passes and adds a header."""
    if request.method == "POST":
        await request.body()
    response: StarletteResponse = await call_next(request)
    response.headers["X-Stamp"] = "1"
    return response


class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> StarletteResponse:
        return PlainTextResponse("endpoint")


class Raw:
    """Plain ASGI, right and wrong, by the way of the path."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        way = scope["path_params"]["way"]
        start = {"type": "http.response.start", "status": 200, "headers": []}
        if way == "nothing":
            return
        if way in ("long", "short"):
            start["headers"] = [(b"content-length", b"5")]
            await send(start)
            await send({"type": "http.response.body", "body": b"abc", "more_body": True})
            await anyio.sleep(0.02)  # so that this much is on its way
            await send({"type": "http.response.body", "body": b"defg" if way == "long" else b""})
            return
        if way == "body-first":
            await send({"type": "http.response.body", "body": b"abc"})
        await send(start)
        if way == "head-only":
            return
        if way == "raise":
            raise RuntimeError("between head and body")
        await send({"type": "http.response.body", "body": b"abc", "more_body": way == "unfinished"})
        if way == "twice":
            await send({"type": "http.response.body", "body": b"abc"})


def fast_api(seen: Seen) -> FastAPI:
    """A FastAPI application that uses what FastAPI has."""
    api = FastAPI()

    async def resource() -> AsyncIterator[str]:
        yield "resource"
        seen.append("resource closed")

    @api.get("/items/{number}")
    async def read_item(number: int, q: str = "none", response: Response = None) -> Any:  # type: ignore[assignment]
        response.headers["X-Number"] = str(number)
        return {"number": number, "q": q}

    @api.get("/sync")
    def synchronous() -> str:
        return threading.current_thread().name.split("-", maxsplit=1)[0] and "in a thread"

    @api.post("/items", status_code=201)
    async def make_item(item: Item) -> Item:
        return item

    @api.post("/upload")
    async def upload(file: UploadFile, note: Annotated[str, Form()]) -> Any:
        return {"name": file.filename, "size": len(await file.read()), "note": note}

    @api.get("/depends")
    async def depends(tasks: BackgroundTasks, value: str = Depends(resource)) -> str:
        tasks.add_task(seen.append, "api background")
        return value

    @api.get("/raise")
    async def raises() -> None:
        raise RuntimeError("an endpoint that raises")

    @api.get("/forbidden")
    async def forbidden() -> None:
        raise HTTPException(403, {"why": "not you"})

    @api.websocket("/ws/{room}")
    async def websocket(websocket: WebSocket, room: int, q: str = "") -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{room} {q} {text}")

    return api


# -- the three servers


class Served:
    """A running server of a site of its own."""

    def __init__(self, name: str, site: Site, port: int) -> None:
        self.name = name
        self.site = site
        self.port = port

    def wait_seen(self, what: Any) -> None:
        """Wait until the site has seen `what`, and forget it."""
        deadline = time.monotonic() + PATIENCE
        while what not in self.site.seen:
            assert time.monotonic() < deadline, f"{self.name}: {what!r} was not seen, but {self.site.seen}"
            time.sleep(0.002)
        self.site.seen.remove(what)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the site."""
    import os

    folder = tmp_path_factory.mktemp("site")
    (folder / "data.bin").write_bytes(bytes(range(256)) * 1000)
    (folder / "page.txt").write_text("a page\n")
    (folder / "index.html").write_text("<p>index</p>\n")
    for path in folder.iterdir():
        os.utime(path, (MODIFIED, MODIFIED))
    return folder


@pytest.fixture
def new_site(folder: Path) -> Callable[[], Site]:
    """Makes one more site."""
    return lambda: Site(folder)


@pytest.fixture(scope="session")
def oracle(folder: Path) -> Iterator[Served]:
    """The site under uvicorn."""
    site = Site(folder)
    config = uvicorn.Config(site.app, port=0, log_level="critical", lifespan="on", ws="websockets-sansio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < deadline, "uvicorn did not start"
        time.sleep(0.002)
    yield Served("uvicorn", site, server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture(scope="session", params=["asyncio", "trio"])
def ours(request: pytest.FixtureRequest, folder: Path) -> Iterator[Served]:
    """The site under our server."""
    site = Site(folder)
    server = run_server(ASGIHandler(site.app), port=0, backend=request.param)
    yield Served(request.param, site, server.port)
    server.stop(timeout=1)
    assert server.connections == 0
    assert site.lives == ["up", "down"]
