"""A guest book in plain functions: they run on the worker pool, so they may block, as sqlite3 does.

    curl -d "I was here" http://127.0.0.1:8090/
    curl http://127.0.0.1:8090/
    python -m websockets ws://127.0.0.1:8090/

`run_server` has the server in a thread of its own; the main thread writes into the book too, by the same group.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

from channelkit import Group, Response, SyncRequest, run_server, with_channel

book = sqlite3.connect(":memory:", check_same_thread=False)
book.execute("create table entries (text)")
turn = threading.Lock()  # of those who use the book
visitors = Group()


def write(text: str) -> int:
    """Make an entry, from whatever thread, and show it to everybody who looks on."""
    with turn:
        book.execute("insert into entries values (?)", (text,))
    return visitors.sync.send(text)


def entries() -> Iterator[str]:
    with turn:
        rows = book.execute("select text from entries").fetchall()
    for (text,) in rows:
        yield f"{text}\n"


def guestbook(request: SyncRequest) -> Any:
    """GET reads, POST writes, a WebSocket does both."""
    if request.is_websocket:
        return look_on(request)
    if request.method == "POST":
        return f"seen by {write(request.body().decode(errors='replace'))}\n"
    return Response(200, {"Content-Type": "text/plain; charset=utf-8"}, entries())


def look_on(request: SyncRequest) -> None:
    """A thread for this visitor, for as long as they stay; while it waits it keeps nobody else from a thread."""
    with with_channel(request) as channel:
        visitors.sync.add(channel)
        channel.send(f"{len(visitors)} looking on")
        for message in channel:
            write(str(message))


if __name__ == "__main__":
    server = run_server(guestbook)
    write("the book was opened")
    server.join()
