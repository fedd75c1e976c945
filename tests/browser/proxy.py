"""A TCP proxy that cuts connections: at any byte, either way, with or without a word; or when it is told to."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
from typing import Self

CUT, END = b"c", b"e"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class CuttingProxy:
    """Carries connections to `port`.  Each of the first `faults` is cut behind a random number of bytes, or refused.

    `cut()` cuts all there are now; with `down=True` it refuses new ones, until `up()`.  One thread; `with` ends it, and
    cuts all that is left.
    """

    def __init__(self, port: int, faults: int = 0, luck: random.Random = random.Random(0)) -> None:  # noqa: B008
        self._target = port
        self._faults = faults
        self._luck = luck
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._waker, wakened = socket.socketpair()
        self._wakened = wakened
        self._selector.register(wakened, selectors.EVENT_READ)
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._left: dict[frozenset[socket.socket], int] = {}
        self._down = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cutting proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waker.send(END)
        self._thread.join()

    def cut(self, *, down: bool = False) -> None:
        """Cut every connection there is; it is done when this returns."""
        self._down = down
        self._done.clear()
        self._waker.send(CUT)
        self._done.wait()

    def up(self) -> None:
        """Let connections in again."""
        self._down = False

    def _run(self) -> None:
        try:
            while True:
                for key, _ in self._selector.select():
                    one = key.fileobj
                    assert isinstance(one, socket.socket)
                    if one is self._wakened:
                        if one.recv(1) == END:
                            return
                        self._cut_all()
                        break  # what else was selected may be closed by now
                    if one is self._listener:
                        self._accept()
                    elif one in self._pairs:
                        self._carry(one)
        finally:
            self._done.set()
            for one in [self._listener, self._waker, self._wakened, *self._pairs]:
                one.close()
            self._selector.close()

    def _cut_all(self) -> None:
        self.cuts += len(self._pairs) // 2
        for one in tuple(self._pairs):
            self._end(one, reset=True)
        self._done.set()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._down:
            self._end(client, reset=True)
            return
        faulty = self.cuts < self._faults
        if faulty and self._luck.random() < 0.1:
            self.cuts += 1
            self._end(client, reset=True)
            return
        server = socket.create_connection(("127.0.0.1", self._target))
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)
        if faulty:
            self._left[frozenset((client, server))] = self._luck.choice((0, 1, 200, 400, 700, 1500, 4000))

    def _carry(self, one: socket.socket) -> None:
        """What came on `one` goes out on the other, up to where the connection is cut."""
        other = self._pairs[one]
        pair = frozenset((one, other))
        try:
            data = one.recv(1 << 14)
        except OSError:
            data = b""
        left = self._left.get(pair)
        cut = left is not None and len(data) > left
        if left is not None:
            data = data[:left] if cut else data
            self._left[pair] = left - len(data)
        ended = not data
        with contextlib.suppress(OSError):
            other.sendall(data)
        if cut:
            self.cuts += 1
        if cut or ended:
            for two in pair:
                self._end(two, reset=cut and self._luck.random() < 0.5)

    def _end(self, one: socket.socket, *, reset: bool) -> None:
        if self._pairs.pop(one, None) is not None:
            self._selector.unregister(one)
        if reset:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.close()
