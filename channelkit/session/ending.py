"""How a session ended, seen from one side: what `on_close` and the application are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from channelkit.session.refusals import ABANDONED, ENDED, KILLED, LOST
from channelkit.status import By, CloseInfo, CloseStatus, status_of_code

Outcome = Literal["ended", "abandoned", "lost", "killed", "superseded"]


@dataclass(frozen=True, slots=True)
class Ending:
    """The one end of a session.

    `outcome` is the word the wire uses; `by` who ended it; `code` and `reason` those of the end.  `clean`: everything
    this side numbered is in the other's inbox.  Otherwise `unacknowledged` messages (of so many bytes) may be lost;
    whether they arrived is not known.
    """

    outcome: Outcome
    by: By
    code: int
    reason: str
    clean: bool
    unacknowledged: int
    unacknowledged_bytes: int

    def close_info(self, *, server: bool, unread: int = 0) -> CloseInfo:
        """The same in the words of a channel.  `delivered` is never None: a session knows."""
        return CloseInfo(
            status=self._status(server=server),
            code=self.code,
            reason=self.reason,
            by=self.by,
            delivered=self.clean,
            unsent=self.unacknowledged_bytes,
            unread=unread,
        )

    def _status(self, *, server: bool) -> CloseStatus:
        if self.outcome == LOST or self.outcome == "superseded":
            return CloseStatus.LOST
        if self.outcome == ABANDONED and self.by == "network":
            return CloseStatus.ABANDONED
        if self.by == "local":
            return CloseStatus.SERVER_CLOSE if server else CloseStatus.CLIENT_CLOSE
        if self.outcome == KILLED:
            return CloseStatus.CLIENT_CLOSE if server else CloseStatus.SERVER_CLOSE
        return status_of_code(self.code)


__all__ = ["ABANDONED", "ENDED", "KILLED", "LOST", "Ending", "Outcome"]
