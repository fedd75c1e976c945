"""What the tests of the server share: a server in a thread, and clients that speak bytes.

Tests name `Host` and `Peer` for the type checker only; they get them as the fixture `host`.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Unpack

import pytest

from channelkit import Channel, CloseInfo, CloseStatus, Request, Server, SyncRequest, run_server
from channelkit.config import ServerOptions
from channelkit.server.core import ServerCore

T = TypeVar("T")
Backend = Literal["asyncio", "trio"]
Handler = Callable[[Request], Awaitable[Any]] | Callable[[SyncRequest], Any]

PATIENCE = 10.0  # seconds until a test gives up; none of them waits that long
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the one of RFC 6455 1.3
MASK = b"\x37\xfa\x21\x3d"


@dataclass
class Reply:
    """One HTTP response as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        """The value of a header field, None if it is not there; there must not be two."""
        values = self.getlist(name)
        assert len(values) < 2, self.headers
        return values[0] if values else None

    def getlist(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Peer:
    """A client that sends the bytes it is told to."""

    def __init__(self, port: int, receive_buffer: int | None = None, source: str = "") -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect(("127.0.0.1", port))
        self.buffer = b""

    # -- bytes

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def fin(self) -> None:
        """Shut down our direction and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def more(self) -> bool:
        """Read once; False at the end."""
        data = self.sock.recv(65536)
        self.buffer += data
        return bool(data)

    def take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            assert self.more(), f"the connection ended after {self.buffer!r}"
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def until(self, end: bytes) -> bytes:
        """The bytes up to and with `end`."""
        while end not in self.buffer:
            assert self.more(), f"the connection ended after {self.buffer!r}"
        return self.take(self.buffer.index(end) + len(end))

    def rest(self) -> bytes:
        """Everything up to a proper end of the connection."""
        while self.more():
            pass
        return self.take(len(self.buffer))

    def cut_off(self) -> bytes:
        """Everything up to an end by reset."""
        with pytest.raises(ConnectionResetError):
            self.rest()
        return self.take(len(self.buffer))

    # -- HTTP

    def request(self, method: str = "GET", path: str = "/", *lines: str, body: bytes = b"") -> None:
        """Send a request of HTTP/1.1 with the given header lines."""
        length = [f"Content-Length: {len(body)}"] if body else []
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *lines, *length, "", ""])
        self.send(head.encode("latin-1") + body)

    def head(self) -> Reply:
        """Read a response's head."""
        first, *lines = self.until(b"\r\n\r\n").decode("latin-1")[:-4].split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = [tuple(line.split(": ", 1)) for line in lines]
        return Reply(int(status), [(name, value) for name, value in headers])

    def reply(self, method: str = "GET") -> Reply:
        """Read a response whose end can be seen."""
        reply = self.head()
        if method == "HEAD" or reply.status in (204, 304):
            return reply
        length = reply.get("content-length")
        if length is not None:
            assert reply.get("transfer-encoding") is None
            reply.body = self.take(int(length))
        else:
            assert reply.get("transfer-encoding") == "chunked", reply.headers
            while piece := self.chunk():
                reply.chunks.append(piece)
            reply.body = b"".join(reply.chunks)
        return reply

    def ask(self, method: str = "GET", path: str = "/", *lines: str, body: bytes = b"") -> Reply:
        self.request(method, path, *lines, body=body)
        return self.reply(method)

    def chunk(self) -> bytes:
        """One chunk; empty at the end."""
        size = int(self.until(b"\r\n"), 16)
        data = self.take(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    # -- WebSocket

    @staticmethod
    def handshake(*lines: str, path: str = "/") -> bytes:
        """The bytes of a client's opening handshake."""
        given = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")
        return "\r\n".join([f"GET {path} HTTP/1.1", "Host: test", *given, *lines, "", ""]).encode()

    def upgrade(self, *lines: str, path: str = "/", more: bytes = b"") -> Reply:
        """Open a WebSocket; `more` goes in the same packet."""
        self.send(self.handshake(*lines, path=path) + more)
        reply = self.head()
        assert reply.status == 101
        return reply

    @staticmethod
    def frame(opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0) -> bytes:
        """The bytes of a masked frame."""
        first = bytes([(fin << 7) | rsv << 4 | opcode])
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 65536:
            length = b"\xfe" + struct.pack("!H", size)
        else:
            length = b"\xff" + struct.pack("!Q", size)
        repeated = (MASK * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)
        return first + length + MASK + masked

    def send_frame(self, opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0) -> None:
        self.send(self.frame(opcode, payload, fin, rsv))

    def read_frame(self) -> tuple[int, bytes]:
        """First byte and payload of a frame of the server, which must be unmasked and of minimal length."""
        first, size = self.take(2)
        if size == 126:
            (size,) = struct.unpack("!H", self.take(2))
            assert size >= 126
        elif size == 127:
            (size,) = struct.unpack("!Q", self.take(8))
            assert size >= 65536
        assert size < 1 << 31
        return first, self.take(size)

    def read_close(self, answer: bool = True) -> tuple[int, bytes]:
        """The close frame of a server that closes by itself: a ping stands before it, and is answered or not."""
        first, question = self.read_frame()
        assert (first, len(question)) == (0x89, 4)
        if answer:
            self.send_frame(10, question)
        return self.read_frame()


class Host:
    """A server in a thread, what its channels said at their end, and a way into its loop."""

    def __init__(self, backend: Backend) -> None:
        self.backend: Backend = backend
        self.ends: list[tuple[CloseStatus, CloseInfo | None]] = []
        self.channels: list[Channel] = []
        self.peers: list[Peer] = []
        self.server: Server | None = None

    @property
    def port(self) -> int:
        assert self.server is not None
        return self.server.port

    def serve(self, handler: Handler, **options: Unpack[ServerOptions]) -> Host:
        if "listen" not in options:
            options.setdefault("port", 0)
        self.server = run_server(handler, backend=self.backend, **options)
        return self

    @property
    def core(self) -> ServerCore:
        assert self.server is not None
        assert self.server._core is not None
        return self.server._core

    def connect(self, receive_buffer: int | None = None, source: str = "", listener: int = 0) -> Peer:
        """A new client; `source` is a loopback address other than 127.0.0.1, `listener` one of several for TCP."""
        assert self.server is not None
        port = int(self.server.addresses[listener].rpartition(":")[2]) if listener else self.port
        peer = Peer(port, receive_buffer, source)
        self.peers.append(peer)
        return peer

    def opened(self, channel: Channel) -> None:
        """An `on_open` that remembers the channel."""
        self.channels.append(channel)

    def closed(self, channel: Channel, status: CloseStatus) -> None:
        """An `on_close` that remembers the end."""
        self.ends.append((status, channel.close_info))

    def until(self, condition: Callable[[], T]) -> T:
        """Wait until `condition()` is true."""
        deadline = time.monotonic() + PATIENCE
        while not (result := condition()):
            assert time.monotonic() < deadline, f"did not come true: {condition}, ends: {self.ends}"
            threading.Event().wait(0.001)
        return result

    def end(self) -> CloseInfo:
        """The only end there was."""
        self.until(lambda: self.ends)
        assert len(self.ends) == 1
        status, info = self.ends[0]
        assert info is not None
        assert info.status == status
        return info

    def channel(self) -> Channel:
        """The channel opened last."""
        self.until(lambda: self.channels)
        return self.channels[-1]

    def idle(self) -> None:
        """Wait until no connection is left."""
        self.until(lambda: self.server is not None and self.server.connections == 0)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """`function(*args)`, run on the server's loop."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function(*args))
            except Exception as error:
                future.set_exception(error)

        assert self.server is not None
        assert self.server._loop is not None
        self.server._loop.run_from_thread(run)
        return future.result(PATIENCE)

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        if self.server is not None:
            self.server.stop(timeout=1)
            assert self.server.connections == 0


def open_descriptors() -> Iterable[str]:
    """The descriptors of this process."""
    return os.listdir("/proc/self/fd")


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


@pytest.fixture
def host(backend: Backend) -> Iterator[Host]:
    """Something to start a server with; it is stopped at the end, and must have lost all its connections."""
    host = Host(backend)
    yield host
    host.close()
