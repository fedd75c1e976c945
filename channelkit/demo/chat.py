"""A chat room whose people come by WebSocket or by event stream, and may change over while they talk.

One handler, one Group.  What is particular to a transport is where it belongs: a WebSocket speaks on its channel, and
who listens to an event stream speaks by `POST /say`.  The page and this module exchange JSON objects with a "type":

    to a person      welcome  who you are (your secret, your number), who is here, the latest messages
                     people   somebody joined, left or moved: "what" and "who"
                     message  somebody said something
                     error    what you sent was not taken, and why
    from a person    {"text": ...} on a WebSocket; {"person": <secret>, "text": ...} by POST /say

`GET /chat?name=...&person=<secret>` comes back as the person one was, on any transport.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from channelkit import Channel, CloseStatus, Group, Request, Response, as_channel

MAX_NAME = 24  # characters; what fits a phone's list of people
MAX_TEXT = 500  # characters
MAX_BYTES = 8 * 1024  # 500 characters at JSON's worst, 12 bytes each, and the secret
MAX_PEOPLE = 200  # everybody is told of everybody else, so a room costs people squared
HISTORY = 50  # messages given to who joins

PLAIN = {"Content-Type": "text/plain; charset=utf-8"}
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    # Nothing foreign runs here, even if a message found a way into the page as markup.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Refused(Exception):
    """Something that is not taken: the HTTP status that says so, and the reason in a person's words."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.response = Response(status, {**PLAIN, **(headers or {})}, reason + "\n")
        self.reason = reason


@dataclass(slots=True)
class Person:
    """Somebody in the room.  `number` is for everybody, `secret` only for themselves."""

    number: int
    secret: str
    name: str
    channel: Channel

    def shown(self) -> dict[str, Any]:
        """What everybody may know."""
        return {"number": self.number, "name": self.name, "transport": self.channel.transport}


class Chat:
    """One room.  `Chat().handle` is the handler; all its state is in this object and goes with it."""

    def __init__(self, *, max_people: int = MAX_PEOPLE) -> None:
        self._max_people = max_people
        self._room = secrets.token_hex(4)  # tells a page that the room it knew is gone: message numbers begin again
        self._group = Group()
        self._people: dict[str, Person] = {}  # by secret
        self._latest: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._people_count = itertools.count(1)
        self._message_count = itertools.count(1)

    async def handle(self, request: Request) -> Any:
        """Answer one request: the page and its files, `/chat` to come in, `/say` to speak."""
        try:
            return await self._answer(request)
        except Refused as refused:
            return refused.response

    async def _answer(self, request: Request) -> Any:
        if request.path in FILES:
            return _file(request)
        if request.path == "/chat":
            return self._join(request)
        if request.path == "/say":
            return await self._say(request)
        raise Refused(404, "there is nothing here; the chat is at /")

    def _join(self, request: Request) -> Any:
        """The one way in, for every transport."""
        _need_method(request, "GET")
        _need_same_origin(request)
        request.state["name"] = _name(request.query_params.get("name", ""))
        if len(self._people) >= self._max_people and self._returning(request) is None:
            raise Refused(503, f"the room is full ({self._max_people} people); try again later", {"Retry-After": "30"})
        return as_channel(
            request,
            on_open=self._entered,
            on_receive=self._heard,
            on_close=self._left,
            streaming=True,
            framing="sse",
        )

    async def _say(self, request: Request) -> Response:
        """How somebody on an event stream speaks."""
        _need_method(request, "POST")
        _need_same_origin(request)
        sent = _object(await _body(request))
        secret = sent.get("person")
        person = self._people.get(secret) if isinstance(secret, str) else None
        if person is None:
            raise Refused(404, "nobody here by that id: join first, then say")
        self._publish(person, _text(sent))
        return Response(204)

    # -- callbacks of a channel

    def _entered(self, channel: Channel) -> None:
        person = self._returning(channel.request)
        if person is None:
            person, what, before = self._newcomer(channel), "joined", None
        else:
            what, before, person.channel = "moved", person.channel, channel
        channel.request.state["person"] = person
        channel.send_nowait(self._welcome(person))
        self._group.add(channel)
        if before is not None:  # in the same turn, so nothing is said that neither of the two channels gets
            self._group.discard(before)
            before.close_nowait(1000, "moved")
        self._tell_people(what, person)

    def _heard(self, channel: Channel, message: str | bytes) -> None:
        try:
            text = _text(_object(message))
        except Refused as refused:
            channel.send_nowait(_json("error", text=refused.reason))
        else:
            self._publish(channel.request.state["person"], text)

    def _left(self, channel: Channel, status: CloseStatus) -> None:
        person: Person | None = channel.request.state.get("person")
        if person is None or person.channel is not channel:
            return  # moved: the person is still here
        del self._people[person.secret]
        self._group.discard(channel)
        self._tell_people("left", person)

    # -- the room

    def _returning(self, request: Request) -> Person | None:
        return self._people.get(request.query_params.get("person", ""))

    def _newcomer(self, channel: Channel) -> Person:
        name = self._free_name(channel.request.state["name"])
        person = Person(next(self._people_count), secrets.token_urlsafe(16), name, channel)
        self._people[person.secret] = person
        return person

    def _free_name(self, name: str) -> str:
        """`name`, or with a number behind it where somebody has it already."""
        taken = {person.name for person in self._people.values()}
        numbered = (f"{name} {number}" for number in itertools.count(2))
        return name if name not in taken else next(other for other in numbered if other not in taken)

    def _publish(self, person: Person, text: str) -> None:
        message = {"n": next(self._message_count), "who": person.shown(), "text": text, "at": int(time.time() * 1000)}
        self._latest.append(message)
        self._group.send_nowait(_json("message", **message))

    def _welcome(self, person: Person) -> str:
        return _json(
            "welcome",
            room=self._room,
            secret=person.secret,
            you=person.shown(),
            people=[other.shown() for other in self._people.values()],
            messages=list(self._latest),
        )

    def _tell_people(self, what: str, person: Person) -> None:
        self._group.send_nowait(_json("people", what=what, who=person.shown()))


