"""Starlette and FastAPI under our server behave as under uvicorn, case by case.

The same bytes, or the same WebSocket conversation, go to the same site under both; what comes back must be equal.
Each difference that is meant stands in DIFFERENCES with its reason; one that does not occur any more is an error too.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import h11
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

PATIENCE = 10.0
Served = Any

# -- what is compared

#: Fields that tell who the server is and what time it is.
OWN_HEADERS = {"server", "date"}


@dataclass
class Answer:
    """One HTTP answer, as a client understands it."""

    status: int | None
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool
    keeps_connection: bool


def ask(port: int, data: bytes, method: str) -> Answer:
    """Send `data`, read one answer."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    answer = Answer(None, [], b"", False, False)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.settimeout(PATIENCE)
        sock.sendall(data)
        try:
            while not answer.whole:
                event = client.next_event()
                if event is h11.NEED_DATA:
                    client.receive_data(receive(sock))
                elif isinstance(event, h11.Response):
                    answer.status = event.status_code
                    answer.headers = sorted((name.decode(), value.decode("latin-1")) for name, value in event.headers)
                elif isinstance(event, h11.Data):
                    answer.body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    answer.whole = True
                    answer.keeps_connection = client.their_state is h11.DONE
                elif isinstance(event, h11.ConnectionClosed):
                    break
        except h11.RemoteProtocolError:
            pass  # it ended in the middle
    answer.headers = [
        # Starlette lists a set of methods, in the order of the day
        (name, ", ".join(sorted(value.split(", "))) if name == "allow" else value)
        for name, value in answer.headers
        if name not in OWN_HEADERS
    ]
    return answer


def receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except ConnectionResetError:
        return b""


def request(
    target: str, *lines: str, method: str = "GET", body: bytes = b"", version: str = "1.1"
) -> tuple[bytes, str]:
    """The bytes of a request, and its method."""
    head = [f"{method} {target} HTTP/{version}", "Host: example.org", *lines]
    if body and not any(line.startswith("Transfer-Encoding") for line in lines):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body, method


def multipart(**fields: str | tuple[str, bytes]) -> tuple[str, bytes]:
    """A Content-Type line and a body."""
    body = b""
    for name, value in fields.items():
        body += f'--frontier\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if isinstance(value, tuple):
            body += f'; filename="{value[0]}"\r\nContent-Type: text/plain\r\n\r\n'.encode() + value[1] + b"\r\n"
        else:
            body += b"\r\n\r\n" + value.encode() + b"\r\n"
    return "Content-Type: multipart/form-data; boundary=frontier", body + b"--frontier--\r\n"


FORM = multipart(note="ä note", file=("a.txt", b"x" * 200_000))
JSON = "Content-Type: application/json"
URLENCODED = "Content-Type: application/x-www-form-urlencoded"
CHUNKED = b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"

