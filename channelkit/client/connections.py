"""The client machine's actions on the network: requests, responses, WebSockets; each a task that a Drop ends."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup
from wsproto.events import CloseConnection

from channelkit.client.address import Address
from channelkit.client.channel import ClientChannel
from channelkit.client.errors import ConnectFailed
from channelkit.client.http import FAILURES, Dial, HttpAnswer, HttpClient
from channelkit.client.websocket import ENGINE_FAILURES, ClientWebSocket, HandshakeRefused
from channelkit.errors import BadMessage
from channelkit.session.actions import Attach, Create, Delete, Drop, Kind, Open, Post, Write
from channelkit.session.codec import (
    EventFrames,
    LineFrames,
    decode_answer,
    decode_websocket,
    encode_line,
    encode_websocket,
    line_limit,
    read_server_hello,
)
from channelkit.session.frames import ClientHello
from channelkit.session.refusals import read_close_reason
from channelkit.wire import ndjson

WAYS = {Kind.POLL: "poll", Kind.STREAM: "stream", Kind.EVENTS: "events"}
NDJSON = (("Content-Type", "application/x-ndjson"),)
#: Whoever says it, with whatever body: the same batch will never pass.
TOO_LARGE = 413
#: Close codes that are refusals: 4000 and a status (docs/protocol.md).
REFUSED = range(4400, 4600)


class Connections:
    """`channel.Links` over real connections."""

    def __init__(
        self,
        channel: ClientChannel,
        tasks: TaskGroup,
        address: Address,
        dial: Dial,
        http: HttpClient,
        headers: tuple[tuple[str, str], ...],
    ) -> None:
        self._channel = channel
        self._machine = channel.machine
        self._tasks = tasks
        self._address = address
        self._dial = dial
        self._headers = headers  # of the WebSockets' handshakes
        self._http = http
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._sockets: dict[int, ClientWebSocket] = {}

    def act(self, action: Any) -> None:
        """`Links`."""
        if isinstance(action, Write):
            if (socket := self._sockets.get(action.attachment)) is not None:
                for frame in action.frames:
                    socket.write(encode_websocket(frame))
        elif isinstance(action, Drop):
            if (scope := self._scopes.pop(action.attachment, None)) is not None:
                scope.cancel()
        elif isinstance(action, Attach):
            if action.kind is Kind.WEBSOCKET:
                self._greet(action)
            else:
                self._spawn(action.attachment, self._get, action)
        elif isinstance(action, Open):
            self._spawn(action.attachment, self._websocket, action)
        elif isinstance(action, Post):
            self._tasks.start_soon(self._post, action)
        elif isinstance(action, Create):
            self._tasks.start_soon(self._create, action)
        elif isinstance(action, Delete):
            self._tasks.start_soon(self._delete, action)

    def _spawn(self, attachment: int, work: Callable[..., Awaitable[None]], action: Any) -> None:
        scope = self._scopes[attachment] = anyio.CancelScope()

        async def run() -> None:
            with scope:
                await work(action)
            self._scopes.pop(attachment, None)

        self._tasks.start_soon(run)

    def _authorized(self) -> list[tuple[str, str]]:
        secret = self._machine.secret
        return [] if secret is None else [("Authorization", f"Bearer {secret}")]

    def _unreachable(self, error: Exception) -> None:
        """The very first try: whoever mistyped the address learns it now, not after a grace of retries."""
        if self._machine.had_hello:
            return
        if isinstance(error, ssl.SSLCertVerificationError):
            text = f"the certificate of {self._address.origin} is not to be trusted: {error.verify_message}"
            self._fail(f"{text}; with an authority of your own give ssl=ssl.create_default_context(cafile=...)")
        elif isinstance(error, ssl.SSLError):
            what = (error.reason or str(error)).lower().replace("_", " ")
            self._fail(f"no TLS with {self._address.origin}: {what}; is it an https port?")
        elif isinstance(error, OSError):
            self._fail(f"cannot reach {self._address.origin}: {error.strerror or error}; does the server run there?")

    def _not_there(self, status: int, code: str | None) -> None:
        """Instead of a session came this answer: one that will not change is told now, any other at the end."""
        answered = f"{self._address.origin}{self._address.base} answered {status}{f' {code}' if code else ''}"
        if status >= 500 or status == 429 or (status < 400 and self._machine.sid is not None):
            self._channel.trouble = answered  # also a gate of the network, before a session that waits behind it
        elif not self._machine.had_hello:
            self._fail(f"{answered}; is that the URL of an Endpoint?")

    def _fail(self, text: str) -> None:
        self._channel.failure = ConnectFailed(text)
        self._channel.wake()

    # -- requests

    async def _create(self, action: Create) -> None:
        hello, retry_after = None, 0.0
        try:
            with anyio.fail_after(self._machine.config.open_timeout):
                async with self._http.request("POST", self._address.target(None, a=action.a)) as answer:
                    body = await answer.body()
            if answer.status == 201:
                hello = read_server_hello(ndjson.loads(body.decode()))
            else:
                retry_after = answer.retry_after
                self._not_there(answer.status, decode_answer(body)[0])
        except TimeoutError:
            self._channel.trouble = f"{self._address.origin} did not answer in time"
        except FAILURES as error:
            self._unreachable(error)
        except (BadMessage, ValueError):
            self._fail(f"{self._address.origin}{self._address.base} is not a session endpoint that this client knows")
        now = anyio.current_time()
        do, machine = self._channel.do, self._machine
        do(machine.created(hello, now) if hello is not None else machine.create_failed(now, retry_after))

    async def _delete(self, action: Delete) -> None:
        try:
            target = self._address.target(self._machine.sid, a=action.a)
            async with self._http.request("DELETE", target, self._authorized()) as answer:
                await answer.body()
        except FAILURES:
            return  # nobody waits for it; the grace ends the session too

    async def _post(self, action: Post) -> None:
        target = self._address.target(self._machine.sid, a=action.a, ack=action.ack)
        body = b"".join(map(encode_line, action.frames))
        machine = self._machine
        status, code, ack, retry_after = 0, None, None, 0.0
        try:
            with anyio.fail_at(machine.uplink.until + 1):  # the machine has given it up by then
                async with self._http.request("POST", target, [*self._authorized(), *NDJSON], body) as answer:
                    code, ack = decode_answer(await answer.body())
            status, retry_after = answer.status, answer.retry_after
        except (*FAILURES, TimeoutError):
            pass
        now = anyio.current_time()
        if status == TOO_LARGE:
            code = code or "size"
        if (status == 200 and ack is not None) or code is not None:
            self._channel.do(machine.posted(action.number, status, code, ack, now, retry_after))
        else:
            self._channel.do(machine.post_failed(action.number, now))  # none, cut, or a proxy's own

    async def _get(self, action: Attach) -> None:
        query: dict[str, object] = {"a": action.a, "ack": action.ack}
        if action.kind is Kind.POLL:
            query["wait"] = f"{action.wait:g}"
        target = self._address.target(self._machine.sid, WAYS[action.kind], **query)
        clean = False
        try:
            async with self._http.request("GET", target, self._authorized()) as answer:
                clean = await self._answered(action, answer)
        except FAILURES:
            pass
        except BadMessage:
            pass  # not our protocol: attach again
        self._channel.do(self._machine.ended(action.attachment, anyio.current_time(), clean=clean))

    async def _answered(self, action: Attach, answer: HttpAnswer) -> bool:
        """One answer to its end; whether it was whole, and the server's."""
        if answer.status == 200:
            return await self._frames(action, answer)
        body = await answer.body()
        if answer.status == 204 and action.kind is Kind.POLL:
            return True
        status = answer.status
        code, ack = decode_answer(body)
        if status == 204:
            status, code, ack = await self._reason(action)
        if code is not None:
            now = anyio.current_time()
            self._channel.do(self._machine.refused(action.attachment, status, code, ack, now, answer.retry_after))
        return False

    async def _reason(self, action: Attach) -> tuple[int, str | None, int | None]:
        """An event stream that is over, or another's now, is refused by one 204: a batch of nothing is told which."""
        target = self._address.target(self._machine.sid, a=action.a, ack=action.ack)
        async with self._http.request("POST", target, [*self._authorized(), *NDJSON], b"") as answer:
            return answer.status, *decode_answer(await answer.body())

    async def _frames(self, action: Attach, answer: HttpAnswer) -> bool:
        """Whether any came."""
        came = False
        limit = self._machine.terms.max_message
        reader: EventFrames | LineFrames = (
            EventFrames(limit) if action.kind is Kind.EVENTS else LineFrames(limit, read_server_hello)
        )
        async for chunk in answer.chunks():
            self._machine.heard(action.attachment, anyio.current_time())
            for frame in reader.feed(chunk):
                came = True
                self._channel.do(self._machine.received(action.attachment, frame, anyio.current_time()))
            self._channel.pull()
        return came

    # -- WebSockets

    async def _websocket(self, action: Open) -> None:
        refusal: tuple[int, str, int | None] | None = None
        clean = False
        try:
            stream = await self._dial()
            try:
                close = await self._attached(action.attachment, stream)
                clean = close.code == 1000
                if close.code in REFUSED:
                    refusal = (close.code - 4000, *read_close_reason(close.reason or ""))
            finally:
                self._sockets.pop(action.attachment, None)
                await anyio.aclose_forcefully(stream)
        except HandshakeRefused as error:
            self._not_there(error.status, None)
        except FAILURES as error:
            self._unreachable(error)
        except (*ENGINE_FAILURES, BadMessage):
            pass
        except BaseExceptionGroup as group:  # the writer's, of a connection that broke
            if group.split((*FAILURES, *ENGINE_FAILURES, BadMessage))[1] is not None:
                raise
        now = anyio.current_time()
        if refusal is not None:
            self._channel.do(self._machine.refused(action.attachment, *refusal, now))
        self._channel.do(self._machine.ended(action.attachment, now, clean=clean))

    async def _attached(self, attachment: int, stream: Any) -> CloseConnection:
        """From the handshake to the server's close."""
        machine = self._machine
        socket = ClientWebSocket(stream, line_limit(machine.terms.max_message))
        target = self._address.target(machine.sid, "ws")
        await socket.open(self._address.host, target, self._headers)
        self._sockets[attachment] = socket
        socket.heard = lambda: machine.heard(attachment, anyio.current_time())
        self._channel.do(machine.opened(attachment, anyio.current_time()))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(socket.run_writer)
            close = await self._until_close(attachment, socket)
            tasks.cancel_scope.cancel()
            return close
        raise AssertionError(
            "unreachable"
        )  # nothing but the writer's failure leaves the group otherwise, and it raises

    async def _until_close(self, attachment: int, socket: ClientWebSocket) -> CloseConnection:
        machine = self._machine
        while True:
            message = await socket.receive()
            if isinstance(message, CloseConnection):
                return message
            frame = decode_websocket(message, machine.terms.max_message)
            if frame is not None:
                self._channel.do(machine.received(attachment, frame, anyio.current_time()))
                socket.limit = line_limit(machine.terms.max_message)  # the first hello may have told another
                self._channel.pull()

    def _greet(self, action: Attach) -> None:
        """The client's hello, the first frame of a WebSocket."""
        machine = self._machine
        hello = ClientHello(action.a, action.ack, machine.sid, machine.secret)
        if (socket := self._sockets.get(action.attachment)) is not None:
            socket.write(encode_websocket(hello))
