"""What every side of a run saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from channelkit.testing import clock
from channelkit.testing.peers import Payload
from channelkit.testing.plans.plan import Plan, ServerStep
from channelkit.testing.plans.serving import Pump

if TYPE_CHECKING:
    from channelkit.channel import ChannelStatistics
    from channelkit.status import CloseInfo, CloseStatus


@dataclass(slots=True)
class Operation:
    """One call on the channel and what became of it."""

    step: ServerStep
    started: float
    was_open: bool
    ended: float | None = None
    result: Any = None
    error: Exception | None = None
    cancelled: bool = False
    is_open_after: bool | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened on the server's side: a callback's begin or end, or the like."""

    at: float
    what: str


@dataclass(slots=True)
class Trace:
    """Everything one run showed."""

    plan: Plan
    backend: clock.Backend
    pump: Pump
    operations: list[Operation] = field(default_factory=list)
    accepted: list[Payload] = field(default_factory=list)
    accepted_last: list[bool] = field(default_factory=list)  # whether each closed the channel
    closers: list[tuple[float, int, str]] = field(default_factory=list)  # calls that closed: when, code, reason
    opened: bool = False
    single_response: bool | None = None
    server_received: list[Payload] = field(default_factory=list)
    received_after_end: int = 0
    moments: list[Moment] = field(default_factory=list)
    close_told: dict[str, list[CloseStatus]] = field(default_factory=dict)  # per listener
    infos: list[CloseInfo] = field(default_factory=list)  # as everyone who waited got it
    info: CloseInfo | None = None
    over_at: float | None = None
    samples: list[ChannelStatistics] = field(default_factory=list)
    reopened: bool = False  # is_open was True after it was False
    said: list[Payload] = field(default_factory=list)  # the peer's messages, in order
    peer_received: list[Payload] = field(default_factory=list)
    body: bytes | None = None  # of the HTTP response, as far as it came
    response_complete: bool = False
    response_status: int | None = None
    wire_error: str | None = None
    peer_close_sent: tuple[int, str] | None = None
    peer_close_received: tuple[int, str] | None = None
    peer_closed_first: bool | None = None
    violated: int | None = None  # the code the peer's violation deserves
    peer_gone_at: float | None = None
    faults: dict[str, float] = field(default_factory=dict)  # the first time of each of the peer's manners
    last_resumed: float = 0.0
    exploded: bool = False
    probe: bool | None = None  # whether a send in the epilogue was accepted; None: not tried
    quiet: list[tuple[float, bool]] = field(default_factory=list)  # round trips beside: seconds, and the same came back
    quiet_wanted: int = 0
    drained_in: float | None = None
    connections_left: int = 0
    tasks_left: int = 0
    sockets_left: int = 0
    asgi_rules_broken: list[str] = field(default_factory=list)
    stuck: str | None = None  # why the run could not go on
    error: BaseException | None = None  # what left the server