CASES = {
    "plain": request("/plain"),
    "html": request("/html"),
    "json": request("/json"),
    "http/1.0": request("/plain", version="1.0"),
    "http/1.0 keep-alive": request("/plain", "Connection: keep-alive", version="1.0"),
    "http/1.0 stream": request("/stream", version="1.0"),
    "asks for close": request("/plain", "Connection: close"),
    "204": request("/empty"),
    "304": request("/unchanged"),
    "418": request("/teapot"),
    "redirect": request("/redirect"),
    "redirect to slash": request("/slash?a=b"),
    "404": request("/nowhere"),
    "405": request("/plain", method="POST"),
    "options": request("/plain", method="OPTIONS"),
    "lower case method": request("/plain", method="get"),
    "cookies": request("/cookies", "Cookie: a=b; c=d"),
    "scope": request("/scope?a=%20&b=%C3%BC", "X-Two: 1", "x-two: \xfc"),
    "scope 1.0": request("/scope", version="1.0"),
    "escaped path": request("/sc%6fpe%20/%E2%82%AC"),
    "state": request("/state"),
    "endpoint": request("/endpoint"),
    "endpoint 405": request("/endpoint", method="PUT"),
    "stream": request("/stream"),
    "stream of a thread": request("/stream-sync"),
    "stream of nothing": request("/stream-nothing"),
    "stream that fails": request("/stream-fails"),
    "head plain": request("/plain", method="HEAD"),
    "head json": request("/json", method="HEAD"),
    "head stream": request("/stream", method="HEAD"),
    "head 404": request("/nowhere", method="HEAD"),
    "head file": request("/file", method="HEAD"),
    "head 204": request("/empty", method="HEAD"),
    "raise": request("/raise"),
    "raise http": request("/raise-http"),
    "echo": request("/echo", "Content-Type: a/b", method="POST", body=b"hello"),
    "echo large": request("/echo", method="POST", body=bytes(range(256)) * 4000),
    "echo nothing": request("/echo", method="POST"),
    "echo put": request("/echo", method="PUT", body=b"hello"),
    "echo chunked": request("/echo", "Transfer-Encoding: chunked", method="POST", body=CHUNKED),
    "echo pieces": request("/echo-pieces", method="POST", body=b"x" * 300_000),
    "echo expect": request("/echo", "Expect: 100-continue", method="POST", body=b"hello"),
    "unread": request("/unread", method="POST", body=b"hello"),
    "unread large": request("/unread", method="POST", body=b"x" * 30_000),
    "form": request("/form", URLENCODED, method="POST", body=b"a=1&b=%C3%BC&c="),
    "form multipart": request("/form", FORM[0], method="POST", body=FORM[1]),
    "form broken": request("/form", FORM[0], method="POST", body=b"no part at all"),
    "background": request("/background"),
    "file": request("/file"),
    "file range": request("/file", "Range: bytes=10-19"),
    "file ranges wrong": request("/file", "Range: bytes=9999999-"),
    "file range wrong": request("/file", "Range: bytes=x"),
    "file that is gone": request("/gone-file"),
    "static": request("/static/page.txt"),
    "static head": request("/static/page.txt", method="HEAD"),
    "static 404": request("/static/none.txt"),
    "static post": request("/static/page.txt", method="POST"),
    "static index": request("/static/"),
    "static unchanged": request("/static/page.txt", "If-Modified-Since: Wed, 15 Nov 2023 00:00:00 GMT"),
    "static escape": request("/static/../secret"),
    "static escape coded": request("/static/%2e%2e/secret"),
    "mounted": request("/sub/page"),
    "mounted stream": request("/sub/stream"),
    "mounted 404": request("/sub/none"),
    "wrapped": request("/wrapped/page"),
    "wrapped head": request("/wrapped/page", method="HEAD"),
    "wrapped stream": request("/wrapped/stream"),
    "wrapped echo": request("/wrapped/echo", method="POST", body=b"y" * 100_000),
    "wrapped raise": request("/wrapped/raise"),
    "wrapped stream that fails": request("/wrapped/stream-fails"),
    "zipped": request("/zipped/large", "Accept-Encoding: gzip"),
    "zipped stream": request("/zipped/stream", "Accept-Encoding: gzip"),
    "zipped small": request("/zipped/page", "Accept-Encoding: gzip"),
    "raw": request("/raw/right"),
    "raw nothing": request("/raw/nothing"),
    "raw head only": request("/raw/head-only"),
    "raw raise": request("/raw/raise"),
    "raw unfinished": request("/raw/unfinished"),
    "raw body first": request("/raw/body-first"),
    "raw twice": request("/raw/twice"),
    "raw long": request("/raw/long"),
    "raw short": request("/raw/short"),
    "api": request("/api/items/3?q=x"),
    "api invalid": request("/api/items/three"),
    "api sync": request("/api/sync"),
    "api body": request("/api/items", JSON, method="POST", body=b'{"name": "x", "price": 1.5}'),
    "api body invalid": request("/api/items", JSON, method="POST", body=b'{"name": "x"}'),
    "api body no json": request("/api/items", JSON, method="POST", body=b"{"),
    "api upload": request("/api/upload", FORM[0], method="POST", body=FORM[1]),
    "api upload invalid": request("/api/upload", URLENCODED, method="POST", body=b"note=x"),
    "api depends": request("/api/depends"),
    "api raise": request("/api/raise"),
    "api forbidden": request("/api/forbidden"),
    "api openapi": request("/api/openapi.json"),
    "api docs": request("/api/docs"),
}


@dataclass
class Conversation:
    """A WebSocket client: where it goes, what it says, and how it ends."""

    path: str
    says: tuple[str | bytes, ...] = ()
    closes: tuple[int, str] | None = None
    offers: tuple[str, ...] = ()


@dataclass
class Talk:
    """What came of it."""

    refused: tuple[int, bytes, list[tuple[str, str]]] | None = None
    error: str = ""
    subprotocol: str | None = None
    headers: list[tuple[str, str]] | None = None
    received: tuple[str | bytes, ...] = ()
    code: int | None = None
    reason: str = ""
    app_saw: Any = None


HANDSHAKE_HEADERS = {"upgrade", "connection", "sec-websocket-accept", "sec-websocket-extensions", *OWN_HEADERS}


