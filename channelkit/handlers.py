"""`as_channel` and `with_channel`: how a handler turns its request into a channel.

The first returns the channel for callbacks, as http-kit's does; the second is a block for a handler that stays.
Both make the one channel its request may have.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from channelkit import registry
from channelkit.channel import Channel
from channelkit.errors import HandlerError
from channelkit.http import HeaderInput, Request
from channelkit.spi import ChannelOptions, HttpExchange
from channelkit.status import CloseStatus


def as_channel(
    request: Request,
    *,
    on_open: Callable[[Channel], Any] | None = None,
    on_receive: Callable[[Channel, Any], Any] | None = None,
    on_ping: Callable[[Channel, bytes], Any] | None = None,
    on_close: Callable[[Channel, CloseStatus], Any] | None = None,
    subprotocols: Iterable[str] = (),
    headers: HeaderInput = (),
    status: int = 200,
    streaming: bool = False,
    framing: str | None = None,
    origins: Iterable[str] | None = None,
) -> Channel:
    """Turn `request` into a channel and return it; the handler returns it too, as its response.

    For a WebSocket request the handshake is answered at once, with the first of `subprotocols` that the client
    offered.  The callbacks get the channel first and run in order, never overlapping: `on_open`, messages,
    `on_close`.  A callback on the loop must not block; one that returns an awaitable is awaited before the next.

    On a plain request the first `send` is the answer and closes, unless `streaming` is set or a `framing` ("sse" or
    "ndjson") is named; `status` and `headers` are what a stream begins with.  `on_receive` is ignored there, since
    nothing can arrive.  `origins` admits pages of other origins ("*" for all); by default only those of the
    request's own host may open a WebSocket.

    Raises HandlerError if the request has a channel or an answer already; BadRequest if the client asked wrongly
    (uncaught, the client gets its status); ValueError or TypeError for a bad option, with nothing answered.
    """
    channel = _make(request, subprotocols, headers, status, streaming, framing, origins)
    channel._open(on_open=on_open, on_receive=on_receive, on_ping=on_ping, on_close=on_close)
    return channel


@asynccontextmanager
async def with_channel(
    request: Request,
    *,
    subprotocols: Iterable[str] = (),
    headers: HeaderInput = (),
    status: int = 200,
    streaming: bool = False,
    framing: str | None = None,
    origins: Iterable[str] | None = None,
) -> AsyncIterator[Channel]:
    """A block with the channel of `request`: `async with with_channel(request) as channel: ...`.

    Leaving the block closes with 1000 and waits for the wire; leaving it by an exception closes with 1011 (after the
    head of an HTTP response: aborts) and lets the exception through.  Messages wait in the inbox, bounded, until
    they are received.  Options and errors as for `as_channel`.
    """
    channel = _make(request, subprotocols, headers, status, streaming, framing, origins)
    channel._open(holding=True)
    async with channel:
        yield channel


def _make(
    request: Request,
    subprotocols: Iterable[str],
    headers: HeaderInput,
    status: int,
    streaming: bool,
    framing: str | None,
    origins: Iterable[str] | None,
) -> Channel:
    exchange = unanswered(request)
    options = ChannelOptions(
        subprotocols=_names("subprotocols", subprotocols),
        headers=headers,
        status=status,
        streaming=streaming,
        framing=framing,
        origins=None if origins is None else _names("origins", origins),
    )
    channel = registry.transport_for(request).open(exchange, request, options)
    exchange.channel_made(channel)
    return channel


def unanswered(request: Request) -> HttpExchange:
    """The exchange of a request that nobody has taken yet.  Raises HandlerError if somebody has."""
    exchange = request._exchange
    if exchange is None:
        raise HandlerError("this request came from no server, so it cannot be answered or become a channel")
    if exchange.channel is not None:
        raise HandlerError("this request has a channel already; a request makes one")
    if (exchange.started and not exchange.gone) or exchange.listener is not None:
        raise HandlerError("this request was answered already")
    return exchange


def _names(option: str, value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(f"{option} takes several: write [{value!r}], not {value!r}")
    return tuple(value)
