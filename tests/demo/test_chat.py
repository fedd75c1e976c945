"""The demo's handler, seen from its clients: who is let in, who hears what, what is refused."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Literal, cast
from urllib.parse import unquote

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from channelkit import Channel, Server, browser, run_server
from channelkit.demo import Chat
from channelkit.demo.chat import AT_ONCE, HISTORY, MAX_PEOPLE, Person
from channelkit.demo.taken import MAX_BYTES, MAX_NAME, MAX_TEXT, TRANSPORTS, Pace

PATIENCE = 10.0  # seconds before a test that waits for something that never comes fails

Backend = Literal["asyncio", "trio"]
Event = dict[str, Any]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


@pytest.fixture
def server(backend: Backend) -> Iterator[Server]:
    server = run_server(Chat().handle, port=0, backend=backend)
    yield server
    server.stop(timeout=0.1)


@contextmanager
def socket(server: Server, name: str, origin: str | None = None) -> Iterator[ClientConnection]:
    """Somebody with a WebSocket of their own, without a session."""
    url = f"ws://127.0.0.1:{server.port}/chat?name={name}"
    with connect(url, origin=origin, open_timeout=PATIENCE, proxy=None, compression=None) as made:  # type: ignore[arg-type]
        yield made


def hear(socket: ClientConnection, kind: str) -> Event:
    """The next event of a kind."""
    while (event := json.loads(socket.recv(PATIENCE)))["type"] != kind:
        pass
    assert isinstance(event, dict)
    return event


class Stream:
    """An event stream, as a client reads it."""

    def __init__(self, response: HTTPResponse) -> None:
        self.response = response

    def next(self) -> Event | None:
        """The next event, None at the end of the stream."""
        data = []
        while (line := self.response.readline().decode()) not in ("\n", ""):
            name, _, value = line.rstrip("\n").partition(": ")
            if name == "data":
                data.append(value)
        event: Event | None = json.loads("\n".join(data)) if data else None
        return event

    def hear(self, kind: str) -> Event:
        """The next event of a kind."""
        while (event := self.next()) is not None:
            if event["type"] == kind:
                return event
        raise AssertionError(f"the stream ended before an event of type {kind}")


@contextmanager
def stream(server: Server, name: str) -> Iterator[Stream]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("GET", f"/chat?name={name}", headers={"Accept": "text/event-stream"})
        with connection.getresponse() as response:
            assert (response.status, response.headers.get_content_type()) == (200, "text/event-stream")
            yield Stream(response)
    finally:
        connection.close()


class Session:
    """Somebody with a session, by the plainest of clients: one POST a message, one poll at a time."""

    def __init__(self, server: Server, **first: object) -> None:
        self.server = server
        status, body, _ = request(server, "POST", "/chat/ck")
        assert status == 201
        hello = json.loads(body)
        self.path = f"/chat/ck/{hello['sid']}"
        self.headers = {"Authorization": f"Bearer {hello['secret']}"}
        self.sent = self.received = 0
        self.events: deque[Event] = deque()
        if first:
            self.say(**first)

    def say(self, **message: object) -> None:
        self.post(json.dumps(message).encode())

    def post(self, raw: bytes) -> None:
        self.sent += 1
        headers = {**self.headers, "Content-Type": "text/plain"}
        path = f"{self.path}?n={self.sent}&ack={self.received}"
        assert request(self.server, "POST", path, raw, **headers)[0] == 200

    def next(self) -> Event:
        while not self.events:
            path = f"{self.path}/poll?ack={self.received}&wait=5"
            status, body, _ = request(self.server, "GET", path, **self.headers)
            assert status in (200, 204), body
            for line in body.splitlines():
                kind, *rest = json.loads(line)
                if kind == "m" and rest[0] == self.received + 1:
                    self.received += 1
                    self.events.append(json.loads(rest[1]))
        return self.events.popleft()

    def hear(self, kind: str) -> Event:
        """The next event of a kind."""
        while (event := self.next())["type"] != kind:
            pass
        return event

    @contextmanager
    def stream(self) -> Iterator[HTTPResponse]:
        """Attached by a stream of lines, for as long as the block."""
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        try:
            connection.request("GET", f"{self.path}/stream?ack={self.received}", headers=self.headers)
            with connection.getresponse() as response:
                assert json.loads(response.readline())[0] == "h"
                yield response
        finally:
            connection.close()


def request(
    server: Server, method: str, path: str, body: bytes | None = None, /, **headers: str
) -> tuple[int, str, Any]:
    """Status, body and headers of the answer."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers)
        with connection.getresponse() as response:
            return response.status, response.read().decode(), response.headers
    finally:
        connection.close()