def converse(served: Served, plan: Conversation) -> Talk:
    """Do what the plan says, and receive until the end."""
    talk = Talk()
    offers = [Subprotocol(one) for one in plan.offers] or None
    try:
        websocket = connect(
            f"ws://127.0.0.1:{served.port}{plan.path}", subprotocols=offers, max_size=None, proxy=None, compression=None
        )
    except InvalidStatus as refused:
        response = refused.response
        headers = sorted((name.lower(), value) for name, value in response.headers.raw_items())
        headers = [one for one in headers if one[0] not in HANDSHAKE_HEADERS]
        return Talk(refused=(response.status_code, bytes(response.body or b""), headers))
    except InvalidHandshake as error:
        return Talk(error=type(error).__name__)
    with websocket:
        assert websocket.response is not None
        headers = sorted((name.lower(), value) for name, value in websocket.response.headers.raw_items())
        talk.headers = [one for one in headers if one[0] not in HANDSHAKE_HEADERS]
        talk.subprotocol = websocket.subprotocol
        received: list[str | bytes] = []
        for message in plan.says:
            websocket.send(message)
            received.append(websocket.recv(PATIENCE))
        if plan.closes is not None:
            websocket.close(*plan.closes)
        try:
            while True:
                received.append(websocket.recv(PATIENCE))
        except ConnectionClosed as closed:
            talk.code = closed.rcvd.code if closed.rcvd is not None else None
            talk.reason = closed.rcvd.reason if closed.rcvd is not None else ""
    talk.received = tuple(received)
    return talk


CONVERSATIONS = {
    "echo": Conversation("/ws/echo", ("hello", b"bytes", "", b"", "€" * 1000), (1000, "")),
    "echo large": Conversation("/ws/echo", ("x" * 1_000_000,), (1000, "")),
    "close with reason": Conversation("/ws/echo", (), (4321, "my own")),
    "close going away": Conversation("/ws/echo", (), (1001, "")),
    "subprotocol": Conversation("/ws/chosen?take=two", offers=("one", "two")),
    "subprotocol refused": Conversation("/ws/chosen", offers=("one", "two")),
    "subprotocol not offered": Conversation("/ws/chosen?take=three", offers=("one",)),
    "no subprotocol": Conversation("/ws/chosen"),
    "app closes": Conversation("/ws/close/1000"),
    "app closes with reason": Conversation("/ws/close/4000?reason=enough"),
    "app closes 1011": Conversation("/ws/close/1011?reason=trouble"),
    "refused": Conversation("/ws/refuse"),
    "denied": Conversation("/ws/deny"),
    "denied by http exception": Conversation("/ws/deny-http"),
    "raise before accept": Conversation("/ws/raise-before"),
    "raise after accept": Conversation("/ws/raise-after"),
    "return": Conversation("/ws/return"),
    "return before accept": Conversation("/ws/return-before"),
    "scope": Conversation("/ws/scope?x=%20", offers=("one",)),
    "unknown": Conversation("/ws/unknown"),
    "http page": Conversation("/plain"),
    "api": Conversation("/api/ws/3?q=x", ("hello",), (1000, "")),
    "api invalid": Conversation("/api/ws/three"),
}

# -- what may differ

PLAIN = ("content-type", "text/plain; charset=utf-8")
CLOSE = ("connection", "close")
CHUNKS = ("transfer-encoding", "chunked")
THEIR_500 = (b"Internal Server Error", [("content-length", "21"), PLAIN])
OUR_500 = (b"Internal Server Error\n", [("content-length", "22"), PLAIN])


@dataclass
class Difference:
    """What is meant to differ, and why."""

    why: str
    cases: tuple[str, ...]
    uvicorn: dict[str, Any]
    ours: dict[str, Any]


