"""One connection of the load: it sends what it is told to, and judges every byte that comes back."""

from __future__ import annotations

import select
import socket
import ssl
from functools import cache

from benchmarks.cells import Cell
from benchmarks.frames import ACCEPT, Script, get, header, upgrade

HELLO = b"Hello, world!"
OK = b"HTTP/1.1 200 "
AT_ONCE = 64  # connections opened together, well within any server's backlog


class NothingYet(Exception):
    """What was readable held no data: part of a TLS record, or a message of TLS itself."""


class BadReply(Exception):
    """The server lost, reordered, changed or refused something: what it was measured at is worth nothing."""


class Wire:
    """A socket, what is still to be sent on it, and the place in the script its replies have reached."""

    __slots__ = ("_in", "_limit", "_out", "_owed", "_part", "_poller", "_script", "_sock", "fd", "name")

    def __init__(self, sock: socket.socket, name: str, script: Script, in_flight: int) -> None:
        self._sock = sock
        self._script = script
        self._limit = in_flight * script.reply_size + 1  # one byte more than may come: it would show
        self._in = self._out = self._owed = self._part = 0
        self._poller: select.epoll | None = None
        self.fd = sock.fileno()
        self.name = name

    def watch(self, poller: select.epoll) -> None:
        """Be reported by `poller` when something comes back."""
        self._sock.setblocking(False)
        self._poller = poller
        poller.register(self.fd, select.EPOLLIN)

    def ask(self, count: int) -> None:
        """Send the next `count` messages of the script; what the kernel does not take goes later."""
        self._owed += count * self._script.request_size
        self._flush()

    def _flush(self) -> None:
        try:
            sent = self._sock.send(self._script.requests[self._out : self._out + self._owed])
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent = 0
        except OSError as error:
            raise BadReply(f"{self.name}: {error}") from None
        self._owed -= sent
        self._out = (self._out + sent) % self._script.request_cycle
        if self._owed and self._poller is not None:
            self._poller.modify(self.fd, select.EPOLLIN | select.EPOLLOUT)

    def on_writable(self) -> None:
        """There is room again."""
        if self._poller is not None:
            self._poller.modify(self.fd, select.EPOLLIN)
        if self._owed:
            self._flush()

    def receive(self) -> int:
        """Read and judge what is there; returns how many replies it completed.  Raises BadReply."""
        try:
            data = read(self._sock, self._limit, self.name)
        except NothingYet:
            return 0
        script = self._script
        if not script.replies.startswith(data, self._in):
            raise BadReply(f"{self.name}: {script.explain(self._in, data)}")
        self._in = (self._in + len(data)) % script.reply_cycle
        done, self._part = divmod(self._part + len(data), script.reply_size)
        return done

    def close(self) -> None:
        """No more."""
        self._sock.close()


class HttpWire(Wire):
    """The same with GET.  Replies carry no number, but one that comes twice is one too many in the end."""

    __slots__ = ("_request", "_seen", "_whole")

    def __init__(self, sock: socket.socket, name: str, script: Script, request: bytes) -> None:
        super().__init__(sock, name, script, 1)
        self._request = request
        self._seen = b""  # of a reply that is not whole yet
        self._whole = 0  # the size of a reply that was looked at closely

    def ask(self, count: int) -> None:
        """Send the request; it is far smaller than the kernel's buffer."""
        try:
            self._sock.sendall(self._request * count)
        except OSError as error:
            raise BadReply(f"{self.name}: {error}") from None

    def receive(self) -> int:
        """As of a WebSocket."""
        try:
            data = read(self._sock, 4096, self.name)
        except NothingYet:
            return 0
        if len(data) == self._whole and not self._seen and data.startswith(OK) and data.endswith(HELLO):
            return 1
        self._seen += data
        return self._look_closely()

    def _look_closely(self) -> int:
        head, end, body = self._seen.partition(b"\r\n\r\n")
        if not self._seen.startswith(OK[: len(self._seen)]):
            raise BadReply(f"{self.name}: not a good response: {self._seen[:80]!r}")
        if not end or len(body) < len(HELLO):
            return 0
        if header(head, b"content-length") != b"%d" % len(HELLO) or body[: len(HELLO)] != HELLO:
            raise BadReply(f"{self.name}: a response came corrupted: {self._seen[:400]!r}")
        if len(body) > len(HELLO):
            raise BadReply(f"{self.name}: more came back than was asked for: {body[:80]!r}")
        self._whole, self._seen = len(self._seen), b""
        return 1


