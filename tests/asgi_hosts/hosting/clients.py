"""Clients that see what is on the wire: HTTP/1.1 by h11, HTTP/2 by h2, WebSockets on both by wsproto.

They block, one thread a client.  What is not read is not acknowledged, so a client that does not read is one.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import h11
from wsproto import ConnectionType
from wsproto.connection import Connection as Frames
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

PATIENCE = 5.0  # seconds until a test gives up; none of them waits that long
READ = 65536

HeaderPairs = Iterable[tuple[str, str]]


class Cut(Exception):
    """A response ended, and not as it should."""


class Refused(Exception):
    """A WebSocket handshake was answered with a response."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"refused with {reply.status}")
        self.reply = reply


class Closed(NamedTuple):
    """How a WebSocket ended; 1006 without a close frame, 1005 without a code."""

    code: int
    reason: str


@dataclass
class Reply:
    """A response: its head, and the body once it was read."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def get(self, name: str) -> str | None:
        """The value of a field that may be there once."""
        values = self.getlist(name)
        assert len(values) < 2, self.headers
        return values[0] if values else None

    def getlist(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Exchange(ABC):
    """One request on its way, and its response."""

    @abstractmethod
    def send(self, data: bytes, *, end: bool = False) -> None:
        """A part of the request's body."""

    @abstractmethod
    def head(self) -> Reply:
        """Wait for the head of the response."""

    @abstractmethod
    def read(self) -> bytes:
        """Wait for a part of the response's body; empty at its proper end.  Raises Cut at any other."""

    def rest(self) -> bytes:
        """What is left of the body, up to its proper end."""
        parts = []
        while part := self.read():
            parts.append(part)
        return b"".join(parts)

    def reply(self) -> Reply:
        """The whole response."""
        reply = self.head()
        reply.body = self.rest()
        return reply

    def until(self, end: bytes) -> bytes:
        """The body up to and with `end`, which is the end of what has come."""
        data = b""
        while not data.endswith(end):
            part = self.read()
            assert part, f"the body ended after {data!r}"
            data += part
        return data


class Client(ABC):
    """One connection."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.connect(("127.0.0.1", port))
        except OSError:
            self.sock.close()
            raise
        self.authority = f"127.0.0.1:{port}"

    @abstractmethod
    def request(
        self, method: str, path: str, headers: HeaderPairs = (), body: bytes | None = None, *, end: bool = True
    ) -> Exchange:
        """Send a request, whole unless `end` is False."""

    @abstractmethod
    def websocket(self, path: str, headers: HeaderPairs = (), subprotocols: Sequence[str] = ()) -> WebSocket:
        """Open a WebSocket.  Raises Refused."""

    def ask(self, method: str, path: str, headers: HeaderPairs = (), body: bytes | None = None) -> Reply:
        """Send a request and read its response."""
        return self.request(method, path, headers, body).reply()

    def get(self, path: str, headers: HeaderPairs = ()) -> Reply:
        return self.ask("GET", path, headers)

    def reset(self) -> None:
        """Vanish with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


class WebSocket:
    """An open WebSocket, over a connection or over a stream of HTTP/2."""

    def __init__(self, reply: Reply, early: bytes) -> None:
        self.reply = reply
        self.closed: Closed | None = None
        self._frames = Frames(ConnectionType.CLIENT)
        self._messages: deque[str | bytes] = deque()
        self._parts: list[str] | list[bytes] = []
        self._feed(early)

    def _write(self, data: bytes) -> None:
        raise NotImplementedError

    def _read(self) -> bytes:
        raise NotImplementedError

    def send(self, message: str | bytes) -> None:
        event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        self._write(self._frames.send(event))

    def receive(self) -> str | bytes:
        """The next message; fails where there is none."""
        while not self._messages:
            assert self.closed is None, f"closed with {self.closed}"
            self._more()
        return self._messages.popleft()

    def end(self) -> Closed:
        """Wait for the end; nothing may come before."""
        while self.closed is None:
            self._more()
        assert not self._messages, self._messages
        self._leave()
        return self.closed

    def close(self, code: int = 1000, reason: str | None = None) -> Closed:
        """Close and wait for the answer."""
        self._write(self._frames.send(CloseConnection(code=code, reason=reason)))
        while self.closed is None:
            self._more()
        self._leave()
        return self.closed

    def _leave(self) -> None:
        """The closing handshake is over: the server ends the connection, and the client then too (RFC 6455 7.1.1)."""

    def _more(self) -> None:
        try:
            data = self._read()
        except (ConnectionResetError, Cut):
            data = b""
        if data:
            self._feed(data)
        elif self.closed is None:
            self.closed = Closed(1006, "")

    def _feed(self, data: bytes) -> None:
        if not data:
            return
        self._frames.receive_data(data)
        for event in self._frames.events():
            if isinstance(event, Ping):
                self._answer(event.response())
            elif isinstance(event, CloseConnection):
                self.closed = Closed(event.code, event.reason or "")
                if self._frames.state.name == "REMOTE_CLOSING":
                    self._answer(event.response())
            elif isinstance(event, TextMessage | BytesMessage):
                self._message(event)

    def _answer(self, event: CloseConnection | Pong) -> None:
        try:
            self._write(self._frames.send(event))
        except (OSError, h2.exceptions.H2Error):
            pass  # the other side does not wait for it

    def _message(self, event: TextMessage | BytesMessage) -> None:
        self._parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))  # type: ignore[arg-type]
        if event.message_finished:
            parts, self._parts = self._parts, []
            self._messages.append("".join(parts) if isinstance(event, TextMessage) else b"".join(parts))  # type: ignore[arg-type]


