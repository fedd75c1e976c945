"""WebSockets under every host: messages, closes, handshakes, ends."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hosting.clients import Closed, Refused

pytestmark = pytest.mark.xdist_group("asgi-hosts")  # the hosts are started once, not once a core

if TYPE_CHECKING:
    from conftest import Site

ADVERSARIAL = ["", "\r\n", "a\nb\r", "\0", "\x1e", "\u2028\u2029", "\ufeff", "\U0001f44b", "data: x\n\n", "x" * 70000]
MIB = bytes(range(256)) * 4096


def test_every_message_comes_back_as_it_went(site: Site) -> None:
    """Text stays text and bytes stay bytes, in order, whatever they hold, up to 1 MiB and more."""
    name = site.name()
    websocket = site.connect().websocket(f"/echo?id={name}")
    messages: list[str | bytes] = [*ADVERSARIAL, b"", bytes(range(256)), MIB, "\u00e9" * (1 << 19)]
    for message in messages:
        websocket.send(message)
        assert websocket.receive() == message
    assert websocket.close(1000) == Closed(1000, "")
    end = site.end(name)
    assert (end["unsent"], end["unread"]) == (0, 0)
    site.saw("messages", "yes")


def test_a_group_of_both_kinds(site: Site) -> None:
    """People on WebSockets and on event streams get what one of them says, on every host alike."""
    one, two = site.connect().websocket("/group"), site.connect().websocket("/group")
    stream = site.connect().request("GET", "/group")
    assert stream.head().get("content-type") == "text/event-stream; charset=utf-8"
    one.send("line one\nline two")
    assert (one.receive(), two.receive()) == ("line one\nline two",) * 2
    assert stream.until(b"\n\n") == b"data: line one\ndata: line two\n\n"


@pytest.mark.parametrize(
    ("code", "reason", "status"), [(1000, "", "normal"), (1001, "bye", "going-away"), (4321, "\u00e9", "unknown")]
)
def test_the_peer_closes(site: Site, code: int, reason: str, status: str) -> None:
    """Code and reason of the peer's close are told as far as the host tells them, and it is answered."""
    name = site.name()
    websocket = site.connect().websocket(f"/echo?id={name}")
    websocket.send("x")
    assert websocket.receive() == "x"
    assert websocket.close(code, reason).code == code
    end = site.end(name)
    assert (end["status"], end["by"], end["code"]) in ((status, "peer", code), ("abnormal", "network", 1006))
    if code == 4321:
        site.saw("peer-code", "yes" if end["code"] == code else "no: 1006")
        site.saw("peer-reason", "yes" if end["reason"] == reason else "no")


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1013, "too slow"), (4000, "\u00e9")])
def test_our_side_closes(site: Site, code: int, reason: str) -> None:
    """What was accepted comes first, then our code and reason; the end says what can be known."""
    name = site.name()
    websocket = site.connect().websocket(f"/closing?id={name}&code={code}&reason={quote(reason)}")
    websocket.send("x")
    assert websocket.receive() == "last words"
    assert websocket.end() == Closed(code, reason)
    end = site.end(name)
    assert (end["status"], end["code"], end["reason"], end["by"], end["unsent"]) == (
        "server-close",
        code,
        reason,
        "local",
        0,
    )
    if code == 4000:
        site.saw("own-code", "yes")
        site.saw("answered", {True: "True", None: "None: handed to the host"}[end["delivered"]])


def test_a_dropped_websocket(site: Site) -> None:
    """A client that vanishes without a close frame is told as 1006, or by the word of the host."""
    name = site.name()
    client = site.connect()
    websocket = client.websocket(f"/echo?id={name}")
    websocket.send("x")
    websocket.receive()
    client.reset()
    end = site.end(name)
    assert end["status"] in ("abnormal", "no-status-received")
    site.saw("gone-websocket", f"{end['status']} ({end['code']})")


def test_subprotocols_and_headers(site: Site) -> None:
    """The first of ours that the client offered is agreed on, and our headers are in the response."""
    websocket = site.connect().websocket("/echo", subprotocols=["a", "b"])
    assert websocket.reply.get("sec-websocket-protocol") == "b"
    headers = (websocket.reply.get("x-extra"), websocket.reply.getlist("set-cookie"))
    assert site.connect().websocket("/echo").reply.get("sec-websocket-protocol") is None
    site.saw("accept-headers", "yes" if headers == ("yes", ["a=1", "b=2"]) else f"no: {headers}")


def test_a_denied_handshake(site: Site) -> None:
    """A refusal has its status, headers and body, where the host can answer; else it is a 403."""
    with pytest.raises(Refused) as caught:
        site.connect().websocket("/refuse?status=401")
    reply = caught.value.reply
    given = (reply.status, reply.get("www-authenticate"), reply.body)
    assert given == (401, "Basic", b"not you\n") or reply.status == 403
    site.saw("denial", "status, headers, body" if reply.status == 401 else "403 only")


def test_not_found_for_a_websocket(site: Site) -> None:
    """A handler that answers nothing is a 404 for a WebSocket too, an exception a 500."""
    for path, status in (("/nothing", 404), ("/raising", 500)):
        with pytest.raises(Refused) as caught:
            site.connect().websocket(path)
        assert caught.value.reply.status in (status, 403)


def test_a_foreign_origin(site: Site) -> None:
    """A page of another origin is refused with 403 everywhere."""
    with pytest.raises(Refused) as caught:
        site.connect().websocket("/echo", [("Origin", "http://elsewhere.test")])
    assert caught.value.reply.status == 403
    client = site.connect()
    assert client.websocket("/echo", [("Origin", f"http://{client.authority}")]).close() == Closed(1000, "")


def test_a_callback_that_raises(site: Site) -> None:
    """The client gets 1011."""
    name = site.name()
    websocket = site.connect().websocket(f"/failing?id={name}")
    websocket.send("x")
    site.saw("torn-websocket", str(websocket.end().code))
    end = site.end(name)
    assert (end["status"], end["code"], end["by"]) == ("internal-server-error", 1011, "local")


def test_pings(site: Site) -> None:
    """An application may ping on our own server; ASGI has none, and says so."""
    name = site.name()
    websocket = site.connect().websocket(f"/ping?id={name}")
    answer = websocket.receive()
    assert answer == "True" if site.host.native else str(answer).startswith("ASGI has no pings")
    site.saw("pings", "yes" if answer == "True" else "no: NotAvailable; set the host's own")


def test_a_handler_that_does_not_read(site: Site) -> None:
    """The client is held back, and nothing is lost when reading goes on or the client goes."""
    name = site.name()
    client = site.connect()
    websocket = client.websocket(f"/deaf?id={name}")
    client.sock.settimeout(0.5)
    message = bytes(65536)
    sent = 0
    try:
        while sent < 64 << 20:
            websocket.send(message)
            sent += len(message)
        site.saw("back-pressure-websocket", "no")
    except TimeoutError:
        site.saw("back-pressure-websocket", "yes")
    client.reset()
    site.connect().get(f"/release?id={name}")
    if site.host.http2:
        site.start_afresh()  # what is still under way would break it, see test_an_answer_before_the_body_was_read
    else:
        assert site.end(name)["status"] in ("abnormal", "no-status-received", "server-close")
