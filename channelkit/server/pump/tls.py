"""One connection's TLS, without socket and clock: ciphertext in, plaintext out, and the other way round.

OpenSSL between two memory BIOs.  It is fed whole records, one at a time: so its buffers stay as small as one record, a
record that is not complete costs nothing (it remembers how many bytes it needs), and a read fails only where a record
was no application data.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from channelkit.tls import TLSInfo
from channelkit.wire.client_hello import HANDSHAKE, NO_APPLICATION_PROTOCOL, ClientHello
from channelkit.wire.http1_responses import PLAIN_ON_TLS

RECORD = 16 * 1024  # plaintext of one record at most (RFC 8446 5.1)
HEADER = 5
LONGEST = HEADER + RECORD + 2048  # a longer one breaks TLS 1.2 too (RFC 5246 6.2.3): OpenSSL says so by its header
RECORDS_PER_TURN = 64  # a record of one byte costs as much as a small message
HTTP = frozenset(("http/1.1", "http/1.0"))


class HandshakeFailed(Exception):
    """It will not come to anything.  `answer` is what the peer is told, in whatever it speaks.

    `reason` is counted, so it is one of a few; `detail` is what the peer has made of it.
    """

    def __init__(self, reason: str, answer: bytes = b"", detail: str = "") -> None:
        super().__init__(f"{reason} {detail}".rstrip())
        self.reason = reason
        self.answer = answer
        self.detail = detail


class TlsSession:
    """The server's side.  `feed` what arrives; then `handshake` until it is `established`, then `open` and `seal`."""

    __slots__ = ("_at", "_held", "_hello", "_incoming", "_object", "_outgoing", "_read", "ended", "established", "more")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._read: Callable[[int, memoryview], int] = self._object.read  # type: ignore[assignment]  # typeshed's bytes
        self._held = b""  # ciphertext that OpenSSL has not been given, from `_at` on
        self._at = 0
        self._hello: ClientHello | None = ClientHello()
        self.established = False
        self.more = False  # a whole record is still here
        self.ended = False  # the peer has said close_notify

    # -- ciphertext in

    def feed(self, data: memoryview) -> None:
        """Ciphertext arrived; it is copied."""
        self._held = self._held[self._at :] + data
        self._at = 0

    def _whole(self) -> int:
        """Where the next record ends; 0 if it is not whole yet."""
        held, at = self._held, self._at
        size = len(held) - at
        if size < HEADER:
            return 0
        need = HEADER + (held[at + 3] << 8 | held[at + 4])
        if need > LONGEST:
            need = HEADER
        return at + need if size >= need else 0

    def _next_record(self) -> bytes:
        end = self._whole()
        if not end:
            return b""
        record = self._held[self._at : end]
        if end == len(self._held):
            self._held, self._at = b"", 0
        else:
            self._at = end
        return record

    # -- the handshake

    def handshake(self) -> bytes:
        """Go on by what was fed; returns what is to be sent.  Raises HandshakeFailed.

        What arrived behind the handshake waits for `open`; `more` tells whether there is any.
        """
        hello = self._hello
        if hello is not None:
            self._check_first_byte()
        try:
            while not self.established and (record := self._next_record()):
                if hello is not None:
                    hello.add(record)
                self._incoming.write(record)
                self._shake()
        except ssl.SSLError as error:
            raise HandshakeFailed(why(error), self._outgoing.read()) from None
        if hello is not None and hello.complete:
            self._check_protocols(hello.protocols())
        if self.established:
            self.more = self._whole() > 0
            self._check_choice()
        return self._outgoing.read()

    def _shake(self) -> None:
        try:
            self._object.do_handshake()
            self.established = True
        except ssl.SSLWantReadError:
            pass

    def _check_first_byte(self) -> None:
        first = self._held[self._at : self._at + 1]
        if first.isalpha():
            raise HandshakeFailed("plain http", PLAIN_ON_TLS)
        if first and first[0] != HANDSHAKE:
            raise HandshakeFailed("not tls")

    def _check_protocols(self, offered: list[str] | None) -> None:
        """RFC 7301 3.2, which the ssl module leaves out: who offers only what we do not speak is told so.

        The server's first answer is written already, and thrown away.
        """
        self._hello = None
        if offered is not None and HTTP.isdisjoint(offered):
            names = ascii(", ".join(offered)[:80])
            raise HandshakeFailed("no application protocol", NO_APPLICATION_PROTOCOL, f"in {names}")

    def _check_choice(self) -> None:
        chosen = self._object.selected_alpn_protocol()
        if chosen is not None and chosen not in HTTP:
            raise HandshakeFailed(f"ssl= is a context that offers {chosen!r} by ALPN, which this server does not speak")

    def info(self) -> TLSInfo:
        """What a request is told of it."""
        cipher = self._object.cipher()
        return TLSInfo(
            version=self._object.version() or "",
            cipher=cipher[0] if cipher is not None else "",
            client_certificate=self._object.getpeercert() or None,
        )

    # -- plaintext out

    def open(self, buffer: memoryview) -> int:
        """Decrypt what was fed into `buffer`, as far as it has room and a turn allows; returns the size.

        Afterwards `more` tells whether another record waits, `ended` that the peer has ended its direction.  Raises
        ssl.SSLError for bytes that are no TLS, and for an alert of the peer; what is to be said then is in `control`.
        """
        size, room = 0, len(buffer) - RECORD
        for _ in range(RECORDS_PER_TURN):
            if size > room:
                break
            record = self._next_record()
            if not record:
                self.more = False
                return size
            self._incoming.write(record)
            try:
                count = self._read(RECORD, buffer[size:] if size else buffer)
            except ssl.SSLWantReadError:
                continue  # a ticket, a key update, an alert: nothing for us
            except ssl.SSLZeroReturnError:
                count = 0
            if not count:  # close_notify; before we have said ours, the ssl module returns 0 for it
                self.ended = True
                self.more = False
                return size
            size += count
        self.more = self._whole() > 0
        return size

    # -- plaintext in, ciphertext out

    def seal(self, data: bytes | memoryview) -> bytes:
        """Encrypt `data`, in as few records as it fits; what TLS itself has to say comes with it."""
        size = len(data)
        if size <= RECORD:
            self._object.write(data)
            return self._outgoing.read()
        sealed: list[bytes] = []
        view = memoryview(data)
        for start in range(0, size, RECORD):
            self._object.write(view[start : start + RECORD])
            sealed.append(self._outgoing.read())  # record by record: the BIO never shrinks again
        return b"".join(sealed)

    def control(self) -> bytes:
        """What TLS itself has to say: an alert, an answer to a key update."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def goodbye(self) -> bytes:
        """close_notify: nothing more comes from us, and nothing was cut off (RFC 8446 6.1)."""
        try:
            self._object.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # it is written; that the peer has not answered yet is no news
        return self._outgoing.read()

    def release(self) -> None:
        """Let go of OpenSSL's memory, whoever still holds the connection.  The last call."""
        del self._read, self._object, self._incoming, self._outgoing
        self._held = b""


def why(error: ssl.SSLError) -> str:
    """OpenSSL's word for what went wrong, as people write it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"client certificate: {error.verify_message}"
    return (error.reason or str(error)).lower().replace("_", " ")
