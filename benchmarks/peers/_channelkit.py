"""What both channelkit servers share: the choice of the loop, the group of /fan and the answer of /hello."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from benchmarks.peers._options import BACKLOG, HELLO, HOST, TEXT, context, parser
from channelkit import Group, Request, Response, serve

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "asyncio+uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

fan = Group()


def hello() -> Response:
    """A plain response, made anew for each request, as an application would."""
    return Response(200, {"Content-Type": TEXT}, HELLO)


def main(doc: str | None, handler: Callable[[Request], Awaitable[Any]]) -> None:
    """Serve `handler` on the port and loop of the command line."""
    made = parser(doc)
    made.add_argument("--backend", choices=tuple(LOOPS), default="asyncio")
    options = made.parse_args()
    backend, backend_options = LOOPS[options.backend]
    server = functools.partial(serve, handler, ip=HOST, port=options.port, backlog=BACKLOG, ssl=context(options))
    anyio.run(server, backend=backend, backend_options=backend_options)
