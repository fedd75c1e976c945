"""The client for browsers: ES modules, to be served as they are (docs/browser.md).

if request.path.startswith("/channelkit/"):
    return browser.file(request)            # <script type="module">import { connect } from "/channelkit/channelkit.js"
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources

from channelkit.http import Request, Response

#: What a page imports; it imports the others, by addresses beside its own.
MODULE = "channelkit.js"


@cache
def files() -> Mapping[str, bytes]:
    """The modules by their names.  They import one another as `./NAME`, so they must stay in one folder."""
    folder = resources.files(__name__)
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith(".js")}


@cache
def _etag() -> str:
    """One for all: the modules belong together, and no page may mix those of two versions."""
    digest = hashlib.sha256()
    for name, body in sorted(files().items()):
        digest.update(name.encode() + b"\0" + body)
    return f'"{digest.hexdigest()[:32]}"'


def file(request: Request) -> Response:
    """The answer to a GET or HEAD of a module, named by the last part of the path; 304 if the browser has it."""
    if request.method not in ("GET", "HEAD"):
        return Response(405, {"Allow": "GET, HEAD", "Content-Type": "text/plain"}, "only GET\n")
    body = files().get(request.path.rpartition("/")[2])
    if body is None:
        return Response(
            404, {"Content-Type": "text/plain"}, f"no such module; there are: {', '.join(sorted(files()))}\n"
        )
    headers = {"Cache-Control": "no-cache", "ETag": _etag(), "X-Content-Type-Options": "nosniff"}
    if _etag() in request.headers.get("if-none-match", ""):
        return Response(304, headers)
    return Response(200, {**headers, "Content-Type": "text/javascript; charset=utf-8"}, body)