def say(server: Server, text: str, name: str = "Curl") -> tuple[int, str]:
    status, body, _ = request(server, "POST", f"/say?name={name}", text.encode())
    return status, body


def names(event: Event) -> list[tuple[str, str]]:
    return [(person["name"], person["transport"]) for person in event["people"]]


# -- talking


def test_all_ways_share_a_room(server: Server) -> None:
    """A session, a WebSocket, an event stream and a POST: what is said by one is heard by all, and by whom and how."""
    ada = Session(server, name="Ada", transport="long_poll")
    assert names(ada.hear("welcome")) == [("Ada", "long_poll")]
    with socket(server, "Bob") as bob, stream(server, "Cyd") as cyd:
        hear(bob, "welcome")
        assert names(cyd.hear("welcome")) == [("Ada", "long_poll"), ("Bob", "websocket"), ("Cyd", "http_stream")]
        ada.say(text=" from a session ")
        cyd.hear("message")
        bob.send(json.dumps({"text": "from a socket"}))
        hear(bob, "message")
        hear(bob, "message")
        assert say(server, "from a post", "Dan") == (204, "")
        heard = [ada.hear("message") for _ in range(3)]
        assert [(one["n"], one["text"], one["who"]["name"], one["who"]["transport"]) for one in heard] == [
            (1, "from a session", "Ada", "long_poll"),
            (2, "from a socket", "Bob", "websocket"),
            (3, "from a post", "Dan", "post"),
        ]
        assert [cyd.hear("message")["text"], hear(bob, "message")["text"]] == ["from a socket", "from a post"]


def test_somebody_without_a_name(server: Server) -> None:
    """Who has not said their name is told to, hears nothing, and is nobody to the others."""
    ada, other = Session(server, name="Ada"), Session(server, text="hello?")
    assert "who are you?" in other.next()["text"]
    ada.hear("welcome")
    ada.say(text="nobody else here")
    ada.hear("message")
    other.say(name="Bob")
    welcome = other.next()
    assert (welcome["type"], names(welcome)) == ("welcome", [("Ada", "session"), ("Bob", "session")])
    assert ada.hear("people")["what"] == "joined"


def test_a_second_welcome(server: Server) -> None:
    """A reloaded page says its name again: the same person, with everything it needs to begin anew."""
    ada, bob = Session(server, name="Ada"), Session(server, name="Bob")
    first = ada.hear("welcome")
    ada.say(text="before")
    ada.say(name="Ada L.", transport="events")
    ada.hear("message")
    second = ada.hear("welcome")
    assert second["you"] == {**first["you"], "name": "Ada L.", "transport": "events"}
    assert [message["text"] for message in second["messages"]] == ["before"]
    told = bob.hear("people")
    assert (told["what"], told["who"]) == ("is", second["you"])


def test_moving(server: Server) -> None:
    """What a person talks over is shown with what they say from then on."""
    ada, bob = Session(server, name="Ada"), Session(server, name="Bob")
    bob.hear("welcome")
    for transport in TRANSPORTS:
        ada.say(transport=transport)
        ada.say(text=transport)
        assert bob.hear("people")["who"]["transport"] == transport
        assert bob.hear("message")["who"]["transport"] == transport


