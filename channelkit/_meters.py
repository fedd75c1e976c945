"""What has happened on one loop: plain counters that the parts of a host raise as they go.

Nothing is counted twice, and nothing on the way of a message: a channel counts its own messages, and they are added
here when it is over.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channelkit._inbox import Inbox


class Meters:
    """Counters since the loop began.  Raised on the loop's own thread, read from any."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "channels",
        "closes",
        "connections",
        "handed_over",
        "handler_errors",
        "longest_stall",
        "longest_tick",
        "messages_received",
        "messages_sent",
        "requests",
        "responses",
        "stalls",
    )

    def __init__(self) -> None:
        self.connections = 0  # accepted
        self.handed_over = 0  # connections, to another process
        self.requests = 0
        self.responses: Counter[int] = Counter()  # by status, 101 included
        self.handler_errors = 0
        self.channels: set[Inbox] = set()  # open now
        self.closes: Counter[str] = Counter()  # channels that are over, by CloseStatus
        self.messages_sent = 0  # accepted by channels that are over
        self.messages_received = 0  # taken in by channels that are over
        self.bytes_sent = 0  # handed to the kernel, or to the host
        self.bytes_received = 0
        self.longest_tick = 0.0  # seconds the loop served sockets without a break
        self.stalls = 0  # how often the loop came late to its heartbeat
        self.longest_stall = 0.0
