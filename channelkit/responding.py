"""What a handler's result becomes on the wire: exactly one response, whatever the handler did.

Host-neutral: it speaks to an `HttpExchange` only.  Every host calls `run_handler`, once per request.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from channelkit._bodies import open_body
from channelkit._lifecycle import logger
from channelkit.channel import Channel
from channelkit.errors import BadRequest, ConfigError, HandlerError, NotAvailable
from channelkit.http import Request, Response, check_status, header_lines, to_response, whole
from channelkit.spi import HttpExchange, HttpWire
from channelkit.wire.websocket_handshake import refusal_headers

SERVER_ERROR = Response(500, {"Content-Type": "text/plain; charset=utf-8"}, "Internal Server Error\n")


class Answered:
    """The type of `ANSWERED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<answered>"


#: What a handler returns that has answered the request itself, by its exchange.
ANSWERED = Answered()

Handler = Callable[[Request], Awaitable[Any]]


def checked_handler(handler: Any) -> Handler:
    """`handler`, if it can be one; ConfigError or NotAvailable that say what is wrong with it otherwise."""
    call = handler.func if isinstance(handler, partial) else handler
    if not callable(call):
        raise ConfigError(f"a handler is a function that takes a request, not {handler!r}")
    method = getattr(call, "__call__", None)  # noqa: B004  (an object whose __call__ is async is a handler too)
    if not inspect.iscoroutinefunction(call) and not inspect.iscoroutinefunction(method):
        raise NotAvailable(
            f"{call!r} is a plain function: those need the worker pool, which this version does not have; "
            "write `async def`"
        )
    return handler  # type: ignore[no-any-return]


async def run_handler(handler: Handler, request: Request, exchange: HttpExchange) -> None:
    """Call `handler` and see that its request has one answer; lets nothing out but a cancellation and the like."""
    try:
        await answer(exchange, await handler(request))
    except Exception as error:
        answer_error(exchange, error)
    except BaseException:
        cancelled(exchange)
        raise


async def answer(exchange: HttpExchange, result: Any) -> None:
    """Send `result`, what the handler of this exchange returned."""
    channel = exchange.channel
    if channel is not None:
        channel._handler_returned()
        if result is not None and result is not channel:
            logger.error(
                "the handler of %r made a channel and then returned a %s: a request has one answer, the channel's",
                channel.request,
                type(result).__name__,
            )
        return
    if result is ANSWERED:
        if not exchange.started and not exchange.gone:
            raise HandlerError("the handler returned the answer of another request; this one has none")
        return
    if isinstance(result, Channel):
        raise HandlerError("the handler returned the channel of another request; return this request's own")
    await _respond(exchange, result)


async def _respond(exchange: HttpExchange, result: Any) -> None:
    if result is None:
        logger.warning("the handler returned None: answered 404; return a Response, a body, or as_channel(request)")
        response = Response(404)
    else:
        response = to_response(result)
    status = check_status(response.status)
    content = whole(response.body)
    if content is None:
        await _stream(exchange, status, response)
        return
    if exchange.start(status, header_lines(response.headers), len(content)):
        exchange.write(HttpWire(content))
    exchange.finish()


class _Waiter:
    """The listener of a streamed returned response: wakes its task."""

    def __init__(self, exchange: HttpExchange) -> None:
        self.parking = exchange.loop.parking()
        self.gone = False

    def room(self) -> None:
        self.parking.wake()

    def finished(self) -> None:
        self.parking.wake()

    def lost(self, error: Exception | None) -> None:
        self.gone = True
        self.parking.wake()

    def going_away(self, now: bool) -> None:
        """A running response may finish; drain's deadline cancels its handler."""


async def _stream(exchange: HttpExchange, status: int, response: Response) -> None:
    """A body that is read piece by piece, in the handler's own task, as fast as the peer takes it."""
    waiter = _Waiter(exchange)
    exchange.listener = waiter
    async with open_body(response.body) as pieces:
        first = await anext(pieces, b"")  # an error before the first piece can still become a 500
        if exchange.start(status, header_lines(response.headers), None):
            exchange.write(HttpWire(first))
            async for piece in pieces:
                await _room(exchange, waiter)
                if waiter.gone:
                    return
                exchange.write(HttpWire(piece))
    exchange.finish()


async def _room(exchange: HttpExchange, waiter: _Waiter) -> None:
    while exchange.buffered_bytes > exchange.config.soft_mark and not waiter.gone:
        exchange.want_room()
        await waiter.parking.park()


def answer_error(exchange: HttpExchange, error: Exception) -> None:
    """The handler raised: 500 with a fixed text before the head, an aborted connection after it.

    A BadRequest that came out of reading the request is the peer's mistake and carries its own status.
    """
    refused = isinstance(error, BadRequest)
    if not refused:
        exchange.loop.meters.handler_errors += 1
        logger.error("the handler of a request raised", exc_info=error)
    channel = exchange.channel
    if channel is not None:
        channel._handler_returned()
        channel._fail(1011)
        return
    if exchange.ended:
        return
    if exchange.started:
        exchange.abort()
        return
    if isinstance(error, BadRequest):
        refuse(exchange, error)
        return
    content = whole(SERVER_ERROR.body) or b""
    if exchange.start(500, header_lines(SERVER_ERROR.headers), len(content)):
        exchange.write(HttpWire(content))
    exchange.finish()


REFUSAL_TEXTS = {
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


def refuse(exchange: HttpExchange, error: BadRequest) -> None:
    """Answer a request that cannot be served.  The text is fixed: nothing of the request comes back in it."""
    exchange.loop.tally.refused(error)
    content = (REFUSAL_TEXTS.get(error.status, "Refused") + "\n").encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")]
    headers += [*refusal_headers(error.status), *error.fields]
    if exchange.start(error.status, headers, len(content)):
        exchange.write(HttpWire(content))
    exchange.finish()


def cancelled(exchange: HttpExchange) -> None:
    """The handler was cancelled: its host ends (drain's deadline).  Nothing half-done may look whole."""
    if exchange.channel is not None:
        exchange.channel._handler_returned()
        exchange.channel.going_away(now=True)
    elif not exchange.ended:
        exchange.abort()
