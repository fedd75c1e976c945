"""The browser's module in a real browser: every transport, reloads, the way back, leaving; under a strict CSP."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from channelkit import Channel, CloseStatus, Endpoint, Request, Response, Server, run_server
from channelkit.browser import file as module_file

sys.path.insert(0, str(Path(__file__).parent))

import driver

HEADERS = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": "default-src 'self'; img-src data:"}
HTML = '<!doctype html><title>t</title><link rel="icon" href="data:,"><script type="module" src="/page.js"></script>'
#: What was received is written down in the tab, whichever page of it received it.
PAGE = """
import { connect } from "/channelkit/channelkit.js";
window.log = () => JSON.parse(sessionStorage.getItem("log") ?? "[]");
window.begin = (options) => {
  window.channel = connect("/room", options);
  channel.onmessage = (message) => {
    const seen = typeof message === "string" ? message : [...message];
    sessionStorage.setItem("log", JSON.stringify([...log(), seen]));
  };
};
window.addEventListener("pageshow", ({ persisted }) => (window.wasPutAway = persisted));
const options = sessionStorage.getItem("options");
if (options) begin({ ...JSON.parse(options), state: sessionStorage });
window.ready = true;
"""


@dataclass
class Site:
    """A page, the module, and a room that echoes."""

    said: list[list[Any]] = field(default_factory=list)  # by each session
    ends: list[CloseStatus] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.room = Endpoint(self.echo, on_close=lambda channel, status: self.ends.append(status))

    async def echo(self, channel: Channel) -> None:
        said: list[Any] = []
        self.said.append(said)
        async for message in channel:
            said.append(message if isinstance(message, str) else list(message))
            await channel.send(message)

    async def handle(self, request: Request) -> Any:
        if request.path.startswith("/channelkit/"):
            return module_file(request)
        if request.path.startswith("/room"):
            return await self.room(request)
        if request.path == "/page.js":
            return Response(200, {"Content-Type": "text/javascript"}, PAGE)
        return Response(200, HEADERS, HTML)


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture(params=["asyncio", "trio"])
def server(request: pytest.FixtureRequest, site: Site) -> Iterator[Server]:
    running = run_server(site.handle, port=0, backend=request.param)
    yield running
    running.stop(timeout=1)


@pytest.fixture
def page(browser: driver.Browser, server: Server) -> Iterator[driver.Page]:
    opened = browser.page(f"http://127.0.0.1:{server.port}/")
    opened.wait_for("window.ready")
    yield opened
    complaints = [one for one in opened.complaints if not one.startswith(driver.OF_NETWORK)]
    opened.close()
    assert complaints == []


def begin(page: driver.Page, **options: Any) -> None:
    """Open a channel that a reload continues."""
    page.evaluate(f"sessionStorage.setItem('options', {json.dumps(json.dumps(options))})")
    page.evaluate(f"begin({{...{json.dumps(options)}, state: sessionStorage}})")


WAYS: tuple[dict[str, Any], ...] = (
    {"transport": "websocket"},
    {"transport": "http_stream"},
    {"transport": "events"},
    {"transport": "events", "cookie": True},  # by EventSource
    {"transport": "long_poll"},
    {"transport": "long_poll", "cookie": True},
)


def test_every_transport(browser: driver.Browser, page: driver.Page, site: Site) -> None:
    """Text and bytes go both ways, moving from one to the other too; the end is told to both sides."""
    ways = [options for options in WAYS if browser.loopback_is_secure or "cookie" not in options]
    for options in ways:
        page.evaluate("sessionStorage.clear()")
        page.evaluate(f"begin({json.dumps(options)})")
        page.evaluate("channel.send('a\\r\\u0000é')")
        page.evaluate("channel.send(Uint8Array.of(0, 255))")
        assert page.wait_for("log().length === 2 && log()") == ["a\r\0é", [0, 255]]
        assert page.evaluate("channel.status.state + ' ' + channel.transport") == f"attached {options['transport']}"
        page.evaluate("channel.switchTransport('websocket')")
        page.evaluate("channel.send('moved')")
        page.wait_for("log().length === 3")
        info = page.evaluate("channel.close(4000, 'done')")
        assert (info["outcome"], info["delivered"], info["code"]) == ("ended", True, 4000)
    assert site.said == [["a\r\0é", [0, 255], "moved"]] * len(ways)


def test_a_cookie_that_is_not_kept(browser: driver.Browser, page: driver.Page) -> None:
    """It is told at once, in words."""
    options = {} if not browser.loopback_is_secure else {"credentials": "omit"}
    for transport in ("websocket", "http_stream", "events", "long_poll"):
        page.evaluate(f"begin({json.dumps({'transport': transport, 'cookie': True, **options})})")
        info = page.evaluate("channel.closed")
        assert (info["outcome"], info["delivered"]) == ("refused", False)
        assert "cookie did not come back" in info["reason"]
        assert page.evaluate("channel.status.why") == info["reason"]


@pytest.mark.parametrize("options", WAYS, ids=lambda options: "-".join(map(str, options.values())))
def test_reloads(browser: driver.Browser, page: driver.Page, site: Site, options: dict[str, Any]) -> None:
    """A page reloaded with messages under way loses none and sees none twice: it is one session to the server."""
    if "cookie" in options and not browser.loopback_is_secure:
        return  # test_a_cookie_that_is_not_kept
    begin(page, **options)
    for turn in range(3):
        page.wait_for("channel.status.state === 'attached'")  # before that a send waits, and is not accepted yet
        page.evaluate("window.ready = false")
        page.leave(f"for (const n of [0, 1, 2]) channel.send(`{turn}.${{n}}`); location.reload()")
        page.wait_for("window.ready && channel.resumed")
    wanted = [f"{turn}.{n}" for turn in range(3) for n in range(3)]
    page.wait_for(f"log().length >= {len(wanted)}")
    assert page.evaluate("log()") == wanted
    assert site.said == [wanted]
    page.wait_for("channel.status.state === 'attached'")
    info = page.evaluate("channel.close()")
    assert info["delivered"], info


def test_away_and_back(browser: driver.Browser, page: driver.Page, site: Site) -> None:
    """Another page of the tab goes on; the one that is shown again hears that, and may take the session back."""
    begin(page, transport="websocket")
    page.evaluate("channel.send('before')")
    page.wait_for("log().length === 1")
    page.leave("channel.send('left'); location.href = '/other'")
    page.wait_for("location.pathname === '/other' && window.ready && channel.resumed")
    page.evaluate("channel.send('there')")
    page.wait_for("log().length === 3")
    page.back()
    page.wait_for("location.pathname === '/' && window.ready")
    if browser.puts_away:
        assert page.evaluate("wasPutAway")  # an open WebSocket would have forbidden it
        assert page.evaluate("channel.closed")["outcome"] == "superseded"
        begin(page, transport="websocket")
    assert page.evaluate("channel.resumed")
    page.evaluate("channel.send('after')")
    page.wait_for("log().length >= 4")
    assert page.evaluate("log()") == ["before", "left", "there", "after"]
    assert site.said == [["before", "left", "there", "after"]]


def test_leaving_is_told(page: driver.Page, site: Site) -> None:
    """A page that keeps no state closes when it is left, and all it had said arrives."""
    for options in WAYS[:2]:
        page.evaluate(f"begin({json.dumps(options)})")
        page.wait_for("channel.status.state === 'attached'")
        page.evaluate("window.ready = false")
        page.leave("for (const n of [1, 2, 3]) channel.send(`${n}`); location.reload()")
        page.wait_for("window.ready")
    deadline = time.monotonic() + driver.DEADLINE
    while len(site.ends) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert site.ends == [CloseStatus.GOING_AWAY] * 2
    assert site.said == [["1", "2", "3"]] * 2
