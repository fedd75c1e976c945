"""The PROXY protocol's header against the package `proxy-protocol`, an independent implementation."""

from __future__ import annotations

import re
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from proxyprotocol import ProxyProtocolIncompleteError, ProxyProtocolSyntaxError
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.result import ProxyResultIPv4, ProxyResultIPv6, ProxyResultLocal, ProxyResultUnix, ProxyResultUnknown
from proxyprotocol.tlv import ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from channelkit.errors import BadProxyHeader
from channelkit.wire.proxy_protocol import V1_MAX, ProxyHeader, crc32c, read_proxy_header

MAX = 4096
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

ports = st.integers(0, 65535)
v4 = st.tuples(st.ip_addresses(v=4).map(IPv4Address), ports)
mapped = st.integers(0, 2**32 - 1).map(lambda number: IPv6Address(0xFFFF << 32 | number))
v6 = st.tuples(st.ip_addresses(v=6).map(IPv6Address) | mapped, ports)
paths = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=108)
vectors = st.dictionaries(st.integers(4, 255).filter(lambda kind: kind != 0x20), st.binary(max_size=40), max_size=4)


def header(read: bytes, max_size: int = MAX) -> ProxyHeader:
    """The header that is complete in `read`."""
    found = read_proxy_header(read, max_size)
    assert found is not None
    return found


def binary(command: int = 0x21, family: int = 0x11, payload: bytes = bytes(12)) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(payload)) + payload


def plain(address: IPv4Address | IPv6Address) -> str:
    """An address as sockets are told to be: IPv4 however it is wrapped."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


@st.composite
def results(draw: st.DrawFn, version: int) -> Any:
    """What a proxy may want to tell."""
    kind = draw(st.sampled_from(["v4", "v6", "unknown"] + (["unix", "local"] if version == 2 else [])))
    more: dict[str, Any] = {}
    if version == 2:
        more["tlv"] = ProxyProtocolTLV(init=draw(vectors))
        if kind not in ("local", "unknown"):
            more["protocol"] = draw(st.sampled_from([socket.SOCK_STREAM, socket.SOCK_DGRAM]))
    if kind == "v4":
        return ProxyResultIPv4(draw(v4), draw(v4), **more)
    if kind == "v6":
        return ProxyResultIPv6(draw(v6), draw(v6), **more)
    if kind == "unix":
        return ProxyResultUnix(draw(paths), draw(paths), **more)
    return ProxyResultLocal(**more) if kind == "local" else ProxyResultUnknown()


def expected(result: Any) -> tuple[Any, ...]:
    """proxied, client, server."""
    if isinstance(result, ProxyResultIPv4 | ProxyResultIPv6):
        return True, (plain(result.source[0]), result.source[1]), (plain(result.dest[0]), result.dest[1])
    return isinstance(result, ProxyResultUnix), None, None


def told(found: ProxyHeader) -> tuple[Any, ...]:
    return found.proxied, found.client, found.server


# -- what another implementation writes


@given(st.sampled_from([1, 2]).flatmap(lambda version: st.tuples(st.just(version), results(version))), st.binary())
def test_what_others_write_is_read(given: tuple[int, Any], rest: bytes) -> None:
    """Addresses and size are right whatever follows, and no part of a header is taken for a whole one."""
    version, result = given
    data = (ProxyProtocolV1() if version == 1 else ProxyProtocolV2()).pack(result)
    found = header(data + rest)
    assert found.size == len(data)
    assert told(found) == expected(result)
    assert not found.secure
    for size in range(len(data)):
        assert read_proxy_header(data[:size], MAX) is None


@given(st.booleans(), st.binary(max_size=20), st.booleans())
def test_a_proxy_tells_that_its_client_speaks_tls(secure: bool, rest: bytes, with_checksum: bool) -> None:
    """By the first byte of a value of type 0x20."""
    flags = bytes([0x01 if secure else 0x06])
    tlv = ProxyProtocolTLV(init={0x20: flags + bytes(4) + rest})
    result = ProxyResultIPv4((IPv4Address(1), 1), (IPv4Address(2), 2), protocol=socket.SOCK_STREAM, tlv=tlv)
    assert header(ProxyProtocolV2().pack(result)).secure is secure


def test_unix_and_what_is_not_known() -> None:
    """The empty value of TLS is none; with family 0x00 the socket's addresses stand, and TLS is told all the same."""
    assert header(binary(family=0x00, payload=b"\x20\0\5\1\0\0\0\0")) == ProxyHeader(24, secure=True)
    assert header(binary(family=0x00, payload=b"\x20\0\0")) == ProxyHeader(19)
    assert header(binary(family=0x31, payload=bytes(216))) == ProxyHeader(232, proxied=True)