def test_away_and_back(server: Server) -> None:
    """Whose connection goes is away, and hears later what was said meanwhile; who comes again is back."""
    ada, bob = Session(server, name="Ada"), Session(server, name="Bob")
    bob.hear("welcome")
    with socket(server, "Cyd") as cyd:
        with ada.stream():
            pass
        gone = hear(cyd, "people")
        while gone["what"] != "away":
            gone = hear(cyd, "people")
        assert (gone["who"]["name"], gone["who"]["away"]) == ("Ada", True)
        bob.say(text="where are you?")
        assert ada.hear("message")["text"] == "where are you?"
        back = hear(cyd, "people")
        assert (back["what"], back["who"]["name"], back["who"]["away"]) == ("back", "Ada", False)


def test_who_stays_away_has_left(backend: Backend) -> None:
    """After the grace."""
    with room(backend, grace=0.2) as server, socket(server, "Bob") as bob:
        hear(bob, "welcome")
        Session(server, name="Ada")
        assert [hear(bob, "people")["what"] for _ in range(2)] == ["joined", "left"]


def test_cut(server: Server) -> None:
    """Who asks for it loses the connection, and nothing else."""
    ada = Session(server, name="Ada")
    ada.hear("welcome")
    with ada.stream() as lines:
        ada.say(cut=True)
        assert lines.readlines() == []
    ada.say(text="still here")
    assert ada.hear("message")["text"] == "still here"


def test_leaving(server: Server) -> None:
    """Who goes, by a close, by hanging up, by DELETE, leaves the list of people."""
    with socket(server, "Ada") as ada:
        with socket(server, "Bob"):
            assert hear(ada, "people")["what"] == "joined"
        left = hear(ada, "people")
        assert (left["what"], left["who"]["name"]) == ("left", "Bob")
        with stream(server, "Cyd") as cyd:
            cyd.hear("welcome")
            assert hear(ada, "people")["what"] == "joined"
        left = hear(ada, "people")
        assert (left["what"], left["who"]["name"]) == ("left", "Cyd")
        dan = Session(server, name="Dan")
        dan.hear("welcome")
        assert request(server, "DELETE", dan.path, **dan.headers)[0] == 204
        assert [hear(ada, "people")["what"] for _ in range(2)] == ["joined", "left"]
        with stream(server, "Eve") as eve:
            assert names(eve.hear("welcome")) == [("Ada", "websocket"), ("Eve", "http_stream")]


def test_the_latest_messages_greet_a_newcomer(server: Server) -> None:
    """A newcomer gets the latest messages in order, and not more than the room keeps."""
    chat = Chat()
    for n in range(HISTORY + 3):
        chat._publish({"number": 0, "name": "Ada", "transport": "post", "away": False}, str(n))
    running = run_server(chat.handle, port=0)
    try:
        with stream(running, "Bob") as bob:
            messages = bob.hear("welcome")["messages"]
    finally:
        running.stop(timeout=0.1)
    assert [message["text"] for message in messages] == [str(n) for n in range(3, HISTORY + 3)]
    assert [message["n"] for message in messages] == list(range(4, HISTORY + 4))


def test_the_largest_welcome(backend: Backend) -> None:
    """A full room with the longest names and texts, all of it at JSON's worst, is still one message of a session."""
    hand = "\N{WAVING HAND SIGN}"
    chat = Chat()
    person = Person(1, cast(Channel, None), "http_stream", hand * MAX_NAME, away=True)
    for _ in range(HISTORY):
        chat._publish(person.shown(), hand * MAX_TEXT)
    chat._people = {10**6 + n: person for n in range(2 * MAX_PEOPLE)}
    running = run_server(chat.handle, port=0, backend=backend)
    try:
        assert len(Session(running, name="x").hear("welcome")["people"]) == 2 * MAX_PEOPLE + 1
    finally:
        running.stop(timeout=0.1)


def test_names_are_tidied(server: Server) -> None:
    """Control characters and runs of spaces in a name become one space; a name that is taken gets a number."""
    with socket(server, "%20A%0Ad%20%20a%00%E2%80%AE") as ada, socket(server, "A%20d%20a") as other:
        assert hear(ada, "welcome")["you"]["name"] == "A d a"
        assert hear(other, "welcome")["you"]["name"] == "A d a 2"


