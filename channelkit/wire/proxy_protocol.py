"""The PROXY protocol: a header before the first byte of a connection, by which a proxy tells whose it is.  Pure.

The specification is HAProxy's proxy-protocol.txt, versions 1 (a line of text) and 2 (binary).  It wants receivers to be
strict, so that nothing else is taken for a header.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from channelkit.errors import BadProxyHeader

Address: TypeAlias = tuple[str, int]

V1_MAX = 107  # bytes of the longest line of version 1, CRLF included
_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = struct.Struct("!12sBBH")  # signature, version and command, family and protocol, length of what follows
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")

# The combinations of version 2 that exist: how many bytes their addresses take.  Datagrams are QUIC's clients.
_UNSPEC, _TCP4, _UDP4, _TCP6, _UDP6, _UNIX, _UNIX_DATAGRAM = 0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
_SIZES = {_UNSPEC: 0, _TCP4: 12, _UDP4: 12, _TCP6: 36, _UDP6: 36, _UNIX: 216, _UNIX_DATAGRAM: 216}

_TYPE_CRC32C, _TYPE_SSL = 0x03, 0x20
_CLIENT_SSL = 0x01


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a header tells.

    Without `proxied` the socket's own addresses are the right ones: the proxy speaks for itself (a health check), or
    does not know.  With it `client` and `server` are None where the client came by a UNIX socket.
    """

    size: int  # of the header in bytes
    proxied: bool = False
    client: Address | None = None
    server: Address | None = None
    secure: bool = False  # the client's connection to the proxy is TLS, says version 2


def read_proxy_header(data: bytes, max_size: int) -> ProxyHeader | None:
    """The header at the beginning of `data`; None if it is not complete there.

    Raises BadProxyHeader as soon as it can be none: with `absent`, if it does not begin like one; else malformed, or of
    version 2 and longer than `max_size`.
    """
    if data.startswith(_V1):
        return _read_v1(data)
    if data.startswith(_V2):
        return _read_v2(data, max_size)
    if _V1.startswith(data) or _V2.startswith(data):
        return None
    raise BadProxyHeader(f"the connection does not begin with a PROXY header but with {data[:16]!r}", absent=True)


# -- version 1


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\n", 0, V1_MAX) - 1
    if end < 0 and len(data) < V1_MAX:
        return None
    if data[end : end + 2] != b"\r\n":  # also if there was no LF: then this is data[-2:0]
        raise BadProxyHeader(f"no CRLF ends the line {data[:V1_MAX]!r}")
    line = data[:end]
    family, *rest = line[len(_V1) :].split(b" ")
    if family == b"UNKNOWN":
        return ProxyHeader(end + 2)  # what stands behind it is to be ignored
    if family not in (b"TCP4", b"TCP6") or len(rest) != 4:
        raise BadProxyHeader(f"{line!r} is neither TCP4, TCP6 with two addresses and two ports, nor UNKNOWN")
    client, server = (_host(text, family, line) for text in rest[:2])
    client_port, server_port = (_port(text, line) for text in rest[2:])
    return ProxyHeader(end + 2, True, (client, client_port), (server, server_port))


def _host(text: bytes, family: bytes, line: bytes) -> str:
    address = text.decode("latin-1")
    try:
        if family == b"TCP4":
            return str(ipaddress.IPv4Address(address))
        if "%" not in address:
            return _plain(ipaddress.IPv6Address(address))
    except ValueError:
        pass
    raise BadProxyHeader(f"{text!r} is no address of {family.decode()} in {line!r}")


def _port(text: bytes, line: bytes) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise BadProxyHeader(f"{text!r} is no port in {line!r}")
    return int(text)


def _plain(address: ipaddress.IPv6Address) -> str:
    """As sockets' addresses are told: IPv4 by its own address, whatever kind of socket it came to."""
    return str(address.ipv4_mapped or address)


# -- version 2


def _read_v2(data: bytes, max_size: int) -> ProxyHeader | None:
    if len(data) < _V2_FIXED.size:
        return None
    _, command, family, length = _V2_FIXED.unpack_from(data)
    if command not in (0x20, 0x21):
        raise BadProxyHeader(f"version and command are {command:#04x}, not 0x20 (LOCAL) or 0x21 (PROXY)")
    size = _V2_FIXED.size + length
    if size > max_size:
        raise BadProxyHeader(f"the header announces {size} bytes, more than max_proxy_header ({max_size})")
    if command == 0x20:
        return ProxyHeader(size) if len(data) >= size else None  # its rest is to be ignored, whatever it is
    addresses = _SIZES.get(family)
    if addresses is None:
        raise BadProxyHeader(f"address family and protocol are {family:#04x}, which does not exist")
    if length < addresses:
        raise BadProxyHeader(f"{length} bytes are too few for the addresses of family {family:#04x}")
    if len(data) < size:
        return None
    secure = _read_vectors(data[:size], _V2_FIXED.size + addresses)
    if family == _UNSPEC:
        return ProxyHeader(size, secure=secure)
    client, server = _addresses(data, addresses)
    return ProxyHeader(size, True, client, server, secure)


def _addresses(data: bytes, size: int) -> tuple[Address | None, Address | None]:
    at = _V2_FIXED.size
    if size == _SIZES[_UNIX]:
        return None, None
    half = (size - 4) // 2
    client_port, server_port = struct.unpack_from("!HH", data, at + 2 * half)
    client, server = (_packed(data[where : where + half]) for where in (at, at + half))
    return (client, client_port), (server, server_port)


def _packed(packed: bytes) -> str:
    return str(ipaddress.IPv4Address(packed)) if len(packed) == 4 else _plain(ipaddress.IPv6Address(packed))


def _read_vectors(header: bytes, at: int) -> bool:
    """Walk the type-length-values from `at` on, checking a checksum; whether one says that the client speaks TLS."""
    secure = False
    while at < len(header):
        if at + 3 > len(header):
            raise BadProxyHeader("the header ends inside a type-length-value")
        kind, length = struct.unpack_from("!BH", header, at)
        value = header[at + 3 : at + 3 + length]
        if len(value) < length:
            raise BadProxyHeader(f"a value of type {kind:#04x} reaches beyond the header's end")
        if kind == _TYPE_CRC32C:
            _check(header, at + 3, value)
        elif kind == _TYPE_SSL:
            secure = bool(value and value[0] & _CLIENT_SSL)
        at += 3 + length
    return secure


def _check(header: bytes, at: int, value: bytes) -> None:
    """The checksum is over the whole header, with zeros where it stands itself."""
    if len(value) != 4:
        raise BadProxyHeader(f"a checksum has 4 bytes, not {len(value)}")
    if crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(value):
        raise BadProxyHeader("the checksum is wrong")


def crc32c(data: bytes) -> int:
    """RFC 3720 appendix B.4."""
    table = _crc32c_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@cache
def _crc32c_table() -> tuple[int, ...]:
    def entry(crc: int) -> int:
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        return crc

    return tuple(map(entry, range(256)))
