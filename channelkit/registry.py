"""Which transports there are: the built-in ones and those of other packages, through one door.

A package offers a transport under the entry point group `channelkit.transports`; or a program calls `register`.
Later registrations are asked first, so a plugin can take requests that a built-in would serve.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from channelkit.errors import ConfigError
from channelkit.spi import SPI_VERSION, Transport
from channelkit.transports.http_stream import HttpStreamTransport
from channelkit.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from channelkit.http import Request

ENTRY_POINT_GROUP = "channelkit.transports"

_transports: list[Transport] = []
_loaded = False


def register(transport: Transport) -> None:
    """Offer `transport` to all requests from now on.

    Raises ConfigError if it was written for another SPI version, is no transport, or its name is taken.
    """
    name = getattr(transport, "name", None)
    if not isinstance(transport, Transport) or not isinstance(name, str):
        raise ConfigError(f"{transport!r} is no transport: it needs what channelkit.spi.Transport names")
    if transport.spi_version != SPI_VERSION:
        raise ConfigError(
            f"transport {name!r} is written for SPI version {transport.spi_version}, this is {SPI_VERSION}; "
            "install versions that match"
        )
    if any(one.name == name for one in _transports):
        raise ConfigError(f"a transport named {name!r} is registered already")
    _transports.insert(0, transport)


def unregister(name: str) -> None:
    """Take the transport called `name` away; ConfigError if there is none."""
    for index, one in enumerate(_transports):
        if one.name == name:
            del _transports[index]
            return
    raise ConfigError(f"no transport named {name!r} is registered")


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


def _load() -> None:
    global _loaded
    if _loaded:
        return
    _loaded = True
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        made = entry.load()
        register(made() if isinstance(made, type) else made)


register(HttpStreamTransport())
register(WebSocketTransport())
