"""The query of a session's requests: `a`, `ack`, `n`, `wait`; none is secret, so a beacon and curl can send them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from channelkit.errors import BadMessage
from channelkit.session.codec import parse_number

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Query:
    """What a request presents."""

    a: int = 1
    ack: int = 0
    n: int | None = None
    wait: float = 0.0


def parse_query(members: Mapping[str, str], last_event_id: str | None = None) -> Query:
    """Read the members known here, ignore the others; BadMessage names the one that is wrong.

    `last_event_id` is the header of an EventSource that comes again; it stands above `ack`, which its URL still has
    from the first time.  An empty one counts as none: that is what a browser without an id means.
    """
    ack = last_event_id or members.get("ack", "0")
    return Query(
        a=parse_number(members.get("a", "1"), "a", 1),
        ack=parse_number(ack, "Last-Event-ID" if last_event_id else "ack"),
        n=parse_number(members["n"], "n", 1) if "n" in members else None,
        wait=_wait(members.get("wait", "0")),
    )


def _wait(text: str) -> float:
    if _SECONDS.fullmatch(text):
        return float(text)
    raise BadMessage(f"wait must be seconds, not {text[:20]!r}")
