"""The TLS of one connection without any connection: whatever the pieces it comes in, what goes in comes out."""

from __future__ import annotations

import ssl
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channelkit.server.pump.tls import RECORD, RECORDS_PER_TURN, HandshakeFailed, TlsSession
from channelkit.testing.tls import client_context, pem_file, server_context
from channelkit.wire.client_hello import NO_APPLICATION_PROTOCOL

BUFFER = memoryview(bytearray(64 * 1024))


class Client:
    """The other side: OpenSSL's own client."""

    def __init__(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, alpn: tuple[str, ...] = ("http/1.1",)) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = version
        if alpn:
            context.set_alpn_protocols(list(alpn))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="test")
        self.done = False

    def shake(self, data: bytes = b"") -> bytes:
        self.incoming.write(data)
        try:
            self.tls.do_handshake()
            self.done = True
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def seal(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def open(self, data: bytes) -> bytes:
        self.incoming.write(data)
        received = b""
        try:
            while piece := self.tls.read(65536):
                received += piece
        except ssl.SSLWantReadError:
            pass
        return received


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut by the sizes, over and over."""
    cut, at, number = [], 0, 0
    while at < len(data):
        size = sizes[number % len(sizes)]
        cut.append(data[at : at + size])
        at, number = at + size, number + 1
    return cut


def hand(session: TlsSession, data: bytes, sizes: list[int]) -> bytes:
    """Feed a handshake in pieces."""
    answer = b""
    for piece in pieces(data, sizes):
        session.feed(memoryview(piece))
        if not session.established:
            answer += session.handshake()
    return answer


def open_all(session: TlsSession) -> bytes:
    """Every turn there is."""
    received = b""
    while True:
        size = session.open(BUFFER)
        received += BUFFER[:size]
        if not session.more:
            return received


def established(client: Client, sizes: list[int], behind: bytes = b"") -> TlsSession:
    """A session after its handshake; `behind` came in one packet with the client's last flight."""
    session = TlsSession(server_context())
    data = client.shake()
    while not session.established:
        answer = hand(session, data, sizes)
        if session.established:
            break
        data = client.shake(answer)
        if client.done and behind:
            data += client.seal(behind)
    else:
        answer = b""
    if client.done:
        client.open(answer)
    else:
        client.shake(answer)
    assert client.done
    return session


versions = st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
sizes = st.lists(st.integers(1, 700), min_size=1, max_size=4)
texts = st.lists(st.one_of(st.binary(min_size=1, max_size=200), st.integers(1, 40_000).map(bytes)), max_size=6)


@settings(max_examples=max(1, settings().max_examples // 2))
@given(versions, sizes, texts, texts, st.binary(min_size=1, max_size=100))
def test_what_goes_in_comes_out(
    version: ssl.TLSVersion, cuts: list[int], ups: list[bytes], downs: list[bytes], behind: bytes
) -> None:
    """Any version, any pieces, messages behind the handshake in one packet with it, both directions, both ends."""
    client = Client(version)
    session = established(client, cuts, behind if version == ssl.TLSVersion.TLSv1_3 else b"")
    received = open_all(session)
    for piece in pieces(b"".join(map(client.seal, ups)), [size * 50 for size in cuts]):
        session.feed(memoryview(piece))
        received += open_all(session)
    assert received == (behind if version == ssl.TLSVersion.TLSv1_3 else b"") + b"".join(ups)
    assert client.open(b"".join(map(session.seal, downs))) == b"".join(downs)
    assert not session.ended
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    session.feed(memoryview(client.outgoing.read()))
    assert open_all(session) == b""
    assert session.ended
    assert client.open(session.seal(b"still")) == b"still"
    client.incoming.write(session.goodbye())
    client.tls.unwrap()  # close_notify both ways: no error


def test_a_handshake_goes_on_wherever_it_was_cut() -> None:
    """Cut in two at every byte of the client's flights."""
    first = len(Client().shake())
    for cut in range(1, first):
        client, session = Client(), TlsSession(server_context())
        data = client.shake()
        session.feed(memoryview(data[:cut]))
        assert session.handshake() == b""
        assert not session.more
        session.feed(memoryview(data[cut:]))
        data = client.shake(session.handshake())
        session.feed(memoryview(data[: cut % len(data)]))
        session.handshake()
        session.feed(memoryview(data[cut % len(data) :]))
        session.handshake()
        assert session.established


def test_a_turn_is_bounded_and_nothing_is_forgotten() -> None:
    """Many records in one read: a turn takes its share, and says that there is more though nothing more will come."""
    client = Client()
    session = established(client, [1000])
    session.feed(memoryview(b"".join(client.seal(b"x") for _ in range(RECORDS_PER_TURN * 2 + 1))))
    counts = []
    while True:
        counts.append(session.open(BUFFER))
        if not session.more:
            break
    assert counts == [RECORDS_PER_TURN, RECORDS_PER_TURN, 1]


def test_a_read_ends_anywhere_in_a_record() -> None:
    """A record and a half, then the rest: each byte is taken once."""
    client = Client()
    session = established(client, [1000])
    data = client.seal(b"one") + client.seal(b"two") + client.seal(b"three")
    received = b""
    for piece in (data[:40], data[40:41], data[41:]):
        session.feed(memoryview(piece))
        received += open_all(session)
    assert received == b"onetwothree"


def test_a_buffer_is_never_too_small() -> None:
    """What has no room waits: four full records fit into 64 KiB, the fifth comes in the next turn."""
    client = Client()
    session = established(client, [1000])
    session.feed(memoryview(client.seal(bytes(5 * RECORD))))
    assert (session.open(BUFFER), session.more) == (4 * RECORD, True)
    assert (session.open(BUFFER), session.more) == (RECORD, False)


def test_few_records_for_much() -> None:
    """What is sealed at once leaves in full records."""
    client = Client()
    session = established(client, [1000])
    assert records(session.seal(b"x" * 5)) == 1
    assert records(session.seal(memoryview(bytes(RECORD * 3 + 1)))) == 4


def records(data: bytes) -> int:
    count = at = 0
    while at < len(data):
        at += 5 + int.from_bytes(data[at + 3 : at + 5])
        count += 1
    assert at == len(data)
    return count


# -- what is no handshake


@given(st.binary(min_size=1, max_size=200))
def test_garbage_fails_or_waits(data: bytes) -> None:
    """Nothing else comes out of it; what begins like HTTP is answered in HTTP, other bytes get no answer but alerts."""
    session = TlsSession(server_context())
    session.feed(memoryview(data))
    failure: HandshakeFailed | None = None
    try:
        assert session.handshake() == b""
    except HandshakeFailed as error:
        failure = error
    if data[:1].isalpha():
        assert failure is not None
        assert failure.answer.startswith(b"HTTP/1.1 400 ")
    elif data[0] != 22:
        assert failure is not None
        assert (failure.reason, failure.answer) == ("not tls", b"")
    elif failure is not None:
        assert failure.answer[:1] in (b"", b"\x15")


@given(st.integers(0, 600), st.integers(1, 255))
def test_a_hello_with_a_wrong_byte_does_no_harm(at: int, flip: int) -> None:
    """It fails, waits or is taken; never anything else."""
    data = bytearray(Client().shake())
    data[at % len(data)] ^= flip
    session = TlsSession(server_context())
    session.feed(memoryview(bytes(data)))
    try:
        session.handshake()
    except HandshakeFailed:
        pass
    assert not session.established


def test_a_broken_record_is_an_error() -> None:
    """After the handshake a flipped bit does not pass; the alert for it is ready."""
    client = Client()
    session = established(client, [1000])
    data = bytearray(client.seal(b"hello"))
    data[-1] ^= 1
    session.feed(memoryview(bytes(data)))
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        session.open(BUFFER)
    assert session.control()[:1] in (b"\x15", b"\x17")


@pytest.mark.parametrize("offered", [("h2",), ("h2", "spdy/3")])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_speaks_only_others_is_told(offered: tuple[str, ...], version: ssl.TLSVersion) -> None:
    """RFC 7301 3.2: the fatal alert no_application_protocol, and the client understands it."""
    client, session = Client(version, offered), TlsSession(server_context())
    session.feed(memoryview(client.shake()))
    with pytest.raises(HandshakeFailed, match="no application protocol in 'h2") as caught:
        session.handshake()
    assert caught.value.answer == NO_APPLICATION_PROTOCOL
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        client.shake(caught.value.answer)


@pytest.mark.parametrize(
    ("offered", "chosen"), [((), None), (("h2", "http/1.1"), "http/1.1"), (("http/1.1", "h2"), "http/1.1")]
)
def test_who_also_speaks_ours_gets_it(offered: tuple[str, ...], chosen: str | None) -> None:
    """Without ALPN, HTTP/1.1 is meant."""
    client = Client(alpn=offered)
    established(client, [1000])
    assert client.tls.selected_alpn_protocol() == chosen


def test_a_context_that_offers_more_than_we_speak() -> None:
    """The programmer's mistake is named, not left to a client that sends HTTP/2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with pem_file() as path:
        context.load_cert_chain(path)
    client, session = Client(alpn=("h2", "http/1.1")), TlsSession(context)
    session.feed(memoryview(client.shake()))
    session.feed(memoryview(client.shake(session.handshake())))
    with pytest.raises(HandshakeFailed, match="offers 'h2' by ALPN, which this server does not speak"):
        session.handshake()


def test_an_old_version_is_refused() -> None:
    """TLS 1.1 gets an alert that says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    session = TlsSession(server_context())
    session.feed(memoryview(outgoing.read()))
    with pytest.raises(HandshakeFailed, match="unsupported protocol") as caught:
        session.handshake()
    assert caught.value.answer.endswith(b"\x02\x46")  # protocol_version


def test_the_plans_trust_the_certificate() -> None:
    """It is valid for the name the plans use."""
    assert client_context().cert_store_stats()["x509"] == 1
