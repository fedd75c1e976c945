"""Requests for sessions of another process: the connection is handed to that one (`_handover`)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from channelkit.endpoint.uplink import whole_body
from channelkit.handlers import unanswered
from channelkit.http import Response
from channelkit.responding import ANSWERED, BUSY, Answered
from channelkit.session.identity import name_in

if TYPE_CHECKING:
    from channelkit.config import SessionConfig
    from channelkit.http import Request


async def pass_on(request: Request, sid: str, config: SessionConfig) -> Response | Answered | None:
    """Hand the connection to the process that has the session `sid`; None if it is to be looked for here.

    A request is handed on whole, so its body is read, within the limit of any session.  Raises BadMessage above it.
    """
    exchange = unanswered(request)
    company, name = exchange.host.company, name_in(sid)
    if company is None or name == company.name or (member := company.member(name)) is None:
        return None
    body = await whole_body(request, config.max_message)
    try:
        taken = await member.take(partial(exchange.hand_over, body))
    except OSError as error:
        exchange.loop.tally.hit("descriptors", f"a connection cannot be handed to another worker ({error.strerror})")
        return Response(BUSY.status, BUSY.headers, BUSY.body)
    return ANSWERED if taken else None
