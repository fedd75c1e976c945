"""The access log: one line when a request is answered, one when a channel is over, with their facts as `extra`.

The logger is `channelkit.access`, its level INFO; where that is not enabled nothing is formatted.  The query of a
target is left out: it is where applications put tokens.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channelkit.channel import Channel
    from channelkit.status import CloseInfo

access = logging.getLogger("channelkit.access")


def log_request(
    client: Any, method: str, target: str, version: str, status: int, size: int, seconds: float, whole: bool
) -> None:
    """A request has its answer; `whole` is False if the connection was lost before the end of it."""
    where, path = place(client), path_of(target)
    access.info(
        '%s "%s %s HTTP/%s" %s %d B %.1f ms%s',
        where,
        method,
        path.replace('"', "\\x22"),  # or it would end where it does not
        version,
        status or "-",
        size,
        seconds * 1000,
        "" if whole else " (cut)",
        extra={
            "event": "request",
            "client": where,
            "method": method,
            "path": path,
            "http_version": version,
            "status": status,
            "bytes": size,
            "seconds": round(seconds, 6),
            "whole": whole,
        },
    )


def log_channel(channel: Channel, info: CloseInfo, seconds: float) -> None:
    """A channel is over, and this is why."""
    request = channel.request
    where, path = place(request.client), path_of(request.raw_path)
    numbers = channel.statistics()
    access.info(
        "%s %s %s closed by %s: %s, code %d%s, after %.1f s, %d sent, %d received, %d bytes unsent, %d unread",
        where,
        channel.transport,
        path,
        info.by,
        info.status,
        info.code,
        f" {info.reason!r}" if info.reason else "",
        seconds,
        numbers.accepted,
        numbers.received,
        info.unsent,
        info.unread,
        extra={
            "event": "channel",
            "client": where,
            "transport": channel.transport,
            "path": path,
            "close_status": info.status.value,
            "code": info.code,
            "reason": info.reason,
            "by": info.by,
            "delivered": info.delivered,
            "seconds": round(seconds, 6),
            "sent": numbers.accepted,
            "received": numbers.received,
            "unsent": info.unsent,
            "unread": info.unread,
        },
    )


def place(client: Any) -> str:
    """An address as text; "-" for one without, such as the peer of a UNIX socket."""
    if not client:
        return "-"
    host, port = client[0], client[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def path_of(target: str) -> str:
    """The path of a request target, without its query, and safe to print."""
    return target.partition("?")[0].encode("unicode_escape").decode("ascii")
