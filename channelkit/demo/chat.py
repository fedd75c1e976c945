"""A chat room on sessions: people lose their network, switch transports and reload the page; nothing they say is lost.

One `Endpoint`, one `Group`, one handler for whoever comes, however they come.  People and this module exchange JSON:

    from a person    {"name": ...}       who I am; answered by a welcome, also when it is said again (a reloaded page)
                     {"text": ...}       I say something
                     {"transport": ...}  what I talk over, for others to see; may stand beside the name
                     {"cut": true}       cut my connection, I want to see what happens
    to a person      "type": "welcome"   who you are, who is here, the latest messages
                     "type": "people"    somebody joined, left, went away, came back...: "what" and "who"
                     "type": "message"   somebody said something
                     "type": "error"     what you sent was not taken, and why

Each message of a person is answered in its order: a text by the message or an error.  So a page needs no ids to know
what has arrived.  Who has only curl comes to `/chat?name=...` as an event stream, and speaks by `POST /say?name=...`.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import anyio

from channelkit import Channel, Endpoint, Group, Request, Response, SessionChannel, SessionConfig, browser
from channelkit.demo.files import FILES, file
from channelkit.demo.taken import MAX_BYTES, Pace, Refused, as_name, as_object, as_text, as_transport

MAX_PEOPLE = 200  # everybody is told of everybody else, so a room costs people squared
HISTORY = 50  # messages given to who joins
MAX_WELCOME = 512 * 1024  # bytes; a full room's people and messages, at JSON's worst
AT_ONCE, A_SECOND = 20, 2.0  # what one person may send; more is not refused, it waits: at most a window of it


@dataclass(slots=True, eq=False)
class Person:
    """Somebody who came.  Their session is theirs alone; `number` is for everybody."""

    number: int
    channel: Channel
    transport: str
    name: str = ""  # not in the room before it is told
    away: bool = False  # nothing carries the session just now
    pace: Pace = field(default_factory=lambda: Pace(AT_ONCE, A_SECOND))

    def shown(self) -> dict[str, Any]:
        """What everybody may know."""
        return {"number": self.number, "name": self.name, "transport": self.transport, "away": self.away}


class Chat:
    """One room.  `Chat().handle` is the handler; all its state is in this object and goes with it.

    Who vanishes is away, and has left after `grace` seconds.
    """

    def __init__(self, *, max_people: int = MAX_PEOPLE, grace: float = 30.0) -> None:
        session = SessionConfig(
            max_sessions=max_people, grace=grace, max_message=MAX_WELCOME, window=256, window_bytes=2 * MAX_WELCOME
        )
        self._endpoint = Endpoint(self._talk, session=session)
        self._max_people = max_people
        self._room = secrets.token_hex(4)  # tells a page that the room it knew is gone
        self._group = Group()
        self._people: dict[int, Person] = {}
        self._latest: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._numbers = itertools.count(1)
        self._message_count = itertools.count(1)
        self._visitors = Pace(AT_ONCE, A_SECOND)

    async def handle(self, request: Request) -> Any:
        """Answer one request: the page and its files, `/chat` to come in, `/say` for those without a session."""
        try:
            if request.path in FILES:
                return file(request)
            if request.path.startswith("/channelkit/"):
                return browser.file(request)
            if request.path.startswith("/chat/"):
                return await self._endpoint(request)
            if request.path == "/chat":
                return await self._visit(request)
            if request.path == "/say":
                return await self._said(request)
            raise Refused(404, "there is nothing here; the chat is at /")
        except Refused as refused:
            return refused.response

    async def _visit(self, request: Request) -> Any:
        """A WebSocket or an event stream of its own, without a session: it must say at once who comes."""
        as_name(request.query_params.get("name"))
        if len(self._people) >= self._max_people:
            raise Refused(503, f"the room is full ({self._max_people} people); try again later", {"Retry-After": "30"})
        return await self._endpoint(request)

    # -- one person

    async def _talk(self, channel: Channel) -> None:
        """The handler: from somebody's coming to their leaving, whatever carries the channel meanwhile."""
        person = Person(next(self._numbers), channel, channel.transport)
        if isinstance(channel, SessionChannel):
            channel.on_detach(lambda: self._changed(person, "away", away=True))
            channel.on_attach(lambda: self._changed(person, "back", away=False))
        try:
            if (name := channel.request.query_params.get("name")) is not None:
                self._taken(person, {"name": name})
            async for message in channel:
                await self._turn(person)
                self._taken(person, message)
        finally:
            self._left(person)

    async def _turn(self, person: Person) -> None:
        """Who is too fast waits, and the session's window with them: it is slower, but nothing is lost."""
        await anyio.sleep(person.pace.wait(anyio.current_time()))
        person.pace.take(anyio.current_time())

    def _taken(self, person: Person, message: str | bytes | dict[str, Any]) -> None:
        try:
            self._take(person, message if isinstance(message, dict) else as_object(message))
        except Refused as refused:
            self._answer(person, "error", text=refused.reason)

    def _take(self, person: Person, sent: dict[str, Any]) -> None:
        if sent.get("cut") is True and isinstance(person.channel, SessionChannel):
            person.channel.detach()
            return
        name = as_name(sent["name"]) if "name" in sent else ""
        transport = as_transport(sent["transport"]) if "transport" in sent else person.transport
        if name:
            person.transport = transport
            self._join(person, name)
        elif not person.name:
            raise Refused(400, 'who are you? send {"name": "..."} first')
        elif transport != person.transport:
            self._changed(person, "moved", transport=transport)
        elif "transport" not in sent:
            self._publish(person.shown(), as_text(sent.get("text")))

    def _join(self, person: Person, name: str) -> None:
        person.name = self._free_name(name, person)
        what = "is" if person.number in self._people else "joined"
        self._people[person.number] = person
        self._tell_people(what, person)
        people = [other.shown() for other in self._people.values()]
        messages = list(self._latest)
        self._answer(person, "welcome", room=self._room, you=person.shown(), people=people, messages=messages)
        self._group.add(person.channel)  # in the same turn, so nothing is said between the two

    def _changed(self, person: Person, what: str, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(person, name, value)
        if person.number in self._people and person.channel.is_open:  # else it is leaving
            self._tell_people(what, person)

    def _left(self, person: Person) -> None:
        if self._people.pop(person.number, None) is not None:
            self._group.discard(person.channel)
            self._tell_people("left", person)

    def _answer(self, person: Person, kind: str, **fields: Any) -> None:
        try:
            person.channel.send_nowait(_json(kind, **fields))
        except anyio.WouldBlock:  # as a Group does it with its members
            person.channel.close_nowait(1013, "too slow")

    # -- the room

    def _free_name(self, name: str, person: Person) -> str:
        """`name`, or with a number behind it where somebody else has it already."""
        taken = {other.name for other in self._people.values() if other is not person}
        numbered = (f"{name} {number}" for number in itertools.count(2))
        return name if name not in taken else next(other for other in numbered if other not in taken)

    def _publish(self, who: dict[str, Any], text: str) -> None:
        message = {"n": next(self._message_count), "who": who, "text": text, "at": int(time.time() * 1000)}
        self._latest.append(message)
        self._group.send_nowait(_json("message", **message))

    def _tell_people(self, what: str, person: Person) -> None:
        self._group.send_nowait(_json("people", what=what, who=person.shown()))

    # -- those without a session

    async def _said(self, request: Request) -> Response:
        """`curl -d hello localhost:8090/say?name=Bob`: one text, by whatever name."""
        if request.method != "POST":  # RFC 9110 15.5.6: a 405 says what is allowed
            raise Refused(405, "only POST is allowed here", {"Allow": "POST"})
        # Only our own page may speak in a browser; who sends no Origin is none, and nobody's can be misused by it.
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() not in request.origins:
            raise Refused(403, "only the chat's own page may do this")
        name = as_name(request.query_params.get("name"))
        text = await _body(request)
        now = anyio.current_time()
        if (wait := self._visitors.wait(now)) > 0:
            raise Refused(429, "too fast; try again", {"Retry-After": str(int(wait) + 1)})
        text = as_text(text)
        self._visitors.take(now)
        self._publish({"number": 0, "name": name, "transport": "post", "away": False}, text)
        return Response(204)


def _json(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


async def _body(request: Request) -> str:
    """The body, or just enough of it to see that it is too long; the rest is read away, so the client reads why."""
    body = b""
    async for piece in request.stream():
        if len(body) <= MAX_BYTES:
            body += piece
    if len(body) > MAX_BYTES:
        raise Refused(413, f"too long: at most {MAX_BYTES} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Refused(400, "not UTF-8") from None