# -- HTTP/1.1 ----------------------------------------------------------------------------------------------------------


class Http1(Client):
    """A connection of HTTP/1.1; one request after the other."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        super().__init__(port, receive_buffer)
        self.parser = h11.Connection(h11.CLIENT)

    def request(
        self, method: str, path: str, headers: HeaderPairs = (), body: bytes | None = None, *, end: bool = True
    ) -> Exchange:
        if self.parser.our_state is h11.DONE:
            self.parser.start_next_cycle()
        lines = [("Host", self.authority), *headers]
        if body is not None and not any(name.lower() == "transfer-encoding" for name, _ in lines):
            lines.append(("Content-Length", str(len(body))))
        data = self.parser.send(h11.Request(method=method, target=path, headers=lines)) or b""
        if body:
            data += self.parser.send(h11.Data(data=body)) or b""
        if end:
            data += self.parser.send(h11.EndOfMessage()) or b""
        self.sock.sendall(data)
        return _Http1Exchange(self)

    def websocket(self, path: str, headers: HeaderPairs = (), subprotocols: Sequence[str] = ()) -> WebSocket:
        lines = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
            ("Sec-WebSocket-Version", "13"),
            *headers,
        ]
        if subprotocols:
            lines.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
        exchange = self.request("GET", path, lines)
        reply = exchange.head()
        if reply.status != 101:
            reply.body = exchange.rest()
            raise Refused(reply)
        return _Http1WebSocket(self.sock, reply, self.parser.trailing_data[0])


class _Http1Exchange(Exchange):
    def __init__(self, client: Http1) -> None:
        self._client = client

    def send(self, data: bytes, *, end: bool = False) -> None:
        parser = self._client.parser
        out = (parser.send(h11.Data(data=data)) or b"") if data else b""
        if end:
            out += parser.send(h11.EndOfMessage()) or b""
        self._client.sock.sendall(out)

    def _event(self) -> object:
        parser = self._client.parser
        try:
            while (event := parser.next_event()) is h11.NEED_DATA:
                parser.receive_data(self._client.sock.recv(READ))
        except (h11.RemoteProtocolError, ConnectionResetError) as error:
            raise Cut(str(error)) from None
        return event

    def head(self) -> Reply:
        event = self._event()
        while isinstance(event, h11.InformationalResponse) and event.status_code == 100:
            event = self._event()
        if not isinstance(event, h11.Response | h11.InformationalResponse):
            raise Cut(f"no response: {event!r}")
        return Reply(event.status_code, [(n.decode(), v.decode("latin-1")) for n, v in event.headers])

    def read(self) -> bytes:
        event = self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""


class _Http1WebSocket(WebSocket):
    def __init__(self, sock: socket.socket, reply: Reply, early: bytes) -> None:
        self._sock = sock
        super().__init__(reply, early)

    def _write(self, data: bytes) -> None:
        self._sock.sendall(data)

    def _read(self) -> bytes:
        return self._sock.recv(READ)

    def _leave(self) -> None:
        try:
            while self._sock.recv(READ):
                pass
        except ConnectionResetError:
            pass
        self._sock.close()


# -- HTTP/2 ------------------------------------------------------------------------------------------------------------


@dataclass
class _Stream:
    """What has come for one stream and was not read."""

    heads: deque[Reply] = field(default_factory=deque)
    data: deque[tuple[bytes, int]] = field(default_factory=deque)  # with its weight in flow control
    ended: bool = False
    cut: str = ""


class Http2(Client):
    """A connection of HTTP/2 with prior knowledge; any number of requests at once."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        super().__init__(port, receive_buffer)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="latin-1"))
        self.streams: dict[int, _Stream] = {}
        self._settings = False
        self.h2.initiate_connection()
        self.flush()

    def request(
        self, method: str, path: str, headers: HeaderPairs = (), body: bytes | None = None, *, end: bool = True
    ) -> Exchange:
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", self.authority)]
        lines = [(name.lower(), value) for name, value in headers if name.lower() != "transfer-encoding"]
        if body is not None and len(lines) == len(list(headers)):
            lines.append(("content-length", str(len(body))))
        # Head and body leave together: hypercorn (trio) dies of a body that comes when its application has answered.
        number = self.open([*pseudo, *lines], end=end and not body, flush=not body)
        exchange = _Http2Exchange(self, number)
        if body:
            exchange.send(body, end=end)
        return exchange

    def open(self, lines: list[tuple[str, str]], *, end: bool, flush: bool = True) -> int:
        """Begin a stream."""
        number = self.h2.get_next_available_stream_id()
        self.streams[number] = _Stream()
        self.h2.send_headers(number, lines, end_stream=end)
        if flush:
            self.flush()
        return number

    def websocket(self, path: str, headers: HeaderPairs = (), subprotocols: Sequence[str] = ()) -> WebSocket:
        while not self._settings:
            self.pump()
        assert self.h2.remote_settings.enable_connect_protocol == 1
        pseudo = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", path)]
        lines = [*pseudo, (":authority", self.authority), ("sec-websocket-version", "13")]
        lines += [(name.lower(), value) for name, value in headers]
        if subprotocols:
            lines.append(("sec-websocket-protocol", ", ".join(subprotocols)))
        exchange = _Http2Exchange(self, self.open(lines, end=False))
        reply = exchange.head()
        if reply.status != 200:
            reply.body = exchange.rest()
            raise Refused(reply)
        return _Http2WebSocket(exchange, reply)

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def pump(self) -> None:
        """Read once and sort out what it is."""
        data = self.sock.recv(READ)
        if not data:
            self._all_cut("the connection ended")
            return
        for event in self.h2.receive_data(data):
            self._take(event)
        self.flush()

    def _take(self, event: h2.events.Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", 0) or 0)
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._settings = True
        elif isinstance(event, h2.events.ConnectionTerminated):
            if event.error_code:
                self._all_cut(f"GOAWAY {event.error_code}")
        elif stream is None:
            return
        elif isinstance(event, h2.events.ResponseReceived):
            fields = [(str(name), str(value)) for name, value in event.headers]
            stream.heads.append(Reply(int(fields[0][1]), [one for one in fields if not one[0].startswith(":")]))
        elif isinstance(event, h2.events.DataReceived):
            stream.data.append((bytes(event.data), event.flow_controlled_length))
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.cut = f"RST_STREAM {event.error_code}"

    def _all_cut(self, why: str) -> None:
        for stream in self.streams.values():
            if not stream.ended:
                stream.cut = stream.cut or why


class _Http2Exchange(Exchange):
    def __init__(self, client: Http2, number: int) -> None:
        self._client = client
        self._number = number
        self._stream = client.streams[number]

    def send(self, data: bytes, *, end: bool = False) -> None:
        connection = self._client.h2
        while data:
            size = min(connection.local_flow_control_window(self._number), connection.max_outbound_frame_size)
            if not size:
                self._client.pump()
                if self._stream.cut or self._stream.ended:
                    return  # the response came without waiting for the body
                continue
            last = end and size >= len(data)
            connection.send_data(self._number, data[:size], end_stream=last)
            data = data[size:]
            self._client.flush()
            if last:
                return
        if end:
            connection.end_stream(self._number)
            self._client.flush()

    def head(self) -> Reply:
        while not self._stream.heads:
            self._look()
        return self._stream.heads.popleft()

    def read(self) -> bytes:
        while True:
            while not self._stream.data:
                if self._stream.ended:
                    return b""
                self._look()
            data, size = self._stream.data.popleft()
            if size and not self._stream.ended:
                self._client.h2.acknowledge_received_data(size, self._number)
                self._client.flush()
            elif size:
                self._client.h2.increment_flow_control_window(size)
                self._client.flush()
            if data:
                return data

    def _look(self) -> None:
        if self._stream.cut:
            raise Cut(self._stream.cut)
        try:
            self._client.pump()
        except ConnectionResetError as error:
            raise Cut(str(error)) from None

    def reset(self) -> None:
        """Give up this request."""
        self._client.h2.reset_stream(self._number, 8)  # CANCEL
        self._client.flush()


class _Http2WebSocket(WebSocket):
    def __init__(self, exchange: _Http2Exchange, reply: Reply) -> None:
        self._exchange = exchange
        super().__init__(reply, b"")

    def _write(self, data: bytes) -> None:
        self._exchange.send(data)

    def _read(self) -> bytes:
        return self._exchange.read()
