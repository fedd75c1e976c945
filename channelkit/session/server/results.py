"""What became of a request: what the server's machine answers to an attach, a batch and a DELETE."""

from __future__ import annotations

from dataclasses import dataclass

from channelkit.session.actions import ServerAction
from channelkit.session.receiver import Take
from channelkit.session.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Admitted:
    """The attach is this session's attachment, `number`."""

    number: int
    actions: list[ServerAction]


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer `refusal`; nothing else has changed but what `actions` say (an `ack` may have ended a closing session)."""

    refusal: Refusal
    actions: list[ServerAction]


@dataclass(frozen=True, slots=True)
class Posted:
    """A batch went in as far as it could.  Pull, settle, then `answer` this, so that the answer's ack is fresh."""

    outcome: Take
    actions: list[ServerAction]


@dataclass(frozen=True, slots=True)
class Deleted:
    """The session is over: answer 204."""

    actions: list[ServerAction]
