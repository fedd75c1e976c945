"""A plain client of CK/1: the client's rules of docs/protocol.md and nothing else, one request at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import anyio
import h11
from wsproto.events import CloseConnection

from channelkit import SessionConfig
from channelkit.session.codec import EventFrames, LineFrames, decode_websocket, encode_line, encode_websocket
from channelkit.session.frames import Ack, Binary, End, Frame, Hello, Text, numbered
from channelkit.testing.host import Refused, WebSocketPeer
from channelkit.testing.middlebox import BROKEN, HEALTHY, Fate, Middlebox

Payload = str | bytes
TIMEOUT = 40.0  # of a request: above the rotation of the plans, so that a buffering proxy lets a stream through


@dataclass(frozen=True)
class Asked:
    """One request, what becomes of its connection, and how long its answer is read."""

    what: str  # poll, stream, events, websocket, post, or the way of another package's carrier
    fate: Fate = HEALTHY
    seconds: float = 0.0


class PlainClient:
    """Follows sections 5 and 6, and asserts what a server may never do to it."""

    def __init__(self, box: Middlebox, config: SessionConfig) -> None:
        self.box = box
        self.config = config
        self.readers: dict[str, Any] = {"poll": LineFrames, "stream": LineFrames, "events": EventFrames}
        self.a = 1
        self.recv = 0  # taken
        self.acked = 0
        self.sent = 0
        self.waiting: list[Payload] = []  # numbered only after a hello (F2)
        self.pending: list[Text | Binary] = []  # numbered, not acknowledged
        self.received: list[Payload] = []
        self.greeted = False
        self.path = "/ck"
        self.secret: str | None = None

    @property
    def idle(self) -> bool:
        """Whether everything it was given is acknowledged."""
        return not self.waiting and not self.pending

    # -- requests

    async def create(self) -> None:
        body = json.loads(await self._exchange("POST", "", b"", Asked("post")))
        self.path = f"/ck/{body['sid']}"
        self.secret = body["secret"]

    def _request(self, method: str, way: str, body: bytes) -> bytes:
        lines = [f"{method} {self.path}{way} HTTP/1.1", "Host: test"]
        if self.secret is not None:
            lines.append(f"Authorization: Bearer {self.secret}")
        if method == "POST":
            lines += ["Content-Type: application/x-ndjson", f"Content-Length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body

    async def _exchange(self, method: str, way: str, body: bytes, asked: Asked) -> bytes:
        """The body of the response, as far as it came."""
        stream = self.box.connect(asked.fate)
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
        parser.send(h11.EndOfMessage())
        got = b""
        try:
            with anyio.move_on_after(TIMEOUT if self.box.buffering else asked.seconds + 1):
                await stream.send(self._request(method, way, body))
                while True:
                    parser.receive_data(await stream.receive())
                    while isinstance(event := parser.next_event(), h11.Response | h11.Data):
                        if isinstance(event, h11.Data):
                            got += event.data
                    if isinstance(event, h11.EndOfMessage):
                        break
        except BROKEN:
            pass
        stream.reset()
        return got

    # -- the client's rules

    def take(self, frame: Frame | None) -> None:
        if isinstance(frame, Hello):
            assert frame.recv <= self.sent, "the server has what was never sent"
            self.greeted = True
            self.acknowledge(frame.recv)
        elif isinstance(frame, Text | Binary):
            if frame.n == self.recv + 1:
                self.recv = frame.n
                self.received.append(frame.payload)
            else:
                assert frame.n <= self.recv, f"a gap in a stream: {frame.n} after {self.recv}"
        elif isinstance(frame, Ack):
            self.acknowledge(frame.n)
        assert not isinstance(frame, End), "the session ended"

    def acknowledge(self, n: int) -> None:
        assert n <= self.sent, "the server acknowledges what was never sent"
        self.acked = max(self.acked, n)
        self.pending = [frame for frame in self.pending if frame.n > self.acked]

    def number(self) -> None:
        while self.greeted and self.waiting and len(self.pending) < self.config.window:
            frame = numbered(self.sent + 1, self.waiting[0])
            if sum(one.size for one in self.pending) + frame.size > self.config.window_bytes:
                return
            self.waiting.pop(0)
            self.sent += 1
            self.pending.append(frame)

    async def ask(self, asked: Asked) -> None:
        if asked.what == "post":
            await self._post(asked)
        elif asked.what == "websocket":
            await self._websocket(asked)
        else:
            await self._attach(asked)

    async def _attach(self, asked: Asked) -> None:
        wait = f"&wait={asked.seconds}" if asked.what == "poll" and self.greeted else ""
        body = await self._exchange("GET", f"/{asked.what}?a={self.a}&ack={self.recv}{wait}", b"", asked)
        reader = self.readers[asked.what](self.config.max_message)
        if body.startswith(b"{"):
            assert json.loads(body)["code"] == "rate", body  # nothing else may be refused here
            return
        for frame in reader.feed(body):
            self.take(frame)

    async def _post(self, asked: Asked) -> None:
        self.number()
        batch = b"".join(map(encode_line, self.pending))
        body = await self._exchange("POST", f"?a={self.a}&ack={self.recv}", batch, asked)
        try:
            answer = json.loads(body)
        except ValueError:
            return  # cut
        assert answer.get("code") in (None, "full", "superseded"), answer
        if "ack" in answer:
            self.acknowledge(answer["ack"])

    async def _websocket(self, asked: Asked) -> None:
        stream = self.box.connect(asked.fate)
        peer = WebSocketPeer(stream)
        try:
            with anyio.move_on_after(asked.seconds + 1):
                await peer.open(f"{self.path}/ws", [], ["ck.v1"])
                hello = {"v": 1, "secret": self.secret, "a": self.a, "recv": self.recv}
                await peer.send(f"h {json.dumps(hello)}")
                await self._speak(peer)
        except (*BROKEN, Refused):
            pass
        stream.reset()

    async def _speak(self, peer: WebSocketPeer) -> None:
        """Until the server closes: its hello, then what was not acknowledged, then acknowledgements now and then."""
        answered = False
        while not isinstance(message := await peer.receive(), CloseConnection):
            self.take(decode_websocket(message, self.config.max_message))
            if not answered:
                answered = True
                self.number()
                for frame in self.pending:
                    await peer.send(encode_websocket(frame))
            elif self.recv % 2:
                await peer.send(encode_websocket(Ack(self.recv)))
        assert message.code in (4429, 1012, 1001), message
