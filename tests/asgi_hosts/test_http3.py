"""HTTP/3: hypercorn over QUIC, asked by aioquic's client.  A smaller round than the other hosts get."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path
from typing import Any

import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hosting.processes import PATIENCE, Process, free_port, hypercorn

pytestmark = pytest.mark.xdist_group("asgi-hosts")  # the hosts are started once, not once a core

PIECE = b"x" * 50_000


class Client(QuicConnectionProtocol):
    """One connection; each request has a queue of what comes back."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._h3 = H3Connection(self._quic)
        self._answers: dict[int, asyncio.Queue[Any]] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        for answer in self._h3.handle_event(event):
            if isinstance(answer, HeadersReceived | DataReceived):
                self._answers[answer.stream_id].put_nowait(answer)

    def ask(self, method: str, path: str, body: bytes = b"") -> int:
        number = self._quic.get_next_available_stream_id()
        self._answers[number] = asyncio.Queue()
        lines = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path}
        headers = [(name.encode(), value.encode()) for name, value in lines.items()]
        self._h3.send_headers(number, headers, end_stream=not body)
        if body:
            self._h3.send_data(number, body, end_stream=True)
        self.transmit()
        return number

    async def next(self, number: int) -> Any:
        return await asyncio.wait_for(self._answers[number].get(), PATIENCE)

    async def answer(self, number: int) -> tuple[dict[bytes, bytes], bytes]:
        """The whole response."""
        head = await self.next(number)
        headers, body, ended = dict(head.headers), b"", head.stream_ended
        while not ended:
            event = await self.next(number)
            body += event.data
            ended = event.stream_ended
        return headers, body


def certificate(folder: Path) -> tuple[str, str]:
    """The files of a certificate that nobody has signed but itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8
    key_bytes = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key_bytes)
    return str(files[0]), str(files[1])


async def converse(port: int) -> None:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE)
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Client) as made:
        assert isinstance(made, Client)
        headers, body = await made.answer(made.ask("POST", "/payloads", PIECE))
        assert (headers[b":status"], headers[b"content-length"], body) == (b"200", b"50000", PIECE)
        assert not {b"connection", b"transfer-encoding", b"keep-alive"} & set(headers)
        assert (await made.answer(made.ask("GET", "/nothing")))[0][b":status"] == b"404"
        assert (await made.answer(made.ask("GET", "/raising")))[0][b":status"] == b"500"
        assert (await made.answer(made.ask("POST", "/get", b"x")))[0][b":status"] == b"405"
        stream = made.ask("GET", "/stream?framing=sse&id=quic")
        head = await made.next(stream)
        assert dict(head.headers)[b"content-type"].startswith(b"text/event-stream")
        event = await made.next(stream)
        assert event.data == b"data: begun\ndata: \n\n"
        await made.answer(made.ask("GET", "/finish?id=quic"))
        last = await made.next(stream)
        while not last.stream_ended:
            last = await made.next(stream)


@pytest.mark.parametrize("worker", ["asyncio", "trio"])
def test_http3(worker: str, tmp_path: Path) -> None:
    """Requests, bodies, refusals and a stream that ends, over QUIC, on both loops."""
    port = free_port()
    public, private = certificate(tmp_path)
    options = ("-w", "0", "--quic-bind", f"127.0.0.1:{port}", "--certfile", public, "--keyfile", private)
    process = Process(hypercorn(worker, *options)).wait_ready()
    try:
        asyncio.run(converse(port))
    finally:
        process.stop()
