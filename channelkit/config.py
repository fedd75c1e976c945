"""Every limit and timeout, its default, and the reason for the default.

All times are seconds, all sizes bytes.  Nothing here does anything: the parts that enforce a limit read it here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from ssl import SSLContext
from typing import Literal, TypedDict

from channelkit._trust import trusted
from channelkit.errors import ConfigError
from channelkit.listen import FORWARDED, PROXY_PROTOCOL, Forwarded, Listen, ProxyProtocol, checked_proxies, checked_tls
from channelkit.listen import choice as _choice
from channelkit.tls import TLS
from channelkit.wire.deflate import Deflate

KIB = 1024
MIB = 1024 * KIB

_IP, _PORT = "127.0.0.1", 8090


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The options of a server.  `serve` and `run_server` take them as keyword arguments.

    Raises ConfigError (a ValueError) for a value that cannot work.
    """

    # -- where and who (http-kit's names; http-kit binds 0.0.0.0, we do not expose a new server to the network unasked)
    ip: str = _IP
    port: int = _PORT
    listen: Sequence[Listen] | None = None  # several places, or others than a TCP port; instead of ip and port
    backlog: int = 1024  # a burst of new connections between two turns of the loop
    reuse_port: bool = False  # SO_REUSEPORT: several processes share a port, and a second server is no error any more
    server_header: str | None = "channelkit"
    ssl: SSLContext | TLS | None = None  # speak TLS; nobody has a certificate unasked
    # -- the worker pool, for plain `def` handlers and their callbacks (thread, queue_size, prefix: http-kit's)
    thread: int = 4  # handlers at once, and as many callbacks at once
    queue_size: int = 20480  # requests that wait for a thread, more: 503; the same number of callbacks, more: 1013
    worker_name_prefix: str = "worker-"
    max_waiting_threads: int = 1000  # besides: in blocking receive, send, flush; 8 MiB of addresses each.  More: 1013
    executor: Executor | None = None  # does the work instead, and is never shut down by us
    # -- who the client is, behind a proxy: nobody is believed who is not named
    trusted_proxies: Sequence[str] = ()  # addresses, networks, "unix" (peers of UNIX sockets), "*" (everyone)
    proxy_protocol: ProxyProtocol = "disable"
    max_proxy_header: int = 4096  # of the PROXY protocol, version 2; TLVs of TLS and clouds fit
    proxy_timeout: float = 5.0  # to the end of that header: proxies send it at once; one packet may be lost (3 s)
    forwarded: Forwarded = "ignore"
    # -- what one request may cost
    max_line: int = 4096  # request line or one header line, CRLF not counted; longer: 414 or 431
    max_head: int = 64 * KIB  # the whole head; http-kit's fixed figure
    max_headers: int = 100  # a browser sends 10 to 20
    max_body: int = 8 * MIB  # http-kit's default; longer: 413
    max_ws: int = 4 * MIB  # one WebSocket message, all fragments together; longer: 1009
    max_fragments: int = 65536  # frames of one message: max_ws in pieces of 64 bytes, as Autobahn sends it; more: 1008
    compression: Literal["deflate"] | Deflate | None = None  # permessage-deflate; memory and CPU that nobody asked for
    # -- what one channel may hold
    soft_mark: int = 64 * KIB  # unsent bytes above which `send` waits; one typical socket buffer
    hard_mark: int = 1 * MIB  # unsent bytes above which `send_nowait` raises WouldBlock
    max_inbox: int = 1024  # messages waiting for a receiver; more: reading stops
    max_inbox_bytes: int = 1 * MIB  # the same in bytes
    read_ahead: int = 64 * KIB  # bytes kept behind a request that is still being answered (http-kit's figure)
    max_connections: int = 20000  # at once; more wait in the kernel's accept queue
    max_connections_per_address: int = 10000  # half of all: no single address can shut the others out; more: 503
    # -- how long a peer may take (0 is never allowed: use math.inf to switch one off)
    handshake_timeout: float = 10.0  # TLS, from the connection on: two round trips, and one packet each way to repeat
    head_timeout: float = 10.0  # from a connection's or a request's first byte to the end of its head
    body_timeout: float = 30.0  # between two pieces of a request body the handler waits for
    keep_alive_timeout: float = 75.0  # silence between two requests; just above the 60 s of common proxies
    write_timeout: float = 30.0  # unsent bytes and no progress: the peer does not read
    ping_interval: float = 20.0  # silence after which a WebSocket is pinged; below the 30-60 s of NATs and proxies
    pong_timeout: float = 20.0  # from ping to any byte at all
    close_timeout: float = 10.0  # from our close frame to the peer's reply, then TCP is closed
    linger_timeout: float = 2.0  # after the last byte: reading away what a peer still sends, so it gets the answer
    half_closed_timeout: float = 30.0  # a peer hung up while we had stopped reading: how long its rest is kept
    drain_timeout: float = 10.0  # at SIGTERM or SIGINT: for running requests; below the 30 s until orchestrators kill
    spread: float = 0.0  # at a stop: over so long are channels closed; with many clients, spares the next server a herd
    handler_cleanup_timeout: float = 5.0  # after drain's deadline: for on_close callbacks and `finally` blocks
    lifespan_timeout: float = 60.0  # after the drain, for the shutdown of an application or `lifespan=` (hypercorn's)
    slow_callback: float = 0.1  # a synchronous callback on the loop that takes longer is logged
    half_closed: Literal["close", "answer"] = "close"  # what EOF from an HTTP client means for an open channel

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _CHECKS.get(str(field.type), _checked_elsewhere)(field.name, getattr(self, field.name))
        if self.port > 65535:
            raise ConfigError(f"port must be 0 to 65535 (0: any free port), not {self.port}")
        if self.hard_mark < self.soft_mark:
            raise ConfigError(f"hard_mark ({self.hard_mark}) must not be below soft_mark ({self.soft_mark})")
        if self.spread >= self.drain_timeout:
            raise ConfigError(f"spread ({self.spread}) must be below drain_timeout ({self.drain_timeout})")
        _choice("proxy_protocol", self.proxy_protocol, PROXY_PROTOCOL)
        _choice("forwarded", self.forwarded, FORWARDED)
        if not isinstance(self.reuse_port, bool):
            raise ConfigError(f"reuse_port must be True or False, not {self.reuse_port!r}")
        checked_tls(self.ssl)
        object.__setattr__(self, "trusted_proxies", checked_proxies(self.trusted_proxies))
        self._check_listeners()
        _choice("half_closed", self.half_closed, ("close", "answer"))
        if not isinstance(self.compression, Deflate):
            _choice("compression", self.compression, ("deflate", None))

    def _check_listeners(self) -> None:
        if self.listen is not None:
            if isinstance(self.listen, Listen | str) or not isinstance(self.listen, Sequence):
                raise ConfigError(f"listen must be a list of Listen, not {self.listen!r}")
            if not self.listen or not all(isinstance(one, Listen) for one in self.listen):
                raise ConfigError(f"listen must be a list of at least one Listen, not {self.listen!r}")
            object.__setattr__(self, "listen", tuple(self.listen))
            if (self.ip, self.port) != (_IP, _PORT) and not any(one.is_tcp for one in self.listen):
                raise ConfigError("ip and port are given, and no Listen uses them: add Listen(ip=..., port=...)")
        for one in self.listeners:
            proxied = one.proxy_protocol or self.proxy_protocol, one.forwarded or self.forwarded
            proxies = self.trusted_proxies if one.trusted_proxies is None else one.trusted_proxies
            if proxied != ("disable", "ignore") and not proxies:
                raise ConfigError(
                    "proxy_protocol and forwarded believe only trusted_proxies, and there are none: name their "
                    'addresses or networks, "unix" for UNIX sockets, or "*" if only proxies can connect'
                )

    @property
    def listeners(self) -> tuple[Listen, ...]:
        """Where to listen: `listen`, or the one that `ip` and `port` make; these also fill in for a Listen's own."""
        return tuple(
            dataclasses.replace(
                one, ip=self.ip if one.ip is None else one.ip, port=self.port if one.port is None else one.port
            )
            if one.is_tcp
            else one
            for one in (self.listen if self.listen is not None else (Listen(ip=self.ip),))
        )

    def at(self, listen: Listen) -> Config:
        """The configuration of the connections that come by one listener."""
        given = {name: getattr(listen, name) for name in OF_LISTENERS}
        changed = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(self, listen=None, **changed)

    def trusts(self, peer: object) -> bool:
        """Whether `peer`, (host, port) or None for a UNIX socket, is one of the trusted proxies."""
        return bool(self.trusted_proxies) and trusted(tuple(self.trusted_proxies)).peer(peer)

    @property
    def deflate(self) -> Deflate | None:
        """What `compression` means."""
        return Deflate() if self.compression == "deflate" else self.compression


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """The options of sessions (docs/protocol.md), one object an endpoint.

    Memory of one session at most: inbox + one window in + one window out, attached or not.  Raises ConfigError (a
    ValueError) for a value that cannot work.
    """

    ack: Literal["inbox", "processed"] = "inbox"  # what is acknowledged: entered the inbox, or its handler returned
    window: int = 1024  # unacknowledged messages each way: a second's worth at 1,000 a second
    window_bytes: int = 4 * MIB  # the same in bytes of payload; at least one message of max_message
    max_message: int = 1 * MIB  # payload of one message, text as UTF-8; larger: 413 or 1009
    grace: float = 30.0  # a session survives this long without its peer: a lift, a tunnel, a laptop's lid
    ping: float = 20.0  # silence after which an attachment says something; below the 30-60 s of NATs and proxies
    ping_timeout: float = 10.0  # from there to any byte at all, on a WebSocket; a write without progress on a stream
    max_wait: float = 25.0  # one poll; below the 30 s after which common proxies give up
    poll_bytes: int = 1 * MIB  # payload of one poll's answer; a larger message goes alone
    poll_gap: float = 5.0  # without a poll: the poller counts as detached, not merely between two polls
    rotation: float = 300.0  # a streaming response is ended and begun again; +- 10 %
    ack_delay: float = 1.0  # the longest an acknowledgement waits for company; at window/4 it goes at once
    hello_timeout: float = 10.0  # from a WebSocket's opening to the client's hello
    max_sessions: int = 20000  # open at once; as many as connections.  More: 503
    max_sessions_per_principal: int = 1000  # the same for one principal, or one address without principals.  More: 429
    fruitless_attaches: int = 10  # within attach_interval, close together, acknowledging nothing: then 429
    attach_interval: float = 10.0
    failed_credentials: int = 1000  # of one address (IPv6: one /64) within failure_interval: every session that it may
    # have, come back after a restart with a secret nobody knows any more.  Then only right secrets pass, others get 429
    failure_interval: float = 60.0
    failing_addresses: int = 10000  # remembered at once, some 200 bytes each
    preflight_age: int = 600  # s that a page goes by a preflight's answer: not one a POST; `origins` may change

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _CHECKS.get(str(field.type), _checked_elsewhere)(field.name, getattr(self, field.name))
        _choice("ack", self.ack, ("inbox", "processed"))
        if self.window_bytes < self.max_message:
            raise ConfigError(f"window_bytes ({self.window_bytes}) must not be below max_message ({self.max_message})")


