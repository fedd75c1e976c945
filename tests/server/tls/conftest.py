"""A private authority, the files it makes, and clients that trust it."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from channelkit import TLS, Request, as_channel

if TYPE_CHECKING:
    from tests.server.conftest import Host, Peer


@dataclass
class Authority:
    """Issues certificates into files."""

    ca: trustme.CA
    folder: Path

    @property
    def file(self) -> Path:
        """The authority's own certificate."""
        return self._write("authority.pem", self.ca.cert_pem)

    def files(self, *names: str, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> tuple[Path, Path]:
        """A fresh certificate for the names, and its key."""
        issued = self.ca.issue_cert(*(names or ("localhost", "127.0.0.1")), key_type=key_type)
        name = f"{issued.cert_chain_pems[0].bytes()[40:60].hex()}-{len(list(self.folder.iterdir()))}"
        return (
            self._write(f"{name}.pem", *issued.cert_chain_pems),
            self._write(f"{name}.key", issued.private_key_pem),
        )

    def expired(self) -> tuple[Path, Path]:
        issued = self.ca.issue_cert("localhost", not_after=datetime.datetime(2020, 2, 29, 12, tzinfo=datetime.UTC))
        return self._write("old.pem", *issued.cert_chain_pems), self._write("old.key", issued.private_key_pem)

    def _write(self, name: str, *blobs: trustme.Blob) -> Path:
        path = self.folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return path

    def tls(self, **options: Any) -> TLS:
        certificate, key = self.files()
        return TLS(certificate=certificate, key=key, **options)

    def trust(self) -> ssl.SSLContext:
        """A client's context."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(trustme.CA(), tmp_path_factory.mktemp("certificates"))


class SecureHost:
    """A server that speaks TLS, and clients for it."""

    def __init__(self, host: Host, authority: Authority) -> None:
        self.host = host
        self.authority = authority
        self.requests: list[Request] = []

    def serve(self, tls: TLS | ssl.SSLContext | None = None, **options: Any) -> SecureHost:
        self.host.serve(self.handle, ssl=tls or self.authority.tls(), **options)
        return self

    async def handle(self, request: Request) -> Any:
        self.requests.append(request)
        if request.is_websocket:
            return as_channel(
                request,
                on_open=self.host.opened,
                on_receive=lambda channel, message: channel.send_nowait(message),
                on_close=self.host.closed,
            )
        size = len(await request.body())
        return f"{request.scheme} {request.path} {size}"

    def connect(self, context: ssl.SSLContext | None = None, **options: Any) -> Peer:
        """A client behind its handshake."""
        return self.shake_hands(self.host.connect(**options), context)

    def shake_hands(self, peer: Peer, context: ssl.SSLContext | None = None) -> Peer:
        peer.sock = (context or self.authority.trust()).wrap_socket(
            peer.sock, server_hostname="localhost", suppress_ragged_eofs=False
        )
        return peer

    def counts(self, *names: str) -> list[int]:
        server = self.host.server
        assert server is not None
        return [server.limit_counts.get(name, 0) for name in names]

    def until_counted(self, name: str, count: int = 1) -> None:
        self.host.until(lambda: self.counts(name) == [count])


@pytest.fixture
def secure(host: Host, authority: Authority) -> SecureHost:
    return SecureHost(host, authority)