# -- what is mutated


PORT = r"(?:0|[1-9][0-9]{0,4})"
HEX = "[0-9a-fA-F:.]+"
STRICT = re.compile(
    rf"PROXY (UNKNOWN( [^\n]*)?|TCP4 [0-9.]+ [0-9.]+ {PORT} {PORT}|TCP6 {HEX} {HEX} {PORT} {PORT})\r\n".encode()
)


def oracle(data: bytes) -> tuple[Any, ...] | None:
    """What the other implementation reads; None if it refuses."""
    v1_end = data.find(b"\n") + 1
    try:
        if data.startswith(b"PROXY ") and v1_end:
            return expected(ProxyProtocolDetect().unpack(data[:v1_end]))
        length = int.from_bytes(data[14:16])
        return expected(ProxyProtocolDetect().unpack(data[: 16 + length]))
    except (ProxyProtocolSyntaxError, ProxyProtocolIncompleteError, ValueError, struct.error):
        return None


def strict(data: bytes) -> bool:
    """Whether `data` is what the specification allows and the other implementation does not look at."""
    if data.startswith(b"PROXY "):
        line = data[: data.find(b"\n") + 1]
        return len(line) <= V1_MAX and STRICT.fullmatch(line) is not None
    command, family, length = struct.unpack_from("!BBH", data, 12)
    size = {0x00: 0, 0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}.get(family)
    if command == 0x20:
        return bool(16 + length <= MAX)
    if size is None or length < size or 16 + length > MAX:
        return False
    rest = data[16 + size : 16 + length]
    while len(rest) >= 3:
        rest = rest[3 + int.from_bytes(rest[1:3]) :] if 3 + int.from_bytes(rest[1:3]) <= len(rest) else b"x"
    return not rest