class ServerOptions(TypedDict, total=False):
    """The fields of `Config` as keyword arguments, for type checkers; a test holds the two equal."""

    ip: str
    port: int
    listen: Sequence[Listen] | None
    backlog: int
    reuse_port: bool
    server_header: str | None
    ssl: SSLContext | TLS | None
    thread: int
    queue_size: int
    worker_name_prefix: str
    max_waiting_threads: int
    executor: Executor | None
    trusted_proxies: Sequence[str]
    proxy_protocol: ProxyProtocol
    max_proxy_header: int
    proxy_timeout: float
    forwarded: Forwarded
    max_line: int
    max_head: int
    max_headers: int
    max_body: int
    max_ws: int
    max_fragments: int
    compression: Literal["deflate"] | Deflate | None
    soft_mark: int
    hard_mark: int
    max_inbox: int
    max_inbox_bytes: int
    read_ahead: int
    max_connections: int
    max_connections_per_address: int
    handshake_timeout: float
    head_timeout: float
    body_timeout: float
    keep_alive_timeout: float
    write_timeout: float
    ping_interval: float
    pong_timeout: float
    close_timeout: float
    linger_timeout: float
    half_closed_timeout: float
    drain_timeout: float
    spread: float
    handler_cleanup_timeout: float
    lifespan_timeout: float
    slow_callback: float
    half_closed: Literal["close", "answer"]


