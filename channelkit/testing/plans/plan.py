"""What two endpoints and the network between them are to do, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from channelkit.config import Config
from channelkit.testing.peers import Payload
from channelkit.wire.deflate import Deflate

TransportName = Literal["websocket", "deflate", "raw", "sse", "ndjson", "single"]  # deflate: a compressed WebSocket
TRANSPORTS: tuple[TransportName, ...] = ("websocket", "deflate", "raw", "sse", "ndjson", "single")
Style = Literal["callback", "async", "iterate", "receive", "late", "discard"]
Ending = Literal["server", "peer", "vanish", "drain"]


# -- what the server does ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel an operation `ticks` turns after it began; `native`: by Task.cancel() where the backend is asyncio."""

    ticks: int
    native: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """`send` (or `send_nowait`); `behind`: the script does not wait for it."""

    payload: Payload
    close_after_send: bool | None = None
    nowait: bool = False
    behind: bool = False
    cancel: Cancel | None = None


@dataclass(frozen=True, slots=True)
class SendWrong:
    """`send` of something no channel carries."""

    nowait: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """`close` (or `close_nowait`)."""

    code: int = 1000
    reason: str = ""
    nowait: bool = False
    behind: bool = False
    cancel: Cancel | None = None


@dataclass(frozen=True, slots=True)
class Await:
    """One of the calls that only wait."""

    what: Literal["flush", "wait_closed", "receive"]
    behind: bool = True
    cancel: Cancel | None = None


@dataclass(frozen=True, slots=True)
class SendPing:
    """`ping`."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let `ticks` turns and then `seconds` go by: in either script."""

    seconds: float = 0.0
    ticks: int = 0


ServerStep = Send | SendWrong | Close | Await | SendPing | Pause


# -- what the peer does ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say:
    """A message to the server."""

    payload: Payload


@dataclass(frozen=True, slots=True)
class PeerPing:
    """A ping to the server."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The peer closes (HTTP: hangs up)."""

    code: int = 1000
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Violate:
    """Bytes that break RFC 6455, and the close code they deserve; the peer then says no more."""

    data: bytes
    code: int


@dataclass(frozen=True, slots=True)
class Manner:
    """What a peer, or the network on its behalf, does without a word."""

    what: Literal["stop_reading", "resume_reading", "vanish", "fall_silent", "half_close", "stall", "unstall"]


PeerStep = Say | PeerPing | Goodbye | Violate | Manner | Pause

VIOLATIONS = (
    Violate(b"\x81\x01a", 1002),  # not masked
    Violate(b"\x83\x80\0\0\0\0", 1002),  # a reserved opcode
    Violate(b"\x81\x81\0\0\0\0\xff", 1007),  # not UTF-8
    Violate(b"\x82\xff\x3f\0\0\0\0\0\0\0\0\0\0\0", 1009),  # 2**62 bytes announced
)


@dataclass(frozen=True, slots=True)
class Network:
    """What the connection is like."""

    capacity: int = 65536
    latency: float = 0.0
    chunk: int | None = None  # both directions are cut into reads of this size
    vanish_after: int | None = None  # the peer dies after it has read that many bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of `Config` that plans vary, small so that they are met."""

    soft_mark: int = 256
    hard_mark: int = 1024
    max_inbox: int = 4
    max_inbox_bytes: int = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, as data."""

    transport: TransportName = "websocket"
    style: Style = "callback"
    server: tuple[ServerStep, ...] = ()
    peer: tuple[PeerStep, ...] = ()
    network: Network = Network()
    limits: Limits = Limits()
    ending: Ending = "server"
    pace: float = 0.0  # seconds the consumer takes over a message
    late: float = 0.0  # seconds before a late receiver is set
    explode_at: int | None = None  # the callback raises at this message
    eager: int = 0  # this many of the peer's first steps are said in one packet with the handshake
    stubborn: bool = False  # the peer does not read again in the epilogue

    @property
    def is_websocket(self) -> bool:
        return self.transport in ("websocket", "deflate")

    def config(self) -> Config:
        """The server's configuration."""
        limits = self.limits
        return Config(
            soft_mark=limits.soft_mark,
            hard_mark=limits.hard_mark,
            max_inbox=limits.max_inbox,
            max_inbox_bytes=limits.max_inbox_bytes,
            compression=Deflate(threshold=16) if self.transport == "deflate" else None,
            server_header=None,
            slow_callback=60.0,  # real seconds: a busy machine is no news here
        )
