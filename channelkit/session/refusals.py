"""Refusals: every "no" of CK/1, with its exact status, code and acknowledgement, and their forms per transport.

A refusal is always an answer, never a closed connection: browsers repeat a request whose connection was closed
without one, ten times at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from channelkit.errors import BadMessage
from channelkit.session.codec import encode_answer, encode_event_refusal

#: Codes of status 410, which say how a session ended.
ENDED: Final = "ended"
ABANDONED: Final = "abandoned"
LOST: Final = "lost"
KILLED: Final = "killed"


@dataclass(frozen=True, slots=True)
class Refusal:
    """`status` and `code` are what the peer acts on, `reason` is for people; `ack` is `recv` where it is the peer's."""

    status: int
    code: str
    reason: str
    ack: int | None = None
    retry_after: float | None = None  # seconds; only 429 and 503, which will pass

    @property
    def body(self) -> bytes:
        """The JSON body of the answer."""
        return encode_answer(self.ack, self.code, self.reason)

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The header fields of the answer."""
        fields = (("Content-Type", "application/json"), ("Cache-Control", "no-store, no-transform"))
        if self.retry_after is None:
            return fields
        return (*fields, ("Retry-After", str(max(1, round(self.retry_after + 0.499)))))

    @property
    def close_code(self) -> int:
        """The WebSocket close code that says the same."""
        return 4000 + self.status

    @property
    def close_reason(self) -> str:
        """The reason beside it: the code, and the acknowledgement if there is one, or what is malformed."""
        if self.status == 400:
            return f"{self.code} {self.reason}"
        return self.code if self.ack is None else f"{self.code} {self.ack}"


@dataclass(frozen=True, slots=True)
class EventsAnswer:
    """How `/events` answers: a plain EventSource knows only "comes again" (200) and "stops" (all others)."""

    status: int
    body: bytes
    content_type: str


def for_events(refusal: Refusal, presented: int) -> EventsAnswer:
    """204 for the ends that are no error, 200 with `retry` for what will pass, everything else as it is."""
    if refusal.retry_after is not None:
        return EventsAnswer(200, encode_event_refusal(refusal.code, presented), "text/event-stream")
    if refusal.code in (ENDED, "superseded"):
        return EventsAnswer(204, b"", "")
    return EventsAnswer(refusal.status, refusal.body, "application/json")


def read_close_reason(reason: str) -> tuple[str, int | None]:
    """Code and acknowledgement of a WebSocket close whose code is 4400 to 4599."""
    code, _, ack = reason.partition(" ")
    return code, int(ack) if ack.isascii() and ack.isdigit() and len(ack) <= 16 else None


def malformed(error: BadMessage) -> Refusal:
    """400 or 413: the client's own fault; it gives up."""
    return Refusal(error.status, "size" if error.status == 413 else "malformed", error.detail)


def origin() -> Refusal:
    """403, before any look-up (P8)."""
    return Refusal(403, "origin", "this page's origin may not use this session")


def unknown() -> Refusal:
    """404: no such session, wrong secret or wrong principal; one answer, so that it tells nothing."""
    return Refusal(404, "unknown", "no such session")


def superseded() -> Refusal:
    """409: another instance of this client has taken over.  Without `ack`: it is no longer this client's."""
    return Refusal(409, "superseded", "another instance of this client took over")


def over(code: str, ack: int | None) -> Refusal:
    """410: the session has ended; `ack` is the final one."""
    return Refusal(410, code, "the session is over", ack)


def out_of_range(ack: int | None) -> Refusal:
    """410 lost: the client cannot continue this numbering.  The session goes on for whoever can."""
    return Refusal(410, LOST, "ack is not within what this session still holds", ack)


def future_ack() -> Refusal:
    """400: an acknowledgement of what was never sent."""
    return Refusal(400, "malformed", "ack is above everything that was sent")


def gap(ack: int) -> Refusal:
    """409: something before the batch is missing; send again from ack + 1."""
    return Refusal(409, "gap", "messages before these are missing; send again from ack+1", ack)


def closing(ack: int) -> Refusal:
    """409: the server's end is on its way, and it takes nothing more."""
    return Refusal(409, "closing", "the server is closing this session", ack)


def full(ack: int, retry_after: float = 1.0) -> Refusal:
    """429: the receiving window is full."""
    return Refusal(429, "full", "the application has not taken the messages before these", ack, retry_after)


def rate(ack: int | None, retry_after: float) -> Refusal:
    """429: attaches that come too often and bring nothing."""
    return Refusal(429, "rate", "too many attaches", ack, retry_after)


def guessing(retry_after: float) -> Refusal:
    """429: too many failed credentials from this address; whoever presents a right one is not held back."""
    return Refusal(429, "rate", "too many failed credentials from this address", None, retry_after)


def crowded(retry_after: float = 5.0, *, own_fault: bool = False) -> Refusal:
    """503: no room for another session; 429 if it is this principal who has too many.  At creation only."""
    return Refusal(429 if own_fault else 503, "full", "too many sessions", None, retry_after)


def draining(ack: int | None, retry_after: float = 5.0) -> Refusal:
    """503: the server is stopping."""
    return Refusal(503, "draining", "the server is stopping", ack, retry_after)
