"""A client's own times and sizes; what both ends must agree on comes with the server's hello."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """A client's own times, in seconds, and sizes, in bytes."""

    wait: float = 25.0  # of one poll, once there was a hello
    hello_timeout: float = 5.0  # a stream that shows no hello is behind a buffering proxy: poll instead (P4 client 5)
    open_timeout: float = 10.0  # for a WebSocket to open, or a session to be made
    post_timeout: float = 30.0  # an answer that has not come by then will not
    poll_margin: float = 10.0  # a poll's answer may come that much after its wait
    ping_timeout: float = 10.0  # silence beyond hello's ping
    ack_delay: float = 1.0  # the longest an acknowledgement waits for company
    steady: float = 30.0  # attached that long: the next failure counts as the first
    batch_bytes: int = 1 << 20  # of one POST, or hello's `max` if that is less; a larger message goes alone
    ack: Literal["inbox", "processed"] = "inbox"
