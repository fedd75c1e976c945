"""`server.statistics()`: the numbers of a running server, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from channelkit._threads.jobs import WorkerStatistics

if TYPE_CHECKING:
    from channelkit._draining import Draining


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatistics:
    """What a server has done since it started, and what is open now.  Times are seconds, sizes bytes."""

    connections: int  # open now
    connections_total: int
    connections_handed_over: int  # to the worker that has the session they asked for; counted here, served there
    channels: int  # open now: WebSockets, streams, held answers, sessions
    channels_closed: Mapping[str, int]  # by CloseStatus
    requests: int
    responses: Mapping[int, int]  # by status; 101 is a WebSocket
    handlers: int  # running now
    handler_errors: int  # handlers that raised
    messages_sent: int  # accepted for sending, by all channels
    messages_received: int  # that came from peers
    bytes_sent: int  # on the wire, TLS and framing included
    bytes_received: int
    refusals: Mapping[str, int]  # by the name of the limit or timeout that acted
    longest_tick: float  # that the loop has served sockets without a break
    stalls: int  # how often something held the loop for more than `slow_callback`
    longest_stall: float
    workers: WorkerStatistics  # threads for plain `def` code, and the queues before them


def snapshot(core: Draining) -> ServerStatistics:
    """The numbers of one host now.  May be called from any thread; the numbers are then those of about one moment."""
    meters = core.loop.meters
    channels = tuple(meters.channels)  # one step for the interpreter, so no other thread comes between
    return ServerStatistics(
        connections=max(len(core.connections), core.lingering()),
        connections_total=meters.connections,
        connections_handed_over=meters.handed_over,
        channels=len(channels),
        channels_closed=dict(meters.closes),
        requests=meters.requests,
        responses=dict(meters.responses),
        handlers=core.running,
        handler_errors=meters.handler_errors,
        messages_sent=meters.messages_sent + sum(channel._accepted for channel in channels),
        messages_received=meters.messages_received + sum(channel._received_count for channel in channels),
        bytes_sent=meters.bytes_sent,
        bytes_received=meters.bytes_received,
        refusals=dict(core.loop.tally.counts),
        longest_tick=meters.longest_tick,
        stalls=meters.stalls,
        longest_stall=meters.longest_stall,
        workers=core.workers.statistics(),
    )