def _json(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


# -- what is taken


def _need_method(request: Request, method: str) -> None:
    if request.method != method:  # RFC 9110 15.5.6: a 405 says what is allowed
        raise Refused(405, f"only {method} is allowed here", {"Allow": method})


def _need_same_origin(request: Request) -> None:
    """Browsers name the page a request comes from; only our own page may join and speak for a person.

    A client that sends no Origin is no browser, and nobody's browser can be misused through it.
    """
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() not in request.origins:
        raise Refused(403, "only the chat's own page may do this")


async def _body(request: Request) -> bytes:
    """The body, or just enough of it to see that it is too long; the rest is read away, so the client reads why."""
    body = b""
    async for piece in request.stream():
        if len(body) <= MAX_BYTES:
            body += piece
    return body


def _object(raw: str | bytes) -> dict[str, Any]:
    # Bytes, but no characters are counted: a str has at least as many bytes, so the cheap check is enough.
    if len(raw) > MAX_BYTES:
        raise Refused(413, f"too long: at most {MAX_BYTES} bytes")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested to make the parser fail
        raise Refused(400, 'not JSON: send an object like {"text": "hello"}') from None
    if not isinstance(value, dict):
        raise Refused(400, 'not a JSON object: send one like {"text": "hello"}')
    return value


def _text(sent: dict[str, Any]) -> str:
    text = sent.get("text")
    if not isinstance(text, str) or not text.strip():
        raise Refused(400, 'nothing to say: "text" must be a text that is not empty')
    if len(text) > MAX_TEXT:
        raise Refused(400, f"too long: a message has at most {MAX_TEXT} characters, this one has {len(text)}")
    return text.strip()


def _name(given: str) -> str:
    name = " ".join("".join(c if c.isprintable() else " " for c in given).split())
    if not name:
        raise Refused(400, "who are you? join with ?name=...")
    if len(name) > MAX_NAME:
        raise Refused(400, f"too long: a name has at most {MAX_NAME} characters, this one has {len(name)}")
    return name


# -- the page


def _load(name: str, kind: str) -> tuple[str, bytes]:
    return f"{kind}; charset=utf-8", (resources.files("channelkit.demo") / name).read_bytes()


FILES = {
    "/": _load("page.html", "text/html"),
    "/page.css": _load("page.css", "text/css"),
    "/page.js": _load("page.js", "text/javascript"),
}


def _file(request: Request) -> Response:
    if request.method != "HEAD":
        _need_method(request, "GET")
    kind, body = FILES[request.path]
    return Response(200, {"Content-Type": kind, **PAGE_HEADERS}, body)
