"""The demo's handler, seen from its clients: who is let in, who hears what, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Literal

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from channelkit import Server, run_server
from channelkit.demo import Chat
from channelkit.demo.chat import HISTORY, MAX_BYTES, MAX_NAME, MAX_TEXT

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
    server.stop(timeout=1)


@contextmanager
def socket(server: Server, name: str, person: str = "", origin: str | None = None) -> Iterator[ClientConnection]:
    url = f"ws://127.0.0.1:{server.port}/chat?name={name}&person={person}"
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
def stream(server: Server, name: str, person: str = "") -> Iterator[Stream]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("GET", f"/chat?name={name}&person={person}", headers={"Accept": "text/event-stream"})
        with connection.getresponse() as response:
            assert (response.status, response.headers.get_content_type()) == (200, "text/event-stream")
            yield Stream(response)
    finally:
        connection.close()


def request(server: Server, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, Any]:
    """Status, body and headers of the answer."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers)
        with connection.getresponse() as response:
            return response.status, response.read().decode(), response.headers
    finally:
        connection.close()


def say(server: Server, **sent: object) -> tuple[int, str]:
    status, body, _ = request(server, "POST", "/say", json.dumps(sent).encode())
    return status, body


def names(event: Event) -> list[tuple[str, str]]:
    return [(person["name"], person["transport"]) for person in event["people"]]


# -- talking


def test_both_transports_share_a_room(server: Server) -> None:
    """What is said on a WebSocket or by POST is heard on both, with who said it and over what."""
    with socket(server, "Ada") as ada, stream(server, "Bob") as bob:
        hear(ada, "welcome")
        welcome = bob.hear("welcome")
        assert names(welcome) == [("Ada", "websocket"), ("Bob", "http_stream")]
        ada.send(json.dumps({"text": " hello "}))
        heard = bob.hear("message")
        assert (heard["text"], heard["who"]["name"], heard["who"]["transport"]) == ("hello", "Ada", "websocket")
        assert say(server, person=welcome["secret"], text="hi") == (204, "")
        assert hear(ada, "message")["text"] == "hello"
        heard = hear(ada, "message")
        assert (heard["text"], heard["who"]["name"], heard["who"]["transport"]) == ("hi", "Bob", "http_stream")


def test_moving_keeps_the_person(server: Server) -> None:
    """Who comes back with the secret is the same person on the new transport; the old channel is closed."""
    with socket(server, "Ada") as ada:
        first = hear(ada, "welcome")
        with stream(server, "whatever", first["secret"]) as moved:
            second = moved.hear("welcome")
            assert (second["you"]["number"], second["secret"]) == (first["you"]["number"], first["secret"])
            assert names(second) == [("Ada", "http_stream")]
            assert (moved.hear("people"))["what"] == "moved"
            assert [json.loads(event)["type"] for event in ada] == ["people"]  # its own coming; then the end
            assert ada.close_code == 1000
            with socket(server, "whatever", first["secret"]) as back:
                assert names(hear(back, "welcome")) == [("Ada", "websocket")]
                assert moved.next() is None


def test_a_wrong_secret_is_a_newcomer(server: Server) -> None:
    """A secret nobody has makes a new person, with a secret of its own and a name of its own."""
    with socket(server, "Ada") as ada, socket(server, "Ada", "guessed") as other:
        first, second = hear(ada, "welcome"), hear(other, "welcome")
        assert first["secret"] != second["secret"]
        assert len(first["secret"]) >= 22  # 128 bits in base64
        assert names(second) == [("Ada", "websocket"), ("Ada 2", "websocket")]
        assert first["secret"] not in json.dumps(second)


def test_leaving(server: Server) -> None:
    """Who goes, by a close, by hanging up, leaves the list of people."""
    with socket(server, "Ada") as ada:
        with socket(server, "Bob"):
            assert hear(ada, "people")["who"]["name"] == "Ada"
            assert hear(ada, "people")["what"] == "joined"
        left = hear(ada, "people")
        assert (left["what"], left["who"]["name"]) == ("left", "Bob")
        with stream(server, "Cyd") as cyd:
            secret = cyd.hear("welcome")["secret"]
            assert hear(ada, "people")["what"] == "joined"
        left = hear(ada, "people")
        assert (left["what"], left["who"]["name"]) == ("left", "Cyd")
        with stream(server, "Dan") as dan:
            assert names(dan.hear("welcome")) == [("Ada", "websocket"), ("Dan", "http_stream")]
        assert say(server, person=secret, text="still here?")[0] == 404


def test_the_latest_messages_greet_a_newcomer(server: Server) -> None:
    """A newcomer gets the latest messages in order, and not more than the room keeps."""
    with socket(server, "Ada") as ada:
        for n in range(HISTORY + 3):
            ada.send(json.dumps({"text": str(n)}))
        while hear(ada, "message")["text"] != str(HISTORY + 2):
            pass
        with stream(server, "Bob") as bob:
            messages = bob.hear("welcome")["messages"]
    assert [message["text"] for message in messages] == [str(n) for n in range(3, HISTORY + 3)]
    assert [message["n"] for message in messages] == list(range(4, HISTORY + 4))


