"""The uplink by POST: a batch of lines, or one message as the body (docs/protocol.md, "Uplink by POST")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channelkit.errors import BadMessage, MessageTooBig
from channelkit.session.codec import decode_batch, decode_body, line_limit, media_type
from channelkit.session.refusals import Refusal
from channelkit.transports.session_http import ack_response, refusal_response

if TYPE_CHECKING:
    from channelkit.http import Request, Response
    from channelkit.session.frames import Numbered
    from channelkit.session.query import Query
    from channelkit.transports.session import LiveSession


async def post(request: Request, live: LiveSession, query: Query) -> Response:
    """Read the body, within its limit, and take what it holds.  Raises BadMessage if that is nothing of a session."""
    if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise BadMessage(f"a body is taken as it is, not in Content-Encoding {coding[:40]!r}")
    limit, content_type = live.config.max_message, request.headers.get("content-type", "")
    body = await whole_body(request, limit)
    frames: list[Numbered]
    if _is_lines(content_type) or (not body and query.n is None):
        frames = decode_batch(body, limit)
    else:
        frames = [decode_body(content_type, body, query.n, limit)]
    answer = live.post(query.a, query.ack, frames)
    return refusal_response(answer) if isinstance(answer, Refusal) else ack_response(answer)


def _is_lines(content_type: str) -> bool:
    return media_type(content_type) == "application/x-ndjson"


async def whole_body(request: Request, max_message: int) -> bytes:
    """The whole body; one that is announced too large is not asked for, as a 100 (Continue) would do.

    Raises MessageTooBig if it is larger than a message of `max_message` bytes, or a batch of lines, may be.
    """
    limit = line_limit(max_message) if _is_lines(request.headers.get("content-type", "")) else max_message
    announced = request.headers.get("content-length", "0")
    size = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else 0
    pieces: list[bytes] = []
    if size <= limit:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                break
            pieces.append(piece)
    if size > limit:
        raise MessageTooBig(f"a body of {size} bytes or more; at most {limit} are taken")
    return b"".join(pieces)
