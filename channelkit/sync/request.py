"""The blocking view of a request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from channelkit._threads.crossing import MUST_WAIT, wait_for
from channelkit.errors import BadRequest
from channelkit.http import Request, RequestData


class SyncRequest(RequestData):
    """A `Request` whose body is read by blocking: what a plain `def` handler gets.

    Such a handler begins when the whole body is there (at most `max_body`), so that a slow client holds no thread up;
    here `body()`, `json()` and `stream()` answer at once then.  Elsewhere they wait.
    """

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._state = request.state  # one dict, whoever looks at it
        for name in _COPIED:
            setattr(self, name, getattr(request, name))
        self._request = request

    def body(self) -> bytes:
        """The whole body; waits for it unless it is there.  Raises BadRequest if the peer breaks off."""
        if self._body is None:
            if self._source is None:
                return b""
            assert self._exchange is not None
            body: bytes = wait_for(self._exchange.loop, "request.body", lambda: MUST_WAIT, self._request.body)
            self._body = body
        return self._body

    def json(self) -> Any:
        """The body read as JSON.  Raises BadRequest(400) if it is none; uncaught, the peer gets that answer."""
        try:
            return json.loads(self.body())
        except ValueError as error:
            raise BadRequest(400, f"the body is not JSON: {error}") from None

    def stream(self) -> Iterator[bytes]:
        """Iterate over the body; an `async def` handler can do so while it arrives."""
        body = self.body()
        if body:
            yield body


_COPIED = tuple(name for name in RequestData.__slots__ if name != "_state")