DIFFERENCES = (
    Difference(
        "HTTP/1.0 with keep-alive (RFC 9112 C.2.2) is honoured: the client asked for it",
        ("http/1.0 keep-alive",),
        {"headers": [CLOSE, ("content-length", "5"), PLAIN], "keeps_connection": False},
        {"headers": [("connection", "keep-alive"), ("content-length", "5"), PLAIN], "keeps_connection": True},
    ),
    Difference(
        "no chunks for a client of HTTP/1.0 (RFC 9112 6.1): the end of the connection is the end of the body",
        ("http/1.0 stream",),
        {"headers": [CLOSE, PLAIN, CHUNKS]},
        {"headers": [CLOSE, PLAIN]},
    ),
    Difference(
        "`get` is a method like any other that the site does not know (RFC 9110 9.1); httptools refuses its letters",
        ("lower case method",),
        {
            "status": 400,
            "headers": [CLOSE, ("content-length", "30"), PLAIN],
            "body": b"Invalid HTTP request received.",
            "keeps_connection": False,
        },
        {
            "status": 405,
            "headers": [("allow", "GET, HEAD"), ("content-length", "18"), PLAIN],
            "body": b"Method Not Allowed",
            "keeps_connection": True,
        },
    ),
    Difference(
        "the head waits for the first body, as the specification says, so a body in one piece has a length",
        ("raw", "raw twice"),
        {"headers": [CHUNKS]},
        {"headers": [("content-length", "3")]},
    ),
    Difference(
        "the same for an empty one",
        ("stream of nothing",),
        {"headers": [CHUNKS]},
        {"headers": [("content-length", "0")]},
    ),
    Difference(
        "the head waits for the first body, so an application that fails between the two is a 500",
        ("raw head only", "raw raise"),
        {"status": 200, "headers": [CHUNKS], "body": b"", "whole": False, "keeps_connection": False},
        {"status": 500, "headers": OUR_500[1], "body": OUR_500[0], "whole": True, "keeps_connection": True},
    ),
    Difference(
        "our own 500 ends with a line break and keeps the connection, which is in order",
        ("raw nothing",),
        {"headers": [CLOSE, *THEIR_500[1]], "body": THEIR_500[0], "keeps_connection": False},
        {"headers": OUR_500[1], "body": OUR_500[0], "keeps_connection": True},
    ),
    Difference(
        "an aborted response drops what has not left yet: here all of it, for the application did not wait",
        ("raw unfinished",),
        {"status": 200, "headers": [CHUNKS], "body": b"abc"},
        {"status": None, "headers": [], "body": b""},
    ),
    Difference(
        "a subprotocol that the client has not offered is left out: naming it makes a client fail (RFC 6455 4.1)",
        ("ws subprotocol not offered",),
        {"error": "NegotiationError", "headers": None, "received": (), "code": None},
        {
            "error": "",
            "headers": [("set-cookie", "a=b"), ("set-cookie", "c=d"), ("x-own", "1")],
            "received": ('["one"]',),
            "code": 1000,
        },
    ),
    Difference(
        "an empty 403 has no type",
        ("ws refused", "ws unknown", "ws http page", "ws api invalid"),
        {"refused": (403, b"", [("content-length", "0"), PLAIN])},
        {"refused": (403, b"", [("content-length", "0")])},
    ),
    Difference(
        "our own 500 ends with a line break",
        ("ws raise before accept", "ws return before accept"),
        {"refused": (500, *THEIR_500)},
        {"refused": (500, *OUR_500)},
    ),
    Difference(
        "an application that fails is told to the client as 1011; uvicorn cuts the connection",
        ("ws raise after accept",),
        {"code": None},
        {"code": 1011},
    ),
    Difference(
        "an application that returns has closed, with 1000; uvicorn cuts the connection",
        ("ws return",),
        {"code": None},
        {"code": 1000},
    ),
)


def compare(case: str, theirs: Any, ours: Any) -> None:
    """Every field is equal, or differs exactly as the table says."""
    expected_theirs, expected_ours = vars(theirs), dict(vars(theirs))
    for difference in DIFFERENCES:
        if case in difference.cases:
            expected_theirs = expected_theirs | difference.uvicorn
            expected_ours |= difference.ours
    assert vars(theirs) == expected_theirs, f"{case}: uvicorn itself is not as the table says"
    assert vars(ours) == expected_ours, case


def test_the_table_of_differences() -> None:
    """Each row is about cases that exist, and about something that differs."""
    names = {*CASES, *(f"ws {name}" for name in CONVERSATIONS)}
    for difference in DIFFERENCES:
        assert names.issuperset(difference.cases)
        assert difference.uvicorn.keys() == difference.ours.keys()
        assert all(difference.uvicorn[field] != difference.ours[field] for field in difference.ours), difference.why


@pytest.mark.parametrize("case", CASES)
def test_http(case: str, oracle: Served, ours: Served) -> None:
    """The same bytes get the same answer."""
    compare(case, ask(oracle.port, *CASES[case]), ask(ours.port, *CASES[case]))


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_websocket(case: str, oracle: Served, ours: Served) -> None:
    """The same conversation has the same course and the same end."""
    plan = CONVERSATIONS[case]
    compare(f"ws {case}", converse(oracle, plan), converse(ours, plan))
    if plan.closes is not None and plan.path == "/ws/echo":
        for served in (oracle, ours):
            served.wait_seen(list(plan.closes))
