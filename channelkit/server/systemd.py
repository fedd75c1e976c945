"""Telling systemd how the service is (sd_notify(3)): one datagram, no dependency.

`Type=notify` in the unit makes systemd wait for READY=1, so that what is started after this service finds it.
"""

from __future__ import annotations

import os
import socket
import time

from channelkit._lifecycle import logger

READY = "READY=1"
STOPPING = "STOPPING=1"


def notify(*states: str) -> bool:
    """Tell the service manager, if there is one; False if there is none, or it could not be told.

    Never waits and never raises: a service must not fail because nobody listens to how it is.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address[0] not in "/@":
        logger.warning("NOTIFY_SOCKET is %r, which is neither a path nor an abstract name; nobody is told", address)
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(address)
            sock.send("\n".join(states).encode())
    except OSError as error:
        logger.warning("systemd cannot be told %s: %s", " ".join(states), error)
        return False
    return True


def reloading() -> bool:
    """Tell that a reload has begun (`Type=notify-reload`); `notify(READY)` tells that it is over."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={now}")
