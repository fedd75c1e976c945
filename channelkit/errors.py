"""Every error channelkit raises, and whose fault each one is.

    ChannelKitError
    ├── LocalError                      your program's mistake, or a limit it ran into
    │   ├── ConfigError (ValueError)    an option or argument that cannot work
    │   ├── HandlerError (RuntimeError) a handler broke a rule of the request it answers
    │   ├── LifespanFailed (RuntimeError) an ASGI application could not start
    │   ├── ReceiveUnsupported          this channel only answers; it cannot receive
    │   ├── WorkersBusy                 all threads of the worker pool are busy and its queue is full
    │   └── NotAvailable                asked for something this version does not have yet
    ├── RemoteError                     the peer's mistake, judged from bytes it sent
    │   ├── BadRequest                  carries the HTTP status the peer was told
    │   ├── BadFrame                    carries the WebSocket close code the peer was told
    │   ├── BadProxyHeader              what a proxy sent before the connection's first byte; nobody is told
    │   └── BadMessage                  a frame, query or body of a session (docs/protocol.md); carries both
    │       └── MessageTooBig           one beyond the limits that hello told
    ├── ChannelClosed                   nobody's mistake: the channel is over
    └── Disconnected (OSError)          the same, as an ASGI application expects it

A full outbox raises `anyio.WouldBlock`, a second consumer `anyio.BusyResourceError`, a wrong type `TypeError`,
a wrong value `ValueError`: the words every anyio program already knows.  Bytes from a peer can only ever become
a RemoteError, and those never reach a handler: they become a status and a `CloseInfo`, except from
`Request.body()` and `Request.stream()`, where the handler waits for the very bytes that are wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channelkit.status import CloseInfo


class ChannelKitError(Exception):
    """The root of all errors of this package."""


class LocalError(ChannelKitError):
    """A mistake of the program that uses channelkit."""


class ConfigError(LocalError, ValueError):
    """An option has a value that cannot work; the text names the option and what it takes."""


class HandlerError(LocalError, RuntimeError):
    """A handler broke a rule of the request it answers, such as answering it twice."""


class LifespanFailed(LocalError, RuntimeError):
    """An ASGI application failed to start, so the server did not listen; the text has what it said."""


class ReceiveUnsupported(LocalError):
    """`receive()` on a channel that can only send: a plain HTTP response carries nothing back."""


class WorkersBusy(LocalError):
    """The worker pool has no thread free and no room in its queue: a request is told 503, a channel closes 1013."""


class NotAvailable(LocalError, NotImplementedError):
    """Something the interface names and this version does not do yet; the text says what to use meanwhile."""


class RemoteError(ChannelKitError):
    """The peer broke the protocol."""


class BadRequest(RemoteError):
    """An HTTP request that cannot be served.

    `status` is what the peer is told; `detail` is for the log and never sent.  `limit` names the option that said no,
    if one did.  `fields` are header lines that the answer must carry besides, such as what lets a page of another site
    read it.
    """

    def __init__(self, status: int, detail: str, *, limit: str | None = None) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.limit = limit
        self.fields: tuple[tuple[str, str], ...] = ()
        self.counted = False  # see `_tally`


class BadFrame(RemoteError):
    """A WebSocket frame that breaks RFC 6455; `code` is the close code the peer is told."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class BadProxyHeader(RemoteError):
    """A connection that should begin with a header of the PROXY protocol and does not.

    `absent`: it does not even look like one.
    """

    def __init__(self, detail: str, *, absent: bool = False) -> None:
        super().__init__(detail)
        self.absent = absent


class BadMessage(RemoteError):
    """A frame, query or body of a session that breaks docs/protocol.md; the text names what is wrong.

    `status` is the HTTP status and `close_code` the WebSocket close code the peer is told.  The text holds nothing
    of a peer's credential and may be sent to it.
    """

    status = 400

    def __init__(self, detail: str, close_code: int = 1008) -> None:
        super().__init__(detail)
        self.detail = detail
        self.close_code = close_code


class MessageTooBig(BadMessage):
    """A message, line or body larger than hello allows."""

    status = 413

    def __init__(self, detail: str) -> None:
        super().__init__(detail, close_code=1009)


class ChannelClosed(ChannelKitError):
    """The channel is over and everything it had for you has been delivered.

    `info` is the channel's `close_info`: who ended it, how, and what was left.
    """

    def __init__(self, info: CloseInfo) -> None:
        super().__init__(str(info))
        self.info = info


class Disconnected(ChannelKitError, OSError):
    """An ASGI application sends to a WebSocket that is over; the ASGI specification wants an OSError there."""
