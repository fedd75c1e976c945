"""Clients of every kind over TLS: Python's ssl, curl, openssl, websockets, and our own."""

from __future__ import annotations

import os
import select
import shutil
import socket
import ssl
import subprocess
import threading
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from websockets.sync.client import connect as websockets_connect

from channelkit import TLS, ASGIHandler, CloseStatus, Endpoint, Listen, Request
from channelkit.client import ConnectFailed, connect
from channelkit.client.channel import KINDS
from channelkit.errors import ConfigError

if TYPE_CHECKING:
    from tests.server.conftest import Host
    from tests.server.tls.conftest import Authority, SecureHost

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def of_version(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_over_both_versions(secure: SecureHost, version: str) -> None:
    """Requests one after another, and a body; the request knows what it came by, the end has a close_notify."""
    secure.serve()
    peer = secure.connect(of_version(secure.authority.trust(), version))
    assert peer.ask(path="/a").body == b"https /a 0"
    assert peer.ask("POST", "/b", body=b"x" * 300_000).body == b"https /b 300000"
    assert peer.ask("GET", "/", "Connection: close").status == 200
    assert peer.rest() == b""  # an end without close_notify would raise
    tls = secure.requests[0].tls
    assert tls is not None
    assert (tls.version, tls.client_certificate) == (version, None)
    assert "GCM" in tls.cipher or "CHACHA20" in tls.cipher


def test_an_absolute_target_must_be_of_https(secure: SecureHost) -> None:
    """RFC 9110 7.4: the scheme of the target is the one of the connection."""
    secure.serve()
    peer = secure.connect()
    assert peer.ask("GET", "https://localhost/x").body == b"https /x 0"
    assert peer.ask("GET", "http://localhost/x").status == 421


@pytest.mark.parametrize("version", VERSIONS)
def test_a_websocket_with_large_messages(secure: SecureHost, version: str) -> None:
    """One MiB each way, many records; then both close in order."""
    secure.serve()
    context = of_version(secure.authority.trust(), version)
    with websockets_connect(f"wss://localhost:{secure.host.port}/", ssl=context, max_size=None) as client:
        for message in ("", "hello", "\U0001f600" * (1 << 18), bytes(range(256)) * 4096):
            client.send(message)
            assert client.recv(timeout=10) == message
    end = secure.host.end()
    assert (end.status, end.code, end.by) == (CloseStatus.NORMAL, 1000, "peer")
    assert secure.requests[0].scheme == "https"


def curl(secure: SecureHost, *args: str) -> str:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    line = [program, "-sS", "--max-time", "10", "--cacert", str(secure.authority.file), *args]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl(secure: SecureHost, version: str) -> None:
    """With verification, both versions, and an upload."""
    secure.serve()
    options = ("--tlsv" + version, "--tls-max", version, "--data-binary", "x" * 100_000)
    assert curl(secure, *options, f"https://localhost:{secure.host.port}/up") == "https /up 100000"


def test_plain_http_is_told_to_speak_tls(secure: SecureHost) -> None:
    """As nginx does it; nothing reaches the handler."""
    secure.serve()
    assert "this port speaks TLS" in curl(secure, f"http://localhost:{secure.host.port}/")
    peer = secure.host.connect()
    peer.request()
    assert peer.reply().status == 400
    assert peer.rest() == b""
    secure.until_counted("handshake: plain http", 2)
    assert secure.requests == []


def test_what_clients_offer_is_counted_as_one_thing(secure: SecureHost) -> None:
    """A name of their choice would be a counter of their choice, for as long as the server runs."""
    secure.serve()
    for number in range(3):
        context = secure.authority.trust()
        context.set_alpn_protocols([f"h{number}\n"])
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            secure.connect(context)
    secure.until_counted("handshake: no application protocol", 3)
    assert secure.host.server is not None
    assert list(secure.host.server.limit_counts) == ["handshake: no application protocol"]


def test_tls_on_a_plain_port_is_closed_at_once(host: Host, authority: Authority) -> None:
    """The client hello is refused by its first byte, not when a timeout is over; the tally says why."""

    async def handler(request: Request) -> Any:
        raise AssertionError("nothing was asked")

    host.serve(handler, head_timeout=1000.0)
    with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
        authority.trust().wrap_socket(host.connect().sock, server_hostname="localhost")
    host.until(lambda: host.server is not None and host.server.limit_counts.get("refused 400"))


def talk(client: subprocess.Popen[bytes], text: bytes, answer: str) -> None:
    """Type `text` and wait until `answer` is printed."""
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(text)
    client.stdin.flush()
    output = ""
    while answer not in output:
        assert select.select([client.stdout], [], [], 10)[0], f"no {answer!r} in {output!r}"
        data = os.read(client.stdout.fileno(), 65536)
        assert data, f"no {answer!r} in {output!r}"
        output += data.decode(errors="replace")


def test_openssl_changes_keys_and_may_not_renegotiate(secure: SecureHost) -> None:
    """K and k of s_client are key updates, with and without an answer; R is a renegotiation, which ends it there."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    secure.serve()
    line = [program, "s_client", "-connect", f"127.0.0.1:{secure.host.port}", "-CAfile", str(secure.authority.file)]
    with subprocess.Popen([*line, "-tls1_3"], stdin=PIPE, stdout=PIPE, stderr=subprocess.STDOUT) as client:
        # It takes a command only as the first letter of what it reads at once: so each waits for the one before.
        try:
            for path, command in (("/1", b"K\n"), ("/2", b"k\n"), ("/3", b"")):
                talk(client, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), f"https {path} 0")
                if command:
                    talk(client, command, "KEYUPDATE")
        finally:
            client.kill()
    done = subprocess.run([*line, "-tls1_2"], input="R\n", capture_output=True, text=True, check=False, timeout=10)
    assert "no renegotiation" in done.stderr, done.stderr


# -- our own client


@pytest.fixture
def anyio_backend(backend: str) -> str:
    return backend


class Room:
    """An endpoint that echoes."""

    def __init__(self, secure: SecureHost, **options: Any) -> None:
        self.endpoint = Endpoint(self.echo)
        self.url = f"https://localhost:{secure.host.serve(self.endpoint, ssl=secure.authority.tls(**options)).port}/"

    async def echo(self, channel: Any) -> None:
        async for message in channel:
            await channel.send(message)


@pytest.mark.anyio
@pytest.mark.parametrize("transport", KINDS)
async def test_our_client_on_every_transport(secure: SecureHost, transport: str) -> None:
    """A session over https and wss with an authority of one's own."""
    room = Room(secure)
    with anyio.fail_after(20):
        async with connect(room.url, transport=transport, ssl=secure.authority.trust()) as channel:
            for message in ("a", b"\0" * 100_000, "x" * 900_000):
                await channel.send(message)
                assert await channel.receive() == message


@pytest.mark.anyio
async def test_our_client_says_whom_it_does_not_trust(secure: SecureHost) -> None:
    """The error names the mistake and the cure, not a timeout; the server counts what the next client says aloud."""
    room = Room(secure)
    with pytest.raises(ConnectFailed, match=r"not to be trusted.*ssl=ssl.create_default_context"):
        async with connect(room.url):
            pass
    secure.until_counted("handshake: broken off")  # anyio hangs up without an alert
    with pytest.raises(ssl.SSLCertVerificationError):
        secure.connect(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    secure.until_counted("handshake: tlsv1 alert unknown ca")


@pytest.mark.anyio
async def test_our_client_on_a_port_without_tls(secure: SecureHost) -> None:
    """Both ways round the text says what is wrong."""
    secure.host.serve(secure.handle)
    with pytest.raises(ConnectFailed, match="wrong version number; is it an https port"):
        async with connect(f"https://localhost:{secure.host.port}/"):
            pass
    with pytest.raises(ConfigError, match="does not speak TLS; write https"):
        async with connect(f"http://localhost:{secure.host.port}/", ssl=secure.authority.trust()):
            pass


# -- client certificates


def with_certificate(authority: Authority, name: str) -> ssl.SSLContext:
    context = authority.trust()
    context.load_cert_chain(*authority.files(name))
    return context


def test_a_client_certificate_is_told_to_the_handler(secure: SecureHost) -> None:
    """Verified; its names are the application's to judge."""
    secure.serve(secure.authority.tls(client_ca=secure.authority.file))
    assert secure.connect(with_certificate(secure.authority, "alice.example")).ask().status == 200
    tls = secure.requests[0].tls
    assert tls is not None
    assert tls.client_certificate is not None
    assert tls.client_certificate["subjectAltName"] == (("DNS", "alice.example"),)


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_client_certificate_there_is_no_connection(secure: SecureHost, version: str) -> None:
    """The client is told by an alert (in TLS 1.3 after its own side of the handshake is done)."""
    secure.serve(secure.authority.tls(client_ca=secure.authority.file))
    with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"):
        secure.connect(of_version(secure.authority.trust(), version)).ask()
    secure.until_counted("handshake: peer did not return a certificate")
    assert secure.requests == []


def test_a_certificate_by_somebody_else_is_refused(secure: SecureHost) -> None:
    """Counted with OpenSSL's reason."""
    import trustme

    secure.serve(secure.authority.tls(client_ca=secure.authority.file))
    context = secure.authority.trust()
    trustme.CA().issue_cert("mallory.example").configure_cert(context)
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        secure.connect(context).ask()
    assert secure.host.until(
        lambda: [name for name in secure.host.server.limit_counts if "client certificate" in name]  # type: ignore[union-attr]
    )


def test_an_optional_certificate_may_be_missing(secure: SecureHost) -> None:
    """Then there is None of it."""
    secure.serve(secure.authority.tls(client_ca=secure.authority.file, client_certificate="optional"))
    assert secure.connect().ask().status == 200
    assert secure.connect(with_certificate(secure.authority, "bob.example")).ask().status == 200
    certificates = [request.tls and request.tls.client_certificate for request in secure.requests]
    assert certificates[0] is None
    assert certificates[1] is not None


def test_the_asgi_scope_says_https_and_wss(secure: SecureHost) -> None:
    """As applications expect it to build URLs."""
    schemes: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan")
        schemes.append(scope["scheme"])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await receive()
            await send({"type": "websocket.accept"})

    secure.host.serve(ASGIHandler(app), ssl=secure.authority.tls())
    assert secure.connect().ask().status == 204
    secure.connect().upgrade()
    assert schemes == ["https", "wss"]


def test_a_key_of_rsa_serves_too(secure: SecureHost, authority: Authority) -> None:
    """Handshakes with RSA cost more; what is said is the same."""
    import trustme

    certificate, key = authority.files(key_type=trustme.KeyType.RSA)
    secure.serve(TLS(certificate=certificate, key=key))
    assert secure.connect().ask().status == 200


# -- the ends of a real connection


def test_a_reset_is_an_abnormal_end(secure: SecureHost) -> None:
    """As without TLS: nothing is left, and the status is true."""
    secure.serve()
    peer = secure.connect()
    peer.upgrade()
    secure.host.channel()
    peer.reset()
    end = secure.host.end()
    assert (end.status, end.code, end.by) == (CloseStatus.ABNORMAL, 1006, "network")
    secure.host.idle()


def test_a_drain_says_goodbye_twice(secure: SecureHost) -> None:
    """1001 in a close frame, then close_notify; whoever is in a handshake is closed at once."""
    secure.serve()
    peer, halfway = secure.connect(), secure.host.connect()
    peer.upgrade()
    secure.host.channel()
    secure.host.until(lambda: secure.host.core.lingering() == 2)  # both are accepted
    server = secure.host.server
    assert server is not None
    stopping = threading.Thread(target=server.stop, args=(5,))
    stopping.start()
    first, payload = peer.read_close()
    assert (first, payload[:2]) == (0x88, (1001).to_bytes(2))
    peer.send_frame(8, payload)
    assert peer.rest() == b""
    assert halfway.rest() == b""
    peer.close()
    halfway.close()
    stopping.join()
    assert secure.host.end().delivered


def test_a_slow_reader_gets_all_of_a_large_answer(secure: SecureHost) -> None:
    """Eight MiB into a small buffer, read in small pieces."""
    data = bytes(range(256)) * 32768

    async def handler(request: Request) -> bytes:
        return data

    secure.host.serve(handler, ssl=secure.authority.tls())
    peer = secure.shake_hands(secure.host.connect(receive_buffer=4096))
    peer.request("GET", "/", "Connection: close")
    assert peer.reply().body == data
    assert peer.rest() == b""


def test_tls_for_one_listener_only(secure: SecureHost) -> None:
    """`Listen(ssl=)` is that listener's own; the addresses say what each speaks."""
    listeners = [Listen(ip="127.0.0.1", port=0, ssl=secure.authority.tls()), Listen(ip="127.0.0.1", port=0)]
    secure.host.serve(secure.handle, listen=listeners)
    server = secure.host.server
    assert server is not None
    assert [address.partition(":")[0] for address in server.addresses] == ["https", "http"]
    assert secure.connect().ask().body == b"https / 0"
    plain = secure.host.connect()
    plain.sock.close()
    plain.sock = socket.create_connection(("127.0.0.1", int(server.addresses[1].rpartition(":")[2])), 10)
    assert plain.ask().body == b"http / 0"
