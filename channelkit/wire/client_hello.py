"""What a TLS client offers in its first message, as far as the ssl module does not tell: the protocols of ALPN.

Pure.  The handshake itself is OpenSSL's; this reads over its shoulder (RFC 8446 4.1.2, RFC 7301 3.1).
"""

from __future__ import annotations

HANDSHAKE = 22  # the content type of a handshake record (RFC 8446 5.1)
_CLIENT_HELLO = 1
_ALPN = 16
_LONGEST = 128 * 1024  # OpenSSL takes no longer hello either

#: A whole record: the fatal alert no_application_protocol (RFC 7301 3.2), in plain text, before any key is agreed on.
NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"
#: The same with internal_error: a connection too many, turned away before its handshake (RFC 8446 6.2).
INTERNAL_ERROR = b"\x15\x03\x03\x00\x02\x02\x50"


class ClientHello:
    """Collects the first message of a client, which may come in several records; `complete` when it is there."""

    __slots__ = ("_message", "complete")

    def __init__(self) -> None:
        self._message = b""
        self.complete = False

    def add(self, record: bytes) -> None:
        """One whole record, its header included; ignored once the message is complete."""
        if self.complete:
            return
        self._message += record[5:]
        message = self._message
        self.complete = len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4])
        if len(message) > _LONGEST:
            self.complete = True

    def protocols(self) -> list[str] | None:
        """The protocols offered by ALPN; None if the client offers none, or has sent no hello: OpenSSL says that."""
        try:
            return _protocols(self._message)
        except (IndexError, ValueError):
            return None


class _Reader:
    """Length-prefixed things, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self._data)

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self._data):
            raise ValueError("cut off")
        data = self._data[self.at : end]
        self.at = end
        return data

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))


def _protocols(message: bytes) -> list[str] | None:
    reader = _Reader(message)
    if reader.number(1) != _CLIENT_HELLO:
        return None
    hello = _Reader(reader.vector(3))
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    if not hello:
        return None  # no extensions
    extensions = _Reader(hello.vector(2))
    while extensions:
        kind, data = extensions.number(2), extensions.vector(2)
        if kind == _ALPN:
            return _names(_Reader(_Reader(data).vector(2)))
    return None


def _names(reader: _Reader) -> list[str]:
    names: list[str] = []
    while reader:
        names.append(reader.vector(1).decode("latin-1"))
    return names
