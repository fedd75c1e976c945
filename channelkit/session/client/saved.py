"""What a page keeps for its successor."""

from __future__ import annotations

from dataclasses import dataclass, field

from channelkit.session.frames import Numbered

FIRST_GRACE = 30.0  # seconds, until a hello tells the real one


@dataclass(frozen=True, slots=True)
class Saved:
    """What a page keeps for its successor, a new instance that takes over the numbering with a larger `a`."""

    sid: str
    secret: str | None
    a: int
    recv: int
    sent: int
    acked: int
    frames: tuple[Numbered, ...] = field(repr=False)
    line: int | None = None  # the last instance of this line that had its own hello
    verified: int = 0  # the highest number known to be this line's in the server's hands
    grace: float = FIRST_GRACE  # how long the server waits for somebody who comes back, as far as is known

    def __repr__(self) -> str:
        return f"Saved(sid={self.sid!r}, a={self.a}, recv={self.recv}, sent={self.sent})"  # never the secret
