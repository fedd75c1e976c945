"""How a channel ended: the words of http-kit, the numbers of RFC 6455, and who did it.

`CloseStatus` is what `on_close` gets.  `CloseInfo` is `channel.close_info`.  The table that turns a close code into
a status lives here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

By = Literal["local", "peer", "network"]


class CloseStatus(StrEnum):
    """Why a channel is over.  Each member is also the plain string http-kit uses as a keyword."""

    SERVER_CLOSE = "server-close"
    CLIENT_CLOSE = "client-close"
    NORMAL = "normal"
    GOING_AWAY = "going-away"
    PROTOCOL_ERROR = "protocol-error"
    UNSUPPORTED = "unsupported"
    NO_STATUS_RECEIVED = "no-status-received"
    ABNORMAL = "abnormal"
    INVALID_PAYLOAD_DATA = "invalid-payload-data"
    POLICY_VIOLATION = "policy-violation"
    MESSAGE_TOO_BIG = "message-too-big"
    MANDATORY_EXTENSION = "mandatory-extension"
    INTERNAL_SERVER_ERROR = "internal-server-error"
    UNKNOWN = "unknown"
    LOST = "lost"  # a session whose continuity is gone (docs/protocol.md)
    ABANDONED = "abandoned"  # a session whose peer stayed away for longer than its grace


_BY_CODE = {
    1000: CloseStatus.NORMAL,
    1001: CloseStatus.GOING_AWAY,
    1002: CloseStatus.PROTOCOL_ERROR,
    1003: CloseStatus.UNSUPPORTED,
    1005: CloseStatus.NO_STATUS_RECEIVED,
    1006: CloseStatus.ABNORMAL,
    1007: CloseStatus.INVALID_PAYLOAD_DATA,
    1008: CloseStatus.POLICY_VIOLATION,
    1009: CloseStatus.MESSAGE_TOO_BIG,
    1010: CloseStatus.MANDATORY_EXTENSION,
    1011: CloseStatus.INTERNAL_SERVER_ERROR,
}


def status_of_code(code: int) -> CloseStatus:
    """The status for a close code the peer sent, or for the code of a violation we answered with."""
    return _BY_CODE.get(code, CloseStatus.UNKNOWN)


@dataclass(frozen=True, slots=True)
class CloseInfo:
    """The whole truth about one channel's end.

    `by` names the one endpoint that closed: "local" (this side), "peer", or "network" (nobody said goodbye).
    `delivered`: True, the peer confirmed all we accepted; None, all of it was handed to the kernel or host and
    nobody can confirm more; False, `unsent` bytes never left or the peer did not answer our close in time.
    `unread` counts messages that arrived and were dropped undelivered.
    """

    status: CloseStatus
    code: int
    reason: str = ""
    by: By = "network"
    delivered: bool | None = None
    unsent: int = 0
    unread: int = 0

    def __str__(self) -> str:
        text = f"{self.status} ({self.code}) by {self.by}"
        return f"{text}: {self.reason}" if self.reason else text


# RFC 6455 7.4: codes an endpoint may put into a close frame.  1004 is reserved, 1005, 1006 and 1015 are never sent.
_SENDABLE = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
MAX_REASON = 123  # bytes of UTF-8: a control frame's 125 less the code (RFC 6455 5.5)


def check_close(code: int, reason: str) -> None:
    """Raise ValueError unless `code` and `reason` may stand in a close frame (RFC 6455 5.5.1, 7.4)."""
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"a close code is an int, not {type(code).__name__}")
    if code not in _SENDABLE and not 3000 <= code <= 4999:
        raise ValueError(f"close code {code} may not be sent; use 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 7.4)")
    if not isinstance(reason, str):
        raise TypeError(f"a close reason is a str, not {type(reason).__name__}")
    size = len(reason.encode())  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
    if size > MAX_REASON:
        raise ValueError(f"a close reason has at most {MAX_REASON} bytes of UTF-8, this one has {size}")
