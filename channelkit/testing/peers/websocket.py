"""A WebSocket client."""

from __future__ import annotations

import h11
import wsproto
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from channelkit.testing.peers.formats import Payload


class WebSocketPeer:
    """A WebSocket client: h11 reads the handshake, wsproto the frames."""

    def __init__(self, path: str, *, deflate: bool = False) -> None:
        self.path = path
        self.deflate = deflate  # offer permessage-deflate, and use it once it is agreed on
        self.messages: list[Payload] = []
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.close_received: tuple[int, str] | None = None  # the server's close frame; 1005 for one without a code
        self.close_sent: tuple[int, str] | None = None
        self.closed_first: bool | None = None  # whether our close frame was said before the server's was read
        self.status: int | None = None  # of the handshake
        self.ended = False
        self.junk = b""  # bytes behind the server's close frame: there must be none
        self._frames: Connection | None = None
        self._head = h11.Connection(h11.CLIENT)
        self._parts: list[str] | list[bytes] = []

    def request(self) -> bytes:
        """The handshake.  Frames may follow at once, in the same packet."""
        lines = [
            ("Host", "peer"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
        ]
        if self.deflate:
            lines.append(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"))
        data = self._head.send(h11.Request(method="GET", target=self.path, headers=lines))
        self._head.send(h11.EndOfMessage())
        self._frames = Connection(ConnectionType.CLIENT)
        return data or b""

    # -- saying

    @property
    def may_send(self) -> bool:
        """Whether the protocol still allows a message."""
        return self._frames is not None and self._frames.state is ConnectionState.OPEN

    def message(self, payload: Payload) -> bytes:
        """One message in one frame."""
        assert self._frames is not None
        event = TextMessage(payload) if isinstance(payload, str) else BytesMessage(payload)
        return self._frames.send(event)

    def ping(self, payload: bytes) -> bytes:
        """A ping frame."""
        assert self._frames is not None
        return self._frames.send(Ping(payload))

    def close(self, code: int, reason: str) -> bytes:
        """Our close frame; nothing if it was sent already."""
        assert self._frames is not None
        if not self.may_send:
            return b""
        self.close_sent = (code, reason)
        self.closed_first = True
        return self._frames.send(CloseConnection(code, reason))

    # -- understanding

    def feed(self, data: bytes) -> bytes:
        if self.status is None:
            data = self._read_head(data)
        if not data or self.status != 101:
            return b""
        assert self._frames is not None
        if self._frames.state in (ConnectionState.CLOSED, ConnectionState.REMOTE_CLOSING):
            self.junk += data
            return b""
        self._frames.receive_data(data)
        return b"".join(map(self._take, self._frames.events()))

    def eof(self) -> None:
        self.ended = True

    def _read_head(self, data: bytes) -> bytes:
        self._head.receive_data(data)
        event = self._head.next_event()
        if not isinstance(event, h11.InformationalResponse | h11.Response):
            return b""
        self.status = event.status_code
        answer = dict(event.headers).get(b"sec-websocket-extensions")
        assert answer is not None or not self.deflate or self.status != 101, "the plan is about compression"
        if answer is not None:  # what was said in the packet of the handshake was plain, and the first of it all
            agreed = PerMessageDeflate()
            agreed.finalize(answer.decode())
            self._frames = Connection(ConnectionType.CLIENT, [agreed])
        return bytes(self._head.trailing_data[0])

    def _take(self, event: wsproto.events.Event) -> bytes:
        if isinstance(event, TextMessage | BytesMessage):
            self._parts.append(event.data)  # type: ignore[arg-type]  # one message is all str or all bytes
            if event.message_finished:
                empty = "" if isinstance(event, TextMessage) else b""
                self.messages.append(empty.join(self._parts))  # type: ignore[arg-type]
                self._parts = []
        elif isinstance(event, Ping):
            self.pings.append(bytes(event.payload))
            assert self._frames is not None
            return self._frames.send(event.response()) if self.may_send else b""
        elif isinstance(event, Pong):
            self.pongs.append(bytes(event.payload))
        elif isinstance(event, CloseConnection):
            return self._take_close(event)
        return b""

    def _take_close(self, event: CloseConnection) -> bytes:
        self.close_received = (int(event.code), event.reason or "")
        if self.close_sent is not None:
            return b""
        self.closed_first = False
        self.close_sent = self.close_received
        assert self._frames is not None
        return self._frames.send(event.response())
