"""The one file a transport author reads: the seams between channels, transports and hosts.

A *host* holds connections (our server, an ASGI server, a test).  It presents each request as an `HttpExchange`; an
exchange for an upgrade request can become a `WebSocketExchange`.  A *transport* turns a request into a `Channel`
(seam 1) and speaks to the exchange (seam 2).  Transports and hosts never import each other.

Every write on an exchange is synchronous and never blocks: it accepts.  `buffered_bytes` tells how much has been
accepted and not handed on; after `want_room()` the exchange calls `listener.room()` once, after some of it has left.
An exchange calls its listener from the loop's own thread and never from inside a call the listener made.

What carries *sessions* has a smaller task, since the session itself numbers, keeps, sends again and counts: a
`SessionTransport` answers the requests of its addresses, and its `Carrier` writes frames (the last part of this file).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from channelkit.http import HeaderInput
from channelkit.session.actions import Finish as Finish
from channelkit.session.actions import Kind as Kind
from channelkit.session.codec import hello_members as hello_members
from channelkit.session.frames import Ack as Ack
from channelkit.session.frames import Binary as Binary
from channelkit.session.frames import ClientHello as ClientHello
from channelkit.session.frames import End as End
from channelkit.session.frames import Frame as Frame
from channelkit.session.frames import Hello as Hello
from channelkit.session.frames import Numbered as Numbered
from channelkit.session.frames import Ping as Ping
from channelkit.session.frames import Text as Text
from channelkit.session.query import Query as Query
from channelkit.session.refusals import Refusal as Refusal

if TYPE_CHECKING:
    from channelkit._handover import Company, Handover
    from channelkit._loop import Loop
    from channelkit._threads.pool import Workers
    from channelkit.channel import Channel
    from channelkit.config import Config, SessionConfig
    from channelkit.http import Request, Response
    from channelkit.session.parcel import Parcel
    from channelkit.statistics import ServerStatistics

SPI_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """What `as_channel` and `with_channel` were asked for, as a transport gets it."""

    subprotocols: tuple[str, ...] = ()
    headers: HeaderInput = ()
    status: int = 200
    streaming: bool = False
    framing: str | None = None
    origins: tuple[str, ...] | None = None
    quiet: bool = False  # a channel that cannot receive lets its handler wait all the same


@runtime_checkable
class Transport(Protocol):
    """Seam 1: makes channels out of requests.  Register one with `channelkit.registry.register`."""

    name: str
    spi_version: int

    def claims(self, request: Request) -> bool:
        """Whether this transport serves `request`.  Must be cheap and have no effect."""
        ...

    def open(self, exchange: HttpExchange, request: Request, options: ChannelOptions) -> Channel:
        """Make the channel of `request`.  Raises BadRequest if the peer asked wrongly; then nothing was answered."""
        ...


class Listener(Protocol):
    """What an exchange tells whoever uses it.  All calls come from the loop, one at a time."""

    def room(self) -> None:
        """Some bytes have left since `want_room()`; look again."""

    def finished(self) -> None:
        """Everything, the end included, was handed to the kernel or host.  The last call."""

    def lost(self, error: Exception | None) -> None:
        """The connection is gone before that.  The last call."""

    def going_away(self, now: bool) -> None:
        """The host is stopping: end soon.  `now`: its patience is over, end at once."""


class WebSocketListener(Listener, Protocol):
    """What a WebSocket exchange tells besides."""

    def received(self, message: str | bytes) -> None:
        """One whole message."""

    def pinged(self, data: bytes) -> None:
        """A ping came; its pong is on its way already."""

    def closed_by_peer(self, code: int, reason: str) -> None:
        """The peer's close frame came first; the reply is on its way.  1005 when it had no code."""

    def confirmed(self) -> None:
        """The peer has shown that it read all before our close frame, and has closed too."""

    def failed(self, code: int, detail: str) -> None:
        """The peer broke the protocol; the close frame with `code` is on its way."""


class Guest(Protocol):
    """What outlives the request that made it, such as a session, and must end with its host all the same."""

    def going_away(self, now: bool) -> None:
        """The host is stopping: end soon.  `now`: its patience is over, end at once."""

    def abort(self) -> None:
        """The host has stopped."""


class Host(Protocol):
    """What an exchange's host offers to those that outlive it."""

    #: Where plain `def` code runs.
    workers: Workers
    #: The other processes that accept connections for the same handler; None if there are none.
    company: Company | None

    @property
    def stopping(self) -> bool: ...

    def join(self, guest: Guest) -> None:
        """The host waits for `guest` when it drains, and tells it."""

    def leave(self, guest: Guest) -> None:
        """`guest` is over."""

    def statistics(self) -> ServerStatistics:
        """What has happened in it, and what is open now."""
        ...