#: What a `Listen` may have of its own.
OF_LISTENERS = ("backlog", "reuse_port", "ssl", "proxy_protocol", "forwarded", "trusted_proxies")


_ZERO_ALLOWED = frozenset({"port", "spread"})


def _int(name: str, value: object) -> None:
    low = 0 if name in _ZERO_ALLOWED else 1
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name} must be a whole number from {low}, not {value!r}")


def seconds(name: str, value: object) -> None:
    """Check a time.  Raises ConfigError."""
    if name in _ZERO_ALLOWED and value == 0:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value <= 0:
        raise ConfigError(f"{name} must be seconds above 0 (math.inf switches it off), not {value!r}")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or any(c in value for c in "\r\n\0"):
        raise ConfigError(f"{name} must be a str without line breaks, not {value!r}")


def _optional_text(name: str, value: object) -> None:
    if value is not None:
        _text(name, value)


def _optional_executor(name: str, value: object) -> None:
    if isinstance(value, ProcessPoolExecutor):
        raise ConfigError(f"{name} must run threads: handlers and channels cannot go to another process")
    if value is not None and not isinstance(value, Executor):
        raise ConfigError(f"{name} must be a concurrent.futures.Executor or None, not {value!r}")


def _checked_elsewhere(name: str, value: object) -> None:
    """A choice: `Config.__post_init__` names its words."""


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "int": _int,
    "float": seconds,
    "str": _text,
    "str | None": _optional_text,
    "Executor | None": _optional_executor,
}
