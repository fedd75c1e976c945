"""One request that wants to carry a session: what its session transport gets (`spi.Visit`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from channelkit.errors import BadMessage
from channelkit.handlers import unanswered
from channelkit.session import refusals
from channelkit.session.query import Query, parse_query
from channelkit.session.refusals import Refusal
from channelkit.transports.session_http import refusal_response

if TYPE_CHECKING:
    from channelkit.config import SessionConfig
    from channelkit.endpoint.cors import Fields
    from channelkit.endpoint.table import Sessions
    from channelkit.http import Request, Response
    from channelkit.session.frames import ClientHello
    from channelkit.transports.session import LiveSession


class Visit:
    """`sid` is that of the address, None where a new session is asked for; the rest is as `spi.Visit` says."""

    def __init__(
        self,
        request: Request,
        sessions: Sessions,
        sid: str | None,
        fields: Fields,
        secret: str | None,
        principal: Any,
    ) -> None:
        self.request = request
        self.exchange = unanswered(request)
        self.fields = fields
        self.config: SessionConfig = sessions.config
        self._sessions = sessions
        self._sid = sid
        self._secret = secret
        self._principal = principal

    def refused(self, refusal: Refusal) -> Response:
        return refusal_response(refusal)

    def query(self, last_event_id: str | None = None) -> Query:
        return parse_query(self.request.query_params, last_event_id)

    def session(self) -> LiveSession | Refusal:
        assert self._sid is not None
        return self._sessions.find(self.request, self.exchange.loop, self._sid, self._secret, self._principal)

    def welcome(self, hello: ClientHello) -> tuple[LiveSession, str | None] | Refusal:
        sid = self._sid or hello.sid
        if sid is None:
            if hello.secret is not None:
                return refusals.malformed(BadMessage("hello: a secret without the sid it belongs to"))
            if hello.recv:
                return refusals.out_of_range(0)  # of a session that nobody made yet
            return self._sessions.make(self.request, self.exchange, self._principal, hello.a)
        secret = hello.secret or self._secret
        found = self._sessions.find(self.request, self.exchange.loop, sid, secret, self._principal)
        return found if isinstance(found, Refusal) else (found, None)