def test_names_are_tidied(server: Server) -> None:
    """Control characters and runs of spaces in a name become one space."""
    with socket(server, "%20A%0Ad%20%20a%00%E2%80%AE") as ada:
        assert hear(ada, "welcome")["you"]["name"] == "A d a"


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
def test_bad_input_by_post(server: Server, sent: bytes, status: int, reason: str) -> None:
    """Each kind of bad input gets its status and a plain sentence."""
    with stream(server, "Bob") as bob:
        secret = bob.hear("welcome")["secret"]
        if sent.startswith(b"{") and len(sent) > 1:
            sent = sent[:-1] + b", " * (len(sent) > 2) + b'"person": "' + secret.encode() + b'"}'
        answer = request(server, "POST", "/say", sent)
    assert (answer[0], reason in answer[1]) == (status, True)
    assert answer[2]["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(("sent", "status", "reason"), BAD_INPUT)
def test_bad_input_by_websocket(server: Server, sent: bytes, status: int, reason: str) -> None:
    """The same input on a WebSocket is told to its sender, who stays in the room."""
    with socket(server, "Ada") as ada:
        ada.send(sent)
        assert reason in hear(ada, "error")["text"]
        ada.send(json.dumps({"text": "x" * MAX_TEXT}))
        assert hear(ada, "message")["text"] == "x" * MAX_TEXT


def test_longest_text_at_its_most_expensive(server: Server) -> None:
    """A text of the greatest length is taken even if every character is two escapes of JSON."""
    with stream(server, "Bob") as bob:
        secret = bob.hear("welcome")["secret"]
        assert say(server, person=secret, text="\N{WAVING HAND SIGN}" * MAX_TEXT)[0] == 204
        assert bob.hear("message")["text"] == "\N{WAVING HAND SIGN}" * MAX_TEXT


@pytest.mark.parametrize("person", ["nobody", "", None, 7, ["x"], {}])
def test_unknown_person(server: Server, person: object) -> None:
    """Only who is here may speak."""
    assert say(server, person=person, text="hello")[0] == 404


@pytest.mark.parametrize("name", ["", "%20%0A", "x" * (MAX_NAME + 1)])
def test_bad_names(server: Server, name: str) -> None:
    """Without a name of a proper length nobody is let in, on neither transport."""
    assert request(server, "GET", f"/chat?name={name}")[0] == 400
    with pytest.raises(InvalidStatus) as refused, socket(server, name):
        pass
    assert refused.value.response.status_code == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "http://["])
def test_foreign_origins(server: Server, origin: str) -> None:
    """Pages of other origins can neither join nor speak."""
    assert request(server, "GET", "/chat?name=Eve", Origin=origin)[0] == 403
    assert request(server, "POST", "/say", b"{}", Origin=origin)[0] == 403
    with pytest.raises(InvalidStatus) as refused, socket(server, "Eve", origin=origin):
        pass
    assert refused.value.response.status_code == 403


def test_own_origin(server: Server) -> None:
    """The chat's own page may."""
    origin = f"http://127.0.0.1:{server.port}"
    with socket(server, "Ada", origin=origin) as ada:
        secret = hear(ada, "welcome")["secret"]
        body = json.dumps({"person": secret, "text": "hello"}).encode()
        assert request(server, "POST", "/say", body, Origin=origin)[0] == 204


def test_a_full_room(backend: Backend) -> None:
    """A full room says so, and still lets its people move."""
    with small_room(2, backend) as server, socket(server, "Ada") as ada, stream(server, "Bob") as bob:
        bob.hear("welcome")
        secret = hear(ada, "welcome")["secret"]
        status, body, headers = request(server, "GET", "/chat?name=Late")
        assert (status, "full (2 people)" in body, headers["Retry-After"]) == (503, True, "30")
        with stream(server, "Ada", secret) as moved:
            assert moved.hear("welcome")["you"]["name"] == "Ada"


@contextmanager
def small_room(size: int, backend: Backend) -> Iterator[Server]:
    server = run_server(Chat(max_people=size).handle, port=0, backend=backend)
    try:
        yield server
    finally:
        server.stop(timeout=1)


# -- the page


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js"])
def test_files(server: Server, path: str) -> None:
    """The page and its files are served with their type, and nothing foreign may run in them."""
    status, body, headers = request(server, "GET", path)
    assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert {"/": "<!doctype html>", "/page.css": ":root", "/page.js": "textContent"}[path] in body
    status, body, headed = request(server, "HEAD", path)
    assert (status, body, headed["Content-Length"]) == (200, "", headers["Content-Length"])


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/say", "POST"), ("POST", "/chat", "GET"), ("PUT", "/", "GET")]
)
def test_wrong_methods(server: Server, method: str, path: str, allowed: str) -> None:
    """A wrong method is told the right one."""
    status, _, headers = request(server, method, path, b"")
    assert (status, headers["Allow"]) == (405, allowed)


def test_nothing_else(server: Server) -> None:
    """Any other address is a 404 that says where the chat is."""
    status, body, _ = request(server, "GET", "/page.html/../x")
    assert (status, "at /" in body) == (404, True)
