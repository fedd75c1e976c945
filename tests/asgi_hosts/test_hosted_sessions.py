"""Sessions under every host: one conversation over all carriers, cut and taken up again, by requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytestmark = pytest.mark.xdist_group("asgi-hosts")  # the hosts are started once, not once a core

if TYPE_CHECKING:
    from conftest import Site

NDJSON = ("Content-Type", "application/x-ndjson")
TEXTS = ("", "plain", "\r\n\0", "\u2028\ufeff\U0001f600")


class Session:
    """A session's client: it counts, and nothing else."""

    def __init__(self, site: Site) -> None:
        self.site = site
        made = site.connect().ask("POST", "/session/ck", body=b"")
        assert made.status == 201
        hello = json.loads(made.body)
        self.path = f"/session/ck/{hello['sid']}"
        assert made.get("location") == self.path
        self.headers = [("Authorization", f"Bearer {hello['secret']}")]
        self.secret = hello["secret"]
        self.sent = self.got = 0

    def ask(self, method: str, way: str, *headers: tuple[str, str], body: bytes | None = None) -> Any:
        return self.site.connect().ask(method, self.path + way, [*self.headers, *headers], body)

    def post(self, *texts: str, twice: bool = False) -> None:
        """A batch, perhaps repeated as a proxy would."""
        lines = [json.dumps(["m", self.sent + 1 + index, text]) + "\n" for index, text in enumerate(texts)]
        self.sent += len(texts)
        for _ in range(1 + twice):
            answer = self.ask("POST", f"?ack={self.got}", NDJSON, body="".join(lines).encode())
            assert json.loads(answer.body) == {"ack": self.sent}

    def poll(self) -> list[Any]:
        """What is pending; polled twice, with the same acknowledgement: the same lines."""
        answers = [self.ask("GET", f"/poll?ack={self.got}&wait=0").body for _ in range(2)]
        first, second = ([json.loads(line) for line in body.splitlines()] for body in answers)
        assert first[1:] == second[1:]
        return self.take(first[1:])

    def take(self, frames: list[Any]) -> list[Any]:
        assert [frame[1] for frame in frames] == list(range(self.got + 1, self.got + 1 + len(frames)))
        self.got += len(frames)
        return [frame[2] for frame in frames]


def test_one_session_over_all_carriers(site: Site) -> None:
    """Poll, stream cut in the middle, event stream, WebSocket dropped without a word, poll: exact to the message."""
    session = Session(site)
    session.post(*TEXTS, twice=True)
    assert session.poll() == list(TEXTS)
    session.post("two", "three")
    for way, end in (("/stream", b'"three"]\n'), ("/events", b"data: three\nid: 6\n\n")):
        client = site.connect()
        exchange = client.request("GET", f"{session.path}{way}?ack={session.got}", session.headers)
        assert exchange.head().status == 200
        exchange.until(end)
        client.close()  # nothing of it was acknowledged
    assert session.poll() == ["two", "three"]
    client = site.connect()
    websocket = client.websocket(f"{session.path}/ws", subprotocols=["ck.v1"])
    websocket.send(f'h {{"v":1,"secret":"{session.secret}","recv":{session.got}}}')
    assert str(websocket.receive()).startswith("h {")
    websocket.send("m 7 by websocket")
    assert websocket.receive() == "m 7 by websocket"
    client.close()
    session.sent = 7
    assert session.poll() == ["by websocket"]
    assert session.ask("DELETE", "").status == 204
    assert session.ask("GET", f"/poll?ack={session.got}").status == 410


def test_refusals(site: Site) -> None:
    """Unknown and wrong secret are the same answer everywhere; gaps, fences and malformed numbers have their own."""
    session = Session(site)
    wrong = site.connect().get(f"{session.path}/poll", [("Authorization", "Bearer wrong")])
    unknown = site.connect().get("/session/ck/AAAAAAAAAAAAAAAAAAAAAA/poll", session.headers)
    assert (wrong.status, wrong.body) == (unknown.status, unknown.body) == (404, unknown.body)
    assert session.ask("POST", "?n=5", body=b"x").status == 409
    assert session.ask("POST", "?n=x", body=b"x").status == 400
    assert session.ask("GET", "/poll?ack=3").status == 410
    assert session.ask("GET", "/poll?a=2&wait=0").status == 200
    assert session.ask("GET", "/poll?a=1&wait=0").status == 409
