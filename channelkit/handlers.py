"""`as_channel` and `with_channel`: how a handler turns its request into a channel.

The first returns the channel for callbacks, as http-kit's does; the second is a block for a handler that stays.
Both make the one channel its request may have.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, TypedDict, Unpack, overload

from channelkit import registry
from channelkit._threads.crossing import ask
from channelkit._threads.plain import channel_callback, message_callback
from channelkit.channel import Channel
from channelkit.errors import HandlerError
from channelkit.http import HeaderInput, Request, RequestData
from channelkit.spi import ChannelOptions, HttpExchange
from channelkit.status import CloseStatus
from channelkit.sync import SyncChannel, SyncRequest


class Making(TypedDict, total=False):
    """What `as_channel` and `with_channel` may be asked for, besides callbacks."""

    subprotocols: Iterable[str]
    headers: HeaderInput
    status: int
    streaming: bool
    framing: str | None
    origins: Iterable[str] | None


@overload
def as_channel(
    request: Request,
    *,
    on_open: Callable[[Channel], Any] | None = None,
    on_receive: Callable[[Channel, Any], Any] | None = None,
    on_ping: Callable[[Channel, bytes], Any] | None = None,
    on_close: Callable[[Channel, CloseStatus], Any] | None = None,
    **options: Unpack[Making],
) -> Channel: ...


@overload
def as_channel(
    request: SyncRequest,
    *,
    on_open: Callable[[SyncChannel], Any] | None = None,
    on_receive: Callable[[SyncChannel, Any], Any] | None = None,
    on_ping: Callable[[SyncChannel, bytes], Any] | None = None,
    on_close: Callable[[SyncChannel, CloseStatus], Any] | None = None,
    **options: Unpack[Making],
) -> SyncChannel: ...


def as_channel(
    request: Request | SyncRequest,
    *,
    on_open: Callable[[Any], Any] | None = None,
    on_receive: Callable[[Any, Any], Any] | None = None,
    on_ping: Callable[[Any, bytes], Any] | None = None,
    on_close: Callable[[Any, CloseStatus], Any] | None = None,
    **options: Unpack[Making],
) -> Channel | SyncChannel:
    """Turn `request` into a channel and return it; the handler returns it too, as its response.

    For a WebSocket request the handshake is answered at once, with the first of `subprotocols` that the client
    offered.  The callbacks get the channel first and run in order, never overlapping: `on_open`, messages,
    `on_close`.  A callback on the loop must not block; one that returns an awaitable is awaited before the next.

    On a plain request the first `send` is the answer and closes, unless `streaming` is set or a `framing` ("sse" or
    "ndjson") is named; `status` and `headers` are what a stream begins with.  `on_receive` is ignored there, since
    nothing can arrive.  `origins` admits pages of other origins ("*" for all) besides those of the request's own
    host, which alone may open a WebSocket by default.

    In a plain `def` handler it gives the blocking `SyncChannel`, and so do the callbacks, which then run on the worker
    pool and may block.

    Raises HandlerError if the request has a channel or an answer already; BadRequest if the client asked wrongly
    (uncaught, the client gets its status); ValueError or TypeError for a bad option, with nothing answered.
    """
    if isinstance(request, SyncRequest):
        return _open_for_thread(
            request,
            options,
            on_open=channel_callback(on_open, must=True),
            on_receive=message_callback(on_receive),
            on_ping=channel_callback(on_ping, must=True),
            on_close=channel_callback(on_close, must=True),
        )
    channel = make_channel(request, **options)
    channel._open(on_open=on_open, on_receive=on_receive, on_ping=on_ping, on_close=on_close)
    return channel


@overload
def with_channel(request: Request, **options: Unpack[Making]) -> AbstractAsyncContextManager[Channel]: ...


@overload
def with_channel(request: SyncRequest, **options: Unpack[Making]) -> AbstractContextManager[SyncChannel]: ...


def with_channel(request: Request | SyncRequest, **options: Unpack[Making]) -> Any:
    """A block with the channel of `request`: `async with with_channel(request) as channel: ...`.

    Leaving the block closes with 1000 and waits for the wire; leaving it by an exception closes with 1011 (after the
    head of an HTTP response: aborts) and lets the exception through.  Messages wait in the inbox, bounded, until
    they are received.  Options and errors as for `as_channel`.  In a plain `def` handler it is a plain `with` block, of
    a blocking `SyncChannel`.
    """
    return _sync_block(request, options) if isinstance(request, SyncRequest) else _block(request, options)


@asynccontextmanager
async def _block(request: Request, options: Making) -> AsyncIterator[Channel]:
    channel = make_channel(request, **options)
    channel._open(holding=True)
    async with channel:
        yield channel


@contextmanager
def _sync_block(request: SyncRequest, options: Making) -> Iterator[SyncChannel]:
    with _open_for_thread(request, options, holding=True) as channel:
        yield channel


def _open_for_thread(request: SyncRequest, options: Making, **opening: Any) -> SyncChannel:
    """On the loop, at once: nothing that arrives comes between the handshake and the callbacks."""

    def open_up() -> SyncChannel:
        channel = make_channel(request._request, **options)
        channel._open(**opening)
        return channel.sync

    return ask(_exchange(request).loop, open_up)


def make_channel(
    request: Request,
    subprotocols: Iterable[str] = (),
    headers: HeaderInput = (),
    status: int = 200,
    streaming: bool = False,
    framing: str | None = None,
    origins: Iterable[str] | None = None,
    quiet: bool = False,
) -> Channel:
    """The channel of `request`, not opened yet."""
    exchange = unanswered(request)
    options = ChannelOptions(
        subprotocols=_names("subprotocols", subprotocols),
        headers=headers,
        status=status,
        streaming=streaming,
        framing=framing,
        origins=None if origins is None else _names("origins", origins),
        quiet=quiet,
    )
    channel = registry.transport_for(request).open(exchange, request, options)
    exchange.channel_made(channel)
    return channel


def unanswered(request: Request) -> HttpExchange:
    """The exchange of a request that nobody has taken yet.  Raises HandlerError if somebody has."""
    exchange = _exchange(request)
    if not exchange.loop.in_loop_thread:
        raise RuntimeError("this request belongs to its event loop's thread; a `def` handler gets one for threads")
    if exchange.channel is not None:
        raise HandlerError("this request has a channel already; a request makes one")
    if (exchange.started and not exchange.gone) or exchange.listener is not None:
        raise HandlerError("this request was answered already")
    return exchange


def _exchange(request: RequestData) -> HttpExchange:
    if request._exchange is None:
        raise HandlerError("this request came from no server, so it cannot be answered or become a channel")
    return request._exchange


def _names(option: str, value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(f"{option} takes several: write [{value!r}], not {value!r}")
    return tuple(value)
