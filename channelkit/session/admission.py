"""Who may pass: the credential, fence and range decisions of P4 and P5, pure and in their fixed order.

Each gives a `Refusal` or None.  A request that is refused here changes nothing at all: no acknowledgement, no fence,
no deadline (F5, F7, F25).
"""

from __future__ import annotations

from dataclasses import dataclass

from channelkit.session import refusals
from channelkit.session.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Standing:
    """What a session's admission depends on."""

    a: int
    acked: int
    sent: int
    recv: int
    over: str | None  # the code of its end

    def ack_for(self, a: int) -> int | None:
        """`recv`, if it is about instance `a`'s numbers; another's would take them for its own (F27)."""
        return self.recv if a == self.a else None


def credential(*, known: bool, secret_matches: bool, principal_matches: bool) -> Refusal | None:
    """P4 step 2.  The verdicts come from the binding, which compares in constant time, also for an unknown id."""
    return None if known & secret_matches & principal_matches else refusals.unknown()


def attach(standing: Standing, a: int, ack: int) -> Refusal | None:
    """P4 steps 3 to 5: over, fence, range."""
    if standing.over is not None:
        return refusals.over(standing.over, standing.ack_for(a))
    if a < standing.a:
        return refusals.superseded()
    if not standing.acked <= ack <= standing.sent:
        return refusals.out_of_range(standing.ack_for(a))
    return None


def post(standing: Standing, a: int, ack: int) -> Refusal | None:
    """P5 steps 1 to 3: over, fence, range.  A lower `ack` is old news, since answers overtake each other."""
    if standing.over is not None:
        return refusals.over(standing.over, standing.ack_for(a))
    if a != standing.a:
        return refusals.superseded()
    if ack > standing.sent:
        return refusals.future_ack()
    return None


def origin(
    *,
    sent: str | None,
    own: frozenset[str],
    allowed: frozenset[str],
    by_cookie: bool,
    fetch_site: str | None = None,
    referer: str | None = None,
) -> Refusal | None:
    """P8.  `own` are the origins of the host the request was sent to, `allowed` those the application lists.

    An Origin, if sent, must be one of them.  A request whose authority is a cookie must prove where it comes from: by
    Origin, else by Sec-Fetch-Site, else by the origin of Referer.  A bearer's request needs no Origin (curl).  "*"
    among `allowed` admits every origin, but lends nobody the authority of a cookie: that takes a name.
    """
    good = own | allowed
    if sent is not None:
        return None if sent in good or ("*" in allowed and not by_cookie) else refusals.origin()
    if not by_cookie or fetch_site == "same-origin":
        return None
    if fetch_site is None and referer is not None and origin_of(referer) in good:
        return None
    return refusals.origin()


def origin_of(url: str) -> str:
    """scheme://host[:port] of a URL, lower case; "" if it has none."""
    scheme, found, rest = url.partition("://")
    if not found:
        return ""
    authority = rest.partition("/")[0].partition("?")[0].partition("#")[0].rpartition("@")[2]
    return f"{scheme}://{authority}".lower()
