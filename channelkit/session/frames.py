"""The frames of CK/1: what the two ends of a session say to each other, whatever carries it.

Values, that nobody changes; those that messages are made of are not declared frozen, since a frozen one takes three
times as long to make.  Their forms on the wire are `codec`'s.  The rules about numbers live here: a message has a
number from 1, an acknowledgement one from 0, and both stay below 2**53, so that every JSON reader and every browser
holds them.
"""

from __future__ import annotations

from dataclasses import dataclass

from channelkit.status import check_close

MAX_NUMBER = 2**53 - 1
VERSION = 1
SUBPROTOCOL = "ck.v1"
_PAYLOAD = (str, bytes)


@dataclass(unsafe_hash=True, slots=True)
class Text:
    """Message `n` of its direction, a str of Unicode scalar values."""

    n: int
    text: str

    @property
    def payload(self) -> str:
        """What the application sent."""
        return self.text

    @property
    def size(self) -> int:
        """Bytes that count against the window: UTF-8."""
        return len(self.text) if self.text.isascii() else len(self.text.encode())


@dataclass(unsafe_hash=True, slots=True)
class Binary:
    """Message `n` of its direction, bytes."""

    n: int
    data: bytes

    @property
    def payload(self) -> bytes:
        """What the application sent."""
        return self.data

    @property
    def size(self) -> int:
        """Bytes that count against the window."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class End:
    """The last number of its direction: the sender closes.  It costs nothing of the window."""

    n: int
    code: int = 1000
    reason: str = ""

    size = 0


@dataclass(unsafe_hash=True, slots=True)
class Ack:
    """Everything up to `n` of the other direction has arrived (`recv` of whoever says it)."""

    n: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Nothing, said so that the silence ends."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a server's hello fixes for both directions; sizes in bytes, times in seconds."""

    window: int
    window_bytes: int
    max_message: int
    ping: float
    grace: float


@dataclass(frozen=True, slots=True)
class Hello:
    """The server's first frame of every attachment.  The later polls of an instance hold `recv` alone."""

    recv: int
    sid: str | None = None
    a: int | None = None
    terms: Terms | None = None
    by: int | None = None  # the instance that sent the highest number taken
    have: int | None = None  # the highest number taken, where it is above `recv`
    secret: str | None = None  # in the answer to a creation, and nowhere else

    def __repr__(self) -> str:
        return f"Hello(recv={self.recv}, sid={self.sid!r}, a={self.a}, terms={self.terms})"  # never the secret


@dataclass(frozen=True, slots=True)
class ClientHello:
    """A client's first frame on a WebSocket; without `sid` (in it or in the URL) it asks for a new session."""

    a: int = 1
    recv: int = 0
    sid: str | None = None
    secret: str | None = None

    def __repr__(self) -> str:
        return f"ClientHello(a={self.a}, recv={self.recv}, sid={self.sid!r})"  # never the secret


Message = Text | Binary
Numbered = Text | Binary | End
Frame = Text | Binary | End | Ack | Ping | Hello | ClientHello


def numbered(n: int, payload: str | bytes) -> Message:
    """`payload` as message `n`."""
    return Text(n, payload) if isinstance(payload, str) else Binary(n, payload)


def payload_size(payload: str | bytes) -> int:
    """Bytes that a message's payload counts against the window: text as UTF-8."""
    if isinstance(payload, bytes) or payload.isascii():
        return len(payload)
    return len(payload.encode())


def check_payload(payload: object, max_message: int) -> int:
    """The size of a message to be sent.

    Raises TypeError for what is neither str nor bytes, ValueError for a lone surrogate or more than `max_message`
    bytes; nothing is numbered then.
    """
    if not isinstance(payload, _PAYLOAD):
        raise TypeError(f"a session carries str and bytes, not {type(payload).__name__}")
    size = payload_size(payload)  # a lone surrogate raises
    if size > max_message:
        raise ValueError(f"a message of {size} bytes is larger than this session's max_message ({max_message})")
    return size


def may_end(code: int, reason: str) -> bool:
    """Whether a peer may say `code` and `reason` in its end: what may stand in a WebSocket's close frame."""
    try:
        check_close(code, reason)
    except (TypeError, ValueError):
        return False
    return True
