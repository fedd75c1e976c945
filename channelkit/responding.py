"""What a handler's result becomes on the wire: exactly one response, whatever the handler did.

Host-neutral: it speaks to an `HttpExchange` only.  Every host calls `run_handler`, once per request.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, cast

from channelkit._bodies import open_body
from channelkit._lifecycle import logger
from channelkit._threads.jobs import REQUEST
from channelkit._threads.plain import BodyOnWorkers, runs_on_loop
from channelkit.channel import Channel
from channelkit.errors import BadRequest, ConfigError, HandlerError, WorkersBusy
from channelkit.http import Request, Response, check_status, header_lines, to_response, whole
from channelkit.spi import ANSWERED as ANSWERED
from channelkit.spi import Answered as Answered
from channelkit.spi import HttpExchange, HttpWire
from channelkit.sync import SyncChannel, SyncRequest
from channelkit.wire.websocket_handshake import refusal_headers

SERVER_ERROR = Response(500, {"Content-Type": "text/plain; charset=utf-8"}, "Internal Server Error\n")
BUSY = Response(503, {"Content-Type": "text/plain; charset=utf-8", "Retry-After": "1"}, "Service Unavailable\n")


Handler = Callable[[Request], Awaitable[Any]]
PlainFunction = Callable[[SyncRequest], Any]


class PlainHandler:
    """A plain `def` handler as the loop calls it: it runs on a worker, once the request's whole body is there."""

    def __init__(self, function: PlainFunction) -> None:
        self._function = function
        self.__qualname__ = getattr(function, "__qualname__", None) or repr(function)

    def __repr__(self) -> str:
        return repr(self._function)

    async def __call__(self, request: Request) -> Any:
        """What the function returns; WorkersBusy, before the body is read, if no thread has time for it."""
        assert request._exchange is not None
        workers = request._exchange.host.workers
        workers.check_room()
        if request._source is not None:
            await request.body()
        result = await workers.run(REQUEST, self._function, SyncRequest(request))
        return result.channel if isinstance(result, SyncChannel) else BodyOnWorkers.of(result, workers)


def checked_handler(handler: Any) -> Handler:
    """`handler` as the loop can call it; ConfigError that says what is wrong with it, if it cannot be one."""
    if not callable(handler):
        raise ConfigError(f"a handler is a function that takes a request, not {handler!r}")
    if inspect.isasyncgenfunction(handler):
        raise ConfigError(f"{handler!r} yields, so it is a body, not a handler: return a Response with that body")
    if inspect.isclass(handler):
        raise ConfigError(f"{handler!r} is a class, not a handler: give an object of it, with a method __call__")
    _check_arguments(handler)
    return cast("Handler", handler) if runs_on_loop(handler) else PlainHandler(handler)


def _check_arguments(handler: Any) -> None:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # nobody knows: the first request tells
    try:
        signature.bind(object())
    except TypeError:
        raise ConfigError(
            f"a handler takes one argument, the request; {handler!r} takes {signature} "
            "(a function that makes a handler is called where it is named: `handler = make()`)"
        ) from None


async def run_handler(handler: Handler, request: Request, exchange: HttpExchange) -> None:
    """Call `handler` and see that its request has one answer; lets nothing out but a cancellation and the like."""
    try:
        await answer(exchange, request, await handler(request))
    except Exception as error:
        answer_error(exchange, request, error)
    except BaseException:
        cancelled(exchange)
        raise


async def answer(exchange: HttpExchange, request: Request, result: Any) -> None:
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
    if not isinstance(result, Response) and isinstance(result, Channel):  # an abstract class is slow to answer
        raise HandlerError("the handler returned the channel of another request; return this request's own")
    await _respond(exchange, request, result)


async def _respond(exchange: HttpExchange, request: Request, result: Any) -> None:
    if result is None:
        logger.warning(
            "the handler of %r returned None: answered 404; return a Response, a body, or as_channel(request)", request
        )
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


def answer_error(exchange: HttpExchange, request: Request, error: Exception) -> None:
    """The handler raised: 500 with a fixed text before the head, an aborted connection after it.

    A BadRequest that came out of reading the request is the peer's mistake and carries its own status; WorkersBusy
    is 503, and the connection lives on.
    """
    if not isinstance(error, BadRequest | WorkersBusy):
        exchange.loop.meters.handler_errors += 1
        logger.error("the handler of %r raised", request, exc_info=error)
    channel = exchange.channel
    if channel is not None:
        channel._handler_returned()
        channel._failed_by(error)
        return
    if exchange.ended:
        return
    if exchange.started:
        exchange.abort()
        return
    if isinstance(error, BadRequest):
        refuse(exchange, error)
        return
    response = BUSY if isinstance(error, WorkersBusy) else SERVER_ERROR
    content = whole(response.body) or b""
    if exchange.start(response.status, header_lines(response.headers), len(content)):
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
