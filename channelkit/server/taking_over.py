"""Serving a connection that another process has accepted, and has read a request from that is for this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channelkit._handover import Handover, Introduction
from channelkit._lifecycle import logger
from channelkit.server.http1 import HttpConnection
from channelkit.wire.proxy_protocol import ProxyHeader

if TYPE_CHECKING:
    from channelkit.server.core import ServerCore
    from channelkit.server.pump.link import Link
    from channelkit.server.pump.reactor import Reactor


def take_over(handover: Handover, core: ServerCore, reactor: Reactor) -> None:
    """Go on with the connection as if it had come here.  It and its request have been counted over there."""
    introduction = handover.introduction

    def begin(link: Link) -> HttpConnection:
        link.tls = introduction.tls
        link.write(introduction.unsent)
        return HttpConnection(core, link)

    try:
        link = reactor.adopt(
            handover.sock,
            begin,
            core.listeners[introduction.listener],
            _header(introduction),
            counted=introduction.counted,
        )
    except Exception:
        logger.exception("a connection that was handed over cannot be served; it is cut")
        reactor.discard(handover.sock)
        return
    core.loop.meters.requests -= 1
    link.given(introduction.unread)


def _header(introduction: Introduction) -> ProxyHeader:
    """What it is told to be, as a proxy in front would tell it."""
    return ProxyHeader(
        size=0, proxied=True, client=introduction.peer, server=introduction.local, secure=introduction.secure
    )