# -- too fast


def test_pace() -> None:
    """So many at once, then so many a second, however long the pause before was."""
    pace = Pace(3, 2.0)
    for now in (100.0, 1000.0):
        for _ in range(3):
            assert pace.wait(now) == 0
            pace.take(now)
        assert pace.wait(now) == 0.5
        assert pace.wait(now + 0.5) == 0
        pace.take(now + 0.5)
        assert pace.wait(now + 0.5) == 0.5


def test_who_is_too_fast_waits(server: Server) -> None:
    """Nothing of what a person sends too fast is lost or refused; it is heard later, in its order."""
    ada = Session(server, name="Ada")
    texts = [str(n) for n in range(AT_ONCE + 1)]
    for text in texts:
        ada.say(text=text)
    assert [ada.hear("message")["text"] for _ in texts] == texts


def test_posts_that_are_too_fast(server: Server) -> None:
    """Those without a session share one pace, and are refused beyond it."""
    answers = [request(server, "POST", "/say?name=x", b"hello") for _ in range(AT_ONCE + 5)]
    assert [answer[0] for answer in answers[:AT_ONCE]] == [204] * AT_ONCE
    refused = next(answer for answer in answers if answer[0] != 204)
    assert (refused[0], int(refused[2]["Retry-After"]) >= 1) == (429, True)


# -- what is refused

BAD_INPUT = [
    (b"{", 400, "not JSON"),
    (b"\xff", 400, "not JSON"),
    (b"[" * 5000, 400, "not JSON"),
    (b"[]", 400, "not a JSON object"),
    (b"{}", 400, "nothing to say"),
    (b'{"text": 7}', 400, "nothing to say"),
    (b'{"text": "  "}', 400, "nothing to say"),
    (json.dumps({"text": "x" * (MAX_TEXT + 1)}).encode(), 400, "at most 500 characters"),
    (b'{"text": "' + b"x" * MAX_BYTES + b'"}', 413, "at most 8192 bytes"),
]


@pytest.mark.parametrize(("sent", "status", "reason"), BAD_INPUT)
def test_bad_input(server: Server, sent: bytes, status: int, reason: str) -> None:
    """Each kind of bad input is told to its sender in a plain sentence, in its turn; the sender stays in the room."""
    with socket(server, "Ada") as ada:
        ada.send(sent)
        ada.send(json.dumps({"text": "x" * MAX_TEXT}))
        assert reason in hear(ada, "error")["text"]
        assert hear(ada, "message")["text"] == "x" * MAX_TEXT


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"", 400, "nothing to say"),
        (b" \n", 400, "nothing to say"),
        (b"\xff", 400, "not UTF-8"),
        (b"x" * (MAX_TEXT + 1), 400, "at most 500 characters"),
        (b"x" * (MAX_BYTES + 1), 413, "at most 8192 bytes"),
    ],
)
def test_bad_posts(server: Server, sent: bytes, status: int, reason: str) -> None:
    """Each kind of bad input gets its status and a plain sentence."""
    answer = request(server, "POST", "/say?name=Bob", sent)
    assert (answer[0], reason in answer[1]) == (status, True)
    assert answer[2]["Content-Type"] == "text/plain; charset=utf-8"


def test_longest_text_at_its_most_expensive(server: Server) -> None:
    """A text of the greatest length is taken even if every character is two escapes of JSON."""
    text = "\N{WAVING HAND SIGN}" * MAX_TEXT
    ada = Session(server, name="Ada")
    ada.say(text=text)
    assert ada.hear("message")["text"] == text


def test_half_a_character(server: Server) -> None:
    """A lone surrogate, which JSON can say and UTF-8 cannot, harms nobody."""
    ada = Session(server, name="Ada")
    ada.post(b'{"text": "\\ud800"}')
    assert ada.hear("message")["text"] == "\ud800"