def read(sock: socket.socket, limit: int, name: str) -> bytes:
    """Read once; the end of the connection is a BadReply."""
    try:
        data = sock.recv(limit)
    except TimeoutError:
        raise BadReply(f"{name}: the server does not answer") from None
    except ssl.SSLWantReadError:
        raise NothingYet from None
    except OSError as error:
        raise BadReply(f"{name}: {error}") from None
    if not data:
        raise BadReply(f"{name}: the server ended the connection")
    return data


def open_wires(
    cell: Cell, address: tuple[str, int], patience: float, first: int = 0, *, tls: bool = False
) -> list[Wire]:
    """Open a cell's connections, numbered from `first`.  Raises BadReply if one is refused, and leaves none open."""
    # All members of a fan get the same; those who are silent need no words of their own.
    shared = Script(0, cell) if cell.kind in ("fan", "idle") else None
    wires: list[Wire] = []
    try:
        for start in range(first, first + cell.connections, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, first + cell.connections))
            wires += _open_some(cell, address, patience, numbers, shared, tls)
    except BadReply:
        for wire in wires:
            wire.close()
        raise
    return wires


def _open_some(
    cell: Cell,
    address: tuple[str, int],
    patience: float,
    numbers: range,
    shared: Script | None,
    tls: bool,
) -> list[Wire]:
    """A batch: all connect and ask, then all answers are read."""
    socks: list[socket.socket] = []
    wires: list[Wire] = []
    try:
        socks.extend(_connect(cell, address, patience, tls) for _ in numbers)
        for number, sock in zip(numbers, socks, strict=True):
            wires.append(_wire(cell, address, sock, f"connection {number}", shared or Script(number, cell)))
    except OSError as error:
        _close(socks)
        raise BadReply(f"cannot connect to {address[0]}:{address[1]}: {error}") from None
    except BadReply:
        _close(socks)
        raise
    return wires


def _close(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.close()


@cache
def trusting() -> ssl.SSLContext:
    """A client's context that looks at no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _connect(cell: Cell, address: tuple[str, int], patience: float, tls: bool) -> socket.socket:
    sock = socket.create_connection(address, patience)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls:
        sock = trusting().wrap_socket(sock)
    if cell.kind != "get":
        sock.sendall(upgrade(cell.path, address[1]))
    return sock


def _wire(cell: Cell, address: tuple[str, int], sock: socket.socket, name: str, script: Script) -> Wire:
    if cell.kind == "get":
        return HttpWire(sock, name, script, get(cell.path, address[1]))
    _read_handshake(sock, name)
    return Wire(sock, name, script, cell.in_flight)


def _read_handshake(sock: socket.socket, name: str) -> None:
    """The server's 101, and nothing behind it: nobody has sent anything yet."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += read(sock, 4096, name)
        if len(head) > 16384 or not head.startswith(b"HTTP/1.1 101 "[: len(head)]):
            raise BadReply(f"{name}: not upgraded: {head[:200]!r}")
    if not head.endswith(b"\r\n\r\n"):
        raise BadReply(f"{name}: the server spoke first: {head[-80:]!r}")
    if header(head, b"sec-websocket-accept") != ACCEPT:
        raise BadReply(f"{name}: wrong Sec-WebSocket-Accept: {head!r}")
