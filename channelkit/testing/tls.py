"""The client's end of a TLS connection over any stream, by a memory BIO; and a certificate that is nobody's secret.

For plans: `TlsEnd` knows the faults that `SocketEnd` knows.  It is strict where clients of the web are not: an end
without close_notify is a broken connection, so a server that forgets it cannot pass for one that ended in order.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from channelkit.testing.peers import READ_SIZE, SocketEnd

#: Made for tests, for the names "test" and "localhost" and a hundred years.  Its key is public: never use it elsewhere.
PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgqeFgNZE91KpKY3DN
gMAKkqIXXkEHO8d8umfOTcbYInyhRANCAAT+1+QyWSYQcNfWpA7Zoz88/5DcDGJU
4zTLpKXXicC4HdCiH79h6uR0pQIllMzXcSzECBivafij7SFxbbDY5s8d
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBszCCAVmgAwIBAgIUWYajV9VuuktxQtcVqF0P6YvuMPcwCgYIKoZIzj0EAwIw
HTEbMBkGA1UEAwwSY2hhbm5lbGtpdC50ZXN0aW5nMCAXDTI2MTEyNTAwMTUzNVoY
DzIxMjYxMTAxMDAxNTM1WjAdMRswGQYDVQQDDBJjaGFubmVsa2l0LnRlc3Rpbmcw
WTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAT+1+QyWSYQcNfWpA7Zoz88/5DcDGJU
4zTLpKXXicC4HdCiH79h6uR0pQIllMzXcSzECBivafij7SFxbbDY5s8do3UwczAd
BgNVHQ4EFgQUoQsTg4Nus4tCgy2fIpCsjyKKOnswHwYDVR0jBBgwFoAUoQsTg4Nu
s4tCgy2fIpCsjyKKOnswDwYDVR0TAQH/BAUwAwEB/zAgBgNVHREEGTAXggR0ZXN0
gglsb2NhbGhvc3SHBH8AAAEwCgYIKoZIzj0EAwIDSAAwRQIhALpcfzvUBm+orP/d
hHk29Z1LJRjoWlolFQ8SON5qZxgzAiA+6cqpHMz3KG8UO3T+qm8G2p8/OSKYnDCL
hgQszY4x/A==
-----END CERTIFICATE-----
"""


@contextmanager
def pem_file() -> Iterator[str]:
    """That certificate and its key in a file, which is where the ssl module wants it."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(PEM)
        file.flush()
        yield file.name


@cache
def server_context() -> ssl.SSLContext:
    """A server's context with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    with pem_file() as path:
        context.load_cert_chain(path)
    return context


@cache
def client_context() -> ssl.SSLContext:
    """A client's context that trusts that certificate."""
    context = ssl.create_default_context(cadata=PEM[PEM.index("-----BEGIN CERT") :])
    context.set_alpn_protocols(["http/1.1"])
    return context


class Source:
    """Where the pump gets its context from."""

    @property
    def context(self) -> ssl.SSLContext:
        return server_context()


class TlsEnd(ByteStream):
    """The client's end.  The handshake is made by whoever reads or writes first."""

    def __init__(self, below: SocketEnd, context: ssl.SSLContext | None = None) -> None:
        self._below = below
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = (context or client_context()).wrap_bio(self._incoming, self._outgoing, server_hostname="test")
        self._greeting = anyio.Lock()
        self._sending = anyio.Lock()
        self._established = False

    async def _greet(self) -> None:
        async with self._greeting:
            while not self._established:
                try:
                    self._object.do_handshake()
                    self._established = True
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError as error:
                    raise anyio.BrokenResourceError from error
                await self._flush()
                if not self._established:
                    await self._fill()

    async def _fill(self) -> None:
        try:
            self._incoming.write(await self._below.receive(READ_SIZE))
        except anyio.EndOfStream as error:  # cut off: nobody said close_notify
            raise anyio.BrokenResourceError from error

    async def _flush(self) -> None:
        async with self._sending:
            if self._outgoing.pending:
                await self._below.send(self._outgoing.read())

    async def receive(self, max_bytes: int = READ_SIZE) -> bytes:
        await self._greet()
        while True:
            try:
                data = self._object.read(max_bytes)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                raise anyio.BrokenResourceError from error
            if not data:  # close_notify
                raise anyio.EndOfStream
            await anyio.lowlevel.checkpoint()
            return data

    async def send(self, item: bytes) -> None:
        await self._greet()
        if item:
            self._object.write(item)
        await self._flush()

    async def send_eof(self) -> None:
        self.half_close()
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self._below.aclose()

    def half_close(self) -> None:
        """End our direction: close_notify if the kernel takes it now, and FIN; some clients send the FIN only."""
        if self._established and not self._outgoing.pending:
            try:
                self._object.unwrap()
            except ssl.SSLError:
                pass  # written; the answer is not waited for
            self._below.send_now(self._outgoing.read())
        self._below.half_close()

    def reset(self) -> None:
        """Vanish."""
        self._below.reset()