@pytest.mark.parametrize("name", ["", "%20%0A", "x" * (MAX_NAME + 1)])
def test_bad_names(server: Server, name: str) -> None:
    """Without a name of a proper length nobody is let in."""
    assert request(server, "GET", f"/chat?name={name}")[0] == 400
    assert request(server, "POST", f"/say?name={name}", b"hello")[0] == 400
    with pytest.raises(InvalidStatus) as refused, socket(server, name):
        pass
    assert refused.value.response.status_code == 400
    assert Session(server, name=unquote(name)).next()["type"] == "error"


@pytest.mark.parametrize("transport", ["carrier pigeon", None, ["events"]])
def test_bad_transports(server: Server, transport: object) -> None:
    """Only what there is may be shown."""
    ada = Session(server, name="Ada")
    ada.hear("welcome")
    ada.say(transport=transport)
    assert "one of websocket" in ada.hear("error")["text"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "http://["])
def test_foreign_origins(server: Server, origin: str) -> None:
    """Pages of other origins can neither join nor speak."""
    assert request(server, "GET", "/chat?name=Eve", Origin=origin)[0] == 403
    assert request(server, "POST", "/chat/ck", Origin=origin)[0] == 403
    assert request(server, "POST", "/say?name=Eve", b"hello", Origin=origin)[0] == 403
    with pytest.raises(InvalidStatus) as refused, socket(server, "Eve", origin=origin):
        pass
    assert refused.value.response.status_code == 403


def test_own_origin(server: Server) -> None:
    """The chat's own page may."""
    origin = f"http://127.0.0.1:{server.port}"
    with socket(server, "Ada", origin=origin) as ada:
        hear(ada, "welcome")
        assert request(server, "POST", "/say?name=Bob", b"hello", Origin=origin)[0] == 204
        assert hear(ada, "message")["text"] == "hello"


def test_a_full_room(backend: Backend) -> None:
    """A full room says so, and when to come again."""
    with room(backend, max_people=2) as server, socket(server, "Ada") as ada:
        bob = Session(server, name="Bob")
        Session(server)
        bob.hear("welcome")
        hear(ada, "welcome")
        status, body, headers = request(server, "GET", "/chat?name=Late")
        assert (status, "full (2 people)" in body, headers["Retry-After"]) == (503, True, "30")
        status, _, headers = request(server, "POST", "/chat/ck")
        assert (status, "Retry-After" in headers) == (503, True)


@contextmanager
def room(backend: Backend, **options: Any) -> Iterator[Server]:
    server = run_server(Chat(**options).handle, port=0, backend=backend)
    try:
        yield server
    finally:
        server.stop(timeout=0.1)


# -- the page


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/show.js"])
def test_files(server: Server, path: str) -> None:
    """The page and its files are served with their type, and nothing foreign may run in them."""
    status, body, headers = request(server, "GET", path)
    assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert {"/": "<!doctype html>", "/page.css": ":root", "/page.js": "connect(", "/show.js": "textContent"}[
        path
    ] in body
    status, body, headed = request(server, "HEAD", path)
    assert (status, body, headed["Content-Length"]) == (200, "", headers["Content-Length"])


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/say", "POST"), ("PUT", "/", "GET, HEAD"), ("PUT", "/chat/ck", "POST")]
)
def test_wrong_methods(server: Server, method: str, path: str, allowed: str) -> None:
    """A wrong method is told the right one."""
    status, _, headers = request(server, method, path, b"")
    assert (status, headers["Allow"]) == (405, allowed)


def test_the_module(server: Server) -> None:
    """The page's module comes with its parts."""
    for name in browser.files():
        status, body, headers = request(server, "GET", f"/channelkit/{name}")
        assert (status, headers["Content-Type"], len(body) > 100) == (200, "text/javascript; charset=utf-8", True)


def test_nothing_else(server: Server) -> None:
    """Any other address is a 404 that says where the chat is."""
    status, body, _ = request(server, "GET", "/page.html/../x")
    assert (status, "at /" in body) == (404, True)
