"""What a machine tells its binding to do: values, in the order in which they must happen.

Both machines: `Write`, `Room`, `Attached`, `Detached`, `Ended`.  The server's besides: `Start`, `Finish`.  The
client's besides: `Create`, `Open`, `Attach`, `Drop`, `Post`, `Delete`, `Drained`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from channelkit.session.ending import Ending
from channelkit.session.frames import Frame, Numbered
from channelkit.session.refusals import Refusal


class Kind(Enum):
    """What carries the downlink.  Streams are one-way; their uplink is POST."""

    POLL = "poll"
    STREAM = "stream"  # NDJSON
    EVENTS = "events"  # SSE
    WEBSOCKET = "websocket"

    # By identity, as object has it: Enum's own hashes the name in Python, on every look-up.
    __hash__ = object.__hash__


@dataclass(unsafe_hash=True, slots=True)
class Write:
    """Encode `frames` for this attachment and write them, in order.  On a poll it is the whole body of its 200."""

    attachment: int
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """An acknowledgement came: senders that wait for the window look again, and so does `flush`."""


@dataclass(frozen=True, slots=True)
class Attached:
    """The session has a connection again: `on_attach`."""


@dataclass(frozen=True, slots=True)
class Detached:
    """It has none: `on_detach`."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; once, and the last but for farewells on the wire.  Wake everything that waits."""

    ending: Ending


# -- the server's ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """The first request was admitted: begin the application's handler."""


@dataclass(frozen=True, slots=True)
class Finish:
    """This attachment is over: end it after what was written, and call the machine no more about it.

    Stream: finish the response.  WebSocket: close with `code`.  Poll: if `Write` was its answer, nothing is left to
    do; else answer `refusal`, or 204 if there is none.
    """

    attachment: int
    code: int = 1012
    reason: str = ""
    refusal: Refusal | None = None


# -- the client's ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Create:
    """POST /ck?a=; then `created` or `create_failed`."""

    a: int


@dataclass(frozen=True, slots=True)
class Open:
    """Open a WebSocket; then `opened` or `ended`."""

    attachment: int


@dataclass(frozen=True, slots=True)
class Attach:
    """Send this attach: a GET, or the client's hello as first frame of the WebSocket that was opened."""

    attachment: int
    kind: Kind
    a: int
    ack: int
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Drop:
    """End this connection; what still comes of it does not matter."""

    attachment: int


@dataclass(frozen=True, slots=True)
class Post:
    """POST this batch; then `posted` or `post_failed`, with its number.  One is in flight at a time."""

    number: int
    a: int
    ack: int
    frames: tuple[Numbered, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """DELETE the session; nobody waits for the answer."""

    a: int


@dataclass(frozen=True, slots=True)
class Drained:
    """Nothing is left to do: the end is known to both, or nobody can be told any more."""


ServerAction = Write | Room | Attached | Detached | Ended | Start | Finish
ClientAction = Write | Room | Attached | Detached | Ended | Create | Open | Attach | Drop | Post | Delete | Drained
