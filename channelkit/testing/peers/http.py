"""An HTTP/1.1 client."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import h11


@dataclass(slots=True)
class ParsedResponse:
    """One response as h11 saw it."""

    status: int
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False


class HttpPeer:
    """An HTTP/1.1 client that may pipeline: each response is parsed by a fresh h11 connection."""

    def __init__(self) -> None:
        self.responses: list[ParsedResponse] = []
        self.informational: list[int] = []
        self.ended = False
        self.error: str | None = None  # what the server sent is no response
        self.junk = b""  # bytes that answer no request
        self._asked: deque[str] = deque()
        self._parser: h11.Connection | None = None
        self._current: ParsedResponse | None = None

    def request(self, target: str, *, method: str = "GET", headers: tuple[tuple[str, str], ...] = ()) -> bytes:
        """A request without a body."""
        self._asked.append(method)
        lines = [f"{method} {target} HTTP/1.1", "Host: peer", *(f"{name}: {value}" for name, value in headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def feed(self, data: bytes) -> bytes:
        if self.error is None:
            try:
                self._parse(data)
            except h11.ProtocolError as error:
                self.error = str(error)
        return b""

    def eof(self) -> None:
        self.ended = True
        if self._parser is not None and self.error is None:
            try:
                self._parser.receive_data(b"")
                self._take_events()
            except h11.ProtocolError:
                pass  # the response was cut short: it stays incomplete

    def _parse(self, data: bytes) -> None:
        rest = data
        while rest:
            if self._parser is None and not self._ask():
                self.junk += rest
                return
            assert self._parser is not None
            self._parser.receive_data(rest)
            rest = self._take_events()

    def _ask(self) -> bool:
        """A parser for the next response that is due; False if none is."""
        if not self._asked:
            return False
        self._parser = h11.Connection(h11.CLIENT)
        self._parser.send(h11.Request(method=self._asked.popleft(), target="/", headers=[("Host", "peer")]))
        self._parser.send(h11.EndOfMessage())
        return True

    def _take_events(self) -> bytes:
        """Take what is parsed; the bytes behind a complete response are returned."""
        assert self._parser is not None
        while True:
            event = self._parser.next_event()
            if isinstance(event, h11.InformationalResponse):
                self.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                self._current = ParsedResponse(event.status_code, headers)
                self.responses.append(self._current)
            elif isinstance(event, h11.Data) and self._current is not None:
                self._current.body += event.data
            elif isinstance(event, h11.EndOfMessage) and self._current is not None:
                self._current.complete = True
                return self._behind()
            else:
                return b""

    def _behind(self) -> bytes:
        assert self._parser is not None
        rest = bytes(self._parser.trailing_data[0])
        self._parser = self._current = None
        return rest
