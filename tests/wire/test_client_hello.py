"""What a client offers by ALPN is read out of real hellos, whole or cut, and nothing else makes it fail."""

from __future__ import annotations

import itertools
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channelkit.wire.client_hello import ClientHello


def hello_record(protocols: list[str], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """The first flight of a real client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(protocols)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="test").do_handshake()
    return outgoing.read()


def read(*records: bytes) -> ClientHello:
    hello = ClientHello()
    for record in records:
        hello.add(record)
    return hello


names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(st.lists(names, max_size=8), st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]))
def test_the_protocols_are_those_the_client_was_given(protocols: list[str], version: ssl.TLSVersion) -> None:
    """In order; None from a client without ALPN."""
    hello = read(hello_record(protocols, version))
    assert hello.complete
    assert hello.protocols() == (protocols or None)


@given(st.lists(names, min_size=1, max_size=3), st.lists(st.integers(1, 600), max_size=5))
def test_a_hello_in_many_records_is_one(protocols: list[str], cuts: list[int]) -> None:
    """RFC 8446 5.1: a handshake message may be spread over records."""
    record = hello_record(protocols)
    header, message = record[:3], record[5:]
    borders = sorted({0, *(cut for cut in cuts if cut < len(message)), len(message)})
    pieces = [message[start:end] for start, end in itertools.pairwise(borders)]
    hello = ClientHello()
    for number, piece in enumerate(pieces, 1):
        hello.add(header + len(piece).to_bytes(2) + piece)
        assert hello.complete == (number == len(pieces))
    assert hello.protocols() == protocols


@given(st.integers(1, 700))
def test_a_message_that_lies_about_its_parts_says_nothing(size: int) -> None:
    """Cut anywhere and its length made to fit: OpenSSL will say what is wrong, this reads no protocols out of it."""
    message = hello_record(["h2"])[5:]
    cut = message[4 : 4 + size]
    whole = size >= len(message) - 4
    hello = read(b"\x16\x03\x01\0\0" + message[:1] + len(cut).to_bytes(3) + cut)
    assert hello.protocols() == (["h2"] if whole else None)


@given(st.binary(max_size=300))
def test_any_bytes_are_taken(data: bytes) -> None:
    """Nothing a peer sends makes it raise."""
    read(b"\x16\x03\x01\0\0" + data).protocols()


def test_an_endless_message_is_no_message() -> None:
    """It is given up, not collected for ever."""
    hello = ClientHello()
    for _ in range(20):
        hello.add(b"\x16\x03\x01\x40\x00" + b"\x01\xff\xff\xff" * 4096)
    assert hello.complete
    assert hello.protocols() is None
