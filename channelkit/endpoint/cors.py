"""Pages of other sites (the Fetch standard's CORS protocol): preflights, and the fields that let a page read an answer.

Who may is `origins` of the endpoint, the same list that `admission` judges by.  Browsers ask first (OPTIONS) about
anything but a plain GET; and without the fields here even a refusal is to the page a "network error".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from channelkit.errors import ConfigError
from channelkit.http import Request, Response, has_header, header_lines
from channelkit.transports.session_http import NO_STORE

Fields = tuple[tuple[str, str], ...]

#: What the protocol's requests carry beyond what needs no asking; an application's own are granted when asked for.
REQUEST_FIELDS = ("Authorization", "Content-Type", "Last-Event-ID")
#: What a client reads beyond what every page may read.
EXPOSED = "Location, Retry-After"

_VARY = ("Vary", "Origin")  # a cache in between must not give one site's grant to another
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s,]+")
_DEFAULT_PORT = {"http": ":80", "https": ":443"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Cors:
    """What one endpoint grants to pages of other sites: nothing at all unless it lists some."""

    def __init__(self, origins: frozenset[str], max_age: int) -> None:
        self._origins = origins
        self._max_age = max_age

    def _granted(self, request: Request) -> Fields:
        """An origin listed by name may send cookies too, as its WebSockets always do; who comes by "*" may not."""
        origin = request.headers.get("origin")
        if origin is None:
            return ()
        if origin in self._origins:
            return (("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true"))
        return (("Access-Control-Allow-Origin", origin),) if "*" in self._origins else ()

    def fields(self, request: Request) -> Fields:
        """What every answer of this endpoint carries, refusals included."""
        if not self._origins:
            return ()
        granted = self._granted(request)
        return (_VARY, *granted, ("Access-Control-Expose-Headers", EXPOSED)) if granted else (_VARY,)

    def preflight(self, request: Request, methods: str) -> Response | None:
        """What a preflight is answered, besides `fields`; None if its origin gets nothing here."""
        if not self._granted(request):
            return None
        asked = map(str.strip, request.headers.get("access-control-request-headers", "").split(","))
        known = {name.lower() for name in REQUEST_FIELDS}
        others = [name for name in asked if _TOKEN.fullmatch(name) and name.lower() not in known]
        return Response(
            204,
            [
                *NO_STORE,
                ("Access-Control-Allow-Methods", methods),
                ("Access-Control-Allow-Headers", ", ".join((*REQUEST_FIELDS, *others))),
                ("Access-Control-Max-Age", str(self._max_age)),
            ],
        )


def is_preflight(request: Request) -> bool:
    """Whether a browser asks what it may send; an OPTIONS of anybody else does not name a method."""
    return request.method == "OPTIONS" and "access-control-request-method" in request.headers


def with_fields(response: Response, fields: Fields) -> Response:
    """`response` with `fields` added, but for those it has itself; Vary may be there several times."""
    if not fields:
        return response
    lines = header_lines(response.headers)
    added = [one for one in fields if one[0] == "Vary" or not has_header(lines, one[0].lower())]
    return Response(response.status, [*lines, *added], response.body)


def checked_origins(origins: Iterable[str] | None) -> frozenset[str]:
    """The origins as browsers write them; ConfigError for one that no browser would ever send."""
    if isinstance(origins, str):
        raise ConfigError(f"origins takes several: write [{origins!r}]")
    listed = frozenset(origins or ())
    for origin in listed:
        if origin in ("*", "null"):
            continue
        scheme = origin.partition("://")[0]
        if not _ORIGIN.fullmatch(origin) or origin != origin.lower() or origin.endswith(_DEFAULT_PORT.get(scheme, " ")):
            raise ConfigError(
                f"{origin!r} is no origin: write scheme://host or scheme://host:port, in lower case, with no path and "
                "no default port, as in https://chat.example.com (or '*')"
            )
    return listed