def verdict(data: bytes) -> ProxyHeader | str | None:
    """The header, None if it is not complete, or that it is none."""
    try:
        return read_proxy_header(data, MAX)
    except BadProxyHeader:
        return "bad"


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A header, with some bytes changed, taken out or put in."""
    version = draw(st.sampled_from([1, 2]))
    codec: Any = ProxyProtocolV1() if version == 1 else ProxyProtocolV2()
    data = bytearray(codec.pack(draw(results(version))))
    typical = st.sampled_from(b" \r\n:.%0/-+_1aF" if version == 1 else bytes([0, 1, 2, 3, 0x11, 0x20, 0x21, 0x31]))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data) - 1))
        byte = draw(typical | st.integers(0, 255))
        match draw(st.sampled_from("sid")):
            case "s":
                data[at] = byte
            case "i":
                data.insert(at, byte)
            case _:
                del data[at]
    return bytes(data)


@given(mutated())
@example(b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n")
@example(b"PROXY TCP4 1.2.3.4 5.6.7.8 1_0 2\r\n")
@example(b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n")
@example(b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n")
@example(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n")
@example(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n")
@example(b"PROXY UNKNOWN \r  \r\n")
@example(b"PROXY UNKNOWN a\nb\r\n")
@example(b"PROXY UNKNOWN" + 92 * b"x" + b"\r\n")
def test_what_is_mutated_is_read_as_others_do_or_refused(data: bytes) -> None:
    """A header that is accepted means to others the same; one that is refused is refused by them, or by the letter.

    However it is cut: no part of it is taken for a whole one, and none is refused that might become one.
    """
    verdicts = [verdict(data[:size]) for size in range(len(data) + 1)]
    decided = [one for one in verdicts if one is not None]
    assert verdicts == sorted(verdicts, key=lambda one: one is not None)
    assert len(set(decided)) <= 1
    try:
        found = read_proxy_header(data, MAX)
    except BadProxyHeader as error:
        if not error.absent:
            assert oracle(data) is None or not strict(data), data
        return
    if found is None:
        return  # not complete
    assert strict(data), data
    command, family = data[12:14] if data.startswith(SIGNATURE) else (None, None)
    if command == 0x20:
        assert told(found) == (False, None, None)  # the rest is to be ignored, which the other does not quite
    elif family in (0x31, 0x32):
        assert told(found) == (True, None, None)  # the other wants paths to be ASCII
    else:
        assert told(found) == oracle(data[: found.size])


@given(st.binary(max_size=40))
def test_what_is_no_header_is_seen_at_the_first_byte_that_differs(data: bytes) -> None:
    """Until then it might become one."""
    might = any(sig.startswith(data) or data.startswith(sig) for sig in (b"PROXY ", SIGNATURE))
    if might:
        return
    with pytest.raises(BadProxyHeader, match="does not begin with a PROXY header") as caught:
        read_proxy_header(data, MAX)
    assert caught.value.absent


# -- one by one

LONGEST = ":".join(8 * ["ffff"])


@pytest.mark.parametrize(
    ("line", "client", "server"),
    [
        ("TCP4 255.255.255.255 255.255.255.255 65535 65535", ("255.255.255.255", 65535), ("255.255.255.255", 65535)),
        ("TCP4 192.168.0.1 192.168.0.11 56324 443", ("192.168.0.1", 56324), ("192.168.0.11", 443)),
        ("TCP6 2001:DB8::1 ::1 0 1", ("2001:db8::1", 0), ("::1", 1)),
        ("TCP6 ::ffff:192.0.2.1 ::1 1 1", ("192.0.2.1", 1), ("::1", 1)),
        (f"TCP6 {LONGEST} {LONGEST} 65535 65535", (LONGEST, 65535), (LONGEST, 65535)),
    ],
)
def test_lines_of_version_1(line: str, client: tuple[str, int], server: tuple[str, int]) -> None:
    """The examples and the worst case of the specification."""
    data = f"PROXY {line}\r\n".encode()
    found = header(data + b"GET")
    assert found == ProxyHeader(len(data), True, client, server)


@pytest.mark.parametrize(
    "line", ["UNKNOWN", "UNKNOWN ffff::1 ::1 1 1", "UNKNOWN whatever  it is", "UNKNOWN " + 91 * "x"]
)
def test_unknown_keeps_the_addresses_of_the_socket(line: str) -> None:
    """Whatever stands behind it."""
    assert header(f"PROXY {line}\r\n".encode()) == ProxyHeader(len(line) + 8)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", "neither TCP4, TCP6 with two addresses"),
        (b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n", "neither"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", "neither"),
        (b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n", "neither"),
        (b"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n", "neither"),
        (b"PROXY \r\n", "neither"),
        (b"PROXY UNKNOWNS\r\n", "neither"),
        (b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n", "b'1.2.3.04' is no address of TCP4"),
        (b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n", "is no address of TCP4"),
        (b"PROXY TCP4 ::1 5.6.7.8 1 2\r\n", "is no address of TCP4"),
        (b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", "is no address of TCP6"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "is no address of TCP6"),
        (b"PROXY TCP6 \xff::1 ::1 1 2\r\n", "is no address of TCP6"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", "b'01' is no port"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n", "b'65536' is no port"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n", "b'' is no port"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", "no CRLF ends"),
        (b"PROXY UNKNOWN" + 92 * b"x" + b"\r\n", "neither"),
        (b"PROXY UNKNOWN " + 92 * b"x" + b"\r\n", "no CRLF ends"),
        (b"PROXY UNKNOWN " + 93 * b"x", "no CRLF ends"),
        (binary(command=0x11), "version and command are 0x11"),
        (binary(command=0x22), "version and command are 0x22"),
        (binary(family=0x41), "0x41, which does not exist"),
        (binary(family=0x13), "0x13, which does not exist"),
        (binary(family=0x10), "0x10, which does not exist"),
        (binary(payload=bytes(11)), "11 bytes are too few"),
        (binary(family=0x21, payload=bytes(35)), "35 bytes are too few"),
        (binary(family=0x31, payload=bytes(215)), "215 bytes are too few"),
        (binary(payload=bytes(4081)), r"announces 4097 bytes, more than max_proxy_header \(4096\)"),
        (binary(payload=bytes(12) + b"\x04\0"), "ends inside a type-length-value"),
        (binary(payload=bytes(12) + b"\x04\0\2x"), "type 0x04 reaches beyond"),
        (binary(payload=bytes(12) + b"\x03\0\3xxx"), "a checksum has 4 bytes, not 3"),
        (binary(payload=bytes(12) + b"\x03\0\4xxxx"), "the checksum is wrong"),
    ],
)
def test_malformed_headers_say_what_is_wrong(data: bytes, text: str) -> None:
    """Each of them looks like a header, so that nobody takes it for something else."""
    with pytest.raises(BadProxyHeader, match=text) as caught:
        read_proxy_header(data, MAX)
    assert not caught.value.absent


def test_a_header_of_exactly_the_limit() -> None:
    """`max_proxy_header` is the size that is allowed."""
    assert header(binary(command=0x20, payload=bytes(84)), 100).size == 100
    with pytest.raises(BadProxyHeader, match="announces 100 bytes"):
        read_proxy_header(binary(command=0x20, payload=bytes(84)), 99)


def test_the_fixed_part_is_judged_before_its_payload_is_there() -> None:
    """A header that announces too much, or nonsense, is not waited for."""
    for data in (binary(payload=bytes(60000)), binary(family=0x77), binary(command=0x31), binary(payload=b"")):
        with pytest.raises(BadProxyHeader):
            read_proxy_header(data[:16], MAX)


def test_local_ignores_everything_else() -> None:
    """Family, addresses and values too (the proxy's own health check), but not its length."""
    data = binary(command=0x20, family=0x77, payload=b"\x03\0\4xxxxgarbage")
    assert header(data + b"GET") == ProxyHeader(len(data))
    assert header(binary(command=0x20, family=0, payload=b"")) == ProxyHeader(16)


def test_a_checksum_over_the_whole_header() -> None:
    """With zeros where it stands itself; any other byte that changes makes it wrong."""
    before, behind = bytes(12) + b"\x04\0\1x\x03\0\4", b"\x20\0\5\1\0\0\0\0"
    value = crc32c(binary(payload=before + bytes(4) + behind)).to_bytes(4)
    data = binary(payload=before + value + behind)
    assert header(data) == ProxyHeader(len(data), True, ("0.0.0.0", 0), ("0.0.0.0", 0), secure=True)
    for at in (*range(16, 28), 31, *range(35, 39), 42):
        with pytest.raises(BadProxyHeader, match="the checksum is wrong"):
            read_proxy_header(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], MAX)


def test_the_checksum_is_the_one_of_the_rfc() -> None:
    """RFC 3720 B.4: 32 bytes of zeros, of ones, and 0 to 31."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(32 * b"\xff") == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
