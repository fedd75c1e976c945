"""The connection that carries the downlink now, and its clocks."""

from __future__ import annotations

from dataclasses import dataclass

from channelkit.config import SessionConfig
from channelkit.session.actions import Kind
from channelkit.session.pacing import NEVER


@dataclass(slots=True)
class Attachment:
    """One connection.  It does nothing by itself: the downlink looks at its times."""

    number: int
    kind: Kind
    a: int
    ack: int
    since: float
    heard: float
    wrote: float  # something that has no number
    until: float  # poll: answer by then; stream: rotate by then
    asked: float = 0.0  # for a sign of life
    lagging: bool = False  # the connection has not taken all that was written

    @property
    def is_stream(self) -> bool:
        """Whether it is a one-way response that goes on."""
        return self.kind is Kind.STREAM or self.kind is Kind.EVENTS

    @property
    def takes_acks(self) -> bool:
        """Whether an acknowledgement can be written on it: not on a poll, whose answer is one, nor as an event."""
        return self.kind is Kind.STREAM or self.kind is Kind.WEBSOCKET

    def ping_at(self, numbered_at: float, config: SessionConfig) -> float:
        """When a sign of life is due: a stream speaks by itself; of a WebSocket both ends want to hear.

        That is asked for when nothing came, whatever was written since, or it would be given up without having been
        asked; and when nothing was written, whatever comes in: it may be one long message, whose sender hears nothing.
        `numbered_at`: when the last number was given, which is when it was written here.
        """
        if self.kind is Kind.POLL:
            return NEVER
        last = max(self.wrote, numbered_at)
        if self.kind is Kind.WEBSOCKET:
            last = max(self.asked, min(last, self.heard))
        return last + config.ping

    def silent_at(self, config: SessionConfig) -> float:
        """When a WebSocket is given up; nothing is ever heard on the others."""
        if self.kind is not Kind.WEBSOCKET:
            return NEVER
        return self.heard + config.ping + config.ping_timeout


def until(kind: Kind, config: SessionConfig, now: float, wait: float, spread: float) -> float:
    """When a new attachment ends by itself: a poll after its wait, a stream by rotation, a WebSocket never."""
    if kind is Kind.POLL:
        return now + min(wait, config.max_wait)
    if kind is Kind.WEBSOCKET:
        return NEVER
    return now + config.rotation * (0.9 + 0.2 * spread)
