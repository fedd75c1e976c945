"""Which transports there are: the built-in ones and those of other packages, through one door.

A package offers a transport under the entry point group `channelkit.transports`; or a program calls `register`.
Later registrations are asked first, so a plugin can take requests that a built-in would serve.  What carries sessions
(`spi.SessionTransport`) comes through the same door; each has addresses of its own there.
"""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from channelkit.errors import ConfigError
from channelkit.spi import SPI_VERSION, SessionTransport, Transport
from channelkit.transports.http_stream import HttpStreamTransport
from channelkit.transports.long_poll import PollSessions
from channelkit.transports.session_http import StreamSessions
from channelkit.transports.session_websocket import WebSocketSessions
from channelkit.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from channelkit.http import Request

ENTRY_POINT_GROUP = "channelkit.transports"
_WAY = re.compile(r"[a-z][a-z0-9_-]{0,14}")

_transports: list[Transport] = []
_carrying: list[SessionTransport] = []
_loaded = False


def register(transport: Transport | SessionTransport) -> None:
    """Offer `transport` to all requests from now on; one object may be of both kinds.

    Raises ConfigError if it was written for another SPI version, is no transport, or its name or way is taken.
    """
    name = getattr(transport, "name", None)
    claims, carries = isinstance(transport, Transport), isinstance(transport, SessionTransport)
    if not (claims or carries) or not isinstance(name, str):
        raise ConfigError(
            f"{transport!r} is no transport: it needs what channelkit.spi.Transport or SessionTransport names"
        )
    if transport.spi_version != SPI_VERSION:
        raise ConfigError(
            f"transport {name!r} is written for SPI version {transport.spi_version}, this is {SPI_VERSION}; "
            "install versions that match"
        )
    if (claims and any(one.name == name for one in _transports)) or (carries and session_transport(name)):
        raise ConfigError(f"a transport named {name!r} is registered already")
    if isinstance(transport, SessionTransport):
        _check_ways(transport)
        _carrying.append(transport)
    if isinstance(transport, Transport):
        _transports.insert(0, transport)


def _check_ways(transport: SessionTransport) -> None:
    for way in transport.ways:
        if not _WAY.fullmatch(way):
            raise ConfigError(f"{way!r} cannot be a way: 1 to 15 of a-z, 0-9, - and _, a letter first")
        if any(way in one.ways for one in _carrying):
            raise ConfigError(f"the way {way!r} of transport {transport.name!r} is taken")


def unregister(name: str) -> None:
    """Take the transport called `name` away; ConfigError if there is none."""
    if name not in {one.name for one in _transports} | {one.name for one in _carrying}:
        raise ConfigError(f"no transport named {name!r} is registered")
    _transports[:] = [one for one in _transports if one.name != name]
    _carrying[:] = [one for one in _carrying if one.name != name]


def transports() -> tuple[Transport, ...]:
    """All transports in the order they are asked."""
    _load()
    return tuple(_transports)


def transport_for(request: Request) -> Transport:
    """The transport that serves `request`: the first that claims it."""
    _load()
    for transport in _transports:
        if transport.claims(request):
            return transport
    raise ConfigError(f"no transport claims {request!r}")  # the built-in two claim everything between them


def session_transports() -> tuple[SessionTransport, ...]:
    """All that can carry sessions."""
    _load()
    return tuple(_carrying)


def session_transport(name: str) -> SessionTransport | None:
    """The one of that name, None if there is none."""
    return next((one for one in _carrying if one.name == name), None)


def _load() -> None:
    global _loaded
    if _loaded:
        return
    _loaded = True
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            made = entry.load()
            register(made() if isinstance(made, type) else made)
        except Exception as error:
            raise ConfigError(f"the installed transport {entry.name} = {entry.value} does not work: {error}") from error


for _built_in in (
    HttpStreamTransport(),
    WebSocketTransport(),
    WebSocketSessions(),
    StreamSessions(),
    PollSessions(),
):
    register(_built_in)
