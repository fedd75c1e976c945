"""A site whose pages and server count at one another: what the tests compare is whole lists of numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from channelkit import Endpoint, Request, Response, SessionChannel, SessionConfig, browser

PAGES = Path(__file__).parent / "pages"
TYPES = {".html": "text/html", ".js": "text/javascript"}


@dataclass(eq=False)
class Talk:
    """One session: what came, in its order, how many numbers were said, and how it ended."""

    channel: SessionChannel
    heard: list[str] = field(default_factory=list)
    said: int = 0
    over: bool = False

    async def say_numbers(self) -> None:
        while "done" not in self.heard and await self.channel.send(f"s{self.said + 1}"):
            self.said += 1
            await anyio.sleep(0.025)
        await self.channel.send("done")


class Lists:
    """The site.  `talks` are its sessions in the order in which they began."""

    def __init__(self, **options: Any) -> None:
        self.talks: list[Talk] = []
        # Small windows, so that they are met; a page reloads within the grace even on a busy machine.
        session = SessionConfig(window=64, window_bytes=20_000, max_message=10_000, grace=20.0, rotation=2.0)
        self._endpoint = Endpoint(self._talk, session=session, **options)

    async def handle(self, request: Request) -> Any:
        if request.path.startswith("/channelkit/"):
            return browser.file(request)
        if request.path.startswith("/lists/"):
            return await self._endpoint(request)
        if request.path == "/cut":
            return {"body": json.dumps(self._named(request).channel.detach())}
        if request.path == "/over":
            return {"body": json.dumps(self._named(request).over)}
        file = PAGES / request.path.lstrip("/")
        if not file.is_file():
            return Response(404, {"Content-Type": "text/plain"}, "no such page\n")
        return Response(200, {"Content-Type": TYPES[file.suffix], "Cache-Control": "no-cache"}, file.read_bytes())

    def _named(self, request: Request) -> Talk:
        return next(talk for talk in self.talks if talk.channel.session_id == request.query_string)

    async def _talk(self, channel: Any) -> None:
        talk = Talk(channel)
        self.talks.append(talk)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(talk.say_numbers)
                async for message in channel:
                    talk.heard.append(message)
        finally:
            talk.over = True


def numbers(letter: str, count: int) -> list[str]:
    """What one side has said: 1 to `count`, and the last word."""
    return [*(f"{letter}{n}" for n in range(1, count + 1)), "done"]
