"""A host that is nothing but two functions: what an application sends is kept, what it receives is said by the test."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

from channelkit import ASGIApp
from channelkit.testing.asgi_rules import checked


class Call:
    """One scope that an application serves."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.sent: list[dict[str, Any]] = []
        self.error: BaseException | None = None
        self.gone = False  # the application was told that its client is
        self.returned = anyio.Event()
        self.cancel_scope = anyio.CancelScope()
        self.refuses: dict[str, Exception] = {}  # by type
        self.blocked: str | None = None  # `send` waits with messages of this type, as under a client that does not read
        self._say, self._heard = anyio.create_memory_object_stream[dict[str, Any]](100)
        self._news = anyio.Event()

    async def run(self, app: Any) -> None:
        """What a host's task does."""
        with self._say, self._heard, self.cancel_scope:
            try:
                await checked(app, [])(self.scope, self._heard.receive, self._send)
            except Exception as error:
                self.error = error
        self.returned.set()
        self._news.set()

    async def _send(self, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        if message["type"] in self.refuses:
            raise self.refuses[message["type"]]
        while self.blocked is not None and message["type"].endswith(self.blocked):
            await self._wait()
        self.sent.append(dict(message))
        if message["type"] == "websocket.close" and not self.returned.is_set():
            self.say("websocket.disconnect", code=1006)  # as hosts do, also when it was a refusal
        self._news.set()

    async def _wait(self) -> None:
        self._news = anyio.Event()
        await self._news.wait()

    def say(self, kind: str, **fields: Any) -> None:
        """Something comes from the client, or of it."""
        self.gone = self.gone or kind.endswith("disconnect")
        self._say.send_nowait({"type": kind, **fields})

    async def until(self, condition: Callable[[list[dict[str, Any]]], Any]) -> None:
        """Wait for what the application sends; virtual time, so a mistake is a deadlock that is told."""
        while not condition(self.sent):
            assert not self.returned.is_set(), f"it returned after {self.sent}, {self.error}"
            await self._wait()

    @property
    def status(self) -> int | None:
        return next((one["status"] for one in self.sent if one["type"].endswith(".start")), None)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return next((dict(one["headers"]) for one in self.sent if "headers" in one), {})

    @property
    def body(self) -> bytes:
        return b"".join(one["body"] for one in self.sent if one["type"].endswith(".body"))

    @property
    def complete(self) -> bool:
        return any(one.get("more_body") is False for one in self.sent)


Calling = Callable[..., AbstractAsyncContextManager[Call]]


@asynccontextmanager
async def calling(app: ASGIApp, kind: str = "http", path: str = "/", **scope: Any) -> Any:
    """`app` serves a scope while the block lasts; a WebSocket has connected, a request has no body."""
    given: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"test")],
        **scope,
    }
    if kind == "http":
        given.setdefault("method", "GET")
    call = Call(given)
    if kind == "websocket":
        given.setdefault("subprotocols", [])
        call.say("websocket.connect")
    elif kind == "http" and given["method"] in ("GET", "HEAD"):
        call.say("http.request", body=b"", more_body=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.run, app)
        try:
            yield call
        finally:
            if not call.returned.is_set() and not call.gone:
                call.say("websocket.disconnect" if kind == "websocket" else "http.disconnect")
            with anyio.move_on_after(60) as patience:
                await call.returned.wait()
            assert not patience.cancelled_caught, "the application does not return when its client has gone"


@pytest.fixture(name="calling")
def calling_fixture() -> Calling:
    return calling
