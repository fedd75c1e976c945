"""Requests over HTTP/1.1: h11 as engine, anyio streams below, connections kept for the next request."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import anyio
import h11
from anyio.abc import ByteStream

from channelkit.client.address import Address

Dial = Callable[[], Awaitable[ByteStream]]
#: Everything that a connection can fail with, and a peer that does not speak HTTP.
FAILURES = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, h11.ProtocolError)
#: The longest answer that is read whole; a session's are some hundred bytes.
MAX_ANSWER = 1 << 16
KEPT = 4
#: A request of so many bytes goes out before its answer is looked for.
AT_ONCE = 1 << 16


def dialer(address: Address, context: ssl.SSLContext | None = None) -> Dial:
    """How to reach `address`: TCP, or TLS with the system's authorities, or as `context` has it."""

    async def dial() -> ByteStream:
        if not address.secure:
            return await anyio.connect_tcp(address.name, address.port)
        # The end of TCP without close_notify is no error: every answer and every frame says itself where it ends.
        return await anyio.connect_tcp(
            address.name, address.port, tls=True, ssl_context=context, tls_standard_compatible=False
        )

    return dial


class _Connection:
    __slots__ = ("broken", "engine", "stream", "used")

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.engine = h11.Connection(h11.CLIENT)
        self.used = False
        self.broken = False  # not everything was sent

    async def send_large(self, data: bytes) -> None:
        """Send as much as the peer takes; what it answers says the rest."""
        self.broken = True
        try:
            await self.stream.send(data)
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return
        self.broken = False

    async def event(self) -> h11.Event:
        while (event := self.engine.next_event()) is h11.NEED_DATA:
            try:
                self.engine.receive_data(await self.stream.receive())
            except anyio.EndOfStream:
                self.engine.receive_data(b"")
        assert isinstance(event, h11.Event), event
        return event


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The head of a response, and its body as it comes."""

    status: int
    headers: dict[str, str]
    _connection: _Connection

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body; raises one of FAILURES if it is cut."""
        while isinstance(event := await self._connection.event(), h11.Data):
            yield bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise h11.RemoteProtocolError("the response was cut")

    async def body(self) -> bytes:
        """The whole body."""
        body = b""
        async for chunk in self.chunks():
            body += chunk
            if len(body) > MAX_ANSWER:
                raise h11.RemoteProtocolError("an answer longer than any of a session's")
        return body

    @property
    def retry_after(self) -> float:
        """Seconds, as the server asked."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0


class HttpClient:
    """Requests to one host, inside its `async with`.  Any number at once; each has a connection of its own."""

    def __init__(self, dial: Dial, host: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        self._dial = dial
        self._headers = [("Host", host), *headers]
        self._idle: list[_Connection] = []

    @asynccontextmanager
    async def request(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> AsyncIterator[HttpAnswer]:
        """Send a request; the answer is read inside.  Leaving before its end drops the connection.

        A kept connection that turns out to be closed is replaced by a fresh one: every request here may be repeated.
        """
        fields = [*self._headers, *headers]
        if method == "POST":
            fields.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=target, headers=fields)
        connection = self._idle.pop() if self._idle else _Connection(await self._dial())
        try:
            try:
                answer = await _exchange(connection, request, body)
            except FAILURES:
                if not connection.used:
                    raise
                await anyio.aclose_forcefully(connection.stream)
                connection = _Connection(await self._dial())
                answer = await _exchange(connection, request, body)
            yield answer
        finally:
            await self._release(connection)

    async def _release(self, connection: _Connection) -> None:
        engine = connection.engine
        if (
            not connection.broken
            and engine.our_state is h11.DONE
            and engine.their_state is h11.DONE
            and len(self._idle) < KEPT
        ):
            engine.start_next_cycle()
            connection.used = True
            self._idle.append(connection)
        else:
            await anyio.aclose_forcefully(connection.stream)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the kept connections, whatever happened; no request may be under way."""
        with anyio.CancelScope(shield=True):
            while self._idle:
                await anyio.aclose_forcefully(self._idle.pop().stream)


async def _exchange(connection: _Connection, request: h11.Request, body: bytes) -> HttpAnswer:
    engine = connection.engine
    events = (request, *([h11.Data(data=body)] if body else []), h11.EndOfMessage())
    data = b"".join(engine.send(event) or b"" for event in events)
    if len(data) <= AT_ONCE:
        await connection.stream.send(data)
        return await _head(connection)
    return await _sent_meanwhile(connection, data)


async def _sent_meanwhile(connection: _Connection, data: bytes) -> HttpAnswer:
    """The answer may come while we still send: a body that is too large is refused, and not read to its end."""
    answer: HttpAnswer | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.send_large, data)
        try:
            answer = await _head(connection)
        except FAILURES as error:
            failure = error
        tasks.cancel_scope.cancel()
    if answer is None:
        assert failure is not None
        raise failure
    return answer


async def _head(connection: _Connection) -> HttpAnswer:
    while not isinstance(event := await connection.event(), h11.Response):
        if not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("closed without an answer")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
    return HttpAnswer(event.status_code, headers, connection)