class Outbox(Protocol):
    """How much an exchange has accepted and not handed on; a plain attribute, since every message looks at it."""

    @property
    def unsent(self) -> int: ...


class Exchange(ABC):
    """Seam 2, what both kinds share: one request being answered, or one WebSocket being held."""

    __slots__ = ("config", "host", "loop", "outbox")

    loop: Loop
    config: Config
    host: Host

    #: `outbox.unsent`: bytes accepted by `write` and not yet handed to the kernel or host.
    outbox: Outbox

    @property
    def buffered_bytes(self) -> int:
        """The same."""
        return self.outbox.unsent

    @abstractmethod
    def want_room(self) -> None:
        """Ask for one `listener.room()` after some bytes have left."""

    @abstractmethod
    def flush(self) -> None:
        """Hand over what can be handed over now."""

    @abstractmethod
    def set_reading(self, on: bool) -> None:
        """Stop or go on reading from the peer."""

    @abstractmethod
    def abort(self) -> None:
        """End the connection at once, dropping what is unsent; `listener.lost` follows."""


class HttpWire:
    """Bytes of a response body, and their chunked form once somebody needed it: shared by all members of a group."""

    __slots__ = ("chunk", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.chunk: bytes | None = None

    def __len__(self) -> int:
        return len(self.data)


class HttpExchange(Exchange):
    """One HTTP request being answered: one head, then body, then the end, each at most once."""

    __slots__ = ("channel", "gone", "listener")

    #: Who is told; None until a channel or a response takes the exchange.
    listener: Listener | None
    #: The one channel made for this request, if any.
    channel: Channel | None

    #: Whether the client went away before the response was complete.
    gone: bool

    @property
    @abstractmethod
    def started(self) -> bool:
        """Whether the head was written."""

    @property
    @abstractmethod
    def body_allowed(self) -> bool:
        """False where the request's method forbids a body (HEAD)."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the response is complete or the connection is gone."""

    @abstractmethod
    def start(self, status: int, headers: Iterable[tuple[str, str]], length: int | None) -> bool:
        """Write the head.  `length` is the body's size, None for a stream of unknown length.

        Returns False if no body may follow (HEAD, 204, 304).  Framing fields among `headers` are replaced by the
        host's own; `Connection: close` is honoured.  Raises ValueError for a header that cannot be written (nothing
        was written then), HandlerError if the response has begun.
        """

    @abstractmethod
    def write(self, wire: HttpWire) -> None:
        """Write body bytes; empty ones write nothing."""

    @abstractmethod
    def finish(self) -> None:
        """End the response properly; `listener.finished` or `listener.lost` follows."""

    @abstractmethod
    def channel_made(self, channel: Channel) -> None:
        """The request has become `channel`: remember it, and end it soon if its client has gone already."""

    def hand_over(self, body: bytes) -> Handover | None:
        """Give the connection up, for another process that will answer this request; then it counts as answered.

        `body` is the request's, which has been read to its end.  None if the host cannot do that, or the client is
        gone; then nothing has changed.
        """
        return None

    def watch_client(self) -> None:
        """From now on a client that hangs up ends the exchange (`Config.half_closed`), as it always ends a channel.

        Until then its FIN may mean that it has said all and waits for the answer.  A host that sees no FIN, or has
        told of it by `lost`, need not do anything.
        """

    @abstractmethod
    def upgrade(self, subprotocol: str | None, headers: Iterable[tuple[str, str]]) -> WebSocketExchange:
        """Answer 101 and become a WebSocket.  Raises BadRequest if the handshake is wrong; nothing was written then.

        The caller sets `listener` before it returns to the loop; nothing is received before that.
        """


class WebSocketExchange(Exchange):
    """One open WebSocket.  Framing, pings, pongs and the close handshake are the host's business."""

    __slots__ = ("listener", "write")

    listener: WebSocketListener
    #: Equal for exchanges whose `text` and `binary` give interchangeable results; None if never.
    wire_format: Hashable

    #: `text(message)`: the wire form (sized) of a str; ValueError if UTF-8 cannot carry it.
    text: Callable[[str], Any]
    #: `binary(message)`: the wire form (sized) of bytes.
    binary: Callable[[bytes], Any]

    #: `write(wire)` sends one message in its wire form; an attribute, so that a host may give its fastest.
    write: Callable[[Any], None]

    @property
    def unread(self) -> int:
        """Whole messages that came after our own close and were passed over, as far as the host counts them."""
        return 0

    @property
    def heard_at(self) -> float:
        """When bytes came last that completed no message, in the loop's time, as far as the host sees them."""
        return -math.inf

    def allow(self, size: int) -> None:
        """Let messages of `size` bytes pass a smaller limit of the host, if that is this package's to set."""

    @abstractmethod
    def ping(self, data: bytes) -> None:
        """Send a ping of at most 125 bytes."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Begin the close handshake.  `confirmed` may follow, then `finished` or `lost`, within `close_timeout`."""


# -- sessions (docs/protocol.md): what can carry them ------------------------------------------------------------------


class Carrier(Protocol):
    """A connection that carries a session's downlink.  It never calls the session from inside these calls."""

    def write(self, frames: tuple[Frame, ...]) -> None:
        """Encode and write `frames`, in order.  Being written removes nothing: only an acknowledgement does."""

    def finish(self, action: Finish) -> None:
        """End after what was written; the session hears no more of this carrier, and must not be told of its end."""


class QuickCarrier(Carrier, Protocol):
    """A carrier that goes on (no poll) and takes messages by themselves: nearly all are written this way then."""

    def message(self, n: int, parcel: Parcel) -> None:
        """The same as `write((numbered(n, parcel.payload),))`; `parcel` keeps forms that a group's members share."""


class Session(Protocol):
    """A session as its carriers see it.  All calls from the loop, one at a time; none of them waits."""

    @property
    def config(self) -> SessionConfig:
        """Its limits: `max_message` is what a carrier may have to read."""
        ...

    def attach(self, kind: Kind, a: int, ack: int, carrier: Carrier, wait: float = 0.0) -> int | Refusal:
        """Make `carrier` the attachment of instance `a`, which has everything up to `ack`; an older one is ended.

        Returns its number for the calls below, or why not; then nothing is written to `carrier`, ever.  Hello and all
        that is pending are written before this returns.
        """
        ...

    def received(self, attachment: int, frame: Frame) -> None:
        """A frame came on this attachment (`Kind.WEBSOCKET`: the connection carries the uplink too)."""

    def heard(self, attachment: int, at: float) -> None:
        """Bytes came at `at`, in the loop's time, that are no frame, or none yet: the peer lives.

        A carrier with an attribute `heard_at` is asked for it, before its silence is judged.
        """

    def after(self, n: int) -> Iterator[Numbered]:
        """What is kept with a number above `n`, in order, to be read at once.

        So a carrier need not write into a connection that takes nothing: it says so by an attribute `lagging`, writes
        what it skipped when there is `room`, and calls `caught_up`.
        """
        ...

    def caught_up(self, attachment: int) -> None:
        """A carrier that was `lagging` has written everything that there is."""

    def broke(self, attachment: int, code: int, reason: str) -> None:
        """The peer broke the protocol on this attachment: it is finished with this close code; the session remains."""

    def detached(self, attachment: int) -> None:
        """The carrier's connection is gone, whatever the reason; nothing happens if it was finished already."""


class Visit(Protocol):
    """One request at a carrier's address, admitted by origin and principal."""

    request: Request
    exchange: HttpExchange
    config: SessionConfig
    fields: tuple[tuple[str, str], ...]  # for a head that `carry` writes itself: what lets other sites' pages read it

    def refused(self, refusal: Refusal) -> Response:
        """The answer that says so; an own one where the format has its own way, as an EventSource has."""
        ...

    def query(self, last_event_id: str | None = None) -> Query:
        """What the request presents: `a`, `ack`, `wait`.  Raises BadMessage, which the endpoint answers with 400."""
        ...

    def session(self) -> Session | Refusal:
        """The session of this address, by the credential of the request; answer the refusal if it is one."""
        ...

    def welcome(self, hello: ClientHello) -> tuple[Session, str | None] | Refusal:
        """The session that a client's first frame asks for: found, or made and then told with its secret."""
        ...


class Answered:
    """The type of `ANSWERED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<answered>"


#: What a handler or `carry` returns that has answered the request itself, by its exchange.
ANSWERED = Answered()


@runtime_checkable
class SessionTransport(Protocol):
    """Seam 1 for sessions: gives the requests of some addresses a `Carrier`.  Registered like `Transport`."""

    name: str  # what `Endpoint(transports=...)` calls it
    spi_version: int
    hello_first: bool  # the client's first frame is its hello, as on a WebSocket; then /ck/WAY is served too

    @property
    def ways(self) -> tuple[str, ...]:
        """It serves /ck/SID/WAY for each (an attribute will do): 1 to 15 of a-z, 0-9, - and _, a letter first."""
        ...

    def carry(self, visit: Visit, way: str) -> Any:
        """Answer the request: a `Response`, or `ANSWERED` if `visit.exchange` has it; may be a coroutine function."""
        ...
