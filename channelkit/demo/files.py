"""The chat's page and its files."""

from __future__ import annotations

from importlib import resources

from channelkit import Request, Response

HEADERS = {
    "Cache-Control": "no-cache",
    # Nothing foreign runs here, even if a message found a way into the page as markup.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def _load(name: str, kind: str) -> tuple[str, bytes]:
    return f"{kind}; charset=utf-8", (resources.files("channelkit.demo") / name).read_bytes()


FILES = {
    "/": _load("page.html", "text/html"),
    "/page.css": _load("page.css", "text/css"),
    "/page.js": _load("page.js", "text/javascript"),
    "/show.js": _load("show.js", "text/javascript"),
}


def file(request: Request) -> Response:
    """The answer to a GET or HEAD of one of `FILES`."""
    if request.method not in ("GET", "HEAD"):
        return Response(405, {"Allow": "GET, HEAD"}, "only GET\n")
    kind, body = FILES[request.path]
    return Response(200, {"Content-Type": kind, **HEADERS}, body)
