"""Who may pass: the credential a request presents, where it comes from, and whose it is.

The decisions themselves are pure (`session.admission`); here their facts are read from the request.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from channelkit._lifecycle import logger
from channelkit._places import place_of
from channelkit._threads.jobs import REQUEST
from channelkit._threads.plain import runs_on_loop
from channelkit.endpoint.failures import Failures
from channelkit.errors import BadRequest, WorkersBusy
from channelkit.handlers import unanswered
from channelkit.http import Request, Response
from channelkit.responding import SERVER_ERROR
from channelkit.session import admission, refusals
from channelkit.session.refusals import Refusal
from channelkit.sync import SyncRequest

if TYPE_CHECKING:
    from channelkit._loop import Loop

COOKIE = "ck"

Authenticate = Callable[[Any], Any]  # of a Request, or a SyncRequest on a worker


class Admission:
    """The door of one endpoint."""

    def __init__(
        self, authenticate: Authenticate | None, origins: frozenset[str], failures: Failures, *, plain: bool
    ) -> None:
        self._authenticate = authenticate
        self._on_worker = plain and not runs_on_loop(authenticate)
        self._origins = origins
        self._failures = failures

    def origin(self, request: Request, *, by_cookie: bool) -> Refusal | None:
        """Before any look-up: may a page of this origin use the endpoint?"""
        return admission.origin(
            sent=request.headers.get("origin"),
            own=request.origins,
            allowed=self._origins,
            by_cookie=by_cookie,
            fetch_site=request.headers.get("sec-fetch-site"),
            referer=request.headers.get("referer"),
        )

    async def principal(self, request: Request, loop: Loop, proven: Callable[[], bool]) -> Any:
        """Whatever the application's `authenticate` makes of the request.

        A Response if it refuses: that is a failed credential.  A Refusal, and nobody is asked, if there were too many
        from this address, unless `proven()`: the request has the secret of a session, or will have to show it before it
        learns anything.
        """
        if self._authenticate is None:
            return None
        place = place_of(request.client)
        wait = self._failures.wait(place, loop.time())
        if wait is not None and not proven():
            loop.tally.hit("failed_credentials", f"{place!r} is held back")
            return refusals.guessing(wait)
        principal = await self._asked(self._authenticate, request)
        if isinstance(principal, Response) and principal is not SERVER_ERROR:
            self._failures.add(place, loop.time())
            if wait is not None:  # else a session of one's own would open the door to guessing again
                return refusals.guessing(wait)
        request.principal = principal
        return principal

    async def _asked(self, authenticate: Authenticate, request: Request) -> Any:
        try:
            if self._on_worker:
                workers = unanswered(request).host.workers
                return _checked(await workers.run(REQUEST, authenticate, SyncRequest(request)))
            result = authenticate(request)
            return _checked(await result if inspect.isawaitable(result) else result)
        except (BadRequest, WorkersBusy):
            raise
        except Exception:  # answered here, so that a page of another site can read it
            logger.exception("authenticate raised on %r; answered 500", request)
            return SERVER_ERROR


def _checked(principal: Any) -> Any:
    """What `authenticate` returned; TypeError for what lets somebody in by mistake, or can be nobody's name."""
    if principal is False:
        raise TypeError("authenticate returned False, which is a principal too; to refuse return reject(401, ...)")
    if isinstance(principal, Response):
        return principal
    try:
        hash(principal)
    except TypeError as error:
        raise TypeError(f"authenticate returned no principal: {error}; return a name, an id or a tuple") from None
    return principal


def credential(request: Request) -> tuple[str | None, bool]:
    """The secret that a request presents, and whether a cookie does: those need proof of where they come from (P8)."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip(), False
    cookie = request.cookies.get(COOKIE)
    return cookie, cookie is not None
